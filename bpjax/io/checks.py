"""Whether a structure makes sense: some atoms, finite numbers, a real cell, no two atoms at one place."""

from __future__ import annotations

import functools
import math
import os

import ase
import numpy as np
from ase.data import chemical_symbols

from bpjax.errors import StructureError
from bpjax.io.labels import labels
from bpjax.pair_search import complete_cell, search

# Closer than any bond, even under extreme pressure: two copies of one atom, or positions in the wrong unit.
CLOSEST = 0.1
# A micrometre; beyond are atoms that flew away and numbers that are no lengths.
LARGEST = 1e4

_Path = str | os.PathLike[str]


def check_structure(atoms: ase.Atoms, path: _Path | None = None, frame: int | None = None) -> None:
    """Checks that a structure makes sense: some atoms, finite numbers, a real cell, no two atoms at one place.

    Args:
      atoms: the structure, with its labels.
      path: the file, for messages.
      frame: 0-based number of the structure, for messages.

    Raises:
      StructureError: naming file, frame and field.
    """
    if len(atoms) == 0:
        raise StructureError("has zero atoms", path, frame)
    quantities = {"positions": atoms.positions, "cell": atoms.cell.array, "momenta": atoms.arrays.get("momenta")}
    found = labels(atoms, path, frame)
    quantities |= {"energy": found.energy, "forces": found.forces, "stress": found.stress}
    known = {field: np.asarray(value) for field, value in quantities.items() if value is not None}
    # One sum tells of all numbers, nearly always: it is not finite where one of them is not.
    with np.errstate(over="ignore", invalid="ignore"):
        all_finite = math.isfinite(sum(float(value.sum()) for value in known.values()))
    for field, value in () if all_finite else known.items():
        if not np.isfinite(value).all():
            raise StructureError(f"holds {_first_bad(value)}", path, frame, field)
    if found.forces is not None and found.forces.shape != atoms.positions.shape:
        raise StructureError(f"has shape {found.forces.shape}, not {atoms.positions.shape}", path, frame, "forces")
    unknown = (atoms.numbers < 1) | (atoms.numbers >= len(chemical_symbols))
    if np.any(unknown):
        at = int(np.argmax(unknown))
        raise StructureError(f"atom {at} is of no element (atomic number {atoms.numbers[at]})", path, frame, "species")
    _check_distances(atoms, _checked_cell(atoms, path, frame), path, frame)


def _first_bad(value: np.ndarray) -> str:
    """The first entry that is not finite, and whose it is."""
    index = tuple(int(i) for i in np.argwhere(~np.isfinite(value))[0])
    place = "" if value.ndim == 0 else f" (entry {', '.join(map(str, index))})"
    return f"{value[index]}{place}"


def _checked_cell(atoms: ase.Atoms, path: _Path | None, frame: int | None) -> np.ndarray:
    """The completed cell. Its periodic vectors must span a volume (or, for fewer than three, an area or a length).

    Vectors along which nothing repeats may be anything, dependent on the others too.
    """
    vectors = atoms.cell.array[atoms.pbc]
    if len(vectors) == 0:
        return np.eye(3)
    with np.errstate(over="ignore"):
        lengths = np.sqrt((vectors * vectors).sum(axis=1))
    if lengths.max() > LARGEST:
        axis = "abc"[int(np.flatnonzero(atoms.pbc)[np.argmax(lengths)])]
        message = f"is periodic along {axis} with {lengths.max():.3g} A, which is more than {LARGEST:g} A"
        raise StructureError(message, path, frame, "cell")
    if lengths.min() < CLOSEST:
        axis = "abc"[int(np.flatnonzero(atoms.pbc)[np.argmin(lengths)])]
        raise StructureError(f"is periodic along {axis}, but this vector has no length", path, frame, "cell")
    try:
        return complete_cell(atoms.cell.array, atoms.pbc)
    except StructureError as error:
        message = "has zero volume: its periodic vectors are linearly dependent"
        raise StructureError(message, path, frame, "cell") from error


def _check_distances(atoms: ase.Atoms, cell: np.ndarray, path: _Path | None, frame: int | None) -> None:
    """No two atoms at one place, and none out of all proportion; `cell` is completed."""
    if not atoms.pbc.all():
        with np.errstate(over="ignore", invalid="ignore"):
            extent = np.ptp(atoms.positions @ cell[~atoms.pbc].T, axis=0).max(initial=0.0)
        if not extent <= LARGEST:
            message = f"atoms are {extent:.3g} A apart where nothing repeats, which is more than {LARGEST:g} A"
            raise StructureError(message, path, frame, "positions")
    i, j, r_ij = _close_pairs(atoms, cell)
    if len(i) and r_ij.min() < CLOSEST:
        nearest = int(np.argmin(r_ij))
        raise StructureError(
            f"atoms {i[nearest]} and {j[nearest]} are at one place ({r_ij[nearest]:.3g} A apart)",
            path,
            frame,
            "positions",
        )


SMALL = 64
"""Atoms up to which all pairs are looked at: the search for neighbours takes longer to begin."""


def _close_pairs(atoms: ase.Atoms, cell: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs i, j and their distances, among them all that are closer than `CLOSEST`."""
    inverse = np.linalg.inv(cell)
    # The distance of the planes of a cell: where it is more than twice `CLOSEST`, rounding gives the image that is close, if any
    # is, and no atom is close to its own.
    if len(atoms) <= SMALL and ((inverse * inverse).sum(axis=0)[atoms.pbc] < (0.4 / CLOSEST) ** 2).all():
        i, j = _all_pairs(len(atoms))
        with np.errstate(over="ignore", invalid="ignore"):  # of positions beyond all sense, which are close to nothing
            x = (atoms.positions[j] - atoms.positions[i]) @ inverse
            x -= np.where(atoms.pbc, np.round(x), 0.0)
            return i, j, np.sqrt(((x @ cell) ** 2).sum(axis=1))
    # The search radius sets the size of its bins: with 0.1 A there would be far more bins than atoms, and 1 A or more
    # is hundreds of times faster.
    return search(atoms.positions, cell, atoms.pbc, 2.0, "ijd")


@functools.lru_cache(SMALL)
def _all_pairs(count: int) -> tuple[np.ndarray, np.ndarray]:
    return np.triu_indices(count, 1)
