"""Structures made ready for evaluation on the host: checks, neighbour lists that last, padding, groups of like size."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, replace
from typing import Any

import ase
import numpy as np
import scipy.sparse
import scipy.sparse.csgraph

from bpjax.elements import species_of
from bpjax.errors import StructureError
from bpjax.io.checks import CLOSEST
from bpjax.neighbors import bucket, neighbor_list
from bpjax.pair_search import periodic_lattice
from bpjax.precision import NEAR, WIDE
from bpjax.system import Neighbors, System, system_from_arrays

FARTHEST = 1e10
"""Position in A beyond which double precision does not hold distances of atoms (to 1e-6 A)."""

COMPILATION = 5_000_000
"""What one compilation costs, in neighbour slots that could be evaluated in the same time (a few seconds, on a CPU)."""


@dataclass(frozen=True)
class Place:
    """Where a structure comes from, for messages."""

    path: str | os.PathLike[str] | None
    frame: int | None

    def error(self, message: str, field: str | None = None) -> StructureError:
        """The error to raise about this structure."""
        return StructureError(message, self.path, self.frame, field)

    def __str__(self) -> str:
        path = None if self.path is None else os.fspath(self.path)
        frame = None if self.frame is None else f"frame {self.frame}"
        return ": ".join(part for part in (path, frame) if part) or "structure"


@dataclass(frozen=True, eq=False)
class Prepared:
    """A neighbour list and the structure that it was made for.

    `origin` (N, 3) is subtracted from the positions before they are rounded to float32: whole lattice vectors that
    bring atoms back into the cell, and the centre, of each fragment its own where atoms are far apart. The list belongs to the
    positions without it, and to `lattice`, which is the cell of the structure or a less skewed one of the same lattice.
    `wide` says whether positions are so far from the origin, even of fragments, that single precision does not hold them.
    """

    numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray
    lattice: np.ndarray
    pbc: np.ndarray
    origin: np.ndarray
    neighbors: Neighbors
    nearest: float
    wide: bool

    def serves(self, atoms: ase.Atoms, skin: float) -> bool:
        """Whether the list still holds all neighbours, and no two atoms can have met since."""
        same = (
            np.array_equal(self.numbers, atoms.numbers)
            and np.array_equal(self.pbc, atoms.pbc)
            and np.array_equal(self.cell, atoms.cell.array)
        )
        if not same:
            return False
        moved = np.sqrt(np.max(np.sum((atoms.positions - self.positions) ** 2, axis=1)))
        return bool(2 * moved <= skin and self.nearest - 2 * moved >= CLOSEST)

    @property
    def size(self) -> tuple[int, int]:
        """Atoms, and the most neighbours that one of them has."""
        return len(self.numbers), int(self.neighbors.mask.sum(axis=1).max())

    def enough(self, dtype: str) -> str:
        """The precision that is asked for, or the double one where single precision does not hold the positions."""
        return "float64" if self.wide else dtype

    @property
    def nbytes(self) -> int:
        """Memory of the list."""
        return sum(np.asarray(a).nbytes for a in self.neighbors)

    def padded(self, capacity: int, slots: int) -> Prepared:
        """The same with more rows and slots, all of them masked; of a list that is not padded yet."""
        rows, columns = (0, capacity - len(self.numbers)), (0, slots - self.size[1])
        widths: Any = ((rows, columns), (rows, columns, (0, 0)), (rows, columns))
        idx, shift, mask = (np.pad(np.asarray(a), w) for a, w in zip(self.neighbors, widths, strict=True))
        neighbors = Neighbors(idx, shift, mask)
        return replace(self, neighbors=neighbors)

    def system(self, atoms: ase.Atoms, elements: tuple[str, ...], dtype: str) -> System:
        """The structure in the model's terms, padded to the rows of the list; molecules get a cell of zeros."""
        positions = atoms.positions - self.origin
        capacity = len(self.neighbors.mask)
        system = system_from_arrays(
            atoms.numbers, positions, None, self.pbc, elements, dtype=np.dtype(dtype), capacity=capacity
        )
        return system._replace(cell=np.where(self.pbc[:, None], self.lattice, 0.0).astype(dtype))


def check(atoms: ase.Atoms, elements: tuple[str, ...], place: Place) -> None:
    """Checks that need no neighbours."""
    if len(atoms) == 0:
        raise place.error("has zero atoms")
    if np.abs(atoms.positions).max() > FARTHEST:
        atom = int(np.argmax(np.abs(atoms.positions).max(axis=1)))
        distance = float(np.abs(atoms.positions[atom]).max())
        raise place.error(f"atom {atom} is at {distance:.3g} A, beyond {FARTHEST:g} A", "positions")
    for field, value in (("positions", atoms.positions), ("cell", atoms.cell.array)):
        finite = np.isfinite(value)
        if not finite.all():
            row = int(np.argmin(finite.all(axis=1)))
            raise place.error(f"row {row} holds {value[row][~finite[row]][0]}", field)
    species_of(atoms.numbers, elements, str(place))


def prepare(atoms: ase.Atoms, radius: float, place: Place) -> Prepared:
    """Neighbours within `radius`, with as few slots as hold them, after the checks that need them."""
    pbc, given = atoms.pbc.copy(), atoms.cell.array.copy()
    try:
        lattice = periodic_lattice(given, pbc)
        vectors = lattice[pbc]
        origin = np.floor(atoms.positions @ np.linalg.pinv(vectors)) @ vectors if pbc.any() else np.zeros((1, 3))
        origin = origin + (atoms.positions - origin).mean(axis=0)
        R = atoms.positions - origin
        idx, shift, mask = neighbor_list(R, lattice, pbc, radius)
    except StructureError as error:
        raise place.error(error.message, "cell") from error
    slots = int(mask.sum(axis=1).max())  # real slots come first
    idx, mask = idx[:, :slots], mask[:, :slots]
    shift = np.zeros((*idx.shape, 3), np.int32) if shift is None else shift[:, :slots]
    R_ij = R[idx] + shift @ lattice - R[:, None]
    r_ij = np.where(mask, np.sqrt(np.sum(R_ij**2, axis=-1)), np.inf)
    nearest = float(np.min(r_ij, initial=np.inf))
    if nearest < CLOSEST:
        i, slot = np.argwhere(r_ij == nearest)[0]
        raise place.error(f"atoms {i} and {idx[i, slot]} are at one place ({nearest:.3g} A apart)", "positions")
    if np.abs(R).max(initial=0.0) > (10 * NEAR if pbc.all() else NEAR):  # a crystal is one fragment nearly always
        origin = origin + _centres(R, idx, mask)
    wide = bool(np.abs(atoms.positions - origin).max(initial=0.0) > WIDE)
    numbers, positions, neighbors = atoms.numbers.copy(), atoms.positions.copy(), Neighbors(idx, shift, mask)
    return Prepared(numbers, positions, given, lattice, pbc, origin, neighbors, nearest, wide)


def _centres(R: np.ndarray, idx: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """For each atom the middle of those that it is connected with by neighbours, (N, 3).

    Nothing acts between fragments: each may be moved to the origin, where single precision is finest. Two dimers 10^5 A apart
    have forces that are wrong by 0.03 eV/A otherwise.
    """
    i, slot = np.nonzero(mask)
    bonds = scipy.sparse.coo_array((np.ones(len(i), bool), (i, idx[i, slot])), shape=(len(R), len(R)))
    number, fragment = scipy.sparse.csgraph.connected_components(bonds, directed=False)
    counts = np.bincount(fragment, minlength=number)
    middle = np.stack([np.bincount(fragment, R[:, k], number) / counts for k in range(3)], axis=1)
    return middle[fragment]


def groups_of_like_size(sizes: np.ndarray) -> list[list[int]]:
    """Groups of frames to be padded alike, so that compilations and padding together cost least.

    Starts from one group for each bucket of atoms and merges adjacent ones as long as the slots that this adds as
    padding are cheaper than the compilation that it saves.

    Args:
      sizes: atoms and slots of each frame, (F, 2).
    """

    def work(group: list[int]) -> int:
        return len(group) * int(np.prod(sizes[group].max(axis=0)))

    groups: dict[int, list[int]] = {}
    for number in np.lexsort((sizes[:, 1], sizes[:, 0])):
        groups.setdefault(bucket(int(sizes[number, 0])), []).append(int(number))
    merged = list(groups.values())
    while len(merged) > 1:
        extra = [work(a + b) - work(a) - work(b) for a, b in itertools.pairwise(merged)]
        at = int(np.argmin(extra))
        if extra[at] > COMPILATION:
            break
        merged[at : at + 2] = [merged[at] + merged[at + 1]]
    return merged
