r"""How much a trained potential depends on each feature: derivatives of the atomic energies with the features.

.. math::
    s_n = \sqrt{\left\langle (\partial E_i / \partial G_{in})^2 \right\rangle_i}, \qquad
    \sigma_n s_n, \quad \sigma_n^2 = \left\langle (G_{in} - \langle G_n \rangle)^2 \right\rangle_i

over the atoms of one element in a data set, beside the mean of :math:`|\partial E_i / \partial G_{in}|`. :math:`s_n` says what a
unit of a feature does, and features have different magnitudes; times the spread :math:`\sigma_n` it says how many eV the feature
moves an atomic energy by as it varies in the data. A feature that does nothing in this measure can be left out. (Features that
resemble each other share what they do.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import ase
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bpjax.descriptors import SymmetryFunctions
from bpjax.elements import species_of
from bpjax.errors import StructureError
from bpjax.potential.describe import describe
from bpjax.potential.energy import Params, Potential, energy_from_features
from bpjax.potential.extrapolation import FeatureNames
from bpjax.precision import name_of_dtype, precision

TOGETHER = 1024
"""Atoms whose derivatives are taken side by side."""


@dataclass(frozen=True)
class Sensitivity:
    r"""Dependence of the atomic energies of an element on one feature.

    Attributes:
      element: chemical symbol of the atoms.
      function: number of the feature in the list of this element, from 1.
      label: what the feature is.
      atoms: over how many atoms the averages run.
      rms: root mean square of :math:`\partial E_i / \partial G_{in}`, in eV per unit of the feature.
      mean_absolute: mean of its magnitude.
      spread: standard deviation of the feature over these atoms.
    """

    element: str
    function: int
    label: str
    atoms: int
    rms: float
    mean_absolute: float
    spread: float

    @property
    def effect(self) -> float:
        """Root mean square times spread, in eV: what features are compared by."""
        return self.rms * self.spread

    @property
    def mean_effect(self) -> float:
        """Mean magnitude times spread, in eV."""
        return self.mean_absolute * self.spread


@partial(jax.jit, static_argnums=(0, 3))
def feature_gradients(model: Potential, params: Params, G: Float[Array, "A D"], species: int) -> Float[Array, "A D"]:
    r""":math:`\partial E_i / \partial G_{in}` of atoms of one element in eV, from unscaled features; of a committee the mean."""
    gradient = jax.grad(lambda G: energy_from_features(model, params, G, species))
    with jax.default_matmul_precision("highest"):
        return jax.lax.map(gradient, G, batch_size=TOGETHER)


def sensitivities_of_features(
    model: Potential, params: Params, features: Mapping[str, np.ndarray]
) -> list[Sensitivity]:
    """Sensitivities from the features of the atoms of each element.

    Args:
      model: the potential.
      params: its arrays.
      features: unscaled features (A, D) of all atoms of an element; their dtype is that of the evaluation.

    Returns: a row for each element in `features` and each of its functions, in the order of the model.

    Raises:
      ValueError: an element that the model does not know, or features that are not those of its descriptor.
    """
    unknown = set(features) - set(model.elements)
    if unknown:
        raise ValueError(f"the model has no {', '.join(sorted(unknown))}; its elements are {', '.join(model.elements)}")
    names, rows = FeatureNames(model.descriptor), []
    for species, element in enumerate(model.elements):
        if element not in features:
            continue
        G = np.asarray(features[element])
        if G.ndim != 2 or len(G) == 0 or G.shape[1] != model.descriptor.size:
            raise ValueError(
                f"features of {element}: must be at least one atom with {model.descriptor.size} features each, got"
                f" shape {G.shape}"
            )
        gradients = np.asarray(feature_gradients(model, params, jnp.asarray(G), species), dtype=np.float64)
        spread = np.asarray(G, dtype=np.float64).std(axis=0)
        rms, magnitude = np.sqrt(np.mean(gradients**2, axis=0)), np.mean(np.abs(gradients), axis=0)
        rows += [
            Sensitivity(element, n + 1, names(species, n), len(G), float(rms[n]), float(magnitude[n]), float(spread[n]))
            for n in range(_functions(model, species))
        ]
    return rows


def sensitivities(
    model: Potential, params: Params, frames: Sequence[ase.Atoms], dtype: str = "float32"
) -> list[Sensitivity]:
    """Sensitivities on a data set, usually the one that the model was trained on.

    Args:
      model: the potential.
      params: its arrays.
      frames: the structures; labels are ignored.
      dtype: "float32" or "float64", whatever the precision of JAX outside.

    Returns: a row for each element that occurs and each of its functions, in the order of the model.

    Raises:
      ConfigError: another dtype.
      StructureError, UnknownSpeciesError: no structure, or one that the model cannot evaluate.
    """
    dtype = name_of_dtype(dtype)
    if not len(frames):
        raise StructureError("no structure to take sensitivities from")
    G = np.concatenate(describe(model.descriptor, frames, dtype))
    species = np.concatenate([species_of(atoms.numbers, model.elements) for atoms in frames])
    present = {e: G[species == s] for s, e in enumerate(model.elements) if (species == s).any()}
    with precision(dtype):
        return sensitivities_of_features(model, params, present)


def ranked(rows: Sequence[Sensitivity], element: str | None = None) -> list[Sensitivity]:
    """Rows (of one element, if it is named) from the largest `effect` to the smallest."""
    wanted = [row for row in rows if element is None or row.element == element]
    return sorted(wanted, key=lambda row: -row.effect)


def format_sensitivities(rows: Sequence[Sensitivity]) -> str:
    """A table for people: a line for each row."""
    width = max([len(row.label) for row in rows] + [8])
    head = f"{'':2} {'no.':>4} {'function':<{width}} {'rms dE/dG':>11} {'spread':>11} {'effect, eV':>11}"
    lines = [
        f"{row.element:2} {row.function:4d} {row.label:<{width}} {row.rms:11.4e} {row.spread:11.4e} {row.effect:11.4e}"
        for row in rows
    ]
    return "\n".join([head, *lines])


def _functions(model: Potential, species: int) -> int:
    """Number of functions of an element; what stands behind them in its features is padding."""
    descriptor = model.descriptor
    return len(descriptor.functions[species]) if isinstance(descriptor, SymmetryFunctions) else descriptor.size
