"""Features of structures from the host, and their Jacobians: what people compare structures and train other models with.

Potentials never go through a Jacobian of the features: forces need one product with it, which the reverse pass gives at the
cost of a few evaluations.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import ase
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bpjax.descriptors import Descriptor
from bpjax.descriptors.base import require_descriptor
from bpjax.errors import ConfigError
from bpjax.geometry import environments, real_atoms
from bpjax.neighbors import bucket
from bpjax.potential.blocks import block_size, in_blocks
from bpjax.potential.energy import Params, environment_features
from bpjax.potential.preparation import Place, check, groups_of_like_size, prepare
from bpjax.precision import WIDE, name_of_dtype, precision
from bpjax.progress import ProgressFn, silent
from bpjax.system import Environment, Neighbors, System


@partial(jax.jit, static_argnums=0)
def all_features(
    descriptor: Descriptor, system: System, neighbors: Neighbors, params: Params | None = None
) -> Float[Array, "N D"]:
    """Features of the atoms of one structure, block by block; zeros for padding.

    Args:
      descriptor: function of one environment (static).
      system: positions, species, cell, padding mask.
      neighbors: all neighbours within the cutoff, or more.
      params: arrays of the model, which matter where the descriptor has learned something.
    """
    env = environments(system, neighbors)

    def one(species_i, env):
        return environment_features(descriptor, params or {}, env, species_i)

    block = block_size(descriptor, env.mask.shape[1])
    with jax.default_matmul_precision("highest"):
        G = in_blocks(one, jnp.asarray(system.species), env, block, len(descriptor.elements))
    return jnp.where(real_atoms(system)[:, None], G, 0)


class PairJacobian(NamedTuple):
    r"""Features of an environment, or of all of a structure, and :math:`\partial G_i / \partial R_{ij}`, zero where masked."""

    features: Float[Array, "*N D"]
    gradients: Float[Array, "*N K 3 D"]


def pair_jacobian(descriptor: Descriptor, species_i, env: Environment) -> PairJacobian:
    """Features of one environment and their derivatives with the pair vectors."""

    def features(R_ij):
        return descriptor(env._replace(R_ij=R_ij), species_i)

    forward = env.R_ij.size < descriptor.size  # the fewer of inputs and outputs
    J = (jax.jacfwd if forward else jax.jacrev)(features)(env.R_ij)
    return PairJacobian(features(env.R_ij), jnp.moveaxis(J, 0, -1))


JACOBIAN_BLOCK = 8
"""Atoms whose Jacobians are computed side by side: each takes the memory of as many evaluations as there are features."""


@partial(jax.jit, static_argnums=0)
def _all_jacobians(descriptor: Descriptor, system: System, neighbors: Neighbors) -> PairJacobian:
    env, species = environments(system, neighbors), jnp.asarray(system.species)
    with jax.default_matmul_precision("highest"):
        return in_blocks(partial(pair_jacobian, descriptor), species, env, JACOBIAN_BLOCK, len(descriptor.elements))


JACOBIAN_COST = 32
"""How much more a Jacobian costs than an energy and forces, relative to the time of its compilation."""


def alike(
    descriptor: Descriptor,
    frames: Sequence[ase.Atoms],
    dtype: str,
    path: str | os.PathLike[str] | None = None,
    cost: int = 1,
) -> Iterator[tuple[int, System, Neighbors]]:
    """Structures with neighbours, padded to few shapes, so that what is called with them is compiled few times.

    All structures are checked before the first is given.

    Args:
      descriptor: gives elements and cutoff.
      frames: the structures.
      dtype: float type of the systems.
      path: their file, for messages.
      cost: how much more it costs to evaluate a neighbour than with energies and forces; decides how many shapes there are.

    Yields: number of the frame, system, neighbours; in an order of its own.

    Raises:
      ConfigError: a cutoff within which no atom of any structure has a neighbour.
      StructureError, UnknownSpeciesError: see `describe`.
    """
    require_descriptor(descriptor)
    places = [Place(path, number) for number in range(len(frames))]
    sizes = np.zeros((len(frames), 2), int)
    for number, (atoms, place) in enumerate(zip(frames, places, strict=True)):
        check(atoms, descriptor.elements, place)
        kept = prepare(atoms, descriptor.cutoff, place)
        if kept.wide and dtype == "float32":
            message = (
                f"reaches farther than {WIDE:g} A from its centre, which single precision does not hold; take float64"
            )
            raise place.error(message, "positions")
        sizes[number] = kept.size
    if len(frames) and sizes[:, 0].max() > 1 and sizes[:, 1].max() == 0:
        message = f"{descriptor.cutoff:g} A is below the first neighbours: no atom of the structures has any"
        raise ConfigError(message, None if path is None else os.fspath(path), "cutoff")
    for group in groups_of_like_size(sizes * [1, cost]):
        shape = [bucket(int(size)) for size in sizes[group].max(axis=0)]
        for number in group:
            kept = prepare(frames[number], descriptor.cutoff, places[number]).padded(*shape)
            yield number, kept.system(frames[number], descriptor.elements, dtype), kept.neighbors


def describe(
    descriptor: Descriptor,
    frames: Sequence[ase.Atoms],
    dtype: str = "float32",
    progress: ProgressFn = silent,
    path: str | os.PathLike[str] | None = None,
) -> list[np.ndarray]:
    """Features of every atom of many structures.

    Args:
      descriptor: function of one environment, such as `bpjax.descriptors.ACSF`.
      frames: the structures; labels and calculators are ignored.
      dtype: "float32" or "float64", whatever the precision of JAX outside.
      progress: shows how many structures are done.
      path: their file, for messages.

    Returns: features (N, D) of each structure, in the order of the frames.

    Raises:
      ConfigError: another dtype, or a cutoff below the first neighbours of all structures.
      StructureError: zero atoms, numbers that are not finite, a periodic cell without volume, or two atoms at one place.
      UnknownSpeciesError: an element that the descriptor does not know.
    """
    dtype = name_of_dtype(dtype)
    found = [np.zeros((0, descriptor.size))] * len(frames)
    with progress(len(frames), "structures") as bar, precision(dtype):
        for number, system, neighbors in alike(descriptor, frames, dtype, path):
            found[number] = np.asarray(all_features(descriptor, system, neighbors))[: len(frames[number])]
            bar.update(1)
    return found


def average_features(
    descriptor: Descriptor,
    frames: Sequence[ase.Atoms],
    average: str = "outer",
    dtype: str = "float32",
    progress: ProgressFn = silent,
    path: str | os.PathLike[str] | None = None,
) -> np.ndarray:
    """One feature vector for each structure.

    Args:
      descriptor: function of one environment.
      frames: the structures.
      average: "outer", the mean of the features of all atoms; or "inner", for `SOAP`: the power spectrum of the mean of their
        expansion coefficients, which also sees how environments are turned towards each other.
      dtype, progress, path: see `describe`.

    Returns: (F, D), in the order of the frames.

    Raises:
      ConfigError: another average, or "inner" of a descriptor without expansion coefficients; and see `describe`.
      StructureError, UnknownSpeciesError: see `describe`.
    """
    if average not in ("outer", "inner"):
        raise ConfigError(f"{average!r}; allowed are outer, inner", field="average")
    if average == "outer":
        features = describe(descriptor, frames, dtype, progress, path)
        return np.array([G.mean(axis=0) for G in features]).reshape(len(frames), descriptor.size)
    if not hasattr(descriptor, "power_spectrum"):
        message = f"'inner' is for SOAP; {type(descriptor).__name__} has no expansion coefficients"
        raise ConfigError(message, field="average")
    dtype = name_of_dtype(dtype)
    found = np.zeros((len(frames), descriptor.size), dtype)
    with progress(len(frames), "structures") as bar, precision(dtype):
        for number, system, neighbors in alike(descriptor, frames, dtype, path):
            found[number] = np.asarray(_inner_average(descriptor, system, neighbors))
            bar.update(1)
    return found


@partial(jax.jit, static_argnums=0)
def _inner_average(descriptor: Any, system: System, neighbors: Neighbors) -> Float[Array, " D"]:
    env, species = environments(system, neighbors), jnp.asarray(system.species)

    def one(species_i, env):
        return descriptor.coefficients(env, species_i)

    real, block = real_atoms(system), block_size(descriptor, env.mask.shape[1])
    with jax.default_matmul_precision("highest"):
        c = in_blocks(one, species, env, block, len(descriptor.elements))
        c = jnp.where(real[:, None, None, None], c, 0)
        return descriptor.power_spectrum(c.sum(axis=0) / jnp.sum(real, dtype=c.dtype))


def jacobian(descriptor: Descriptor, atoms: ase.Atoms, dtype: str = "float32") -> np.ndarray:
    r"""Derivatives of the features with the positions, :math:`\partial G_i / \partial R_j`.

    An atom moves together with its periodic images. For forces of a potential use `bpjax.predict`, which is faster by orders
    of magnitude.

    Args:
      descriptor: function of one environment.
      atoms: the structure.
      dtype: "float32" or "float64".

    Returns: (N, N, 3, D) in 1/A times the unit of the features: centre i, atom j that moves, direction, feature.

    Raises:
      ConfigError, StructureError, UnknownSpeciesError: see `describe`.
    """
    dtype = name_of_dtype(dtype)
    ((_, system, neighbors),) = alike(descriptor, [atoms], dtype)
    N = len(atoms)
    with precision(dtype):
        J = np.asarray(_all_jacobians(descriptor, system, neighbors).gradients)[:N]
    out = np.zeros((N, N, 3, descriptor.size), J.dtype)
    np.add.at(out, (np.arange(N)[:, None], neighbors.idx[:N]), J)
    out[np.arange(N), np.arange(N)] -= J.sum(axis=1)
    return out
