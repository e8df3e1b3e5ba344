"""Batches of equal size from structures of unequal size.

Sizes have several columns (atoms, blocks of partners); what counts is the largest total of any batch in each column, because
all batches are padded to it. Structures are numbers, -1 a place that stays empty.
"""

import heapq

import numpy as np

ROOM = 0.03
"""How much larger than the mean a batch may be, as a share of it: the more, the freer the random draw."""

CANDIDATES = 32
"""Batches that a batch which is too large looks at to find one to exchange structures with."""


def deal(sizes: np.ndarray, batches: int, slots: int) -> np.ndarray:
    """Structures of batches with nearly equal totals, (batches, slots): the largest first, each to the least filled batch.

    Args:
      sizes: of each structure, (structures, columns).
      batches, slots: how many batches, and how many structures a batch holds; together at least as many as there are.
    """
    weight = (sizes / np.maximum(sizes.mean(axis=0), 1e-9)).sum(axis=1)
    dealt = np.full((batches, slots), -1)
    heap = [(0.0, 0, batch) for batch in range(batches)]
    for structure in np.argsort(-weight, kind="stable"):
        total, filled, batch = heapq.heappop(heap)
        dealt[batch, filled] = structure
        if filled + 1 < slots:
            heapq.heappush(heap, (total + weight[structure], filled + 1, batch))
    return dealt


def totals(chosen: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Total size of each batch, (batches, columns)."""
    return np.where((chosen >= 0)[:, :, None], sizes[chosen], 0).sum(axis=1)


def capacity(dealt: np.ndarray, strata: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Size that batches are padded to, in each column: what dealing needs, or a little more than the mean for freedom.

    Never more than any draw from the strata, (slots, batches), can need.
    """
    total = totals(dealt, sizes)
    enough = np.ceil((1 + ROOM) * total.mean(axis=0)).astype(int)
    any_draw = np.where((strata >= 0)[:, :, None], sizes[strata], 0).max(axis=1).sum(axis=0)
    return np.maximum(total.max(axis=0), np.minimum(enough, any_draw))


def balance(chosen: np.ndarray, sizes: np.ndarray, limit: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """Exchanges structures between batches until none is larger than `limit`; None if that does not come to an end.

    Args:
      chosen: structures of each batch, (batches, slots).
      sizes: of each structure, (structures, columns).
      limit: largest total of a batch, (columns,).
      rng: picks the batches that a batch exchanges structures with.
    """
    chosen = chosen.copy()
    size = np.where((chosen >= 0)[:, :, None], sizes[chosen], 0).astype(float) / np.maximum(limit, 1)
    total = size.sum(axis=1)
    for _ in range(4 * len(chosen)):
        worst = int(np.argmax(total.max(axis=1)))
        if total[worst].max() <= 1 + 1e-9:
            return chosen
        others = rng.choice(len(chosen), min(CANDIDATES, len(chosen)), replace=False)
        # What `worst` loses, for each of its places, each other batch and each place of that: (slots, n, slots, columns).
        moved = size[worst][:, None, None] - size[others][None]
        after = np.maximum(total[worst] - moved, total[others][None, :, None] + moved).max(axis=3)
        after[:, others == worst] = np.inf
        a, n, b = np.unravel_index(np.argmin(after), after.shape)
        if after[a, n, b] < total[worst].max():
            other = others[n]
            chosen[worst, a], chosen[other, b] = chosen[other, b], chosen[worst, a]
            size[worst, a], size[other, b] = size[other, b].copy(), size[worst, a].copy()
            total[[worst, other]] = size[[worst, other]].sum(axis=1)
    return None
