"""Neighbour search on the host, for any cell: periodic, partly periodic, free, skewed, left-handed, shorter than the cutoff.

Inside a compiled MD loop jax-md's lists take over (`bpjax.dynamics`); everything else, training included, comes through here.
"""

import numpy as np

from bpjax.errors import CapacityError
from bpjax.pair_search import search
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
    i, j, shift = search(positions, cell, pbc, cutoff, "ijS", ordered=True)
    return i.astype(np.int32), j.astype(np.int32), shift.astype(np.int32)


def pair_distances(
    positions: np.ndarray, cell: np.ndarray | None, pbc: np.ndarray | bool, cutoff: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every pair within `cutoff` once, images included, in a fifth of the memory of `pair_list`.

    Arguments and errors are those of `pair_list`.

    Returns: the two atoms (P,) and their distance in A (P,).
    """
    return search(positions, cell, pbc, cutoff, "ijd")


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
