r"""Neighbours by bins, for a cell of any shape: apart from the list itself, memory grows with a block of centres, not the system.

The cell is cut into bins along its lattice vectors. Atoms are sorted by their bin, so that the atoms of a bin are a range of the
sorted ones, and what is close in space is close in memory. The neighbours of a centre are within `spread` bins of its own, where
bins beyond a face are images: a bin :math:`b + o` with :math:`n` bins in this direction is bin :math:`(b + o) \bmod n` of image
:math:`\lfloor (b + o)/n \rfloor`. That holds for two bins, one bin, and a cell that is shorter than the radius alike.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from bpjax.dynamics.lists import heights, product
from bpjax.neighbors import bucket

CLOSE = 1e-5
"""Relative width by which bins are larger than needed: positions in float32 may land in the bin beside their own."""


@dataclass(frozen=True)
class Bins:
    """How a cell is cut into bins.

    Attributes:
      counts: bins in each direction.
      spread: bins to either side that hold all neighbours.
      start, width: of the bins in the coordinates of the positions: fractions of a lattice vector, or A in free space.
      pbc: periodic directions. In the others, the first and the last bin hold what lies further out.
      capacity: most atoms in a bin.
    """

    counts: tuple[int, int, int]
    spread: tuple[int, int, int]
    start: tuple[float, float, float]
    width: tuple[float, float, float]
    pbc: tuple[bool, bool, bool]
    capacity: int

    @property
    def total(self) -> int:
        """How many bins."""
        return int(np.prod(self.counts))

    @property
    def strides(self) -> np.ndarray:
        """By how much the number of a bin grows in each direction; the fastest along the shortest one, so that a run of bins is a
        slab across the longest.
        """
        strides, step = np.zeros(3, np.int32), 1
        for a in np.argsort(self.counts, kind="stable"):
            strides[a], step = step, step * self.counts[a]
        return strides

    @cached_property
    def offsets(self) -> np.ndarray:
        """All bins that are searched, relative to that of the centre, (O, 3)."""
        ranges = [np.arange(-m, m + 1) for m in self.spread]
        return np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1).reshape(-1, 3).astype(np.int32)

    @property
    def candidates(self) -> int:
        """Places for atoms that are compared with a centre."""
        return len(self.offsets) * self.capacity


ROOM = 1.3
"""Places in a bin, relative to what the fullest one needs."""


def bins_of(box: np.ndarray, pbc: tuple[bool, bool, bool], positions: np.ndarray, reach: float, extra: int = 0) -> Bins:
    """Bins that are as small as a search of the nearest ones allows, but not many more than there are atoms.

    Args:
      box: columns are lattice vectors, in A.
      pbc: periodic directions.
      positions: in the coordinates of `box`, (N, 3), anywhere.
      reach: radius of the search in A.
      extra: places in a bin beyond those that are thought enough.
    """
    height, periodic = heights(box), np.array(pbc)
    low = np.where(periodic, 0.0, positions.min(axis=0))
    length = np.where(periodic, 1.0, np.maximum(positions.max(axis=0) - low, 1e-3))
    needed = reach * (1 + CLOSE)
    wide = needed
    while True:
        counts = np.maximum(np.floor(length * height / wide), 1).astype(int)
        if counts.prod() <= max(64, 2 * len(positions)):
            break
        wide *= 1.2
    # An open direction needs no images: whatever lies further out is in the last bin, beside the one before it.
    width = np.where(periodic, length / counts, np.maximum(length / counts, needed / height))
    spread = np.ceil(needed / (width * height) - 1e-9).astype(int)
    inside = positions - np.where(periodic, np.floor(positions), 0)
    where = np.clip(((inside - low) / width).astype(int), 0, counts - 1)
    fullest = int(np.unique(np.ravel_multi_index(tuple(where.T), tuple(counts)), return_counts=True)[1].max())
    room = bucket(math.ceil(ROOM * fullest) + extra)
    counts, spread, low, width = (tuple(a.tolist()) for a in (counts, spread, low, width))
    return Bins(counts, spread, low, width, pbc, room)


class Sorted(NamedTuple):
    """Atoms in the order of their bins.

    Attributes:
      order: number of the atom at each place.
      positions: moved into the cell.
      whole: lattice vectors that were taken off.
      bins: bin in each direction.
      first: the first place of each bin, and after the last one the number of atoms.
      fits: whether no bin has more atoms than its capacity, and the box is so large still that no neighbour is missed.
    """

    order: Int[Array, " N"]
    positions: Float[Array, "N 3"]
    whole: Int[Array, "N 3"]
    bins: Int[Array, "N 3"]
    first: Int[Array, " cells"]
    fits: Bool[Array, ""]


def sorted_atoms(bins: Bins, X: Float[Array, "N 3"], h: Float[Array, "3 3"], reach: float) -> Sorted:
    """Sorts atoms into bins; `h` is the box matrix, whose columns are lattice vectors."""
    counts, strides = np.array(bins.counts, np.int32), jnp.asarray(bins.strides)
    whole = jnp.where(np.array(bins.pbc), jnp.floor(X), 0)
    inside = X - whole  # may be 1 for a tiny negative number: the last bin takes it
    start, width = jnp.asarray(bins.start, X.dtype), jnp.asarray(bins.width, X.dtype)
    where = jnp.clip(jnp.floor((inside - start) / width).astype(jnp.int32), 0, counts - 1)
    key = jnp.sum(where * strides, axis=1, dtype=jnp.int32)
    order = jnp.argsort(key, stable=True).astype(jnp.int32)
    first = jnp.searchsorted(key[order], jnp.arange(bins.total + 1, dtype=jnp.int32)).astype(jnp.int32)
    height = 1 / jnp.sqrt(jnp.sum(jnp.linalg.inv(h) ** 2, axis=1))
    large = jnp.all(width * height * np.array(bins.spread) >= reach)
    fits = large & (jnp.max(first[1:] - first[:-1]) <= bins.capacity)
    return Sorted(order, inside[order], whole[order].astype(jnp.int32), where[order], first, fits)


def neighbors_of(
    bins: Bins, atoms: Sorted, h: Float[Array, "3 3"], reach: float, slots: int, i: Int[Array, ""]
) -> tuple[Int[Array, " K"], Int[Array, "K 3"], Int[Array, ""]]:
    """Neighbours of one centre within `reach`, all images.

    Args:
      bins: how the cell is cut.
      atoms: in the order of the bins.
      h: box matrix, columns are lattice vectors.
      reach: in A.
      slots: how many neighbours to keep, K.
      i: the centre, numbered in this order.

    Returns: numbers of the neighbours in this order (`i` in empty slots), lattice shifts of their images relative to positions
    that were not moved into the cell, and how many neighbours there are, which may be more than slots.
    """
    counts, C = np.array(bins.counts, np.int32), bins.capacity
    b = atoms.bins[i] + bins.offsets
    image = jnp.where(np.array(bins.pbc), jnp.floor_divide(b, counts), 0)
    b = b - image * counts
    exists = jnp.all((b >= 0) & (b < counts), axis=1)
    cell = jnp.where(exists, jnp.sum(b * jnp.asarray(bins.strides), axis=1, dtype=jnp.int32), 0)
    place = atoms.first[cell][:, None] + jnp.arange(C, dtype=jnp.int32)
    valid = exists[:, None] & (place < atoms.first[cell + 1][:, None])
    j = jnp.where(valid, place, i)
    R_ij = product(h, atoms.positions[j] - atoms.positions[i] + image[:, None].astype(h.dtype))
    itself = (j == i) & jnp.all(image == 0, axis=1)[:, None]
    near = (valid & ~itself & (jnp.sum(R_ij**2, axis=-1) < reach**2)).reshape(-1)
    found, kept, count = first_true(near, slots)
    j = jnp.where(kept, j.reshape(-1)[found], i)
    shift = image[found // C] - atoms.whole[j] + atoms.whole[i]
    return j, jnp.where(kept[:, None], shift, 0), count


def first_true(near: Bool[Array, " P"], slots: int) -> tuple[Int[Array, " K"], Bool[Array, " K"], Int[Array, ""]]:
    """Places of the first true values, which of these there are, and how many values are true."""
    rank = jnp.cumsum(near, dtype=jnp.int32) - 1
    slot = jnp.where(near & (rank < slots), rank, slots)  # one slot more takes what is not kept
    found = jnp.full((slots + 1,), -1, jnp.int32).at[slot].set(jnp.arange(len(near), dtype=jnp.int32))[:slots]
    count = rank[-1] + 1
    return found, jnp.arange(slots) < count, count
