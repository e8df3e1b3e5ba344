"""Blocks of atoms: what is evaluated at a time. Intermediates then stay in the cache, and memory does not grow with the system.

The plain form of a descriptor is a function of one environment that is mapped over the atoms of a block; the fast form takes
a block of atoms of one element (`bpjax.descriptors.lanes`). Which of them is used, and with what blocks, is decided here.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from bpjax.descriptors import Descriptor

BLOCK = 64
"""Atoms per block, at most. With few functions the intermediates of 16 to 128 atoms fit the caches of current CPUs."""

CACHE = 2**19
"""Numbers that a block should hold at a time."""

LANES = 64
"""Atoms per block of the fast form. Measured on a CPU with 512 bits: 16 lanes need 1.5 times as long, 128 gain 4 %."""

VECTOR = 8
"""Atoms in a vector of a CPU."""

MEMORY = 2**28
"""Numbers that a block should hold at a time on other devices than CPUs, which need many atoms to be busy: 1 GB in float32."""


def whole_vectors(atoms: int) -> int:
    """At least so many atoms: a number that fills vectors. With 63 atoms in place of 64 the fast form needs 1.6 times as long."""
    return -(-atoms // VECTOR) * VECTOR


def lanes_pay(descriptor: Descriptor) -> bool:
    """Whether blocks of this descriptor are evaluated in its fast form, `in_lanes`; its loops are made for CPUs."""
    return jax.default_backend() == "cpu" and getattr(descriptor, "has_lanes", False)


def block_size(descriptor: Descriptor, slots: int) -> int:
    """Atoms per block of the plain form, for so many neighbour slots."""
    each = max(descriptor.working_set(slots), 1)
    if jax.default_backend() != "cpu":
        return int(np.clip(MEMORY // each, BLOCK, 256 * BLOCK))
    return int(np.clip(CACHE // each, 4, BLOCK))


def fastest_block(descriptor: Descriptor, slots: int) -> int:
    """Atoms per block of the form that is used."""
    return LANES if lanes_pay(descriptor) else block_size(descriptor, slots)


def in_blocks(function: Callable, species: Int[Array, " N"], arrays: Any, block: int, elements: int) -> Any:
    """Maps `function(species_i, arrays_i)` over atoms: vmapped inside a block, one block after the other.

    A block holds atoms of one element only, so that `function` gets the species as a plain int and nothing is computed for other
    elements.
    """
    if species.shape[0] <= block:
        return jax.vmap(function)(species, arrays)
    each = [jax.vmap(partial(function, s)) for s in range(elements)]
    return in_element_blocks(partial(one_of, each), species, arrays, block, elements)


def in_element_blocks(
    function: Callable,
    species: Int[Array, " N"],
    arrays: Any,
    block: int,
    elements: int,
    cost: Int[Array, " N"] | None = None,
) -> Any:
    """Maps `function(element, arrays)` over blocks of atoms of one element, an index that is traced; see `one_of`.

    Atoms are sorted by element, and within it by `cost`; each element's last block is filled up with copies, whose results are
    left out. (What a function does should be a branch of a conditional also for a single element: XLA would merge the slicing of
    the arrays into the kernels otherwise, which then are no longer vectorised.)
    """
    dealt = element_blocks(species, block, elements, cost)
    chosen = jax.tree.map(lambda a: a[dealt.members], arrays)
    out = jax.lax.map(lambda one: function(*one), (dealt.element, chosen))
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[dealt.row], out)


def one_of(functions: Sequence[Callable], element: Int[Array, ""], arrays: Any) -> Any:
    """What the function of an element gives; zeros for a number of elements, at next to no cost."""
    shapes = jax.eval_shape(functions[0], arrays)
    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
    return jax.lax.switch(element, [*functions, lambda _: zeros], arrays)


class ElementBlocks(NamedTuple):
    """Atoms dealt to blocks of one element each.

    Attributes:
      element: of each block; the number of elements for a block that is not needed.
      members: atoms of each block; its last places may hold copies.
      real: which members are no copies.
      row: of each atom among all members.
    """

    element: Int[Array, " B"]
    members: Int[Array, "B b"]
    real: Bool[Array, "B b"]
    row: Int[Array, " N"]


def element_blocks(
    species: Int[Array, " N"], block: int, elements: int, cost: Int[Array, " N"] | None = None
) -> ElementBlocks:
    """Deals atoms to blocks of at most so many atoms of one element each, in the order of their cost, else in their own.

    A species that is the number of elements marks an atom that is in no block.
    """
    N = species.shape[0]
    # As many atoms per block as divide them evenly, in whole vectors, and as many blocks as are needed in the worst case.
    block = min(block, whole_vectors(-(-N // -(-N // block))))
    count = (N + elements * (block - 1)) // block
    order = jnp.argsort(species, stable=True) if cost is None else jnp.lexsort((cost, species))
    atoms = jnp.bincount(species, length=elements)
    last_block = jnp.cumsum(-(-atoms // block))
    first_block = last_block - -(-atoms // block)
    first_atom = jnp.cumsum(atoms) - atoms
    s = jnp.searchsorted(last_block, jnp.arange(count), side="right")  # blocks that are not needed get the next number
    e = jnp.minimum(s, elements - 1)
    place = (jnp.arange(count) - first_block[e])[:, None] * block + jnp.arange(block)[None, :]
    members = order[jnp.minimum(first_atom[e][:, None] + jnp.minimum(place, atoms[e][:, None] - 1), N - 1)]
    rank = jnp.zeros(N, order.dtype).at[order].set(jnp.arange(N, dtype=order.dtype))
    row = first_block[species] * block + rank - first_atom[species]
    return ElementBlocks(s, members, place < atoms[e][:, None], row)
