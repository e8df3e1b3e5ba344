r"""Whether trajectories stay where their model can know anything: nearest atoms, features outside of their range in training.

A learned potential has no repulsion where it saw no data: trajectories of one run through each other's atoms, keep their energy,
and end as sound ones do. Two limits tell them apart: the shortest distance of two atoms in sums of their covalent radii
(:math:`r_{ij} / (r_i + r_j)` is 0.9 to 1.1 in bonds; by its Morse curve a C-H or N-H bond turns back at 0.73 with 3 eV in it and
at 0.61 with 8), and how often a feature of an atom lay outside of its range in training, as in `bpjax.potential.extrapolation`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from bpjax.elements import covalent_radii
from bpjax.excited.hopping_options import HoppingOptions

SHARE, TIME_FS = 0.1, 100.0
"""By default a trajectory may have so many of all features outside for so long."""

NEVER = np.iinfo(np.int32).max
"""Step of a trajectory that has kept to all limits."""


class Watched(NamedTuple):
    """What was seen of a trajectory so far.

    Attributes:
      closest: shortest distance for each pair of elements, in the units of the model.
      outside: features outside of training, one for each atom, feature and step.
      astray: step in which a limit was first exceeded, 0 at the start; `NEVER`.
    """

    closest: Float[Array, "*T P"]
    outside: Int[Array, "*T"]
    astray: Int[Array, "*T"]


@dataclass(frozen=True, eq=False)
class Watch:
    """What to look at in the geometries of a molecule.

    Attributes:
      symbols: elements of the atoms.
      length: the unit of length of the model in A.
      outside: number of features of a geometry that are outside of their range in training; None for a model without.
      features: number of features in all.
    """

    symbols: tuple[str, ...]
    length: float
    outside: Callable[[Array], Array] | None = None
    features: int = 0

    @cached_property
    def _ends(self) -> tuple[np.ndarray, np.ndarray]:
        i, j = np.triu_indices(len(self.symbols), 1)
        return i.astype(np.int32), j.astype(np.int32)

    @cached_property
    def _kinds(self) -> tuple[tuple[str, ...], np.ndarray]:
        """Names of the pairs of elements, and which of them each pair of atoms is."""
        names = ["-".join(sorted((self.symbols[i], self.symbols[j]))) for i, j in zip(*self._ends, strict=True)]
        kinds, inverse = np.unique(np.array(names, str), return_inverse=True)
        return tuple(map(str, kinds)), inverse.astype(np.int32)

    @property
    def pairs(self) -> tuple[str, ...]:
        """The pairs of elements, such as "C-H"."""
        return self._kinds[0]

    @cached_property
    def radii(self) -> np.ndarray:
        """Sum of the covalent radii of each pair of elements, in the units of the model."""
        return np.array([covalent_radii(pair.split("-")).sum() for pair in self.pairs]) / self.length

    def contacts(self, R: Float[Array, "N 3"]) -> Float[Array, " P"]:
        """Shortest distance of each pair of elements."""
        i, j = self._ends
        if not self.pairs:
            return jnp.zeros(0, R.dtype)
        r = jnp.sqrt(jnp.sum((R[i] - R[j]) ** 2, axis=1))
        return jax.ops.segment_min(r, self._kinds[1], len(self.pairs))

    def most_outside(self, options: HoppingOptions) -> int:
        """How many features may be outside."""
        if options.max_extrapolations is not None:
            return NEVER if options.max_extrapolations < 0 else options.max_extrapolations
        return max(1, round(SHARE * self.features * TIME_FS / options.timestep_fs))

    def too_close(self, options: HoppingOptions, closest: Any) -> Any:
        """Which pairs of elements have been too close."""
        return closest < options.closest * self.radii


def begun(watch: Watch | None, options: HoppingOptions, R: Float[Array, "*R"]) -> Watched:
    """What is seen of a trajectory at its start."""
    zero = jnp.zeros((), jnp.int32)
    first = Watched(jnp.full(0 if watch is None else len(watch.pairs), jnp.inf, R.dtype), zero, zero + NEVER)
    return looked(watch, options, first, R, zero, jnp.ones((), bool))


def looked(
    watch: Watch | None,
    options: HoppingOptions,
    seen: Watched,
    R: Float[Array, "*R"],
    step: Int[Array, ""],
    whole: Bool[Array, ""],
) -> Watched:
    """What is seen after a look at one more geometry; at the end of a `whole` step at the features too."""
    if watch is None:
        return seen
    closest, outside = jnp.minimum(seen.closest, watch.contacts(R)), seen.outside
    if watch.outside is not None:
        outside = outside + jnp.where(whole, watch.outside(R), 0).astype(outside.dtype)
    beyond = jnp.any(watch.too_close(options, closest)) | (outside > watch.most_outside(options))
    return Watched(closest, outside, jnp.where(beyond, jnp.minimum(seen.astray, step), seen.astray))


def why_astray(watch: Watch, options: HoppingOptions, closest: np.ndarray, outside: int) -> str:
    """What a trajectory did that went beyond a limit, in words."""
    parts = []
    for p in np.flatnonzero(watch.too_close(options, closest)):
        distance = f"{watch.pairs[p]} at {closest[p] * watch.length:.2f} A"
        parts.append(f"{distance}, {closest[p] / watch.radii[p]:.2f} of the sum of covalent radii")
    if outside > watch.most_outside(options):
        parts.append(f"{outside} extrapolation warnings, more than {watch.most_outside(options)}")
    return "; ".join(parts)
