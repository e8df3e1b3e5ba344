"""Pairs of neighbours in square blocks: every unordered pair once, without a list of pairs.

The K neighbours are cut into n parts of m. Blocks (m, m) of part a with part b, a <= b, hold every pair; in the blocks a = b only
j < k counts. That is little more than half of K x K, in arrays (P, m, m) with P = n (n + 1) / 2 that are as regular as
those, so that loops over them vectorise and derivatives need no scatter over pairs.
"""

from dataclasses import dataclass
from functools import lru_cache

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Shaped

VECTOR = 8
"""Parts are multiples of this, so that loops over them fill the vectors of the processor."""

LOOP = 24
"""What beginning a loop over a part costs, in entries. Measured on a CPU with 120 slots: of parts of 16, 24, 32, 40, 64 and 120
those of 40 are the fastest, 1.4 times faster than those of 24, 1.5 times faster than no parts."""


@dataclass(frozen=True, eq=False)
class PairBlocks:
    """How K neighbours are cut up.

    Attributes:
      m: neighbours in a part.
      parts: number of parts; the last one is filled up.
      first, second: parts a and b of each block, (P,).
      counts: (P, m, m) 1 where an entry counts, for full parts.
    """

    m: int
    parts: int
    first: np.ndarray
    second: np.ndarray
    counts: np.ndarray

    def of_first(self, x: Shaped[Array, "*lead K"]) -> Shaped[Array, "*lead P m 1"]:
        """Value of the first neighbour of each pair."""
        return self._parts(x)[..., self.first, :, None]

    def of_second(self, x: Shaped[Array, "*lead K"]) -> Shaped[Array, "*lead P 1 m"]:
        """Value of the second neighbour of each pair."""
        return self._parts(x)[..., self.second, None, :]

    def _parts(self, x):
        fill = self.parts * self.m - x.shape[-1]
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, fill)], mode="edge") if fill else x
        return x.reshape(*x.shape[:-1], self.parts, self.m)


@lru_cache(maxsize=256)
def pair_blocks(K: int) -> PairBlocks:
    """The cheapest blocks for K neighbours (at least 1)."""

    def cost(m):
        parts = -(-K // m)
        return parts * (parts + 1) // 2 * m * (m + LOOP)

    m = min((K, *range(VECTOR, K, VECTOR)), key=cost)
    parts = -(-K // m)
    first, second = (index.astype(np.int32) for index in np.triu_indices(parts))
    number = np.arange(parts * m).reshape(parts, m)
    j, k = number[first][:, :, None], number[second][:, None, :]
    return PairBlocks(m, parts, first, second, (j < k) & (k < K))


def pair_geometry(
    blocks: PairBlocks, R_ij: Float[Array, "K 3"], r_ij: Float[Array, " K"], mask: Bool[Array, " K"]
) -> tuple[Float[Array, "P m m"], Float[Array, "P m m"], Float[Array, "P m m"]]:
    """Distance of two neighbours, cosine of the angle between them, and 1 where the pair is real and counts, else 0.

    `R_ij` must be sanitised. Entries that do not count get a distance of 1 A.
    """
    m = mask.astype(r_ij.dtype)
    real = blocks.of_first(m) * blocks.of_second(m) * jnp.asarray(blocks.counts, m.dtype)
    R = R_ij.T  # sums over the first axis keep the loops over pairs contiguous
    u = R / r_ij[None, :]
    square = jnp.sum((blocks.of_second(R) - blocks.of_first(R)) ** 2, axis=0)
    cos = jnp.sum(blocks.of_first(u) * blocks.of_second(u), axis=0)
    return jnp.sqrt(jnp.where(real > 0, square, 1)), cos, real
