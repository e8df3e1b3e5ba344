r"""What the networks are trained on: environments that are evaluated anew in every step, or features and derivatives stored once.

Positions do not change in training. For a small data set the features :math:`G_i` and their derivatives
:math:`\partial G_i/\partial R_a` (merged over the images of each atom a) and
:math:`\partial G_i/\partial\varepsilon` fit into memory; a step is then a few small matrix products:

.. math:: F_a = -\sum_i \frac{\partial E_i}{\partial G_i} \frac{\partial G_i}{\partial R_a}, \qquad
          \sigma = \frac1V \sum_i \frac{\partial E_i}{\partial G_i} \frac{\partial G_i}{\partial\varepsilon}

Otherwise (`Environments`) each step evaluates the descriptor and differentiates through it. Both give the same numbers. Where
only energies are fitted, features without derivatives (`Features`) do.

Atoms have unlike numbers of partners a. Their derivatives are therefore cut into blocks of a few partners each, which stand in
one axis, so that only the last block of an atom holds padding (zeros).
"""

from functools import partial
from itertools import pairwise
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import optimization_barrier
from jaxtyping import Array, Bool, Float, Int

from bpjax.descriptors import Descriptor
from bpjax.geometry import sanitised
from bpjax.potential.describe import pair_jacobian
from bpjax.potential.energy import Params, Potential, energy_from_features, environment_features, local_energies
from bpjax.system import Environment
from bpjax.training.dataset import VOIGT, BatchPlan, Dataset, Layout, Rows, merged, zeros


class Environments(NamedTuple):
    """Rows of atoms whose descriptor is evaluated in every step."""

    species: Int[Array, " N"]
    R_ij: Float[Array, "N K 3"]
    species_j: Int[Array, "N K"]
    neighbor: Int[Array, "N K"]
    mask: Bool[Array, "N K"]


class Features(NamedTuple):
    """Rows of atoms with stored features, for energies alone."""

    species: Int[Array, " N"]
    G: Float[Array, "N D"]


class Stored(NamedTuple):
    """Rows of atoms with stored features and strain derivatives, and blocks of derivatives with their partners.

    `center` and `other` are atoms within the structure: the one whose features they are, and the partners; a partner that is
    padding has derivatives of zero.
    """

    species: Int[Array, " N"]
    G: Float[Array, "N D"]
    dG_dstrain: Float[Array, "N 6 D"]
    dG_dR: Float[Array, "M U 3 D"]
    center: Int[Array, " M"]
    other: Int[Array, "M U"]


Inputs = TypeVar("Inputs", Environments, Features, Stored)


def batches_of(inputs: Environments | Features | Stored, dataset: Dataset, batch_size: int) -> BatchPlan:
    """Batches of a data set, with blocks where its inputs have some."""
    return BatchPlan.of(dataset.sizes, batch_size, dataset.blocks if isinstance(inputs, Stored) else None)


def gather(inputs: Inputs, rows: Rows) -> Inputs:
    """What a batch holds of the inputs of a data set, which are arrays of NumPy or JAX.

    Raises:
      ValueError: rows that were laid out without blocks, for stored derivatives.
    """
    if not isinstance(inputs, Stored):
        return jax.tree.map(lambda a: a[rows.atoms], inputs)
    if not len(rows.blocks):
        raise ValueError("rows without blocks: lay batches of stored derivatives out with `batches_of`")
    per_atom = (a[rows.atoms] for a in (inputs.species, inputs.G, inputs.dG_dstrain))
    return Stored(*per_atom, *(a[rows.blocks] for a in (inputs.dG_dR, inputs.center, inputs.other)))


def take(inputs: Inputs, rows: Rows | None) -> Inputs:
    """`gather` for use inside jit; without rows, `inputs` is a batch already. Both give the same numbers, bit for bit."""
    # Without the barrier the compiler would merge the gathering into the sums, and round them in another order.
    return optimization_barrier(inputs if rows is None else gather(inputs, rows))


class Outputs(NamedTuple):
    """Predictions of a batch: energies (B,) in eV less offsets, forces (N, 3) in eV/A, stress (B, 6) in eV/A^3."""

    energy: Float[Array, " B"]
    forces: Float[Array, "N 3"]
    stress: Float[Array, "B 6"]


def evaluate_batch(model: Potential, params: Params, rows: Environments | Features | Stored, layout: Layout) -> Outputs:
    """Energies, forces and stresses of the structures of a batch; from `Features` energies, the rest is zero."""
    if isinstance(rows, Stored):
        return _from_stored(model, params, rows, layout)
    if isinstance(rows, Features):
        E_i = jnp.where(layout.real, energy_from_features(model, params, rows.G, rows.species), 0)
        return _collect(E_i, jnp.zeros((len(E_i), 3), E_i.dtype), jnp.zeros((len(E_i), 6), E_i.dtype), layout)
    return _from_environments(model, params, rows, layout)


def _from_stored(model, params, rows: Stored, layout: Layout) -> Outputs:
    def total(G):
        E_i = jnp.where(layout.real, energy_from_features(model, params, G, rows.species), 0)
        return E_i.sum(), E_i

    (_, E_i), dE_dG = jax.value_and_grad(total, has_aux=True)(rows.G)
    center = layout.block_start + rows.center
    dE_dR = jnp.einsum("muad,md->mua", rows.dG_dR, dE_dG[center])
    dE_dR = jnp.where(layout.block_real[:, None, None], dE_dR, 0)
    dE_dstrain = jnp.einsum("nvd,nd->nv", rows.dG_dstrain, dE_dG)
    forces = _pulls(dE_dR, center, layout.block_start[:, None] + rows.other, len(E_i))
    # With the barrier the derivatives of the loss with the forces are computed once, not for each partner of each atom anew.
    return _collect(E_i, optimization_barrier(forces), dE_dstrain, layout)


def _from_environments(model, params, rows: Environments, layout: Layout) -> Outputs:
    env = Environment(sanitised(rows.R_ij, rows.mask), rows.species_j, rows.mask)
    E_i, g = local_energies(model, params, env, rows.species)[:2]
    E_i = jnp.where(layout.real, E_i, 0)
    g = jnp.where(rows.mask[:, :, None] & layout.real[:, None, None], g, 0)
    dE_dstrain = jnp.einsum("nka,nkb->nab", env.R_ij, g)[:, VOIGT[0], VOIGT[1]]
    forces = _pulls(g, jnp.arange(len(E_i)), layout.start[:, None] + rows.neighbor, len(E_i))
    return _collect(E_i, forces, dE_dstrain, layout)


def _pulls(dE_dR: Float[Array, "M U 3"], center: Int[Array, " M"], other: Int[Array, "M U"], atoms: int):
    """Forces (N, 3) from the derivatives of the energies of atoms with the vectors to others."""
    forces = jnp.zeros((atoms, 3), dE_dR.dtype).at[center].add(dE_dR.sum(axis=1))
    return forces.at[other.reshape(-1)].add(-dE_dR.reshape(-1, 3))


def _collect(E_i, forces, dE_dstrain, layout: Layout) -> Outputs:
    """Sums over the atoms of each structure."""
    structures = layout.atoms.shape[0]
    energy = jax.ops.segment_sum(E_i, layout.structure, structures)
    stress = jax.ops.segment_sum(dE_dstrain, layout.structure, structures) / layout.volume[:, None]
    return Outputs(energy, forces, stress)


def as_environments(dataset: Dataset) -> Environments:
    """All atoms of a data set as rows to be evaluated in every step."""
    return Environments(dataset.species, dataset.R_ij, dataset.species_j, dataset.neighbor, dataset.mask)


def to_device(inputs: Inputs) -> Inputs:
    """Inputs as arrays of JAX. On a CPU they share the memory of the NumPy arrays, which must not be changed from then on."""
    return jax.tree.map(jax.device_put, inputs)


CHUNK = 128
"""Atoms that are described at a time, at most."""

AT_A_TIME = {"cpu": 2**23}
"""Numbers that a chunk may hold at a time, by kind of device: what the caches of a CPU can serve is ten times faster there."""


def store(descriptor: Descriptor, dataset: Dataset, progress=None) -> Stored:
    """Features and derivatives of all atoms of a data set.

    Args:
      descriptor: function of one environment.
      dataset: structures and neighbours.
      progress: called with the number of atoms in each chunk that is done.
    """
    shapes = stored_shapes(dataset, descriptor.size)
    stored = Stored(*(zeros(*shape) for shape in shapes))
    fill(stored, descriptor, dataset, progress)
    return stored


def stored_shapes(dataset: Dataset, size: int) -> Stored:
    """Shape and type of each array of stored features and derivatives, for `size` features."""
    A, M, U = len(dataset.species), max(1, int(dataset.first_block[-1])), dataset.block_length
    return Stored(
        ((A,), np.int32),
        ((A, size), np.float32),
        ((A, 6, size), np.float32),
        ((M, U, 3, size), np.float32),
        ((M,), np.int32),
        ((M, U), np.int32),
    )


def fill(stored: Stored, descriptor: Descriptor, dataset: Dataset, progress=None) -> None:
    """Writes features and derivatives of all atoms of a data set into arrays of `stored_shapes`, which are zero."""
    U, count = dataset.block_length, -(-dataset.partners // dataset.block_length)
    own = np.arange(len(dataset.species)) - np.repeat(dataset.first[:-1], dataset.sizes)
    stored.species[:], stored.center[: dataset.first_block[-1]] = dataset.species, np.repeat(own, count)
    for chunk, full, K in _chunks(descriptor, dataset, derivatives=True):
        slot, other = merged(dataset, full)
        blocks = max(1, int(count[chunk].max()))
        arrays = (dataset.species[full], dataset.R_ij[full, :K], dataset.species_j[full, :K], dataset.mask[full, :K])
        found = _derivatives(descriptor, blocks * U, *arrays, slot[:, :K].astype(np.int32))
        G, dG_dR, dG_dstrain = (np.asarray(a) for a in found)
        stored.G[chunk], stored.dG_dstrain[chunk] = G[: len(chunk)], dG_dstrain[: len(chunk)]
        atom, block = np.nonzero(np.arange(blocks) < count[chunk][:, None])
        at = dataset.first_block[chunk[atom]] + block
        stored.dG_dR[at] = dG_dR.reshape(-1, blocks, *stored.dG_dR.shape[1:])[atom, block]
        padded = np.pad(other, [(0, 0), (0, max(0, blocks * U - other.shape[1]))])[:, : blocks * U]
        stored.other[at] = padded.reshape(-1, blocks, U)[atom, block]
        if progress:
            progress(len(chunk))


def store_features(descriptor: Descriptor, dataset: Dataset, progress=None, params: Params | None = None) -> Features:
    """Features of all atoms of a data set, without derivatives; arguments as of `store`, `params` as of `features_of`."""
    found = Features(
        zeros((len(dataset.species),), np.int32), zeros((len(dataset.species), descriptor.size), np.float32)
    )
    found.species[:] = dataset.species
    for chunk, full, K in _chunks(descriptor, dataset, derivatives=False):
        pairs = (a[full, :K] for a in (dataset.R_ij, dataset.species_j, dataset.neighbor, dataset.mask))
        rows = Environments(dataset.species[full], *pairs)
        found.G[chunk] = np.asarray(_described(descriptor, params or {}, rows))[: len(chunk)]
        if progress:
            progress(len(chunk))
    return found


def chunk_size(descriptor: Descriptor, slots: int, derivatives: bool) -> int:
    """Atoms with so many neighbour slots that are described at a time."""
    # A derivative takes as many evaluations as there are features or coordinates.
    each = descriptor.working_set(slots) * (min(descriptor.size, 3 * slots) if derivatives else 1)
    return int(np.clip(AT_A_TIME.get(jax.default_backend(), 2**28) // each, 1, CHUNK))


def _chunks(descriptor: Descriptor, dataset: Dataset, derivatives: bool):
    """Atoms with like numbers of neighbours, a chunk at a time: their indices, these filled up to the size of all, and slots."""
    degree = dataset.mask.sum(axis=1)
    for low, high in degree_buckets(degree):
        atoms = np.flatnonzero((degree > low) & (degree <= high))
        K = min(high, dataset.mask.shape[1])
        size = chunk_size(descriptor, K, derivatives)
        for chunk in np.array_split(atoms, -(-len(atoms) // size)) if len(atoms) else []:
            yield chunk, np.resize(chunk, size), K


def features_of(descriptor: Descriptor, params: Params, rows: Environments) -> Float[Array, "N D"]:
    """Features of the atoms of some rows, with what the descriptor has learned in a model (`params["descriptor"]`), if it has."""

    def one(R_ij, species_j, mask, species):
        return environment_features(descriptor, params, Environment(R_ij, species_j, mask), species)

    return jax.vmap(one)(sanitised(rows.R_ij, rows.mask), rows.species_j, rows.mask, rows.species)


@partial(jax.jit, static_argnums=0)
def _described(descriptor, params, rows: Environments):
    with jax.default_matmul_precision("highest"):
        return features_of(descriptor, params, rows)


@partial(jax.jit, static_argnums=(0, 1))
def _derivatives(descriptor, U: int, species_i, R_ij, species_j, mask, slot):
    """Features (n, D), their derivatives with U partners (n, U, 3, D), and with the strain (n, 6, D)."""

    def one(species_i, R_ij, species_j, mask, slot):
        G, J = pair_jacobian(descriptor, species_i, Environment(R_ij, species_j, mask))
        dG_dR = jnp.einsum("ku,kad->uad", jax.nn.one_hot(slot, U, dtype=J.dtype), J)
        W = jnp.einsum("ka,kbd->abd", sanitised(R_ij, mask), J)  # J is zero where masked
        dG_dstrain = 0.5 * (W + W.swapaxes(0, 1))[VOIGT[0], VOIGT[1]]
        return G, dG_dR, dG_dstrain

    with jax.default_matmul_precision("highest"):
        return jax.vmap(one)(species_i, R_ij, species_j, mask, slot)


def degree_buckets(degree: np.ndarray) -> list[tuple[int, int]]:
    """Ranges of neighbour numbers that are evaluated with the same shape: (-1, 32], (32, 64], ..."""
    edges = [-1, 32]
    while edges[-1] < degree.max(initial=0):
        edges.append(edges[-1] * 2)
    return list(pairwise(edges))
