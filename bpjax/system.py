"""The traced data types: NamedTuples of arrays that pass through jit, vmap and grad.

Conventions: N atoms, K neighbour slots, S species. Cells are rows (ASE). `R_ij = R_j - R_i` in angstrom, energies in eV.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from bpjax.elements import species_of


class System(NamedTuple):
    """A structure: positions in A, species indices, cell rows in A, periodic directions, and which atoms are real."""

    positions: Float[Array, "*batch N 3"]
    species: Int[Array, "*batch N"]
    cell: Float[Array, "*batch 3 3"] | None = None
    pbc: Bool[Array, "*batch 3"] | None = None
    atom_mask: Bool[Array, "*batch N"] | None = None


class Neighbors(NamedTuple):
    """Neighbour slots of every atom: index of the neighbour, lattice shift of its image, and which slots are real.

    The neighbour in slot k of atom i sits at `positions[idx[i, k]] + shift[i, k] @ cell`. Slots may hold neighbours beyond
    the cutoff (a skin): the cutoff function removes them.
    """

    idx: Int[Array, "*batch N K"]
    shift: Int[Array, "*batch N K 3"] | None
    mask: Bool[Array, "*batch N K"]


class Environment(NamedTuple):
    """What one atom sees (or, with a leading axis, every atom): pair vectors, neighbour species and which slots are real."""

    R_ij: Float[Array, "*batch K 3"]
    species_j: Int[Array, "*batch K"]
    mask: Bool[Array, "*batch K"]


class Prediction(NamedTuple):
    """Energy and its derivatives. `virial` is -dE/d(strain) in eV; stress is `-virial / volume` (ASE sign).

    `outside` counts the features of each atom that lie outside the range of training; None where nobody asked. `noise` is the
    logarithm of the widths of its energy and force relative to those of `Potential.noise`; None for a model without.
    """

    energy: Float[Array, "*batch"]
    atomic_energies: Float[Array, "*batch N"]
    forces: Float[Array, "*batch N 3"]
    virial: Float[Array, "*batch 3 3"]
    outside: Int[Array, "*batch N"] | None = None
    noise: Float[Array, "*batch N 2"] | None = None


def system_from_arrays(
    numbers: np.ndarray,
    positions: np.ndarray,
    cell: np.ndarray | None,
    pbc: np.ndarray | bool,
    elements: tuple[str, ...],
    *,
    dtype: np.typing.DTypeLike = np.float64,
    capacity: int | None = None,
    where: str = "structure",
) -> System:
    """Builds a `System` on the host, padded with masked atoms up to `capacity`.

    Args:
      numbers: atomic numbers (N,).
      positions: in A, (N, 3).
      cell: rows are lattice vectors in A, (3, 3); None or an open `pbc` for a molecule.
      pbc: periodic directions, one bool or three.
      elements: the model's elements; fixes the species indices.
      dtype: float type of positions and cell; the whole evaluation follows it.
      capacity: number of atom slots, at least N; default N.
      where: name of the structure in error messages.

    Raises:
      UnknownSpeciesError: an element that is not in `elements`.
      ValueError: `capacity` smaller than the number of atoms.
    """
    N = len(numbers)
    capacity = N if capacity is None else capacity
    if capacity < N:
        raise ValueError(f"{where}: capacity={capacity} is smaller than the {N} atoms of the structure")
    species = np.zeros(capacity, dtype=np.int32)
    species[:N] = species_of(numbers, elements, where)
    padded = np.zeros((capacity, 3), dtype=dtype)
    padded[:N] = positions
    periodic = np.broadcast_to(np.asarray(pbc, dtype=bool), (3,)).copy()
    matrix = None if cell is None or not periodic.any() else np.asarray(cell, dtype=dtype)
    return System(padded, species, matrix, periodic, np.arange(capacity) < N)
