"""Pairs of atoms within a cutoff, for any cell, by vesin on the host; what vesin does not survive is kept from it.

vesin sorts atoms into bins as wide as the cutoff, at most 10^5 of them. With more it makes all of them wider by one factor;
where that leaves no bin along a short direction the process dies by a division by zero (0.6.2): a slab 650 A wide with a cutoff
of 2 A, a cluster with an atom at 10^6 A. So empty space in directions in which nothing repeats is cut out, or added where it
helps.
"""

from typing import Any

import ase.geometry
import numpy as np

from bpjax.errors import StructureError

BINS = 1e5
"""Of vesin."""


def search(
    positions: np.ndarray,
    cell: np.ndarray | None,
    pbc: np.ndarray | bool,
    cutoff: float,
    quantities: str,
    ordered: bool = False,
    threads: int = 0,
) -> Any:
    """Quantities of pairs as vesin gives them.

    Args:
      positions: in A, (N, 3), anywhere.
      cell: rows in A, (3, 3), or None.
      pbc: periodic directions.
      cutoff: in A.
      quantities: of i, j (atoms), S (lattice shift), d (distance), D (vector), P (both atoms).
      ordered: each pair twice, sorted by the first atom.
      threads: of the search; 0 for as many as there are cores.

    Raises:
      StructureError: see `bpjax.neighbors.pair_list`; a periodic cell so flat and so wide that it cannot be searched.
    """
    from vesin import NeighborList

    periodic = np.broadcast_to(np.asarray(pbc, dtype=bool), (3,))
    R = np.ascontiguousarray(positions, dtype=np.float64)
    if not np.isfinite(R).all():
        raise StructureError(f"the position of atom {int(np.argmin(np.isfinite(R).all(axis=1)))} is not finite")
    pairs = NeighborList(cutoff=float(cutoff), full_list=ordered, sorted=ordered, n_threads=threads)
    box, made_of, room = np.eye(3), None, np.zeros(3)
    if periodic.any():
        box = complete_cell(np.zeros((3, 3)) if cell is None else np.asarray(cell, dtype=np.float64), periodic)
        box, made_of, planes = reduced_cell(box, periodic)
        room = np.where(periodic, planes, 0.0)
    if len(R) and not periodic.all():
        room[~periodic] = np.ptp(R @ box[~periodic].T, axis=0)
    if (room / cutoff + 1).prod() < BINS:  # nearly always, and in a fraction of the time
        found = pairs.compute(R, box if periodic.any() else np.zeros((3, 3)), periodic, quantities)
    else:
        R = _together(R, box[~periodic], cutoff)
        room[~periodic] = np.ptp(R @ box[~periodic].T, axis=0)
        # Periodic along all: beyond the room along the others nothing is within the cutoff.
        found = pairs.compute(R, _roomy(room, box, periodic, cutoff), True, quantities)
    if made_of is None or "S" not in quantities:
        return found
    shifts = quantities.index("S")
    return *found[:shifts], found[shifts] @ made_of, *found[shifts + 1 :]


def _roomy(room: np.ndarray, box: np.ndarray, periodic: np.ndarray, cutoff: float) -> np.ndarray:
    """The cell with vectors along open directions that hold all atoms and twice the cutoff, and as many bins as vesin needs.

    Args:
      room: distances of the lattice planes, and the extent of the atoms along open directions.
      box: the cell, with unit vectors along these.
      periodic: the others.
      cutoff: in A.

    Raises:
      StructureError: no open direction, and bins that cannot be.
    """
    room = np.where(periodic, room, room + 2 * cutoff)
    for _ in range(100):
        bins = np.maximum(np.floor(room / cutoff), 1)
        wider = np.cbrt(max(bins.prod() / BINS, 1.0))
        narrow = bins < 1.1 * wider if wider > 1 else np.zeros(3, bool)
        if not narrow.any():
            return np.where(periodic[:, None], box, room[:, None] * box)
        if not (narrow & ~periodic).any():
            break
        room[narrow & ~periodic] = cutoff * np.ceil(1.3 * wider + 1)
    lengths = " x ".join(f"{length:.4g}" for length in sorted(np.linalg.norm(box[periodic], axis=1), reverse=True))
    raise StructureError(
        f"the cell, {lengths} A, is too wide and too flat to be searched for neighbours within {cutoff:g} A"
    )


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
    if not len(axes) or np.ptp(x, axis=0).max() <= FAR * cutoff:
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
    return np.where(pbc[:, None], reduced_cell(complete_cell(cell, pbc), pbc)[0], cell)


SKEWED = 0.1
"""Least distance of lattice planes over the longest vector below which another cell of the same lattice is taken."""


def plane_distances(cell: np.ndarray) -> np.ndarray:
    """Distances in A of the lattice planes along each vector (rows), (3,)."""
    return 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)


def reduced_cell(cell: np.ndarray, pbc: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """A cell of the same lattice with vectors as short as can be, where those of `cell` are very skewed.

    Searches go through all images within the cutoff, of which a skewed cell has thousands.

    Args:
      cell: rows in A, (3, 3), spanning a volume.
      pbc: periodic directions; the other rows stay as they are.

    Returns: the cell; the whole numbers (3, 3) that make it of the given one, None where it is the given one; and the distances
      of its lattice planes.

    References: P. Q. Nguyen, D. Stehle, ACM Trans. Algorithms 5, 46 (2009), doi:10.1145/1597036.1597050, as in ASE.
    """
    planes = plane_distances(cell)
    if planes[pbc].min() >= SKEWED * np.linalg.norm(cell[pbc], axis=1).max():
        return cell, None, planes
    reduced, made_of = ase.geometry.minkowski_reduce(np.where(pbc[:, None], cell, 0.0), pbc)
    reduced = np.where(pbc[:, None], reduced, cell)
    return reduced, np.asarray(made_of), plane_distances(reduced)


def complete_cell(cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """The cell (3, 3) with unit vectors along open directions, normal to the periodic ones and to each other.

    Whatever stands in the rows of open directions does not matter.

    Raises:
      StructureError: periodic vectors that are not finite, or span no volume.
    """
    vectors = cell[pbc]
    if not np.isfinite(vectors).all():
        raise StructureError(f"the cell is not finite: {cell.tolist()}")
    if not independent(vectors):
        raise StructureError(f"the cell has no volume along its periodic directions: {cell.tolist()}")
    return cell if pbc.all() else ase.geometry.complete_cell(np.where(pbc[:, None], cell, 0.0))


FLAT = 1e-10
"""Volume of unit vectors below which they span none. Cells that mean something, however skewed, are far above it."""


def independent(vectors: np.ndarray) -> bool:
    """Whether vectors (rows) span a volume, or an area or a length if there are fewer than three."""
    lengths = np.linalg.norm(vectors, axis=1)
    if lengths.min(initial=np.inf) <= FLAT * lengths.max(initial=0.0):
        return False
    return bool(np.linalg.svd(vectors / lengths[:, None], compute_uv=False).prod() > FLAT)
