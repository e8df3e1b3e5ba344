"""Pair vectors, strain and volume: the only place that masks and sanitises distances.

Kernels downstream may assume that every distance is positive and finite. A masked slot is *replaced before* the formula (a
vector of length 1 A, constant, so that no derivative passes) and its contribution is removed after it, through a cutoff
value of exactly zero. Multiplying by the mask alone would give NaN gradients.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from bpjax.system import Environment, Neighbors, System

HARMLESS = (1.0, 0.0, 0.0)
"""Pair vector that stands in a masked slot, in A."""


def pair_vectors(system: System, neighbors: Neighbors) -> Float[Array, "N K 3"]:
    r"""Vectors from each atom to its neighbours, :math:`R_{ij} = R_j + n \cdot h - R_i`; masked slots hold a constant.

    Args:
      system: positions in A, cell rows `h` in A.
      neighbors: index, lattice shift `n` and mask of each slot.

    Returns: pair vectors in A.
    """
    R, idx = jnp.asarray(system.positions), jnp.asarray(neighbors.idx)
    R_ij = R[idx] - R[:, None, :]
    if neighbors.shift is not None and system.cell is not None:
        R_ij = R_ij + jnp.asarray(neighbors.shift, R.dtype) @ jnp.asarray(system.cell)
    return sanitised(R_ij, jnp.asarray(neighbors.mask))


def sanitised(R_ij: Float[Array, "*batch K 3"], mask: Bool[Array, "*batch K"]) -> Float[Array, "*batch K 3"]:
    """Puts a harmless constant vector into masked slots."""
    return jnp.where(mask[..., None], R_ij, jnp.asarray(HARMLESS, R_ij.dtype))


def real_atoms(system: System) -> Bool[Array, " N"]:
    """Which atoms are real: all of them where the structure is not padded."""
    if system.atom_mask is None:
        return jnp.ones(jnp.shape(system.species), bool)
    return jnp.asarray(system.atom_mask)


def environments(system: System, neighbors: Neighbors) -> Environment:
    """What every atom sees: pair vectors, species of the neighbours, mask. Shapes (N, K, 3), (N, K), (N, K)."""
    species_j = jnp.asarray(system.species)[jnp.asarray(neighbors.idx)]
    return Environment(pair_vectors(system, neighbors), species_j, jnp.asarray(neighbors.mask))


def forces_from_pairs(
    pair_gradients: Float[Array, "N K 3"], idx: Int[Array, "N K"], mask: Bool[Array, "N K"]
) -> Float[Array, "N 3"]:
    r"""Forces :math:`F_i = \sum_j g_{ij} - \sum_j g_{ji}` from pair gradients :math:`g_{ij} = \partial E_i/\partial R_{ij}`."""
    g = jnp.where(mask[..., None], pair_gradients, 0)
    return g.sum(axis=1) - jnp.zeros_like(g[:, 0]).at[idx.reshape(-1)].add(g.reshape(-1, 3))


def virial_from_pairs(
    pair_gradients: Float[Array, "N K 3"], R_ij: Float[Array, "N K 3"], mask: Bool[Array, "N K"]
) -> Float[Array, "3 3"]:
    r"""Virial in eV, :math:`W_{ab} = -\partial E/\partial\varepsilon_{ab} = -\sum_{ij} R_{ij,a}\, g_{ij,b}`."""
    g = jnp.where(mask[..., None], pair_gradients, 0)
    return -jnp.einsum("ija,ijb->ab", R_ij, g)


def volume(cell: Float[Array, "*batch 3 3"]) -> Float[Array, "*batch"]:
    """Volume of the cell in A^3, positive for left-handed cells too."""
    return jnp.abs(jnp.sum(cell[..., 0, :] * jnp.cross(cell[..., 1, :], cell[..., 2, :]), axis=-1))


def norm(R: Float[Array, "*batch 3"]) -> Float[Array, "*batch"]:
    """Length of (sanitised, hence nonzero) vectors."""
    return jnp.sqrt(jnp.sum(R * R, axis=-1))


def superposing_rotation(
    R: Float[np.ndarray, "N 3"], reference: Float[np.ndarray, "N 3"], weights: Float[np.ndarray, " N"] | None = None
) -> Float[np.ndarray, "3 3"]:
    """The Q for which R Q, about its centre, is nearest to the reference: least squares of all atoms, with weights. On the host.

    References: W. Kabsch, Acta Cryst. A 32, 922 (1976), doi:10.1107/S0567739476001873.
    """
    w = np.ones(len(R)) if weights is None else weights
    w = w / w.sum()
    x, y = R - w @ R, reference - w @ reference
    U, _, V = np.linalg.svd((w[:, None] * x).T @ y)
    turn = np.diag([1.0, 1.0, np.sign(np.linalg.det(U @ V))])
    return U @ turn @ V
