"""Neighbour search on the host, for any cell: periodic, partly periodic, free, skewed, left-handed, shorter than the cutoff.

Inside a compiled MD loop jax-md's lists take over (`bpjax.dynamics`); everything else, training included, comes through here.
"""

from typing import Any

import numpy as np

from bpjax.errors import CapacityError, StructureError
from bpjax.system import Neighbors


def bucket(count: int, smallest: int = 8) -> int:
    """The next size of a geometric ladder (about 12 % apart, multiples of 8 above 64), so that few shapes are compiled."""
    size = smallest
    while size < count:
        step = max(4, int(size * 0.12) // 4 * 4)
        size += step if size < 64 else max(8, step // 8 * 8)
    return size


def pair_list(
    positions: np.ndarray, cell: np.ndarray | None, pbc: np.ndarray | bool, cutoff: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every ordered pair within `cutoff`, images included.

    Args:
      positions: in A, (N, 3), anywhere (not necessarily inside the cell).
      cell: rows in A, (3, 3), or None.
      pbc: periodic directions.
      cutoff: in A.

    Returns: centre (P,), neighbour (P,) and lattice shift (P, 3), sorted by centre; `R_j + shift @ cell - R_i` is the pair.

    Raises:
      StructureError: a periodic direction without a cell vector, a cell of zero volume, or a number that is not finite.
    """
    i, j, shift = _search(positions, cell, pbc, cutoff, "ijS", ordered=True)
    return i.astype(np.int32), j.astype(np.int32), shift.astype(np.int32)


def pair_distances(
    positions: np.ndarray, cell: np.ndarray | None, pbc: np.ndarray | bool, cutoff: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every pair within `cutoff` once, images included, in a fifth of the memory of `pair_list`.

    Arguments and errors are those of `pair_list`.

    Returns: the two atoms (P,) and their distance in A (P,).
    """
    return _search(positions, cell, pbc, cutoff, "ijd", ordered=False)


def _search(positions, cell, pbc, cutoff: float, quantities: str, ordered: bool) -> Any:
    """Quantities of pairs as vesin gives them; ordered pairs are sorted."""
    from vesin import NeighborList

    periodic = np.broadcast_to(np.asarray(pbc, dtype=bool), (3,))
    R = np.ascontiguousarray(positions, dtype=np.float64)
    if not np.isfinite(R).all():
        raise StructureError(f"the position of atom {int(np.argmin(np.isfinite(R).all(axis=1)))} is not finite")
    if periodic.any():
        box = _complete_cell(np.zeros((3, 3)) if cell is None else np.asarray(cell, dtype=np.float64), periodic)
        box, made_of = reduced_cell(box, periodic)
    else:
        box, made_of = np.zeros((3, 3)), None
    axes = np.eye(3) if not periodic.any() else box[~periodic]
    search = NeighborList(cutoff=float(cutoff), full_list=ordered, sorted=ordered)
    found = search.compute(_together(R, axes, cutoff), box, periodic.tolist(), quantities=quantities)
    if made_of is None or "S" not in quantities:
        return found
    shifts = quantities.index("S")
    return *found[:shifts], found[shifts] @ made_of, *found[shifts + 1 :]


FAR = 100.0
"""Extent in cutoffs, along a direction in which nothing repeats, beyond which empty space between atoms is cut out."""


def _together(R: np.ndarray, axes: np.ndarray, cutoff: float) -> np.ndarray:
    """Positions with the same pairs within the cutoff, and little empty space between them.

    vesin sorts atoms into bins of the box around them: with one atom at 10^6 A the search does not end, or the process does.
    Groups between which nothing is within the cutoff stand beside each other here, wherever they were.

    Args:
      R: positions (N, 3).
      axes: unit vectors of the directions in which nothing repeats, normal to each other.
      cutoff: in A.
    """
    x = R @ axes.T
    if not len(R) or not len(axes) or np.ptp(x, axis=0).max() <= FAR * cutoff:
        return R
    group = np.zeros(len(R), int)
    while True:  # a gap along one direction may show only within a group that another direction has split
        before = group.max()
        for along in x.T:
            order = np.lexsort((along, group))
            apart = (np.diff(along[order]) > cutoff) | (np.diff(group[order]) > 0)
            group[order] = np.concatenate([[0], np.cumsum(apart)])
        if group.max() == before:
            break
    low = np.full((before + 1, len(axes)), np.inf)
    np.minimum.at(low, group, x)
    high = np.full_like(low, -np.inf)
    np.maximum.at(high, group, x)
    start = np.zeros_like(low)
    start[1:, 0] = np.cumsum(high[:-1, 0] - low[:-1, 0] + 2 * cutoff)
    return R + (start - low)[group] @ axes


def periodic_lattice(cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """The cell, or where it is very skewed a cell of the same lattice that is less so; see `reduced_cell`.

    Raises:
      StructureError: see `pair_list`.
    """
    if not pbc.any():
        return cell
    return np.where(pbc[:, None], reduced_cell(_complete_cell(cell, pbc), pbc)[0], cell)


SKEWED = 0.1
"""Least distance of lattice planes over the longest vector below which another cell of the same lattice is taken."""


def reduced_cell(cell: np.ndarray, pbc: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """A cell of the same lattice with vectors as short as can be, where those of `cell` are very skewed.

    Searches go through all images within the cutoff, of which a skewed cell has thousands.

    Args:
      cell: rows in A, (3, 3), spanning a volume.
      pbc: periodic directions; the other rows stay as they are.

    Returns: the cell, and the whole numbers (3, 3) that make it of the given one, None where it is the given one.

    References: P. Q. Nguyen, D. Stehle, ACM Trans. Algorithms 5, 46 (2009), doi:10.1145/1597036.1597050, as in ASE.
    """
    planes = 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    if planes[pbc].min() >= SKEWED * np.linalg.norm(cell[pbc], axis=1).max():
        return cell, None
    from ase.geometry import minkowski_reduce

    reduced, made_of = minkowski_reduce(np.where(pbc[:, None], cell, 0.0), pbc)
    return np.where(pbc[:, None], reduced, cell), np.asarray(made_of)


def neighbor_list(
    positions: np.ndarray,
    cell: np.ndarray | None,
    pbc: np.ndarray | bool,
    cutoff: float,
    *,
    atoms: int | None = None,
    capacity: int | None = None,
) -> Neighbors:
    """Dense neighbour list, padded to `atoms` rows and `capacity` slots.

    Args:
      positions: in A, (N, 3).
      cell: rows in A, (3, 3), or None.
      pbc: periodic directions.
      cutoff: in A; add a skin to reuse the list while atoms move.
      atoms: number of rows, at least N (default N); the rows added have no neighbours.
      capacity: slots per atom; default the smallest that fits, rounded up to a bucket.

    Raises:
      CapacityError: an atom has more neighbours than `capacity`, or there are more atoms than rows.
      StructureError: see `pair_list`.
    """
    i, j, shift = pair_list(positions, cell, pbc, cutoff)
    N = len(positions)
    rows = N if atoms is None else atoms
    if rows < N:
        raise CapacityError(f"atoms={rows} rows are fewer than the {N} atoms of the structure")
    slot = slots_in_rows(i)
    most = int(slot.max(initial=-1)) + 1
    slots = bucket(most) if capacity is None else capacity
    if most > slots:
        raise CapacityError(f"an atom has {most} neighbours within {cutoff} A but capacity={slots}")
    idx = np.zeros((rows, slots), dtype=np.int32)
    shifts = np.zeros((rows, slots, 3), dtype=np.int32)
    mask = np.zeros((rows, slots), dtype=bool)
    idx[i, slot], shifts[i, slot], mask[i, slot] = j, shift, True
    periodic = np.any(np.asarray(pbc, dtype=bool)) and cell is not None
    return Neighbors(idx, shifts if periodic else None, mask)


def slots_in_rows(i: np.ndarray) -> np.ndarray:
    """Number of each pair among the pairs of its centre, 0, 1, ...; `i`, the centres, must be sorted."""
    counts = np.bincount(i, minlength=1)
    return np.arange(len(i)) - np.repeat(np.cumsum(counts) - counts, counts)


def _complete_cell(cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """Replaces the lattice vectors of open directions by unit vectors normal to the periodic ones."""
    vectors = cell[pbc]
    if not np.isfinite(vectors).all():
        raise StructureError(f"the cell is not finite: {cell.tolist()}")
    lengths = np.linalg.norm(vectors, axis=1)
    unit = vectors / np.maximum(lengths, 1e-300)[:, None]
    # Squared volume of unit vectors: cells that mean something, however skewed, are far above this.
    if lengths.min() <= 1e-6 * lengths.max() or np.linalg.det(unit @ unit.T) < 1e-12:
        raise StructureError(f"the cell has no volume along its periodic directions: {cell.tolist()}")
    basis = np.linalg.svd(vectors)[2]
    complete = cell.copy()
    complete[~pbc] = basis[len(vectors) :]
    return complete
