r"""Descriptors made of others: `Chosen`, some of the features; `Projected`, linear combinations of them.

Both are descriptors in their own right: they are trained with, saved and run like any other. `choose_features` makes them from
the features of a data set.

A descriptor may have a method ``chosen(indices, env, species_i) -> (F,)`` that computes the features of these
indices (a tuple of distinct ints, in any order) and nothing that they do not need; `Chosen` calls it. Without this method all
features are computed and the wanted ones picked.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from bpjax.descriptors import selection
from bpjax.descriptors.base import Descriptor, parameters_of
from bpjax.descriptors.function_set import SymmetryFunctions
from bpjax.spec import register
from bpjax.system import Environment

LARGEST_PROJECTION = 1_000_000
"""Most numbers in a projection: it is stored as text in the model file, and is a constant of the compiled program."""


class _Wrapper:
    """What a descriptor made of another one takes over: what it sees, and how smooth it is."""

    descriptor: Descriptor

    @property
    def elements(self) -> tuple[str, ...]:
        """Chemical symbols in the order of the species indices."""
        return self.descriptor.elements

    @property
    def cutoff(self) -> float:
        """Radius in A beyond which nothing is seen."""
        return self.descriptor.cutoff

    @property
    def cutoff_kind(self) -> str:
        """Formula of the cutoff function of the descriptor inside."""
        inside: Any = self.descriptor
        return inside.cutoff_function.kind if hasattr(inside, "cutoff_function") else inside.cutoff_kind

    @property
    def g4(self) -> tuple:
        """Narrow angular functions of an `ACSF` inside."""
        return getattr(self.descriptor, "g4", ())

    @property
    def g5(self) -> tuple:
        """Wide angular functions of an `ACSF` inside."""
        return getattr(self.descriptor, "g5", ())

    @property
    def functions(self) -> tuple:
        """Functions of `SymmetryFunctions` inside."""
        return getattr(self.descriptor, "functions", ())


def _check_fixed(wrapper: _Wrapper) -> None:
    if parameters_of(wrapper.descriptor, np.float32):
        raise ValueError(f"{type(wrapper).__name__} descriptor: one that is learned cannot be reduced; train it first")


@register
@dataclass(frozen=True)
class Chosen(_Wrapper):
    """Some features of a descriptor, in a given order; only these are computed.

    Attributes:
      descriptor: what they are features of.
      indices: numbers of the features, from 0, each once.

    Raises:
      ValueError: no index, one out of range or twice; a descriptor that is learned (`SOAP.learn_weights`, `ACSF.learn`).
    """

    descriptor: Descriptor
    indices: tuple[int, ...]

    def __post_init__(self):
        size = self.descriptor.size
        _check_fixed(self)
        if not self.indices or len(set(self.indices)) != len(self.indices):
            raise ValueError(f"Chosen indices: at least one, each once; got {len(self.indices)}")
        wrong = [n for n in self.indices if not 0 <= n < size]
        if wrong:
            raise ValueError(f"Chosen indices: {wrong[0]} is not one of the {size} features, 0 to {size - 1}")

    @property
    def size(self) -> int:
        """Number of features."""
        return len(self.indices)

    @property
    def labels(self) -> tuple[str, ...]:
        """Name of each feature, as the descriptor inside calls it."""
        labels = self.descriptor.labels
        return tuple(labels[n] for n in self.indices)

    def working_set(self, slots: int) -> int:
        """About how many numbers are held at a time, at most; see `bpjax.descriptors.base.Descriptor`."""
        return self._inside.working_set(slots)

    @cached_property
    def _inside(self) -> Descriptor:
        """The descriptor without functions that nothing chosen needs, where its form allows to leave them out."""
        inside: Any = self.descriptor
        return inside.smallest_with(self.indices)[0] if hasattr(inside, "smallest_with") else inside

    def __call__(
        self,
        env: Environment,
        species_i: Int[Array, ""] | int,
    ) -> Float[Array, " D"]:
        """Features of one environment; see `bpjax.descriptors.base.Descriptor`."""
        return _features(self.descriptor, self.indices, env, species_i)

    def chosen(
        self,
        indices: tuple[int, ...],
        env: Environment,
        species_i: Int[Array, ""] | int,
    ) -> Float[Array, " F"]:
        """Some of the chosen features."""
        inside = tuple(self.indices[n] for n in indices)
        return _features(self.descriptor, inside, env, species_i)

    @property
    def has_lanes(self) -> bool:
        """Whether `in_lanes` is faster than one environment after the other."""
        return getattr(self.descriptor, "has_lanes", False)

    @property
    def same_for_all(self) -> bool:
        """Whether features do not depend on the element of the centre."""
        return getattr(self.descriptor, "same_for_all", False)

    def in_lanes(
        self,
        env: Environment,
        species_i: int,
        indices: tuple[int, ...] | None = None,
    ) -> Float[Array, "B F"]:
        """Chosen features, or some of them, of a block of centres; see `bpjax.descriptors.base.Descriptor`."""
        inside: Any = self.descriptor
        own = self.indices if indices is None else tuple(self.indices[n] for n in indices)
        return inside.in_lanes(env, species_i, own)


def _features(descriptor: Any, indices: tuple[int, ...], env, species_i) -> Float[Array, " F"]:
    if hasattr(descriptor, "chosen"):
        return descriptor.chosen(indices, env, species_i)
    return descriptor(env, species_i)[np.array(indices, np.int32)]


@register
@dataclass(frozen=True)
class Projected(_Wrapper):
    r"""Linear combinations of features, :math:`p = W (G - \bar G)`, such as principal components.

    The numbers are options, not parameters: they are chosen once for a descriptor and are the same for all elements and
    members of a committee. Their hash, which JAX asks for in every call of a compiled function, is taken once.

    Attributes:
      descriptor: what gives G.
      mean: :math:`\bar G` (D,).
      components: rows of W, (P, D).

    Raises:
      ValueError: numbers that do not fit the descriptor, are not finite or too many (`LARGEST_PROJECTION`); a descriptor that
        is learned (`SOAP.learn_weights`, `ACSF.learn`).
    """

    descriptor: Descriptor
    mean: tuple[float, ...]
    components: tuple[tuple[float, ...], ...]

    def __post_init__(self):
        size = self.descriptor.size
        _check_fixed(self)
        if len(self.mean) != size:
            raise ValueError(f"Projected mean: one number for each of the {size} features, got {len(self.mean)}")
        if not self.components or any(len(row) != size for row in self.components):
            raise ValueError(f"Projected components: at least one row, each with {size} numbers")
        if size * len(self.components) > LARGEST_PROJECTION:
            raise ValueError(
                f"Projected components: {len(self.components)} x {size} numbers, at most {LARGEST_PROJECTION};"
                " choose some of the features first"
            )
        if not all(map(math.isfinite, (*self.mean, *(x for row in self.components for x in row)))):
            raise ValueError("Projected mean, components: every number must be finite")

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        # Of numbers only: hashes of text differ from one process to the next, and a pickled object keeps this one.
        return hash((self.mean, self.components))

    @cached_property
    def _arrays(self) -> tuple[np.ndarray, np.ndarray]:
        return np.array(self.mean), np.array(self.components)

    @property
    def size(self) -> int:
        """Number of combinations."""
        return len(self.components)

    @property
    def labels(self) -> tuple[str, ...]:
        """Number of each component."""
        return tuple(f"PC {n}" for n in range(1, self.size + 1))

    def working_set(self, slots: int) -> int:
        """About how many numbers are held at a time; see `bpjax.descriptors.base.Descriptor`."""
        return self.descriptor.working_set(slots)

    def __call__(
        self,
        env: Environment,
        species_i: Int[Array, ""] | int,
    ) -> Float[Array, " D"]:
        """Features of one environment; see `bpjax.descriptors.base.Descriptor`."""
        return self.chosen(tuple(range(self.size)), env, species_i)

    def chosen(
        self,
        indices: tuple[int, ...],
        env: Environment,
        species_i: Int[Array, ""] | int,
    ) -> Float[Array, " F"]:
        """Some of the components."""
        mean, W = self._arrays
        G = self.descriptor(env, species_i)
        return jnp.asarray(W[list(indices)], G.dtype) @ (G - jnp.asarray(mean, G.dtype))


def choose_features(
    descriptor: Descriptor,
    G: np.ndarray | Mapping[str, np.ndarray],
    count: int,
    method: str = "cur",
    *,
    standardise: bool = True,
    cost: np.ndarray | None = None,
) -> Descriptor:
    """A descriptor with the `count` features that say most about a data set, in the order that they have in the pool.

    Args:
      descriptor: the pool to choose from.
      G: its features of all atoms (A, D); for `SymmetryFunctions` those of each element, whose functions are chosen one
        element at a time.
      count: number of features, or of principal components (for `SymmetryFunctions` and a table, of each element).
      method: "cur", "farthest", "pearson" (all of `bpjax.descriptors.selection`; they choose) or "pca" (combines).
      standardise: scale features first as networks do, so that their magnitude does not count (`selection.standardised`).
      cost: (D,) what each feature costs, for "cur".

    Returns: a smaller descriptor of the same kind where its form allows, else `Chosen` or, for "pca", `Projected`.

    Raises:
      ValueError: features that do not belong to the descriptor; an unknown method; see `bpjax.descriptors.selection`.
    """
    if isinstance(G, Mapping):
        return _chosen_functions(descriptor, G, count, method, standardise)
    G = np.asarray(G, dtype=np.float64)
    if G.ndim != 2 or G.shape[1] != descriptor.size:
        raise ValueError(f"choose_features: the descriptor has {descriptor.size} features, G has shape {G.shape}")
    if method == "pca":
        return _principal(descriptor, G, count, standardise)
    return only(descriptor, tuple(sorted(_indices(G, count, method, standardise, cost))))


def only(descriptor: Any, indices: tuple[int, ...]) -> Descriptor:
    """These features of a descriptor as a descriptor, without functions that none of them needs."""
    if hasattr(descriptor, "smallest_with"):
        Chosen(descriptor, indices)  # checks them
        descriptor, indices = descriptor.smallest_with(indices)
    return descriptor if indices == tuple(range(descriptor.size)) else Chosen(descriptor, indices)


def _indices(G: np.ndarray, count: int, method: str, standardise: bool, cost=None) -> tuple[int, ...]:
    if cost is not None and method != "cur":
        raise ValueError(f"choose_features cost: only for method 'cur', not {method!r}")
    X = selection.standardised(G) if standardise else G
    if method == "cur":
        chosen = selection.cur(X, count, cost=cost)
    elif method == "farthest":
        chosen = selection.farthest_points(X, count)
    elif method == "pearson":
        chosen = selection.uncorrelated(X, count=count)
    else:
        raise ValueError(f"choose_features method={method!r}: allowed are cur, farthest, pearson, pca")
    return tuple(chosen.tolist())


def _principal(descriptor: Descriptor, G: np.ndarray, count: int, standardise: bool) -> Descriptor:
    found = selection.principal_components(selection.standardised(G) if standardise else G, count)
    # The scale goes into W, so that evaluation knows one matrix only; what is constant here gets no weight.
    scale = selection.scales(G) if standardise else selection.varying(G).astype(float)
    W = found.components * scale
    needed = np.flatnonzero(np.any(W != 0, axis=0))
    inside = descriptor if len(needed) == descriptor.size else only(descriptor, tuple(needed.tolist()))
    mean = tuple(G.mean(axis=0)[needed].tolist())
    return Projected(inside, mean, tuple(map(tuple, W[:, needed].tolist())))


def _chosen_functions(descriptor: Any, G: Mapping[str, np.ndarray], count: int, method: str, standardise: bool) -> Any:
    """The functions of each element chosen on its own atoms."""
    if not isinstance(descriptor, SymmetryFunctions):
        raise ValueError("choose_features: features by element are for SymmetryFunctions; give one matrix")
    if set(G) != set(descriptor.elements):
        raise ValueError(f"choose_features: give features of {', '.join(descriptor.elements)}, got {', '.join(G)}")
    chosen = []
    for element, functions in zip(descriptor.elements, descriptor.functions, strict=True):
        own = np.asarray(G[element], dtype=np.float64)[:, : len(functions)]
        chosen.append(sorted(_indices(own, min(count, len(functions)), method, standardise)))
    return descriptor.subset(chosen)
