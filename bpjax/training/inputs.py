r"""What the networks are trained on: environments that are evaluated anew in every step, or features and derivatives stored once.

Positions do not change in training. For a small data set the features :math:`G_i` and their derivatives
:math:`\partial G_i/\partial R_a` (merged over the images of each atom a) and
:math:`\partial G_i/\partial\varepsilon` fit into memory; a step is then a few small matrix products:

.. math:: F_a = -\sum_i \frac{\partial E_i}{\partial G_i} \frac{\partial G_i}{\partial R_a}, \qquad
          \sigma = \frac1V \sum_i \frac{\partial E_i}{\partial G_i} \frac{\partial G_i}{\partial\varepsilon}

Otherwise (`Environments`) each step evaluates the descriptor and differentiates through it. Both give the same numbers.
"""

from functools import partial
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from bpjax.descriptors import Descriptor
from bpjax.geometry import sanitised
from bpjax.potential.describe import pair_jacobian
from bpjax.potential.energy import Params, Potential, energy_from_features, local_energies
from bpjax.system import Environment
from bpjax.training.dataset import VOIGT, Dataset, Layout


class Environments(NamedTuple):
    """Rows of atoms whose descriptor is evaluated in every step."""

    species: Int[Array, " N"]
    R_ij: Float[Array, "N K 3"]
    species_j: Int[Array, "N K"]
    neighbor: Int[Array, "N K"]
    mask: Bool[Array, "N K"]


class Stored(NamedTuple):
    """Rows of atoms with stored features and derivatives; `other` is the atom, within the structure, of each slot U."""

    species: Int[Array, " N"]
    G: Float[Array, "N D"]
    dG_dR: Float[Array, "N U 3 D"]
    dG_dstrain: Float[Array, "N 6 D"]
    other: Int[Array, "N U"]


class Outputs(NamedTuple):
    """Predictions of a batch: energies (B,) in eV less offsets, forces (N, 3) in eV/A, stress (B, 6) in eV/A^3."""

    energy: Float[Array, " B"]
    forces: Float[Array, "N 3"]
    stress: Float[Array, "B 6"]


def evaluate_batch(model: Potential, params: Params, rows: Environments | Stored, layout: Layout) -> Outputs:
    """Energies, forces and stresses of the structures of a batch."""
    if isinstance(rows, Stored):
        return _from_stored(model, params, rows, layout)
    return _from_environments(model, params, rows, layout)


def _from_stored(model, params, rows: Stored, layout: Layout) -> Outputs:
    def total(G):
        E_i = jnp.where(layout.real, energy_from_features(model, params, G, rows.species), 0)
        return E_i.sum(), E_i

    (_, E_i), dE_dG = jax.value_and_grad(total, has_aux=True)(rows.G)
    pull = jnp.einsum("nuad,nd->nua", rows.dG_dR, dE_dG)
    dE_dstrain = jnp.einsum("nvd,nd->nv", rows.dG_dstrain, dE_dG)
    return _collect(E_i, pull, rows.other, dE_dstrain, layout)


def _from_environments(model, params, rows: Environments, layout: Layout) -> Outputs:
    env = Environment(sanitised(rows.R_ij, rows.mask), rows.species_j, rows.mask)
    E_i, g, _ = local_energies(model, params, env, rows.species)
    E_i = jnp.where(layout.real, E_i, 0)
    g = jnp.where(rows.mask[:, :, None] & layout.real[:, None, None], g, 0)
    dE_dstrain = jnp.einsum("nka,nkb->nab", env.R_ij, g)[:, VOIGT[0], VOIGT[1]]
    return _collect(E_i, g, rows.neighbor, dE_dstrain, layout)


def _collect(E_i, pull, other, dE_dstrain, layout: Layout) -> Outputs:
    """Sums what atoms contribute: `pull` (N, U, 3) is the derivative of E_i with the vector to the atom `other` (N, U)."""
    structures = layout.atoms.shape[0]
    at = (layout.start[:, None] + other).reshape(-1)
    forces = pull.sum(axis=1) - jnp.zeros_like(pull[:, 0]).at[at].add(pull.reshape(-1, 3))
    energy = jax.ops.segment_sum(E_i, layout.structure, structures)
    stress = jax.ops.segment_sum(dE_dstrain, layout.structure, structures) / layout.volume[:, None]
    return Outputs(energy, forces, stress)


def stored_bytes(dataset: Dataset, size: int) -> int:
    """Memory in bytes that `store` will take for `size` features."""
    atoms = min(int(dataset.sizes.max()), int(dataset.mask.sum(axis=1).max()) + 1)
    return len(dataset.species) * (3 * atoms + 7) * size * 4


def as_environments(dataset: Dataset) -> Environments:
    """All atoms of a data set as rows to be evaluated in every step."""
    return Environments(dataset.species, dataset.R_ij, dataset.species_j, dataset.neighbor, dataset.mask)


CHUNK = 128
"""Atoms whose derivatives are computed at a time, at most."""

AT_A_TIME = 2**28
"""Numbers that a chunk may hold at a time."""


def store(descriptor: Descriptor, dataset: Dataset, progress=None) -> Stored:
    """Features and derivatives of all atoms of a data set.

    Args:
      descriptor: function of one environment.
      dataset: structures and neighbours.
      progress: called with the number of atoms in each chunk that is done.
    """
    A, D = len(dataset.species), descriptor.size
    slot, other = _merge(dataset)
    U = other.shape[1]
    stored = Stored(
        dataset.species,
        np.zeros((A, D), np.float32),
        np.zeros((A, U, 3, D), np.float32),
        np.zeros((A, 6, D), np.float32),
        other,
    )
    degree = dataset.mask.sum(axis=1)
    for low, high in _degree_buckets(degree):
        atoms = np.flatnonzero((degree > low) & (degree <= high))
        K = min(high, dataset.mask.shape[1])
        # A derivative takes as many evaluations as there are features or coordinates.
        size = int(np.clip(AT_A_TIME // (min(D, 3 * K) * descriptor.working_set(K)), 1, CHUNK))
        for chunk in np.array_split(atoms, -(-len(atoms) // size)) if len(atoms) else []:
            full = np.resize(chunk, size)
            arrays = (a[full, :K] for a in (dataset.R_ij, dataset.species_j, dataset.mask, slot))
            found = jax.device_get(_derivatives(descriptor, U, dataset.species[full], *arrays))
            for whole, part in zip((stored.G, stored.dG_dR, stored.dG_dstrain), found, strict=True):
                whole[chunk] = part[: len(chunk)]
            if progress:
                progress(len(chunk))
    return stored


@partial(jax.jit, static_argnums=(0, 1))
def _derivatives(descriptor, U: int, species_i, R_ij, species_j, mask, slot):
    """Features (n, D), their derivatives with the U atoms around (n, U, 3, D), and with the strain (n, 6, D)."""

    def one(species_i, R_ij, species_j, mask, slot):
        G, J = pair_jacobian(descriptor, species_i, Environment(R_ij, species_j, mask))
        dG_dR = jnp.einsum("ku,kad->uad", jax.nn.one_hot(slot, U, dtype=J.dtype), J)
        W = jnp.einsum("ka,kbd->abd", sanitised(R_ij, mask), J)  # J is zero where masked
        dG_dstrain = 0.5 * (W + W.swapaxes(0, 1))[VOIGT[0], VOIGT[1]]
        return G, dG_dR, dG_dstrain

    with jax.default_matmul_precision("highest"):
        return jax.vmap(one)(species_i, R_ij, species_j, mask, slot)


def _degree_buckets(degree: np.ndarray) -> list[tuple[int, int]]:
    """Ranges of neighbour numbers that are evaluated with the same shape: (-1, 32], (32, 64], ..."""
    edges = [-1, 32]
    while edges[-1] < degree.max(initial=0):
        edges.append(edges[-1] * 2)
    return list(pairwise(edges))


def _merge(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Slot of each neighbour's atom among the distinct atoms around each centre, (A, K), and these atoms, (A, U).

    Images of the centre itself get slot -1: moving the centre moves them along, so they exert no force.
    """
    A, K = dataset.mask.shape
    own = np.arange(A) - np.repeat(dataset.first[:-1], dataset.sizes)
    pulls = dataset.mask & (dataset.neighbor != own[:, None])
    order = np.argsort(np.where(pulls, dataset.neighbor, np.iinfo(np.int32).max), axis=1, kind="stable")
    ranked = np.take_along_axis(dataset.neighbor, order, 1)
    counted = np.take_along_axis(pulls, order, 1)
    new = counted.copy()
    new[:, 1:] &= ranked[:, 1:] != ranked[:, :-1]
    rank = np.cumsum(new, axis=1) - 1
    slot = np.full((A, K), -1)
    np.put_along_axis(slot, order, np.where(counted, rank, -1), 1)
    other = np.zeros((A, max(1, int(rank.max(initial=-1)) + 1)), np.int32)
    row, column = np.nonzero(new)
    other[row, rank[row, column]] = ranked[row, column]
    return slot, other
