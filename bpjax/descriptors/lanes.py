r"""Environments of many centres side by side: the layout of the fast forms of descriptors on a CPU.

The plain kernels see one environment, and `vmap` puts the centres first. Here they are last, in the *lanes* of the vector
units, so that every operation on a slot is one on B centres at a time whatever the number of its neighbours is. Neighbours are
packed by channel (one or several elements) without the gaps that masked slots, slots beyond the cutoff and other elements
leave; loops then run over the slots that are in use, a number that is known only when the program runs.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int, Shaped

TILE = 4
"""Places that loops take at a time."""


class Packing(NamedTuple):
    """Where the neighbours of one channel stand.

    Attributes:
      slot: of each place the slot that stands in it; 0 for a place that is free.
      free: which places are free.
      place: of each slot; C for a slot that is in no place.
      count: places that are in use in at least one lane.
    """

    slot: Int[Array, "C B"]
    free: Bool[Array, "C B"]
    place: Int[Array, "K B"]
    count: Int[Array, ""]


def capacity(slots: int) -> int:
    """Places that are kept for so many slots: whole tiles."""
    return -(-slots // TILE) * TILE


def packing(member: Bool[Array, "K B"]) -> Packing:
    """Packs the slots that are members, in their order."""
    K, B = member.shape
    C = capacity(K)
    ordinal = lax.associative_scan(jnp.add, member.astype(jnp.int32), axis=0)
    place = jnp.where(member, ordinal - 1, C)
    lanes = jnp.broadcast_to(jnp.arange(B, dtype=jnp.int32), (K, B))
    slots = jnp.broadcast_to(jnp.arange(K, dtype=jnp.int32)[:, None], (K, B))
    slot = jnp.full((C, B), -1, jnp.int32).at[place, lanes].set(slots, mode="drop", unique_indices=True)
    return Packing(jnp.maximum(slot, 0), slot < 0, place, jnp.max(ordinal[-1]))


@jax.custom_vjp
def packed(where: Packing, x: Shaped[Array, "*lead K B"]) -> Shaped[Array, "*lead C B"]:
    """Values of the slots in their places; free places repeat that of slot 0."""
    return jnp.take_along_axis(x, _leading(where.slot, x), axis=-2, mode="promise_in_bounds")


def _packed_forward(where, x):
    return packed(where, x), where


def _packed_backward(where, g):
    C = where.slot.shape[0]
    of_slot = jnp.take_along_axis(g, _leading(jnp.minimum(where.place, C - 1), g), axis=-2, mode="promise_in_bounds")
    return None, jnp.where(_leading(where.place < C, g), of_slot, 0)


packed.defvjp(_packed_forward, _packed_backward)


def _leading(index, x):
    return index.reshape((1,) * (x.ndim - 2) + index.shape)
