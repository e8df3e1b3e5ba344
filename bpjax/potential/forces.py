"""Energy with forces, virial and stress from the pair gradients of one pass."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from bpjax.geometry import environments, forces_from_pairs, virial_from_pairs, volume
from bpjax.potential.energy import Params, Potential, local_energies
from bpjax.system import Neighbors, Prediction, System


def predict(model: Potential, params: Params, system: System, neighbors: Neighbors) -> Prediction:
    """Energy, atomic energies, forces and virial (eV, eV/A), energies relative to the offsets; see `energy`.

    Args:
      model: the potential (static).
      params: its arrays.
      system: positions, species, cell, padding mask.
      neighbors: all neighbours within the cutoff, or more.
    """
    env = environments(system, neighbors)
    real = jnp.ones(len(env.mask), bool) if system.atom_mask is None else jnp.asarray(system.atom_mask)
    E_i, g = local_energies(model, params, env, jnp.asarray(system.species))
    E_i = jnp.where(real, E_i, 0)
    mask = env.mask & real[:, None]
    forces = forces_from_pairs(g, jnp.asarray(neighbors.idx), mask)
    return Prediction(jnp.sum(E_i), E_i, forces, virial_from_pairs(g, env.R_ij, mask))


def energy_and_forces(
    model: Potential, params: Params, system: System, neighbors: Neighbors
) -> tuple[Float[Array, ""], Float[Array, "N 3"]]:
    """Energy (eV, relative to the offsets) and forces (eV/A)."""
    prediction = predict(model, params, system, neighbors)
    return prediction.energy, prediction.forces


def stress(prediction: Prediction, cell: Float[Array, "3 3"]) -> Float[Array, "3 3"]:
    r"""Stress :math:`(\partial E/\partial\varepsilon)/V` in eV/A^3, positive in tension (ASE's sign)."""
    return -prediction.virial / volume(cell)
