"""`ACSF`: atom-centred symmetry functions as a descriptor, each function for each neighbour element or pair of elements.

The formulas are in `bpjax.descriptors.acsf_kernels`; G1 to G3 are radial, G4 (narrow) and G5 (wide) angular.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations_with_replacement
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from bpjax.descriptors.acsf_kernels import (
    angular_powers,
    cosines,
    distinct,
    g1,
    g2,
    g3,
    g4,
    g5_moments,
    g5_pairs,
    radial_weights,
)
from bpjax.descriptors.acsf_learned import (
    LEARNABLE,
    Parts,
    check_shapes,
    learned_names,
    parts_of,
    start_of,
    values,
    with_values,
)
from bpjax.descriptors.acsf_options import Angular as Angular
from bpjax.descriptors.acsf_options import Radial as Radial
from bpjax.descriptors.acsf_parts import Block, grid, in_blocks, pick
from bpjax.descriptors.cutoffs import Cutoff
from bpjax.descriptors.lane_functions import ALL, AngularFunction, block_features
from bpjax.geometry import norm, sanitised
from bpjax.spec import register
from bpjax.system import Environment

LARGEST_MOMENT = 16
"""Highest zeta for which moments can be asked."""

MOMENTS_PAY = 8
"""Highest zeta that goes through moments by default. Measured with 45 neighbours on a CPU: a fifth of the time of the double
sum up to zeta 4, a third at 8, twice its time (and a long compilation) at 16."""


@register
@dataclass(frozen=True)
class ACSF:
    """Atom-centred symmetry functions as a descriptor: called on one environment, it returns its features.

    Attributes:
      elements: chemical symbols; their order is the order of the species indices.
      cutoff: radius in A.
      cutoff_kind: formula of the cutoff function, see `bpjax.descriptors.cutoffs`.
      cutoff_inner: inner radius as a fraction of `cutoff`.
      g1: whether to include G1.
      g2: parameters of the G2 functions.
      g3: kappa of the G3 functions, in 1/A.
      g4: parameters of the narrow angular functions.
      g5: parameters of the wide angular functions.
      weights: None for one channel per element (pair of elements), or one weight per element for a single channel.
      wide: how G5 is evaluated: "moments", "pairs" (the double sum), or "auto", the cheaper one for each zeta.
      learn: parameters that training changes, as arrays of the potential that start from these options: True for all, or some of
        "eta", "r_s" (of G2, G4 and G5) and "kappa". Functions of a kind that share eta and r_s go on sharing them; see
        `bpjax.descriptors.acsf_learned`. Labels keep the values of the start.

    Raises:
      ValueError: an option out of range, with its name and what is allowed.
    """

    elements: tuple[str, ...]
    cutoff: float
    cutoff_kind: str = "cosine"
    cutoff_inner: float = 0.0
    g1: bool = False
    g2: tuple[Radial, ...] = ()
    g3: tuple[float, ...] = ()
    g4: tuple[Angular, ...] = ()
    g5: tuple[Angular, ...] = ()
    weights: tuple[float, ...] | None = None
    wide: str = "auto"
    learn: bool | tuple[str, ...] = False

    def __post_init__(self):
        if not self.elements or len(set(self.elements)) != len(self.elements):
            raise ValueError(f"ACSF elements={self.elements}: at least one chemical symbol, each once")
        if self.weights is not None and len(self.weights) != len(self.elements):
            raise ValueError(f"ACSF weights={self.weights}: one for each of the {len(self.elements)} elements, or None")
        if not all(map(math.isfinite, self.weights or ())):
            raise ValueError(f"ACSF weights={self.weights}: must be finite")
        if not all(map(math.isfinite, self.g3)):
            raise ValueError(f"ACSF g3={self.g3}: every kappa must be finite, in 1/A")
        if self.wide not in ("auto", "moments", "pairs"):
            raise ValueError(f"ACSF wide={self.wide!r}: allowed are auto, moments, pairs")
        if self.wide == "moments" and not all(_has_moments(p) for p in self.g5):
            raise ValueError(f"ACSF wide='moments': zeta of every g5 must be an integer up to {LARGEST_MOMENT}")
        for name in ("g2", "g3", "g4", "g5"):
            if len(set(getattr(self, name))) != len(getattr(self, name)):
                raise ValueError(f"ACSF {name}: the same parameters are listed twice")
        if self.size == 0:
            raise ValueError("ACSF: no function; give at least one of g1, g2, g3, g4, g5")
        self.cutoff_function  # noqa: B018  checks radius, kind and inner radius
        self._learned  # noqa: B018  checks what is to be learned

    @cached_property
    def cutoff_function(self) -> Cutoff:
        """The cutoff function shared by all functions."""
        return Cutoff(self.cutoff, self.cutoff_kind, self.cutoff_inner)

    @property
    def channels(self) -> int:
        """Element channels C: one per element, or one altogether with `weights`."""
        return len(self.elements) if self.weights is None else 1

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Unordered pairs of channels, (0, 0), (0, 1), ..."""
        return tuple(combinations_with_replacement(range(self.channels), 2))

    @property
    def size(self) -> int:
        """Number of features."""
        radial = int(self.g1) + len(self.g2) + len(self.g3)
        return radial * self.channels + (len(self.g4) + len(self.g5)) * len(self.pairs)

    @property
    def labels(self) -> tuple[str, ...]:
        """Name of each feature, in order: function, parameters, elements of the neighbours."""
        one = self.elements if self.weights is None else ("*",)
        two = tuple(f"{one[s]}-{one[t]}" for s, t in self.pairs)
        radial = (
            [f"G1 {e}" for e in one if self.g1]
            + [f"G2 eta={p.eta:g} r_s={p.r_s:g} {e}" for p in self.g2 for e in one]
            + [f"G3 kappa={kappa:g} {e}" for kappa in self.g3 for e in one]
        )
        angular = [
            f"{name} eta={p.eta:g} zeta={p.zeta:g} lam={p.lam:+g} r_s={p.r_s:g} {e}"
            for name, functions in (("G4", self.g4), ("G5", self.g5))
            for p in functions
            for e in two
        ]
        return tuple(radial + angular)

    @cached_property
    def _layout(self) -> tuple[tuple[str, int, int], ...]:
        """Kind of each feature, number of its function in the list of this kind, and number of its channel or pair."""
        counts = {"g1": int(self.g1), **{kind: len(getattr(self, kind)) for kind in ("g2", "g3", "g4", "g5")}}
        channels = {kind: len(self.pairs) if kind in ("g4", "g5") else self.channels for kind in counts}
        return tuple((kind, f, c) for kind, n in counts.items() for f in range(n) for c in range(channels[kind]))

    @cached_property
    def _parts(self) -> dict[str, Parts]:
        return {kind: parts_of(kind, getattr(self, kind)) for kind in LEARNABLE}

    @cached_property
    def _learned(self) -> dict[str, tuple[str, ...]]:
        return learned_names(self.learn, tuple(kind for kind in LEARNABLE if getattr(self, kind)))

    def parameters(self, dtype) -> dict:
        """What training changes, see `bpjax.descriptors.base.parameters_of`: with `learn`, values of the distinct radial parts.

        Such as `{"g2": {"root_eta": (Q,), "r_s": (Q,)}, "g3": {"kappa": (Q,)}, "g5": ...}`, where eta is the square of its root.
        """
        return start_of(self._parts, self._learned, dtype)

    def with_parameters(self, params: Mapping[str, Mapping[str, Any]]) -> "ACSF":
        """These functions with learned values as their options, fixed: an ordinary set that needs no parameters.

        Args:
          params: arrays as of `parameters`.

        Raises:
          ValueError: arrays that do not fit; values out of range; functions that have become the same.
        """
        check_shapes(params, self._parts, self._learned)
        lists = {k: with_values(getattr(self, k), k, p, params.get(k, {})) for k, p in self._parts.items()}
        return replace(self, learn=False, **lists)

    def smallest_with(self, indices: tuple[int, ...]) -> tuple["ACSF", tuple[int, ...]]:
        """The smallest set of functions that has these features, and where in it each of them is.

        Raises:
          ValueError: parameters are learned.
        """
        if self._learned:
            raise ValueError("ACSF learn: functions that are learned cannot be reduced; train them first")
        layout = [self._layout[n] for n in indices]
        kept = {kind: sorted({f for k, f, _ in layout if k == kind}) for kind in ("g1", "g2", "g3", "g4", "g5")}
        lists = {kind: tuple(getattr(self, kind)[f] for f in kept[kind]) for kind in ("g2", "g3", "g4", "g5")}
        smaller = replace(self, g1=bool(kept["g1"]), **lists)
        where = {feature: n for n, feature in enumerate(smaller._layout)}
        return smaller, tuple(where[kind, kept[kind].index(f), c] for kind, f, c in layout)

    def working_set(self, slots: int) -> int:
        """About how many numbers the evaluation of one environment holds at a time."""
        parts = len(set(self.g4)) + sum(not self._through_moments(p) for p in self.g5)
        return slots * slots * parts + slots * (self.size + (LARGEST_MOMENT + 1) ** 2)

    def __call__(
        self,
        env: Environment,
        species_i: Int[Array, ""] | int | None = None,
        params: dict | None = None,
    ) -> Float[Array, " D"]:
        """Features of one environment, the same functions for every centre; see `bpjax.descriptors.base.Descriptor`.

        `params` are learned values as of `parameters`; without them those of the options hold.
        """
        return self.chosen(tuple(range(self.size)), env, params=params)

    def chosen(
        self,
        indices: tuple[int, ...],
        env: Environment,
        species_i: Int[Array, ""] | int | None = None,
        params: dict | None = None,
    ) -> Float[Array, " F"]:
        """Only the features of these indices, each index once; see `bpjax.descriptors.reduced.Chosen`."""
        if params is not None:
            check_shapes(params, self._parts, self._learned)
        R_ij = sanitised(env.R_ij, env.mask)
        r_ij = norm(R_ij)
        f_c = jnp.where(env.mask, self.cutoff_function(r_ij), 0)
        table = np.eye(len(self.elements)) if self.weights is None else np.array(self.weights)[:, None]
        seen = _Seen(R_ij, r_ij, f_c, jnp.asarray(table, R_ij.dtype)[env.species_j], env.mask, params or {})
        kernels = {"g1": self._radial, "g2": self._radial, "g3": self._radial, "g4": self._narrow, "g5": self._wide}
        parts, order = [], []
        for kind, kernel in kernels.items():
            own = [n for n in range(len(indices)) if self._layout[indices[n]][0] == kind]
            if own:
                parts.append(kernel(kind, seen, [self._layout[indices[n]][1:] for n in own]))
                order += own
        return pick(jnp.concatenate(parts), np.argsort(order))

    @cached_property
    def _lane_functions(self) -> tuple[AngularFunction | None, ...]:
        """For each feature the function that is fast in lanes, see `in_lanes`."""
        return tuple(map(self._lane_function, *zip(*self._layout, strict=True)))

    def _lane_function(self, kind: str, number: int, channel: int) -> AngularFunction | None:
        if kind not in ("g4", "g5"):
            return None
        p, pair = getattr(self, kind)[number], (ALL, ALL) if self.weights is not None else self.pairs[channel]
        function = AngularFunction(pair, self.cutoff_function, kind == "g4", p.eta, p.r_s, p.zeta, p.lam)
        return None if not function.simple or (kind == "g5" and self._through_moments(p)) else function

    @property
    def has_lanes(self) -> bool:
        """Whether `in_lanes` is faster than one environment after the other."""
        return not self._learned and any(self._lane_functions)

    same_for_all = True
    """Features do not depend on the element of the centre."""

    def in_lanes(
        self,
        env: Environment,
        species_i: int,
        indices: tuple[int, ...] | None = None,
    ) -> Float[Array, "B F"]:
        """Features of a block of centres, or those of these indices; see `bpjax.descriptors.base.Descriptor`."""
        indices = tuple(range(self.size)) if indices is None else indices
        functions = [self._lane_functions[n] for n in indices]
        return block_features(self.chosen, indices, functions, self.weights or (), 1.0, env, species_i)

    def _radial(self, kind: str, env: "_Seen", wanted: list[tuple[int, int]]) -> Float[Array, " F"]:
        functions, channels = (sorted(set(numbers)) for numbers in zip(*wanted, strict=True))
        c = env.c if len(channels) == self.channels else env.c[:, np.array(channels, np.int32)]
        numbers = np.array(functions)  # no two functions of these kinds have the same radial part
        if kind == "g1":
            G = g1(env.f_c, c)
        elif kind == "g2":
            G = g2(env.r_ij, env.f_c, c, *self._values(kind, numbers, env))
        else:
            G = g3(env.r_ij, env.f_c, c, *self._values(kind, numbers, env))
        return pick(G, np.array([functions.index(f) * len(channels) + channels.index(s) for f, s in wanted]))

    def _values(self, kind: str, numbers: np.ndarray, env: "_Seen") -> list[Float[Array, " Q"]]:
        """Parameters of some radial parts: eta and r_s, or kappa."""
        learned, dtype = env.learned.get(kind, {}), env.r_ij.dtype
        return [values(self._parts[kind], name, numbers, learned, dtype) for name in LEARNABLE[kind]]

    def _narrow(self, kind: str, env: "_Seen", wanted: list[tuple[int, int]]) -> Float[Array, " F"]:
        others = distinct(env.mask)
        R_jk = sanitised(env.R_ij[None, :, :] - env.R_ij[:, None, :], others)
        r_jk = norm(R_jk)
        f_jk = jnp.where(others, self.cutoff_function(r_jk), 0)
        cos_jk = cosines(env.R_ij, env.r_ij)

        def evaluate(block: Block):
            eta, r_s = self._values(kind, block.parts, env)
            w_jk = jnp.exp(-eta[:, None, None] * (r_jk[None] - r_s[:, None, None]) ** 2) * f_jk[None]
            w = radial_weights(env.r_ij, env.f_c, eta, r_s)
            return g4(w, w_jk, angular_powers(cos_jk, block.shapes), *self._of_pairs(block.pairs, env.c))

        return in_blocks(self._parts[kind].numbers, _shapes(self.g4), wanted, evaluate)

    def _of_pairs(self, numbers: tuple[int, ...], c: Float[Array, "K C"]):
        """Weights in the channels that some pairs need, and these pairs by the numbers of the channels that are left."""
        pairs = [self.pairs[t] for t in numbers]
        used = sorted({s for pair in pairs for s in pair})
        c = c if len(used) == self.channels else c[:, np.array(used, np.int32)]
        return c, tuple((used.index(s), used.index(t)) for s, t in pairs)

    def _through_moments(self, p: Angular) -> bool:
        largest = {"moments": LARGEST_MOMENT, "auto": MOMENTS_PAY, "pairs": 0}[self.wide]
        return _has_moments(p) and p.zeta <= largest

    def _wide(self, kind: str, env: "_Seen", wanted: list[tuple[int, int]]) -> Float[Array, " F"]:
        through_moments = np.array([self._through_moments(self.g5[f]) for f, _ in wanted])
        parts, order = [], []
        for moments, kernel in ((True, self._through_harmonics), (False, self._wide_pairs)):
            own = np.flatnonzero(through_moments == moments)
            if len(own):
                parts.append(kernel(env, [wanted[n] for n in own]))
                order += own.tolist()
        return pick(jnp.concatenate(parts), np.argsort(order))

    def _through_harmonics(self, env: "_Seen", wanted: list[tuple[int, int]]) -> Float[Array, " F"]:
        """Moments cost as much as their radial parts and channels; the shapes that are made of them are almost free."""
        functions, numbers = (sorted(set(numbers)) for numbers in zip(*wanted, strict=True))
        radial, shapes = self._parts["g5"].numbers, _shapes(self.g5)
        parts = grid([radial[f] for f in functions], [shapes[f] for f in functions])
        w = radial_weights(env.r_ij, env.f_c, *self._values("g5", parts.parts, env))
        c, pairs = self._of_pairs(tuple(numbers), env.c)
        G = g5_moments(env.R_ij / env.r_ij[:, None], w, c, parts.shapes, pairs)
        f, t = np.array([(functions.index(f), numbers.index(t)) for f, t in wanted]).T
        return pick(G, np.ravel_multi_index((parts.q[f], parts.a[f], t), G.shape))

    def _wide_pairs(self, env: "_Seen", wanted: list[tuple[int, int]]) -> Float[Array, " F"]:
        others, cos_jk = distinct(env.mask), cosines(env.R_ij, env.r_ij)

        def evaluate(block: Block):
            w = radial_weights(env.r_ij, env.f_c, *self._values("g5", block.parts, env))
            power = jnp.where(others[None], angular_powers(cos_jk, block.shapes), 0)
            return g5_pairs(w, power, *self._of_pairs(block.pairs, env.c))

        return in_blocks(self._parts["g5"].numbers, _shapes(self.g5), wanted, evaluate)


class _Seen(NamedTuple):
    """One environment, sanitised, with what every function needs: cutoff values, weights in the channels, learned parameters."""

    R_ij: Float[Array, "K 3"]
    r_ij: Float[Array, " K"]
    f_c: Float[Array, " K"]
    c: Float[Array, "K C"]
    mask: Bool[Array, " K"]
    learned: dict


def _shapes(functions: tuple[Angular, ...]) -> list[tuple[float, float]]:
    return [(p.zeta, p.lam) for p in functions]


def _has_moments(p: Angular) -> bool:
    return float(p.zeta).is_integer() and p.zeta <= LARGEST_MOMENT
