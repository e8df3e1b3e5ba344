r"""Energies and forces of many atoms, divided by centres among devices, in memory of a block of centres and the list alone.

Each device knows all positions (12 bytes per atom in float32), sorts the atoms by where they are in the same way, and takes an
equal run of them as its centres: a slab across the longest direction of the cell, cut anew whenever the list is. It lists the
neighbours of its own centres, evaluates them block by block, and adds up what each block gives for the forces on its centres and
on their neighbours. One sum over the devices d then gives all of them everything:

.. math:: F_i = \sum_d \Big( [i \in d] \sum_{j} g_{ij} - \sum_{j \in d} g_{ji} \Big)

The integrator does the same on each device. Sharing it would exchange just as much: a sum over devices is a reduction that
leaves a share on each, and a gathering of the shares. It is 24 bytes per atom and step, whatever the number of devices; an
exchange between adjacent slabs alone would pay for hundreds of devices, and needs slabs that are thicker than the cutoff. Here
any cell will do, no atom has to migrate, and random numbers are those of one device.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array

from bpjax.dynamics.cells import Bins, bins_of, neighbors_of, sorted_atoms
from bpjax.dynamics.jaxmd import (
    NeighborFn,
    check_arguments,
    checked_species,
    listed_images,
    nearest_images,
)
from bpjax.dynamics.lists import Frame, box_matrix, check_minimum_image, with_skin
from bpjax.dynamics.parallel import AXIS, choose, replicated
from bpjax.geometry import sanitised
from bpjax.potential import Potential
from bpjax.potential.blocks import element_blocks, fastest_block
from bpjax.potential.energy import Params, block_energies
from bpjax.system import Environment, Prediction

COMPARED = 2**19
"""Candidates, about, that are compared with their centres at a time when a list is built."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Rows:
    """The centres of all devices and their neighbours, in blocks of one element; a device has its share of the B blocks.

    Attributes:
      order: number of the atom at each place in the order of the bins; numbers below count places.
      element: species of each block, (B,); the number of elements for a block that is not needed.
      centres: of each block, (B, b).
      real: which of them are no copies.
      count: neighbours of each centre.
      idx: neighbours, (B, b, K); an empty slot holds the centre.
      shifts: of their images, (B, b, K, 3); None where the nearest image is meant.
      most: largest number of neighbours.
      did_buffer_overflow: whether neighbours are missing.
      bins: how atoms are sorted.
      max_occupancy: slots, K.
    """

    order: Any
    element: Any
    centres: Any
    real: Any
    count: Any
    idx: Any
    shifts: Any
    most: Any
    did_buffer_overflow: Any
    bins: Bins = field(metadata={"static": True})
    max_occupancy: int = field(metadata={"static": True})


def _specs(bins: Bins, slots: int, images: bool) -> Rows:
    """What of a list is divided."""
    own, all_ = PartitionSpec(AXIS), PartitionSpec()
    return Rows(all_, own, own, own, own, own, own if images else None, all_, all_, bins, slots)


def divided_potential(
    model: Potential,
    params: Params,
    box: Any = None,
    *,
    species: Any,
    skin: float = 0.5,
    pbc: tuple[bool, bool, bool] = (True, True, True),
    images: bool = True,
    watch: bool = False,
    devices: int | None = None,
    mesh: Mesh | None = None,
) -> tuple[NeighborFn, Callable[..., Prediction]]:
    """Potential whose centres are divided among devices; results equal those of `prediction_fn` to rounding.

    Args:
      model: the potential.
      params: its arrays.
      box: scalar, vector, or matrix whose columns are lattice vectors, in A; None for free space.
      species: index of each atom's element in `model.elements`.
      skin: in A; the list is rebuilt when it could miss a neighbour.
      pbc: periodic directions.
      images: whether to list every periodic image, for cells of any size; else the nearest one, in less memory.
      watch: also count the features of each atom outside the range of training.
      devices: how many; None for those that pay, see `bpjax.dynamics.parallel.choose`.
      mesh: of devices, with the axis `bpjax.dynamics.parallel.AXIS`, in place of `devices`.

    Returns: `neighbor_fn` with `allocate` and `update` as in `bpjax.dynamics.lists.skin_list`, and `predict(R, neighbor,
    box=None)`. Positions are fractional, except in free space; forces are in eV/A in real space. Both belong to a program over
    the mesh: arrays that are used with them must be on all its devices (`bpjax.dynamics.parallel.replicated`) or on none in
    particular.

    Raises:
      CutoffError: without `images`, a cell in which an atom would see two images of another one.
      ConfigError: more devices than there are, or than atoms.
      UnknownSpeciesError: a species index that the model does not have.
    """
    species = np.asarray(checked_species(model, species))
    mesh = mesh or choose(len(species), devices, always=True)
    images = images and box is not None and any(pbc)
    if box is not None and not images:
        check_minimum_image(np.asarray(box_matrix(box)), pbc, model.cutoff + skin)
    periodic = pbc if box is not None else (False, False, False)
    divide = _Division(model, species, model.cutoff + skin, periodic, images, mesh)
    frame = Frame(box, np.array(periodic), True, images)
    neighbor_fn = with_skin(model.cutoff, skin, frame, divide.allocated, divide.built)
    params = jax.tree.map(np.asarray, params)  # constants of the program, whatever device they came from
    return neighbor_fn, _prediction_fn(model, params, species, box, pbc, images, watch, mesh)


class _Division:
    """Lists of centres that are divided among the devices of a mesh."""

    def __init__(self, model: Potential, species: np.ndarray, reach: float, pbc, images: bool, mesh: Mesh):
        self.model, self.species, self.reach, self.pbc = model, species, reach, pbc
        self.images, self.mesh = images, mesh
        self.programs: dict[tuple[Bins, int], Callable[..., Rows]] = {}

    def allocated(self, X, h, named, extra_capacity, capacity, headroom) -> Rows:
        """A list for positions on the host, with as many slots as are asked for or needed."""
        matrix = np.eye(3) if h is None else np.asarray(h, np.float64)
        matrix = matrix * (headroom if named else 1.0)
        bins = bins_of(matrix, self.pbc, np.asarray(X, np.float64), self.reach, extra_capacity)
        X, h = replicated(self.mesh, (X, h))
        if capacity is None:
            capacity = int(self.fresh(bins, 1)(X, h).most) + extra_capacity  # one slot is enough to count
        return self.fresh(bins, max(1, capacity))(X, h)

    def built(self, X, inner: Rows, h, named) -> Rows:
        """The list for new positions, under jit."""
        return self.rows(X, h, inner.bins, inner.max_occupancy)

    def fresh(self, bins: Bins, slots: int) -> Callable[..., Rows]:
        """`rows`, compiled."""
        if (bins, slots) not in self.programs:
            self.programs[bins, slots] = jax.jit(partial(self.rows, bins=bins, slots=slots))
        return self.programs[bins, slots]

    def rows(self, X, h, bins: Bins, slots: int) -> Rows:
        """The list for these positions."""
        h = jnp.eye(3, dtype=X.dtype) if h is None else h
        specs = _specs(bins, slots, self.images)
        local = partial(self._own_rows, bins, slots)
        # Replication is not checked: all devices make the same order of the same positions, which the check cannot know.
        one = jax.shard_map(local, mesh=self.mesh, in_specs=(PartitionSpec(),) * 2, out_specs=specs, check_vma=False)
        return one(X, h)

    def _own_rows(self, bins, slots, X, h) -> Rows:
        """The rows of this device."""
        N, elements = len(self.species), len(self.model.elements)
        share = -(-N // self.mesh.size)
        atoms = sorted_atoms(bins, X, h, self.reach)
        start = jax.lax.axis_index(AXIS) * share
        own = start + jnp.arange(share, dtype=jnp.int32)
        species = jnp.asarray(self.species)[atoms.order[jnp.minimum(own, N - 1)]]
        block = fastest_block(self.model.descriptor, slots)
        dealt = element_blocks(jnp.where(own < N, species, elements), block, elements)
        centres = jnp.minimum(start + dealt.members, N - 1).astype(jnp.int32)
        search = partial(neighbors_of, bins, atoms, h, self.reach, slots)
        if not self.images:
            search = partial(_without_shifts, search)
        at_a_time = max(1, COMPARED // bins.candidates)
        found = jax.lax.map(search, centres.reshape(-1), batch_size=min(at_a_time, centres.size))
        idx, shifts, count = jax.tree.map(lambda a: a.reshape(*centres.shape, *a.shape[1:]), found)
        count = jnp.where(dealt.real, count, 0)
        most = jax.lax.pmax(jnp.max(count), AXIS)
        element = dealt.element.astype(jnp.int32)
        overflow = ~atoms.fits | (most > slots)
        return Rows(atoms.order, element, centres, dealt.real, count, idx, shifts, most, overflow, bins, slots)


def _without_shifts(search: Callable, i: Array):
    idx, _, count = search(i)
    return idx, None, count


def _prediction_fn(model, params, species, box, pbc, images, watch, mesh) -> Callable[..., Prediction]:
    """Energy and its derivatives of a list of `_Division`."""
    between = listed_images(box, True) if images else nearest_images(box, pbc, True)
    one_block = partial(_block, model, params, between, watch)

    def own(R, h, rows: Rows) -> Prediction:
        """What the centres of this device give, summed over the devices."""
        X, species_j = R[rows.order], jnp.asarray(species)[rows.order]
        each = (rows.element, rows.centres, rows.real, rows.count, rows.idx, rows.shifts)
        forces, (E, W, outside) = jax.lax.scan(partial(one_block, X, species_j, h), jnp.zeros_like(X), each)

        def to_atoms(a):
            atoms = rows.order[rows.centres].reshape(-1)
            return jnp.zeros(len(X), a.dtype).at[atoms].add(a.reshape(-1))

        forces = jnp.zeros_like(forces).at[rows.order].set(forces, unique_indices=True)
        outside = None if outside is None else to_atoms(outside)
        summed = Prediction(jnp.sum(E), to_atoms(E), forces, jnp.sum(W, axis=0), outside)
        return jax.lax.psum(summed, AXIS)

    def predict(R, neighbor: Any, box: Any = None, **unused: Any) -> Prediction:
        check_arguments(unused)
        if R.shape != (len(species), 3):
            raise ValueError(f"positions of shape {R.shape}, but {len(species)} atoms")
        rows, h = neighbor.inner, None if box is None else box_matrix(box, R.dtype)
        specs = _specs(rows.bins, rows.max_occupancy, rows.shifts is not None)
        everywhere = PartitionSpec()
        with jax.default_matmul_precision("highest"):
            return jax.shard_map(
                own, mesh=mesh, in_specs=(everywhere, everywhere, specs), out_specs=everywhere, check_vma=False
            )(R, h, rows)

    return predict


def _block(model, params, between, watch, X, species, h, forces, block):
    """Adds the forces of a block of centres; its atomic energies, virial and features outside the range of training."""
    s, i, real, count, idx, n = block
    mask = jnp.arange(idx.shape[1]) < count[:, None]
    env = Environment(sanitised(between(X[idx] - X[i][:, None], n, h), mask), species[idx], mask)
    found = block_energies(model, params, watch, s, env)
    g = jnp.where(mask[..., None], found.pair_gradients, 0)
    forces = forces.at[idx.reshape(-1)].add(-g.reshape(-1, 3)).at[i].add(jnp.sum(g, axis=1))
    outside = None if found.outside is None else jnp.where(real, found.outside, 0)
    return forces, (jnp.where(real, found.energies, 0), -jnp.einsum("ija,ijb->ab", env.R_ij, g), outside)
