r"""jax-md neighbour lists with a skin that is right also when the box changes and when atoms leave the cell.

jax-md rebuilds a list when an atom has moved by half the skin. Two things are missing there for our purpose: a box that
shrinks brings atoms closer without moving them in fractional coordinates, and both the cell list and the image search
expect every atom inside the cell, where atoms that sit on a face cross it at each vibration. `SkinList` wraps a jax-md list
and decides itself. With :math:`u_i` the motion since the list was built and :math:`F = h h_0^{-1}` the strain since then, a
pair that was further apart than cutoff + skin is now further apart than :math:`\sigma_{min}(F)(r_c + s) - 2\max_i|u_i|`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax_md import custom_partition, partition, space
from jax_md.partition import Dense
from jaxtyping import Array

from bpjax.errors import CutoffError

PEC = partition.PartitionErrorCode
# MALFORMED_BOX is left out: jax-md 0.2.29 sets it for the boxes that are valid.
_FAILURES = PEC.NEIGHBOR_LIST_OVERFLOW | PEC.CELL_LIST_OVERFLOW | PEC.CELL_SIZE_TOO_SMALL


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SkinList:
    """A list with what is needed to know when it is out of date.

    Attributes:
      inner: a Dense list of jax-md, whose `idx` (N, K) holds N in empty slots, or `bpjax.dynamics.divided.Rows`.
      reference_position: positions when the list was built.
      reference_box: box matrix (columns are lattice vectors) when the list was built; None in free space.
      rebuilds: how often `update` has built the list anew.
      did_buffer_overflow: whether a list since `allocate` was incomplete; everything computed since then is invalid.
      update_fn: what `update` calls.
    """

    # Any: jax also puts things that are no arrays into these fields.
    inner: Any
    reference_position: Any
    reference_box: Any
    rebuilds: Any
    did_buffer_overflow: Any
    update_fn: Callable = field(metadata={"static": True})

    @property
    def idx(self) -> Array:
        """Neighbours of each atom, (N, K), N in empty slots."""
        return self.inner.idx

    @property
    def shifts(self) -> Array | None:
        """Lattice shift of each neighbour, (N, K, 3), relative to `reference_position`; None for minimum-image lists."""
        return getattr(self.inner, "shifts", None)

    @property
    def max_occupancy(self) -> int:
        """Slots per atom, K."""
        return self.inner.max_occupancy

    @property
    def most(self) -> int:
        """Most neighbours of an atom when the list was built; not under jit."""
        found = getattr(self.inner, "most", None)
        return int((self.idx < len(self.idx)).sum(axis=1).max() if found is None else found)

    @property
    def format(self) -> partition.NeighborListFormat:
        """Always Dense."""
        return Dense

    def update(self, position: Array, **kwargs) -> "SkinList":
        """The list for new positions: this one, or one built anew; see `skin_list`."""
        return self.update_fn(position, self, **kwargs)


def skin_list(
    cutoff: float,
    skin: float,
    *,
    box: Any,
    pbc: tuple[bool, bool, bool] = (True, True, True),
    fractional_coordinates: bool = True,
    images: bool = False,
    capacity_multiplier: float = 1.25,
    disable_cell_list: bool = False,
    displacement: Callable | None = None,
) -> partition.NeighborListFns:
    """Functions that allocate and update a `SkinList`.

    Args:
      cutoff: radius in A within which no neighbour may be missing.
      skin: by how much further, in A, the list reaches; 0 rebuilds at each step.
      box: scalar, vector, or matrix whose columns are lattice vectors, in A; None for free space.
      pbc: periodic directions.
      fractional_coordinates: whether positions are fractional.
      images: whether to list every periodic image, instead of the nearest one.
      capacity_multiplier: how many more slots to allocate than are needed at first.
      disable_cell_list: compare all pairs of atoms when building a minimum-image list.
      displacement: jax-md displacement function, in place of the one implied by `box`.

    Returns: jax-md's pair of functions. `allocate(position, extra_capacity=0, *, box, capacity, headroom)`: `capacity` fixes
    the number of slots, `headroom` is the isotropic factor by which the box may still shrink; not under jit.
    `update(position, neighbors, *, box, margin)`: `margin` is by how much two atoms may approach before the next update.
    """
    builder = _builder(
        cutoff + skin, box, pbc, fractional_coordinates, images, capacity_multiplier, disable_cell_list, displacement
    )
    frame = Frame(box, np.array(pbc, dtype=bool), fractional_coordinates, images)

    def built(X, inner, h, named):
        wrapped, whole = frame.wrapped(X, h)
        inner = builder.update(wrapped, inner, **({"box": h} if named or images else {}))
        if images:
            inner = replace(inner, shifts=_unwrapped_shifts(inner, whole))
        return inner

    def allocated(X, h, named, extra_capacity, capacity, headroom):
        tight = {"box": h * headroom} if named or images else {}
        inner = builder.allocate(frame.wrapped(X, h)[0], extra_capacity, **tight)
        inner = _cleared(inner, max(1, inner.max_occupancy if capacity is None else capacity))
        return _cleared(built(X, inner, h, named), inner.max_occupancy, keep_flags=True)

    return with_skin(cutoff, skin, frame, allocated, built)


def with_skin(
    cutoff: float, skin: float, frame: "Frame", allocated: Callable, built: Callable
) -> partition.NeighborListFns:
    """Functions that allocate and update a `SkinList`, of functions that do not know whether a list is out of date.

    Args:
      cutoff, skin: see `skin_list`.
      frame: coordinates of the positions.
      allocated: `(X, h, named, extra_capacity, capacity, headroom)`, positions, box matrix and whether it was named in the call,
        to what `SkinList.inner` holds.
      built: `(X, inner, h, named)` to the same with the neighbours of these positions, under jit.
    """

    def allocate(position, extra_capacity=0, *, box=None, capacity=None, headroom=1.0):
        X = jnp.asarray(position)
        h, named = frame.box(box, X.dtype)
        inner = allocated(X, h, named, extra_capacity, capacity, headroom)
        return SkinList(inner, X, h, jnp.zeros((), jnp.int32), _failed(inner), update)

    def update(position, neighbors, *, box=None, margin=0.0):
        h, named = frame.box(box, position.dtype)
        stale = frame.moved(position, neighbors, h) * 2 + margin > slack(neighbors, h if named else None, cutoff, skin)

        def rebuild():
            inner = built(position, neighbors.inner, h, named)
            overflow = neighbors.did_buffer_overflow | _failed(inner)
            return SkinList(inner, position, h, neighbors.rebuilds + 1, overflow, update)

        return rebuild() if skin == 0 else jax.lax.cond(jnp.any(stale), rebuild, lambda: neighbors)

    return partition.NeighborListFns(allocate, update)  # pyright: ignore[reportCallIssue]


def check_minimum_image(box: np.ndarray, pbc: tuple[bool, bool, bool], reach: float) -> None:
    """Raises unless the nearest image is the only one within `reach`.

    Raises:
      CutoffError: a periodic height of the cell is smaller than twice `reach`.
    """
    height = heights(box)[np.array(pbc, dtype=bool)].min(initial=np.inf)
    if reach > height / 2 * (1 + 1e-6):
        raise CutoffError(
            f"cutoff + skin = {reach:.3f} A exceeds half the smallest height of the cell, {height / 2:.3f} A: the nearest image"
            " is not the only neighbour; use multi_image_potential, a larger cell, or a smaller skin"
        )


def heights(box: np.ndarray) -> np.ndarray:
    """Distances between opposite faces of the cell, (3,); columns of `box` are lattice vectors."""
    return 1 / np.linalg.norm(np.linalg.inv(np.asarray(box, dtype=np.float64)), axis=1)


def box_matrix(box: Any, dtype=None) -> Array:
    """Scalar, vector or matrix box as a matrix whose columns are lattice vectors."""
    h = jnp.asarray(box, dtype)
    if h.ndim == 2:
        return h
    return jnp.diag(jnp.broadcast_to(h, (3,)))


def product(h: Array, v: Array) -> Array:
    """`h` times each vector of `v` (..., 3), in full precision on every device."""
    return jnp.einsum("ab,...b->...a", h, v, precision="highest")


class Frame:
    """Coordinates of a list: which box, which directions, fractional or not."""

    def __init__(self, box, pbc, fractional, images):
        self.default, self.pbc, self.fractional, self.images = box, pbc, fractional, images

    def box(self, box, dtype) -> tuple[Any, bool]:
        """The matrix that holds now, and whether it was named in the call."""
        if box is None:
            return (None, False) if self.default is None else (box_matrix(self.default, dtype), False)
        if self.default is None or not self.fractional:
            raise ValueError("a neighbour list takes box= only with fractional coordinates and a periodic cell")
        return box_matrix(box, dtype), True

    def wrapped(self, X, h):
        """Positions inside the cell, and how many whole cells were taken off."""
        if h is None:
            return X, None
        u = X if self.fractional else product(jnp.linalg.inv(h), X)
        whole = jnp.where(self.pbc, jnp.floor(u), 0)
        whole = jnp.where(self.pbc & (u - whole >= 1), whole + 1, whole)  # a tiny negative u rounds up to 1
        return X - (whole if self.fractional else product(h, whole)), whole

    def moved(self, X, neighbors, h):
        """Largest motion of an atom since the list was built, in A."""
        u = X - neighbors.reference_position
        if h is not None:
            if self.fractional:
                u = u if self.images else u - jnp.round(u) * self.pbc
                u = product(h, u)
            elif not self.images:
                u = u - product(h, jnp.round(product(jnp.linalg.inv(h), u)) * self.pbc)
        return jnp.sqrt(jnp.max(jnp.sum(u * u, axis=-1)))


def slack(neighbors, h, cutoff, skin):
    """By how much pairs may approach each other; the bound on the strain is 1 - |F - 1|."""
    if h is None:
        return skin
    strain = (h - neighbors.reference_box) @ jnp.linalg.inv(neighbors.reference_box)
    return skin - jnp.sqrt(jnp.sum(strain**2, axis=(-2, -1))) * (cutoff + skin)


def _builder(reach, box, pbc, fractional, images, capacity_multiplier, disable_cell_list, displacement):
    """jax-md's functions, for a list that is rebuilt whenever they are called."""
    if images:
        return custom_partition.neighbor_list_multi_image(
            None,
            box_matrix(box),
            reach,
            0.0,
            capacity_multiplier,
            pbc=jnp.array(pbc),
            fractional_coordinates=fractional,
            format=Dense,
        )
    free = box is None
    return partition.neighbor_list(
        displacement or nearest_image(box, pbc, fractional),
        1.0 if free else box,
        reach,
        0.0,
        capacity_multiplier,
        disable_cell_list=disable_cell_list or free or not all(pbc),
        fractional_coordinates=fractional and not free,
        format=Dense,
    )


def nearest_image(box: Any, pbc: tuple[bool, bool, bool], fractional: bool) -> Callable:
    """Displacement `Ra - Rb` (jax-md's sign) to the nearest image, for partly periodic cells too."""
    if box is None:
        return space.free()[0]
    periodic = np.array(pbc, dtype=float)

    def displacement(Ra, Rb, **kwargs):
        h = box_matrix(kwargs.get("box", box), Ra.dtype)
        dR = Ra - Rb
        u = dR if fractional else product(jnp.linalg.inv(h), dR)
        n = jnp.round(u) * periodic.astype(Ra.dtype)
        return product(h, dR - n) if fractional else dR - product(h, n)

    return displacement


def _unwrapped_shifts(inner, whole):
    """Shifts that hold for positions that were not wrapped."""
    N = len(whole)
    whole = whole.astype(inner.shifts.dtype)
    shifts = inner.shifts - whole[jnp.where(inner.idx < N, inner.idx, 0)] + whole[:, None]
    return jnp.where((inner.idx < N)[..., None], shifts, 0)


def _failed(inner) -> Array:
    """Whether the list misses neighbours."""
    if isinstance(inner, partition.NeighborList):
        return (inner.error.code & _FAILURES) != 0
    return jnp.asarray(inner.did_buffer_overflow)


def _cleared(inner, capacity: int, keep_flags: bool = False) -> Any:
    """The list with another number of slots, to be filled by the next build."""
    if isinstance(inner, partition.NeighborList):
        error = inner.error if keep_flags else partition.PartitionError(jnp.zeros((), jnp.uint8))  # pyright: ignore[reportCallIssue]
        size = None if inner.cell_size is None else float(inner.cell_size)  # jit needs a hashable static field
        return replace(inner, max_occupancy=capacity, error=error, cell_size=size)
    flag = inner.did_buffer_overflow if keep_flags else jnp.zeros((), bool)
    return replace(inner, max_occupancy=capacity, did_buffer_overflow=flag)
