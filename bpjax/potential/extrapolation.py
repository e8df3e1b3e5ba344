"""Extrapolation warnings with n2p2's meaning: features of atoms that lie outside the range they had in training.

A network knows nothing outside of that range, and gives no other sign of it. `bpjax.potential.predict(..., watch=True)` counts
such features for each atom; here are the features themselves (traced), and the list of which structure, atom, function, value
and range (on the host).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import ase
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from bpjax.descriptors import Descriptor, SymmetryFunctions
from bpjax.descriptors.symmetry import COMPACT, RADIAL, SymmetryFunction
from bpjax.geometry import real_atoms
from bpjax.neighbors import bucket
from bpjax.potential.describe import all_features
from bpjax.potential.energy import Params, Potential, features_outside
from bpjax.potential.preparation import Place, Prepared, check, prepare
from bpjax.precision import name_of_dtype, precision
from bpjax.system import Neighbors, System


@dataclass(frozen=True)
class Extrapolation:
    """One warning: a feature of an atom that lies outside the range of training.

    Attributes:
      structure: number of the structure, as the caller counts them; None for none.
      atom: index from 0.
      element: chemical symbol of the atom.
      function: number of the feature in the list of this element, from 1, as n2p2 counts.
      label: what the function is; lengths of `SymmetryFunctions` in the unit of that set.
      value: the feature.
      minimum, maximum: its range in training; in a committee the narrowest one that is violated.
    """

    structure: int | None
    atom: int
    element: str
    function: int
    label: str
    value: float
    minimum: float
    maximum: float

    @property
    def excess(self) -> float:
        """Distance from the range in widths of the range; infinite for a range without width."""
        width = self.maximum - self.minimum
        return max(self.minimum - self.value, self.value - self.maximum) / width if width > 0 else math.inf


class Features(NamedTuple):
    """Unscaled features of each atom, and which of them lie outside the range of training; zeros for padding."""

    values: Float[Array, "N D"]
    outside: Bool[Array, "N D"]


@partial(jax.jit, static_argnums=0)
def features(model: Potential, params: Params, system: System, neighbors: Neighbors) -> Features:
    """Features of one structure, block by block, and the flags that `predict(..., watch=True)` counts."""
    G = all_features(model.descriptor, system, neighbors, params)
    outside = jax.vmap(partial(features_outside, model, params))(G, jnp.asarray(system.species))
    return Features(G, outside & real_atoms(system)[:, None])


def extrapolations(
    model: Potential, params: Params, atoms: ase.Atoms, dtype: str = "float32", structure: int | None = None
) -> list[Extrapolation]:
    """Every warning of one structure, atom by atom.

    Shapes come from a short ladder, so that similar structures share one compiled function.

    Args:
      model: the potential.
      params: its arrays.
      atoms: the structure.
      dtype: precision of the evaluation, "float32" or "float64", whatever the precision of JAX outside.
      structure: number of the structure, for the warnings and for messages.

    Raises:
      ConfigError: see `name_of_dtype`.
      StructureError, UnknownSpeciesError: a structure that the model cannot evaluate.
    """
    dtype = name_of_dtype(dtype)
    place = Place(None, structure)
    check(atoms, model.elements, place)
    kept = prepare(atoms, model.cutoff, place)
    N, K = kept.size
    return extrapolations_of(model, params, atoms, kept.padded(bucket(N), bucket(K)), dtype, structure)


def extrapolations_of(
    model: Potential, params: Params, atoms: ase.Atoms, kept: Prepared, dtype: str, structure: int | None
) -> list[Extrapolation]:
    """`extrapolations` of a structure whose neighbours are known."""
    dtype = kept.enough(dtype)
    system = kept.system(atoms, model.elements, dtype)
    with precision(dtype):
        values, outside = (np.asarray(a) for a in features(model, params, system, kept.neighbors))
    names = FeatureNames(model.descriptor)
    ranges = {e: _ranges(params["scaling"][e]) for e in (model.elements if outside.any() else ())}
    found = []
    for i, n in np.argwhere(outside).tolist():
        s = int(system.species[i])
        element, value = model.elements[s], float(values[i, n])
        low, high = _narrowest(value, *(limits[:, n] for limits in ranges[element]))
        found.append(Extrapolation(structure, i, element, n + 1, names(s, n), value, low, high))
    return found


def format_extrapolation(warning: Extrapolation) -> str:
    """One line of text with the fields of n2p2's warning, for people and for scripts that look for it."""
    w = warning
    return (
        f"### NNP EXTRAPOLATION WARNING ### STRUCTURE: {'-' if w.structure is None else w.structure} ATOM: {w.atom}"
        f" ELEMENT: {w.element} SYMFUNC: {w.function} TYPE: {w.label} VALUE: {w.value:.8E} MIN: {w.minimum:.8E}"
        f" MAX: {w.maximum:.8E}"
    )


def _ranges(scaling: dict) -> tuple[np.ndarray, np.ndarray]:
    """Limits of an element in float64, with an axis of members (M, D) also for a single network."""
    low, high = (np.atleast_2d(np.asarray(scaling[name], dtype=np.float64)) for name in ("min", "max"))
    return low, high


def _narrowest(value: float, low: np.ndarray, high: np.ndarray) -> tuple[float, float]:
    """The narrowest of the members' ranges (M,) that a value violates."""
    width = np.where((value < low) | (value > high), high - low, np.inf)
    member = int(np.argmin(width))
    return float(low[member]), float(high[member])


class FeatureNames:
    """What the features of a descriptor are called."""

    def __init__(self, descriptor: Descriptor):
        self.functions = descriptor.functions if isinstance(descriptor, SymmetryFunctions) else None
        self.labels = () if self.functions else descriptor.labels

    def __call__(self, species: int, feature: int) -> str:
        """Name of a feature of an element, both by number."""
        return self.labels[feature] if self.functions is None else _function_text(self.functions[species][feature])


def _function_text(f: SymmetryFunction) -> str:
    """Type number, neighbours and parameters of a function, in the order of a line of n2p2."""
    parts = [str(f.kind), *f.neighbors]
    if f.kind in COMPACT:
        parts += [f"r_l={f.r_l:g}", f"r_c={f.cutoff:g}"]
        parts += [] if f.angles is None else [f"angles={f.angles[0]:g}..{f.angles[1]:g}"]
        return " ".join([*parts, f"core={f.core}"])
    angular = [] if f.kind in RADIAL else [f"lambda={f.lam:g}", f"zeta={f.zeta:g}"]
    return " ".join([*parts, f"eta={f.eta:g}", f"r_s={f.r_s:g}", *angular, f"r_c={f.cutoff:g}"])
