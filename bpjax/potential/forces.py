"""Energy with forces, virial and stress from the pair gradients of one pass."""

from dataclasses import replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bpjax.geometry import environments, forces_from_pairs, real_atoms, virial_from_pairs, volume
from bpjax.potential.energy import Params, Potential, local_energies
from bpjax.potential.extrapolation import features
from bpjax.system import Neighbors, Prediction, System


def predict(
    model: Potential, params: Params, system: System, neighbors: Neighbors, *, watch: bool = False
) -> Prediction:
    """Energy, atomic energies, forces and virial (eV, eV/A), energies relative to the offsets; see `energy`.

    Args:
      model: the potential (static).
      params: its arrays.
      system: positions, species, cell, padding mask.
      neighbors: all neighbours within the cutoff, or more.
      watch: also count, for each atom, the features outside the range of training.
    """
    env = environments(system, neighbors)
    real = real_atoms(system)
    E_i, g, outside, noise = local_energies(model, params, env, jnp.asarray(system.species), watch=watch)
    E_i = jnp.where(real, E_i, 0)
    mask = env.mask & real[:, None]
    forces = forces_from_pairs(g, jnp.asarray(neighbors.idx), mask)
    outside = None if outside is None else jnp.where(real, outside, 0)
    return Prediction(jnp.sum(E_i), E_i, forces, virial_from_pairs(g, env.R_ij, mask), outside, noise)


def predict_members(
    model: Potential, params: Params, system: System, neighbors: Neighbors, *, watch: bool = False
) -> Prediction:
    """What each member of a committee predicts, with a leading axis of members; `predict` gives their mean.

    Args:
      model: a potential with `members` (static).
      params: its arrays, with a leading axis of members.
      system: positions, species, cell, padding mask.
      neighbors: all neighbours within the cutoff, or more.
      watch: also count features outside the range of any member; the same numbers for all members.

    Raises:
      ValueError: the model is no committee.
    """
    if model.members is None:
        raise ValueError("predict_members: the model is no committee, its members=None")
    one = replace(model, members=None)
    found = jax.vmap(lambda params: predict(one, params, system, neighbors))(params)
    if not watch:
        return found
    outside = jnp.sum(features(model, params, system, neighbors).outside, axis=1, dtype=jnp.int32)
    return found._replace(outside=jnp.broadcast_to(outside, found.atomic_energies.shape))


def energy_and_forces(
    model: Potential, params: Params, system: System, neighbors: Neighbors
) -> tuple[Float[Array, ""], Float[Array, "N 3"]]:
    """Energy (eV, relative to the offsets) and forces (eV/A)."""
    prediction = predict(model, params, system, neighbors)
    return prediction.energy, prediction.forces


def stress(prediction: Prediction, cell: Float[Array, "3 3"]) -> Float[Array, "3 3"]:
    r"""Stress :math:`(\partial E/\partial\varepsilon)/V` in eV/A^3, positive in tension (ASE's sign)."""
    return -prediction.virial / volume(cell)
