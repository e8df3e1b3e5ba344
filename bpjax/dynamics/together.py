r"""Energies and forces of many small systems at once: replicas of one structure, or unlike molecules and cells.

Positions come padded, (R, N, 3) for R systems of at most N atoms, each in the coordinates of its own box. The atoms that are
real are laid behind one another and evaluated as if they were one structure whose parts do not see each other: no row of
padding is evaluated, and blocks of one element are filled by atoms of all systems. Lists name every periodic image; a centre is
compared with the atoms of its own system alone. With :math:`X` in units of the columns of :math:`h`, the neighbour :math:`j` of
:math:`i` is the image :math:`n = m - \mathrm{round}(X_j - X_i)`, with m small integers:

.. math:: R_{ij} = h (X_j - X_i + n), \qquad |m_a| \le \lfloor (r_c + s) / d_a + 1/2 \rfloor

for distances d between opposite faces; in open directions n = 0.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from bpjax.dynamics.cells import first_true
from bpjax.dynamics.divided import COMPARED
from bpjax.dynamics.jaxmd import NeighborFn, check_arguments
from bpjax.dynamics.lists import heights, with_skin
from bpjax.geometry import forces_from_pairs, sanitised
from bpjax.potential import Potential
from bpjax.potential.energy import Params, local_energies
from bpjax.system import Environment, Prediction


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Images:
    """Neighbours of all M real atoms, numbered one system after the other.

    Attributes:
      idx: neighbours, (M, K); an empty slot holds the centre.
      shifts: of their images, (M, K, 3), for positions as they were when the list was built.
      count: neighbours of each centre.
      most: largest number of neighbours.
      did_buffer_overflow: whether neighbours are missing.
      reach: largest m in each direction.
      max_occupancy: slots, K.
    """

    idx: Any
    shifts: Any
    count: Any
    most: Any
    did_buffer_overflow: Any
    reach: tuple[int, int, int] = field(metadata={"static": True})
    max_occupancy: int = field(metadata={"static": True})


class Layout:
    """Where the atoms of several systems are.

    Args:
      species: of each system, indices of elements.

    Attributes:
      real: which rows of the padded arrays are atoms, (R, N).
      first: number of each system's first atom among the M real ones.
      member, row: system of each real atom, and its row in it.
      species: of the real atoms.
    """

    def __init__(self, species: Sequence[np.ndarray]):
        counts = np.array([len(s) for s in species])
        self.real = np.arange(counts.max()) < counts[:, None]
        self.first = (np.cumsum(counts) - counts).astype(np.int32)
        self.member, self.row = (a.astype(np.int32) for a in np.nonzero(self.real))
        self.species = np.concatenate(species).astype(np.int32)

    @property
    def even(self) -> bool:
        """Whether no row is padding."""
        return bool(self.real.all())

    def padded(self, arrays: Sequence[Array], filling: float) -> Array:
        """Arrays of the systems, (n_r, ...), as one, (R, N, ...)."""
        N = self.real.shape[1]
        rows = [jnp.pad(a, [(0, N - len(a))] + [(0, 0)] * (a.ndim - 1), constant_values=filling) for a in arrays]
        return jnp.stack(rows)

    def spread(self, a: Array) -> Array:
        """Values of the real atoms, (M, ...), in padded rows, (R, N, ...)."""
        if self.even:
            return a.reshape(*self.real.shape, *a.shape[1:])
        return jnp.zeros((*self.real.shape, *a.shape[1:]), a.dtype).at[self.member, self.row].set(a)

    def total(self, a: Array) -> Array:
        """Sums over the atoms of each system, (M, ...) to (R, ...)."""
        return jax.ops.segment_sum(a, self.member, len(self.real), indices_are_sorted=True)


def systems_potential(
    model: Potential,
    params: Params,
    species: Sequence[np.ndarray],
    boxes: np.ndarray,
    pbc: np.ndarray,
    *,
    skin: float = 0.5,
) -> tuple[NeighborFn, Callable[..., Prediction]]:
    """Potential of several systems at once; results equal those of `prediction_fn` for each of them to rounding.

    Args:
      model: the potential.
      params: its arrays.
      species: of each of the R systems, index of each atom's element in `model.elements`.
      boxes: (R, 3, 3) in A, columns are lattice vectors; the unit matrix for free space.
      pbc: periodic directions, (R, 3).
      skin: in A; all lists are rebuilt when one could miss a neighbour.

    Returns: `neighbor_fn` with `allocate` and `update` as in `bpjax.dynamics.lists.skin_list`, and `predict(R, neighbor,
    box=None)`. Positions are padded, (R, N, 3), and in units of the boxes; results have a leading axis of systems.
    """
    layout = Layout(species)
    frame = _Frame(np.asarray(boxes), layout)
    search = _Search(layout, np.asarray(pbc, bool), model.cutoff + skin)
    neighbor_fn = with_skin(model.cutoff, skin, frame, search.allocated, search.built)

    def predict(R, neighbor: Any, box: Any = None, **unused: Any) -> Prediction:
        check_arguments(unused)
        if R.shape[:-1] != layout.real.shape:
            raise ValueError(f"positions of shape {R.shape}, but {layout.real.shape} rows for atoms")
        h, _ = frame.box(box, R.dtype)
        found, X = neighbor.inner, R[layout.member, layout.row]
        mask = jnp.arange(found.max_occupancy) < found.count[:, None]
        dX = X[found.idx] - X[:, None] + found.shifts.astype(X.dtype)
        R_ij = sanitised(jnp.einsum("iab,ikb->ika", h[layout.member], dX, precision="highest"), mask)
        species = jnp.asarray(layout.species)
        E_i, g, *_ = local_energies(model, params, Environment(R_ij, species[found.idx], mask), species)
        forces = forces_from_pairs(g, found.idx, mask)
        W_i = -jnp.einsum("ika,ikb->iab", R_ij, jnp.where(mask[..., None], g, 0), precision="highest")
        return Prediction(layout.total(E_i), layout.spread(E_i), layout.spread(forces), layout.total(W_i))

    return neighbor_fn, predict


class _Frame:
    """Coordinates of the lists; what `bpjax.dynamics.lists.Frame` is for one system."""

    def __init__(self, boxes: np.ndarray, layout: Layout):
        self.boxes, self.real = boxes, layout.real

    def box(self, box: Any, dtype: Any) -> tuple[Array, bool]:
        """The boxes that hold now, and whether they were named in the call."""
        return jnp.asarray(self.boxes if box is None else box, dtype), box is not None

    def moved(self, X: Array, neighbors: Any, h: Array) -> Array:
        """Largest motion of an atom of each system since the lists were built, in A."""
        u = jnp.einsum("rab,rnb->rna", h, X - neighbors.reference_position, precision="highest")
        return jnp.sqrt(jnp.max(jnp.where(self.real, jnp.sum(u * u, axis=-1), 0), axis=1))


class _Search:
    """Builds lists by comparing each atom with all images of the atoms of its system."""

    def __init__(self, layout: Layout, pbc: np.ndarray, radius: float):
        self.layout, self.pbc, self.radius = layout, pbc, radius
        self.fresh = jax.jit(self.rows, static_argnames=("reach", "slots"))

    def allocated(self, X, h, named, extra_capacity, capacity, headroom) -> Images:
        """Lists for these positions, with as many slots as are asked for or needed."""
        matrices = np.asarray(h, np.float64) * (headroom if named else 1.0)
        m = np.floor(self.radius * (1 + 1e-5) / np.array([heights(box) for box in matrices]) + 0.5)
        reach = tuple(int(n) for n in np.max(np.where(self.pbc, m, 0), axis=0))
        if capacity is None:
            capacity = int(self.fresh(X, h, reach=reach, slots=1).most) + extra_capacity
        return self.fresh(X, h, reach=reach, slots=max(1, capacity))

    def built(self, X, inner: Images, h, named) -> Images:
        """Lists for new positions, under jit."""
        return self.rows(X, h, inner.reach, inner.max_occupancy)

    def rows(self, X, h, reach: tuple[int, int, int], slots: int) -> Images:
        """Lists for these positions."""
        offsets = np.stack(np.meshgrid(*[np.arange(-m, m + 1) for m in reach], indexing="ij"), axis=-1).reshape(-1, 3)
        possible = np.all((offsets == 0) | self.pbc[:, None], axis=-1)  # (R, O)
        search = partial(self.row, X, h, offsets.astype(np.int32), jnp.asarray(possible), slots)
        atoms, candidates = len(self.layout.member), self.layout.real.shape[1] * len(offsets)
        at_a_time = min(max(1, COMPARED // candidates), atoms)
        idx, shifts, count = jax.lax.map(search, jnp.arange(atoms, dtype=jnp.int32), batch_size=at_a_time)
        height = 1 / jnp.sqrt(jnp.sum(jnp.linalg.inv(h) ** 2, axis=2))
        large = jnp.all(~self.pbc | (self.radius / height < np.array(reach) + 0.5))
        most = jnp.max(count)
        return Images(idx, shifts, count, most, ~large | (most > slots), reach, slots)

    def row(self, X, h, offsets, possible, slots, a):
        """Neighbours of one atom: numbers, shifts (those of no neighbour are the atom and 0), and how many there are."""
        r, i = jnp.asarray(self.layout.member)[a], jnp.asarray(self.layout.row)[a]
        dX = X[r] - X[r, i]
        nearest = -jnp.where(jnp.asarray(self.pbc)[r], jnp.round(dX), 0).astype(jnp.int32)
        n = nearest[:, None] + offsets
        R_ij = jnp.einsum("ab,job->joa", h[r], dX[:, None] + n.astype(dX.dtype), precision="highest")
        itself = (jnp.arange(len(dX)) == i)[:, None] & jnp.all(n == 0, axis=-1)
        valid = jnp.asarray(self.layout.real)[r][:, None] & possible[r] & ~itself
        near = valid & (jnp.sum(R_ij**2, axis=-1) < self.radius**2)
        found, kept, count = first_true(near.reshape(-1), slots)
        j = jnp.asarray(self.layout.first)[r] + (found // len(offsets)).astype(jnp.int32)
        return jnp.where(kept, j, a), jnp.where(kept[:, None], n.reshape(-1, 3)[found], 0), count
