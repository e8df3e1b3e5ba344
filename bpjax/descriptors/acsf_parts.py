"""Which parts of angular functions a list of features needs, and in which blocks a kernel evaluates them.

An angular function is a radial part times an angular shape, for some pairs of channels. Radial parts are known here by their
numbers in a list of distinct ones (`bpjax.descriptors.acsf_learned.Parts`), so that their values may change. Kernels evaluate
every combination of some radial parts, shapes and pairs in one go; a full set is one such block. Of a set that was thinned out,
where a radial part occurs with some shapes and for some pairs only, each block holds no combination that was not asked for, and
no radial part (they cost most) belongs to two blocks for other reasons than its pairs.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Pair = tuple[float, float]


class Block(NamedTuple):
    """All combinations of some radial parts, shapes and pairs of channels.

    Attributes:
      parts: numbers of the radial parts, (Q,).
      shapes: (zeta, lam) of the angular parts, A.
      pairs: numbers of the pairs of channels, T.
    """

    parts: np.ndarray
    shapes: tuple[Pair, ...]
    pairs: tuple[int, ...]


class Grid(NamedTuple):
    """Distinct radial parts and shapes of a list of functions, and which of them each function combines."""

    parts: np.ndarray
    shapes: tuple[Pair, ...]
    q: np.ndarray
    a: np.ndarray


def grid(radial: Sequence[int], shapes: Sequence[Pair]) -> Grid:
    """Number of the radial part and shape (zeta, lam) of each function -> their `Grid`."""
    parts, forms = list(dict.fromkeys(radial)), tuple(dict.fromkeys(shapes))
    q, a = np.array([parts.index(p) for p in radial]), np.array([forms.index(s) for s in shapes])
    return Grid(np.array(parts), forms, q, a)


def blocks(
    radial: Sequence[int], shapes: Sequence[Pair], wanted: Sequence[tuple[int, int]]
) -> tuple[list[Block], np.ndarray]:
    """Blocks that hold the wanted functions for the wanted pairs of channels, and nothing else.

    Args:
      radial: number of the radial part of each function.
      shapes: (zeta, lam) of each function.
      wanted: number of a function and of a pair of channels, each once.

    Returns: the blocks; and where each wanted value is among their values (Q, A, T), flattened and one after the other.
    """
    needs: dict[int, dict[int, list[Pair]]] = {}
    for f, t in wanted:
        needs.setdefault(radial[f], {}).setdefault(t, []).append(shapes[f])
    alike: dict[tuple, list[int]] = {}
    for part, by_pair in needs.items():
        alike.setdefault(tuple(sorted((t, tuple(sorted(s))) for t, s in by_pair.items())), []).append(part)
    found, place, start = [], {}, 0
    for need, parts in alike.items():
        by_shapes: dict[tuple[Pair, ...], list[int]] = {}
        for t, forms in need:
            by_shapes.setdefault(forms, []).append(t)
        for forms, pairs in by_shapes.items():
            found.append(Block(np.array(parts), forms, tuple(pairs)))
            combinations = [(p, s, t) for p in parts for s in forms for t in pairs]
            place.update({key: start + n for n, key in enumerate(combinations)})
            start += len(combinations)
    return found, np.array([place[radial[f], shapes[f], t] for f, t in wanted], dtype=np.int32)


def pick(values: Float[Array, "..."], where: np.ndarray) -> Float[Array, " F"]:
    """Entries of the flattened values at known places."""
    flat = values.reshape(-1)
    return flat if np.array_equal(where, np.arange(flat.size)) else flat[where.astype(np.int32)]


def in_blocks(
    radial: tuple[int, ...],
    shapes: list[tuple[float, float]],
    wanted: list[tuple[int, int]],
    evaluate: Callable[[Block], Float[Array, "Q A T"]],
) -> Float[Array, " F"]:
    """Wanted (function, pair of channels), block by block."""
    found, where = blocks(radial, shapes, wanted)
    return pick(jnp.concatenate([evaluate(block).reshape(-1) for block in found]), where)
