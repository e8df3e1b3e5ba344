r"""Energies of isolated atoms, exactly, in a potential that was trained on their bonds.

A network that has seen no atom without neighbours says anything there. With the features :math:`G_0` of such an atom and its
energy :math:`e_0`, the atomic energy becomes

.. math:: E_i(G) = N(G) + e^{-\kappa\, |x - x_0|^2}\, (e_0 - N(G_0))

where x are the scaled features: exactly :math:`e_0` for an atom that is alone, and, by the choice of :math:`\kappa`, the network
to rounding where there are data. Nothing changes in training, or between the data; an atom that leaves goes to the right energy.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bpjax.networks.scaling import ROWS, scaled, scaled_on_host

NEGLIGIBLE = 50.0
"""Exponent at the atom of the data that is nearest to the isolated one: exp(-50) of a binding energy is below all rounding."""

NEAREST = 0.1
"""Atoms of the data that are nearer to the isolated one, in spreads of each feature, are taken for alone: they do not bear on the
exponent, which would make the change between them and the isolated atom a jump."""


def with_free_atom(
    own: dict, scaling: dict, x: Float[Array, " D"], network: Callable[[Any], Array], energy: float
) -> Float[Array, ""]:
    """Energy of an atom in eV, less the offset, that ends at `energy` where it has no neighbours.

    Args:
      own: what `free_atoms` gives for its element.
      scaling: of its element.
      x: its scaled features.
      network: atomic energy of scaled features.
      energy: of the isolated atom, less the offset.
    """
    x_0 = scaled(scaling, own["features"])
    alone = jnp.exp(-own["steepness"] * jnp.sum((x - x_0) ** 2))
    return network(x) + alone * (energy - network(x_0))


def free_atoms(
    elements: tuple[str, ...], alone: dict[str, np.ndarray], scaling: dict, G: np.ndarray, species: np.ndarray
) -> dict:
    """Arrays of `with_free_atom` for each element.

    Args:
      elements: chemical symbols.
      alone: features (D,) of an isolated atom of each element.
      scaling: of each element.
      G: features of the atoms that were trained on, (A, D).
      species: of these, (A,).
    """
    found = {}
    for s, element in enumerate(elements):
        own, atoms = scaling[element], np.flatnonzero(species == s)
        x_0, nearest = scaled_on_host(own, alone[element]), np.inf
        for start in range(0, len(atoms), ROWS):  # features may be files that are larger than the memory
            x = scaled_on_host(own, G[atoms[start : start + ROWS]])
            nearest = min(nearest, float(np.sum((x - x_0) ** 2, axis=1).min()))
        nearest = max(nearest, NEAREST**2 * len(x_0))
        found[element] = {
            "features": jnp.asarray(alone[element], jnp.float32),
            "steepness": jnp.float32(NEGLIGIBLE / nearest),
        }
    return found
