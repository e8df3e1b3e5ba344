"""`SymmetryFunctions`: a list of symmetry functions for each central element, as a descriptor."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from bpjax.descriptors import function_kernels as kernels
from bpjax.descriptors.base import of_species
from bpjax.descriptors.cutoffs import Cutoff, cutoff_values
from bpjax.descriptors.function_tables import WEIGHTED, Group, Table, tables
from bpjax.descriptors.lane_functions import ALL, AngularFunction, block_features
from bpjax.descriptors.pairs import pair_blocks, pair_geometry
from bpjax.descriptors.symmetry import COMPACT, NARROW, RADIAL, SymmetryFunction
from bpjax.elements import atomic_numbers
from bpjax.geometry import norm, sanitised
from bpjax.spec import register
from bpjax.system import Environment


@register
@dataclass(frozen=True)
class SymmetryFunctions:
    """Symmetry functions listed one by one for each central element; see `bpjax.descriptors.symmetry` for the formulas.

    Elements with fewer functions than others have zeros at the end of their features.

    Attributes:
      elements: chemical symbols; their order is the order of the species indices.
      functions: those of each central element, in the order of `elements`; their order is the order of the features.
      cutoff_kind: formula of the cutoff function, see `bpjax.descriptors.cutoffs`; compact functions have none.
      cutoff_inner: inner radius of the cutoff function as a fraction of the cutoff.
      unit: length unit of the functions' parameters, in A.

    Raises:
      ValueError: an option out of range, an element without functions, a function that is listed twice.
    """

    elements: tuple[str, ...]
    functions: tuple[tuple[SymmetryFunction, ...], ...]
    cutoff_kind: str = "cosine"
    cutoff_inner: float = 0.0
    unit: float = 1.0

    def __post_init__(self):
        name = "SymmetryFunctions"
        if not self.elements or len(set(self.elements)) != len(self.elements):
            raise ValueError(f"{name} elements={self.elements}: at least one chemical symbol, each once")
        if len(self.functions) != len(self.elements):
            raise ValueError(f"{name} functions: one list for each of {', '.join(self.elements)}")
        for element, functions in zip(self.elements, self.functions, strict=True):
            if not functions:
                raise ValueError(f"{name}: element {element} has no functions")
            if len(set(functions)) != len(functions):
                raise ValueError(f"{name}: a function of {element} is listed twice")
            unknown = {e for f in functions for e in f.neighbors} - set(self.elements)
            if unknown:
                raise ValueError(f"{name}: functions of {element} name {', '.join(sorted(unknown))}, not in elements")
        if not (np.isfinite(self.unit) and self.unit > 0):
            raise ValueError(f"{name} unit={self.unit}: must be positive, in A")
        Cutoff(self.cutoff, self.cutoff_kind, self.cutoff_inner)

    @cached_property
    def cutoff(self) -> float:
        """The largest cutoff, in A."""
        return self.unit * max(f.cutoff for functions in self.functions for f in functions)

    @property
    def size(self) -> int:
        """Number of features: functions of the element that has most."""
        return max(map(len, self.functions))

    @property
    def labels(self) -> tuple[str, ...]:
        """Number of each feature; what it means depends on the central element, see `functions`."""
        return tuple(f"function {n}" for n in range(1, self.size + 1))

    @cached_property
    def _tables(self) -> tuple:
        """For each central element its tables and the places of its functions."""
        return tuple(tables(functions, self.elements) for functions in self.functions)

    def working_set(self, slots: int) -> int:
        """About how many numbers the evaluation of one environment holds at a time."""
        most = 0
        for families, _ in self._tables:
            angular = [table for table in families if table.family.angular]
            rows = sum(len(g.distance) * (1 + len(g.channels)) for table in angular for g in table.groups)
            most = max(most, rows + sum(len(table.angular) for table in angular))
        return pair_blocks(max(slots, 1)).counts.size * (most + 4)

    def __call__(
        self,
        env: Environment,
        species_i: Int[Array, ""] | int,
    ) -> Float[Array, " D"]:
        """Features of one environment; see `bpjax.descriptors.base.Descriptor`."""

        def features(s: int):
            values = self._values(self._tables[s], env)
            return jnp.pad(values, (0, self.size - len(values)))

        return of_species(self.elements, features, species_i)

    def chosen(
        self,
        indices: tuple[int, ...],
        env: Environment,
        species_i: Int[Array, ""] | int,
    ) -> Float[Array, " F"]:
        """Only the features of these indices, each index once; see `bpjax.descriptors.reduced.Chosen`."""

        def features(s: int):
            there = [n for n, index in enumerate(indices) if index < len(self.functions[s])]
            if not there:
                return jnp.zeros(len(indices), env.R_ij.dtype)
            functions = [self.functions[s][indices[n]] for n in there]
            values = self._values(tables(functions, self.elements), env)
            if len(there) == len(indices):
                return values
            return jnp.zeros(len(indices), values.dtype).at[np.array(there, np.int32)].set(values)

        return of_species(self.elements, features, species_i)

    @cached_property
    def _lane_functions(self) -> tuple[tuple[AngularFunction | None, ...], ...]:
        """For each central element and function the form that is fast in lanes, see `in_lanes`."""
        return tuple(tuple(map(self._lane_function, functions)) for functions in self.functions)

    def _lane_function(self, f: SymmetryFunction) -> AngularFunction | None:
        if f.kind in RADIAL or f.kind in COMPACT:
            return None
        s, t = sorted(map(self.elements.index, f.neighbors)) or (ALL, ALL)
        cutoff = Cutoff(f.cutoff, self.cutoff_kind, self.cutoff_inner)
        function = AngularFunction((s, t), cutoff, f.kind in NARROW, f.eta, f.r_s, f.zeta, f.lam)
        return function if function.simple else None

    @property
    def has_lanes(self) -> bool:
        """Whether `in_lanes` is faster than one environment after the other."""
        return any(map(any, self._lane_functions))

    same_for_all = False
    """Features depend on the element of the centre."""

    def in_lanes(
        self,
        env: Environment,
        species_i: int,
        indices: tuple[int, ...] | None = None,
    ) -> Float[Array, "B F"]:
        """Features of a block of centres, or those of these indices; see `bpjax.descriptors.base.Descriptor`."""
        own = len(self.functions[species_i])
        indices = tuple(range(self.size)) if indices is None else indices
        functions = [self._lane_functions[species_i][n] if n < own else None for n in indices]
        weights = atomic_numbers(self.elements).astype(float).tolist()
        return block_features(self.chosen, indices, functions, weights, self.unit, env, species_i)

    def _values(self, functions: tuple, env: Environment) -> Float[Array, " F"]:
        """Values of the functions of some tables, in the order in which they were listed."""
        seen = _Seen(self, env)
        families, where = functions
        values = [v.reshape(-1) for table in families for v in seen.values(table)]
        return jnp.concatenate(values)[where]

    def subset(self, indices: Sequence[Sequence[int]]) -> "SymmetryFunctions":
        """The set with only these functions of each element, in this order.

        Args:
          indices: for each element numbers in its list, from 0.

        Raises:
          ValueError: not one list for each element, an empty one, a number out of range or twice.
        """
        if len(indices) != len(self.elements):
            raise ValueError(f"SymmetryFunctions subset: one list for each of {', '.join(self.elements)}")
        for element, own, kept in zip(self.elements, self.functions, indices, strict=True):
            if not all(0 <= n < len(own) for n in kept):
                raise ValueError(f"SymmetryFunctions subset: {element} has functions 0 to {len(own) - 1}")
        lists = zip(self.functions, indices, strict=True)
        return replace(self, functions=tuple(tuple(own[n] for n in kept) for own, kept in lists))


class _Seen:
    """One environment with what several families need of it; lengths in the unit of the functions."""

    def __init__(self, options: SymmetryFunctions, env: Environment):
        R_ij = sanitised(env.R_ij / options.unit, env.mask)
        self.options, self.mask, self.R_ij, self.r_ij = options, env.mask, R_ij, norm(R_ij)
        self.dtype, self.blocks = R_ij.dtype, pair_blocks(max(len(R_ij), 1))
        species = jnp.arange(len(options.elements), dtype=env.species_j.dtype)
        self.of_element = (env.species_j[None, :] == species[:, None]).astype(self.dtype)
        self.Z_j = jnp.asarray(atomic_numbers(options.elements), self.dtype)[env.species_j]

    @cached_property
    def pairs(self):
        """Distances, cosines and which pairs count, (P, m, m)."""
        return pair_geometry(self.blocks, self.R_ij, self.r_ij, self.mask)

    def values(self, table: Table) -> list[Array]:
        """Every combination of channel, distance part and angular part, (C, Q, A), group by group."""
        if not table.family.angular:
            return [self._radial(table, group) for group in table.groups]
        if len(self.r_ij) < 2:
            A = len(table.angular)
            return [jnp.zeros((len(g.channels), len(g.distance), A), self.dtype) for g in table.groups]
        P = self._angular_part(table)
        return [self._angular(table, group, P) for group in table.groups]

    def _radial(self, table: Table, group: Group) -> Float[Array, "C Q"]:
        v = jnp.where(self.mask[None], self._distance_part(table, group, self.r_ij), 0)
        c = [self.Z_j if s == WEIGHTED else self.of_element[s] for s in group.channels]
        return jnp.stack(c) @ v.T

    def _angular(self, table: Table, group: Group, P: Float[Array, "A P m m"]) -> Float[Array, "C Q A"]:
        c = self._pair_channels(group)
        V = self._pair_part(table, group, c if len(c) == 1 else self.pairs[2][None])
        if len(c) > 1:
            V = (c[:, None] * V[None]).reshape(-1, *V.shape[1:])
        rows = (-1, self.blocks.m)
        values = kernels.pair_sums(V.reshape(len(V), *rows), P.reshape(len(P), *rows))
        return values.reshape(len(c), len(group.distance), len(P))

    def _distance_part(
        self, table: Table, group: Group, r: Float[Array, "*shape"], third: bool = False
    ) -> Float[Array, "Q *shape"]:
        """Every distance part at distances r; for exponential ones with the cutoff function."""
        p = [jnp.asarray(column.reshape(-1, *(1,) * r.ndim), self.dtype) for column in group.distance.T]
        if table.family.compact:
            return kernels.compact(r[None], p[0], p[1], p[3] if third else p[2], table.cores)
        return jnp.exp(-p[0] * (r[None] - p[1]) ** 2) * self._cutoff_values(group, r)[None]

    def _cutoff_values(self, group: Group, r: Array) -> Array:
        return cutoff_values(r, float(group.distance[0, 2]), self.options.cutoff_kind, self.options.cutoff_inner)

    def _pair_part(self, table: Table, group: Group, c: Float[Array, "1 P m m"]) -> Float[Array, "Q P m m"]:
        """What depends on the distances of both neighbours and, in narrow families, on that between them, times `c`."""
        blocks, r_jk = self.blocks, self.pairs[0]
        if table.family.compact:
            C = self._distance_part(table, group, self.r_ij)
            V = blocks.of_first(C) * blocks.of_second(C) * c
            return V * self._distance_part(table, group, r_jk, third=True) if table.family.narrow else V
        f_j = self._cutoff_values(group, self.r_ij)
        f = blocks.of_first(f_j) * blocks.of_second(f_j) * c[0]
        eta, r_s, _ = (jnp.asarray(p[:, None, None, None], self.dtype) for p in group.distance.T)
        r_j, r_k = (r[None] for r in (blocks.of_first(self.r_ij), blocks.of_second(self.r_ij)))
        squares = (r_j - r_s) ** 2 + (r_k - r_s) ** 2
        if table.family.narrow:
            f = f * self._cutoff_values(group, r_jk)
            squares = squares + (r_jk[None] - r_s) ** 2
        return jnp.exp(-eta * squares) * f[None]

    def _angular_part(self, table: Table) -> Float[Array, "A P m m"]:
        """Every angular part."""
        cos_jk = self.pairs[1]
        if table.family.compact:
            left, right, core = (jnp.asarray(p[:, None, None, None], self.dtype) for p in table.angular.T)
            return kernels.compact(kernels.angle(cos_jk)[None], left, right, core, table.cores)
        return kernels.angular_powers(cos_jk, *table.angular.T)

    def _pair_channels(self, group: Group) -> Float[Array, "C P m m"]:
        """Weight of every pair in every channel; 0 where the pair does not count."""
        blocks, weights = self.blocks, []
        for channel in group.channels:
            t, s = divmod(int(channel), len(self.options.elements))
            if channel == WEIGHTED:
                weights.append(blocks.of_first(self.Z_j) * blocks.of_second(self.Z_j))
                continue
            one, other = self.of_element[s], self.of_element[t]
            weight = blocks.of_first(one) * blocks.of_second(other)
            weights.append(weight if s == t else weight + blocks.of_first(other) * blocks.of_second(one))
        return jnp.stack(weights) * self.pairs[2][None]
