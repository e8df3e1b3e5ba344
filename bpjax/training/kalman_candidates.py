r"""Candidates for updates of the Kalman filter: a structure (its energy), or an atom and a component (of its force).

All candidates of a kind stand in one table of rows of atoms: those of the structure, or those that feel the atom, itself first.
No others matter for the force

.. math:: F_a = -\sum_i \frac{\partial E_i}{\partial G_i} \frac{\partial G_i}{\partial R_a}

so that its derivatives with the weights are those of one directional derivative of the networks.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from bpjax.neighbors import slots_in_rows
from bpjax.potential.energy import Params, Potential, energy_from_features
from bpjax.training.dataset import NO_BLOCKS, Dataset, Rows
from bpjax.training.inputs import Environments, Features, Stored, features_of, gather
from bpjax.training.losses import LikelihoodLoss

ENERGY, FORCES = 0, 1
"""Kinds of candidates."""


class Table(NamedTuple):
    """Candidates C of one kind, with M rows of atoms each, -1 where there are no more, and S blocks of P.

    Attributes:
      rows: atoms of the structure; or those that feel an atom, itself first.
      toward: with stored derivatives, where those of each row with the atom stand; else the number of the atom in its structure.
      away: with stored derivatives, where those of the atom with each row stand.
      reference: the label, with a column for each component.
      scale: what errors are multiplied by.
      share: part of the error that each block sees.
    """

    rows: Int[Array, "C M"]
    toward: Int[Array, "C M"]
    away: Int[Array, "C M"]
    reference: Float[Array, "C c"]
    scale: Float[Array, " C"]
    share: Float[Array, "C S"]


def _features(model, params, inputs: Stored | Features | Environments, rows):
    if not isinstance(inputs, Environments):
        return inputs.G[rows]
    return features_of(model.descriptor, params, gather(inputs, Rows(rows, NO_BLOCKS)))


def _features_and_direction(model, params, inputs, rows, toward, away, axis):
    """Features (M, D) of the atoms that feel an atom, itself first, and their derivatives (M, D) with its coordinate `axis`."""
    at = jnp.maximum(rows, 0)
    if isinstance(inputs, Stored):
        flat = inputs.dG_dR.reshape(-1, *inputs.dG_dR.shape[2:])
        others = (rows >= 0).at[0].set(False)[:, None]
        # All that the atom feels, moved together, is the atom moved the other way.
        own = -jnp.where(others, flat[away, axis], 0).sum(axis=0)
        return inputs.G[at], jnp.where(others, flat[toward, axis], 0).at[0].set(own)
    here = gather(inputs, Rows(at, NO_BLOCKS))
    mask = here.mask & (rows >= 0)[:, None]
    moved = (here.neighbor == toward[:, None]).astype(here.R_ij.dtype).at[0].add(-1.0)
    direction = jnp.where(mask, moved, 0)[:, :, None] * jax.nn.one_hot(axis, 3, dtype=here.R_ij.dtype)

    def features(R_ij):
        return features_of(model.descriptor, params, here._replace(R_ij=R_ij))

    return jax.jvp(features, (here.R_ij,), (direction,))


def predict_energy(model: Potential, params: Params, inputs, rows: Int[Array, " M"]) -> Float[Array, ""]:
    """Energy, less offsets, of the structure of the atoms `rows`, -1 where there are no more."""
    at = jnp.maximum(rows, 0)
    E_i = energy_from_features(model, params, _features(model, params, inputs, at), inputs.species[at])
    return jnp.sum(jnp.where(rows >= 0, E_i, 0))


def predict_force(model: Potential, params: Params, inputs, rows, toward, away, axis) -> Float[Array, ""]:
    """Component `axis` of the force on the first of the atoms `rows`, which are all that feel it; arguments as in `Table`."""
    G, direction = _features_and_direction(model, params, inputs, rows, toward, away, axis)
    species = inputs.species[jnp.maximum(rows, 0)]
    change = jax.jvp(lambda G: energy_from_features(model, params, G, species), (G,), (direction,))[1]
    return -jnp.sum(change)


# ------------------------------------------------------------------------------------------------ tables


def energy_table(data: Dataset, offsets, loss: LikelihoodLoss, weight, share) -> tuple[Table, np.ndarray]:
    """All structures, and which of them have an energy that counts."""
    rows = np.full((len(data), data.sizes.max()), -1, np.int32)
    local = np.arange(rows.shape[1])[None, :]
    inside = local < data.sizes[:, None]
    rows[inside] = (data.first[:-1, None] + local)[inside]
    energy = data.energy - data.counts @ offsets
    usable = np.flatnonzero(np.isfinite(energy) & (weight > 0) & (loss.energy is not None))
    width = (loss.energy or 1.0) * (data.sizes if loss.energy_per == "atom" else np.ones(len(data)))
    unused = np.zeros_like(rows)
    return Table(rows, unused, unused, np.nan_to_num(energy)[:, None], np.sqrt(weight) / width, share), usable


def force_table(data: Dataset, loss: LikelihoodLoss, weight, blocks: int, stored: bool) -> tuple[Table, np.ndarray]:
    """All atoms with those that feel them, and which of them have forces that count."""
    structure = np.repeat(np.arange(len(data)), data.sizes)
    local = np.arange(len(structure)) - data.first[structure]
    center, slot = np.nonzero(data.mask & (data.neighbor != local[:, None]))
    pairs = np.stack([center, data.neighbor[center, slot] + data.first[structure][center]])
    i, j = np.unique(
        pairs, axis=1
    )  # images of an atom are one partner; partners are in ascending order, as they are stored
    place = slots_in_rows(i)
    shape = len(structure), int(place.max(initial=-1)) + 2
    rows, toward, away = np.full(shape, -1, np.int32), np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    rows[:, 0], rows[i, place + 1] = np.arange(len(structure)), j
    if stored:
        at = data.first_block[i] * data.block_length + place
        back = np.lexsort((i, j))  # the pair (j, i) of each pair (i, j)
        away[i, place + 1], toward[i, place + 1] = at, at[back]
    else:
        toward[:] = local[:, None]
    weight = weight[structure] * data.forces_weight
    usable = np.flatnonzero(np.isfinite(data.forces).all(axis=1) & (weight > 0) & (loss.forces is not None))
    forces = np.nan_to_num(data.forces)
    width = np.hypot(loss.forces or 1.0, loss.forces_relative * np.linalg.norm(forces, axis=1))
    share = np.ones((len(structure), blocks))
    return Table(rows, toward, away, forces, np.sqrt(weight) / width, share), usable


def shapes_of(counts: np.ndarray) -> list[int]:
    """At most three numbers of rows that candidates with so many are padded to."""
    found = sorted({int(np.quantile(counts, q, method="higher")) for q in (0.5, 0.9, 1.0)})
    return [n for n, above in zip(found, [*found[1:], np.inf], strict=True) if n < 0.8 * above]
