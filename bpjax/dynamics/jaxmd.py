"""Adapters to jax-md: pairs `(neighbor_fn, energy_fn)` that its integrators, minimisers and `quantity` functions accept.

Conventions of jax-md hold here and nowhere else in the package: columns of a box are lattice vectors, positions are
fractional by default, derivatives with respect to fractional positions are real-space gradients (`space.transform`), and
`quantity.stress` has the opposite sign of ASE's stress.

Energies are relative to the model's offsets, so that float32 can hold them; add `model.offset_energies(species).sum()` on
the host.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax_md import partition, space
from jax_md.partition import Dense
from jaxtyping import Array, Float, Int

from bpjax.dynamics.lists import box_matrix, check_minimum_image, heights, product, skin_list
from bpjax.errors import UnknownSpeciesError
from bpjax.geometry import forces_from_pairs, sanitised, virial_from_pairs
from bpjax.potential import Potential
from bpjax.potential.energy import Params, local_energies, sum_of_local_energies
from bpjax.system import Environment, Prediction

NeighborFn = partition.NeighborListFns
EnergyFn = Callable[..., Float[Array, ""]]

INTEGRATOR_ARGUMENTS = frozenset({"t", "dt", "kT", "pressure"})
"""Keywords of jax-md's integrators that reach the energy function and cannot change its value: the only ones left unused."""


def neighbor_list_potential(
    model: Potential,
    params: Params,
    displacement: Callable | None = None,
    box: Any = None,
    *,
    species: Int[Array, " N"] | np.ndarray,
    skin: float = 0.5,
    fractional_coordinates: bool = True,
    pbc: tuple[bool, bool, bool] = (True, True, True),
    capacity_multiplier: float = 1.25,
    disable_cell_list: bool | None = None,
    format: partition.NeighborListFormat = Dense,
) -> tuple[NeighborFn, EnergyFn]:
    """Potential on minimum-image neighbour lists, or in free space without `box`.

    Args:
      model: the potential.
      params: its arrays.
      displacement: displacement function of a jax-md space; None for the one that `box` implies.
      box: scalar, vector, or matrix whose columns are lattice vectors, in A; None for free space.
      species: index of each atom's element in `model.elements`.
      skin: in A; the list is rebuilt when it could miss a neighbour (jax-md's `dr_threshold`).
      fractional_coordinates: whether positions are fractional; ignored in free space.
      pbc: periodic directions.
      capacity_multiplier: how many more slots to allocate than are needed at first.
      disable_cell_list: compare all pairs of atoms when building a list; None: unless a cell list is possible and pays.
      format: must be Dense: an atomic energy needs the whole neighbourhood of the atom.

    Returns: `neighbor_fn` with `allocate` and `update` (see `bpjax.dynamics.lists`), and `energy_fn(R, neighbor, box=None,
    perturbation=None)` in eV relative to the offsets.

    Raises:
      CutoffError: the cell is so small that an atom would see two images of another one; `multi_image_potential` can.
      UnknownSpeciesError: a species index that the model does not have.
    """
    if format is not Dense:
        raise ValueError(f"format={format}: only Dense lists are supported")
    if box is None and displacement is not None:
        raise ValueError("displacement needs the box that belongs to it (any box at all in free space: leave both out)")
    species = checked_species(model, species)
    if box is not None:
        check_minimum_image(np.asarray(box_matrix(box)), pbc, model.cutoff + skin)
    if disable_cell_list is None:
        disable_cell_list = not cell_list_pays(len(species), box, model.cutoff + skin)
    neighbor_fn = skin_list(
        model.cutoff,
        skin,
        box=box,
        pbc=pbc,
        fractional_coordinates=fractional_coordinates,
        capacity_multiplier=capacity_multiplier,
        disable_cell_list=disable_cell_list,
        displacement=displacement,
    )
    vectors = _displaced(displacement) if displacement else _nearest(box, pbc, fractional_coordinates)
    return neighbor_fn, _energy_fn(model, params, species, vectors)


def multi_image_potential(
    model: Potential,
    params: Params,
    box: Any,
    *,
    species: Int[Array, " N"] | np.ndarray,
    skin: float = 0.5,
    fractional_coordinates: bool = True,
    pbc: tuple[bool, bool, bool] = (True, True, True),
    capacity_multiplier: float = 1.25,
) -> tuple[NeighborFn, EnergyFn]:
    """Potential on lists of every periodic image, for cells of any size and shape; see `neighbor_list_potential`."""
    species = checked_species(model, species)
    neighbor_fn = skin_list(
        model.cutoff,
        skin,
        box=box,
        pbc=pbc,
        fractional_coordinates=fractional_coordinates,
        images=True,
        capacity_multiplier=capacity_multiplier,
    )
    return neighbor_fn, _energy_fn(model, params, species, _listed(box, fractional_coordinates))


def prediction_fn(
    model: Potential,
    params: Params,
    box: Any = None,
    *,
    species: Int[Array, " N"] | np.ndarray,
    pbc: tuple[bool, bool, bool] = (True, True, True),
    fractional_coordinates: bool = True,
    images: bool = False,
    watch: bool = False,
) -> Callable[..., Prediction]:
    """Energy, atomic energies, forces and virial in one pass, on the lists of the factories above.

    Returns: `predict(R, neighbor, box=None)`; forces in eV/A in real space, also for fractional positions. With `watch` it also
    counts the features of each atom outside the range of training.
    """
    species = checked_species(model, species)
    vectors = _listed(box, fractional_coordinates) if images else _nearest(box, pbc, fractional_coordinates)

    def predict(R: Float[Array, "N 3"], neighbor: Any, box: Any = None, **unused: Any) -> Prediction:
        check_arguments(unused)
        env, idx = _environment(vectors, R, neighbor, species, box, None)
        E_i, g, outside, _ = local_energies(model, params, env, species, watch=watch)
        forces = forces_from_pairs(g, idx, env.mask)
        return Prediction(jnp.sum(E_i), E_i, forces, virial_from_pairs(g, env.R_ij, env.mask), outside)

    return predict


def cell_list_pays(atoms: int, box: Any, reach: float) -> bool:
    """Whether jax-md can divide the box into more than three cells a side (it needs an upper triangular matrix for that),
    and the box holds so many atoms that comparing all pairs would take longer.
    """
    if box is None or atoms < 1000:
        return False
    h = np.asarray(box_matrix(box), dtype=np.float64)
    triangular = np.allclose(h, np.triu(h)) and (np.diag(h) > 0).all()
    return bool(triangular and heights(h).min() // reach > 3)


def _energy_fn(model: Potential, params: Params, species: Array, vectors: Callable) -> EnergyFn:
    everyone = jnp.ones(len(species), bool)

    def energy_fn(
        R: Float[Array, "N 3"], neighbor: Any, box: Any = None, perturbation: Any = None, **unused: Any
    ) -> Float[Array, ""]:
        """Energy in eV relative to the offsets."""
        check_arguments(unused)
        env, _ = _environment(vectors, R, neighbor, species, box, perturbation)
        return sum_of_local_energies(model, params, *env, species, everyone)

    return energy_fn


def _environment(vectors, R, neighbor, species, box, perturbation):
    """Environments from a jax-md list, and the indices with harmless ones in empty slots."""
    if neighbor.format is not Dense:
        raise ValueError(f"a {neighbor.format} list: only Dense lists are supported")
    if R.shape != (len(species), 3):
        raise ValueError(f"positions of shape {R.shape}, but {len(species)} atoms")
    mask = neighbor.idx < len(R)
    idx = jnp.where(mask, neighbor.idx, 0)
    R_ij = vectors(R, idx, neighbor, box)
    if perturbation is not None:
        with jax.default_matmul_precision("highest"):
            R_ij = space.raw_transform(jnp.asarray(perturbation, R.dtype), R_ij)
    return Environment(sanitised(R_ij, mask), species[idx], mask), idx


def _nearest(default_box: Any, pbc: tuple[bool, bool, bool], fractional: bool) -> Callable:
    """Pair vectors to the nearest image."""
    between = nearest_images(default_box, pbc, fractional)
    return lambda R, idx, neighbor, box: between(R[idx] - R[:, None], None, box)


def nearest_images(default_box: Any, pbc: tuple[bool, bool, bool], fractional: bool) -> Callable:
    """Differences of positions (and None, and a box) to pair vectors to the nearest image."""
    periodic = np.array(pbc, dtype=float)

    def between(dX, n, box):
        if default_box is None:
            if box is not None:
                raise ValueError("box= in free space: build the potential with a box")
            return dX
        h = box_matrix(default_box if box is None else box, dX.dtype)
        if fractional:
            return _real(h, dX - jnp.round(dX) * periodic.astype(dX.dtype))
        n = jnp.round(product(jnp.linalg.inv(h), jax.lax.stop_gradient(dX))) * periodic.astype(dX.dtype)
        return dX + product(h, -n)

    return between


def _listed(default_box: Any, fractional: bool) -> Callable:
    """Pair vectors to the images that the list names."""
    between = listed_images(default_box, fractional)

    def vectors(R, idx, neighbor, box):
        if neighbor.shifts is None:
            raise ValueError("a list without images: use the neighbor_fn that came with this energy function")
        return between(R[idx] - R[:, None], neighbor.shifts, box)

    return vectors


def listed_images(default_box: Any, fractional: bool) -> Callable:
    """Differences of positions, shifts (and a box) to pair vectors to these images."""

    def between(dX, n, box):
        h = box_matrix(default_box if box is None else box, dX.dtype)
        n = n.astype(dX.dtype)
        return _real(h, dX + n) if fractional else dX + product(h, n)

    return between


def _displaced(displacement: Callable) -> Callable:
    """Pair vectors from a displacement function, whose sign is R_i - R_j."""

    def vectors(R, idx, neighbor, box):
        named = {} if box is None else {"box": box}
        with jax.default_matmul_precision("highest"):
            return -space.map_neighbor(partial(displacement, **named))(R, R[idx])

    return vectors


def _real(h: Array, X: Array) -> Array:
    """`space.transform`: real vectors whose gradient with respect to fractional ones is, by convention, in real space."""
    with jax.default_matmul_precision("highest"):
        return space.transform(h, X)


def checked_species(model: Potential, species: Any) -> Array:
    """Species indices as an array of int32."""
    indices = np.asarray(species)
    if indices.ndim != 1 or indices.dtype.kind not in "iu":
        raise ValueError(
            f"species must be one integer per atom, not an array of {indices.dtype} and shape {indices.shape}"
        )
    if len(indices) and not (0 <= indices.min() and indices.max() < len(model.elements)):
        raise UnknownSpeciesError(
            f"species indices {indices.min()} to {indices.max()}, but the model knows {', '.join(model.elements)}, numbered from"
            " 0; bpjax.elements.species_of turns atomic numbers into indices"
        )
    return jnp.asarray(indices, jnp.int32)


def check_arguments(unused: dict) -> None:
    """Raises for keywords that are none of an integrator's."""
    unknown = unused.keys() - INTEGRATOR_ARGUMENTS
    if unknown:
        raise TypeError(f"the energy function does not know the argument {', '.join(sorted(unknown))}")
