r"""The potential: descriptor, scaling, per-element networks, and the sum :math:`E = \sum_i E_i(\{R_{ij}\})`.

The atomic energies and their *pair gradients* :math:`g_{ij} = \partial E_i / \partial R_{ij}` come out of one function,
`local_energies`, block by block: a block of atoms runs through descriptor, network and back before the next one starts, so
that the intermediates stay in the cache and memory does not grow with the system. `energy` is built on it with a
differentiation rule of its own (its derivative *is* the pair gradients), so that `jax.grad(energy)` costs one such pass and can
be differentiated again.
"""

from dataclasses import dataclass, field
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from bpjax.descriptors import Descriptor
from bpjax.geometry import environments
from bpjax.networks.elemental import MLP, apply_networks, init_networks
from bpjax.networks.scaling import init_scaling, scaled
from bpjax.spec import register
from bpjax.system import Environment, Neighbors, System

Params = dict
"""Arrays of a model: `{"networks": {element: ...}, "scaling": {element: {"mean", "scale"}}, "energy_scale": ()}`."""

BLOCK = 64
"""Atoms per block. The intermediates of 16 to 128 atoms fit the caches of current CPUs; timings hardly differ in between."""


@register
@dataclass(frozen=True)
class Potential:
    """A Behler-Parrinello potential, without its arrays: frozen and hashable, hence a static argument of jit.

    Attributes:
      descriptor: what describes an environment, such as `bpjax.descriptors.ACSF`.
      network: options of the per-element networks.
      offsets: energy per atom of each element, in eV, that is added on the host in float64 (see `total_energy`); empty for none.
      isolated: energies of the isolated atoms in eV, for reference; empty if not known.
    """

    descriptor: Descriptor
    network: MLP = field(default_factory=MLP)
    offsets: tuple[float, ...] = ()
    isolated: tuple[float, ...] = ()

    def __post_init__(self):
        for name in ("offsets", "isolated"):
            if len(getattr(self, name)) not in (0, len(self.elements)):
                raise ValueError(f"Potential {name}: one energy for each of {', '.join(self.elements)}, or none")

    @property
    def elements(self) -> tuple[str, ...]:
        """Chemical symbols in the order of the species indices."""
        return self.descriptor.elements

    @property
    def cutoff(self) -> float:
        """Radius in A beyond which an atom sees nothing."""
        return self.descriptor.cutoff

    def offset_energies(self, species: np.ndarray) -> np.ndarray:
        """Offsets of atoms in eV, float64, on the host, to be added to traced atomic energies."""
        table = np.array(self.offsets or (0.0,) * len(self.elements), dtype=np.float64)
        return table[np.asarray(species)]


def init(model: Potential, key: PRNGKeyArray, dtype=jnp.float32) -> Params:
    """Random network parameters and the identity scaling.

    Args:
      model: the potential.
      key: random key.
      dtype: float type in which parameters are stored; evaluation follows the positions.
    """
    return {
        "networks": init_networks(model.network, model.elements, model.descriptor.size, key, dtype),
        "scaling": init_scaling(model.elements, model.descriptor.size, dtype),
        "energy_scale": jnp.ones((), dtype),
    }


def energy_from_features(
    model: Potential, params: Params, G: Float[Array, "*batch D"], species: Int[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """Atomic energies in eV, relative to the offsets, from unscaled features; the one place where features meet networks."""
    params = jax.tree.map(lambda p: jnp.asarray(p, G.dtype), params)
    x = scaled(params["scaling"], model.elements, G)
    return params["energy_scale"] * apply_networks(model.network, params["networks"], model.elements, x, species)


def atomic_energy(
    model: Potential,
    params: Params,
    R_ij: Float[Array, "K 3"],
    species_i: Int[Array, ""],
    species_j: Int[Array, " K"],
    mask: Bool[Array, " K"],
) -> Float[Array, ""]:
    """Energy of one atom in its environment, in eV, relative to the offsets."""
    return energy_from_features(model, params, model.descriptor(R_ij, species_j, mask), species_i)


def local_energies(
    model: Potential,
    params: Params,
    env: Environment,
    species: Int[Array, " N"],
    *,
    block: int = BLOCK,
) -> tuple[Float[Array, " N"], Float[Array, "N K 3"]]:
    r"""Atomic energies in eV and pair gradients :math:`\partial E_i / \partial R_{ij}` in eV/A, block by block."""
    one = partial(_value_and_gradient, model, params)
    with jax.default_matmul_precision("highest"):  # tensor cores would round float32 products to 10 bits
        return in_blocks(one, (env.R_ij, species, env.species_j, env.mask), block)


def _value_and_gradient(model, params, args):
    return jax.value_and_grad(atomic_energy, argnums=2)(model, params, *args)


def in_blocks(function, arrays, block: int):
    """Maps a function of one atom over the leading axis: vmapped inside a block, one block after the other.

    The last block is filled up with the first atom again; what it yields there is cut off.
    """
    N = jax.tree.leaves(arrays)[0].shape[0]
    if N <= block:
        return jax.vmap(function)(arrays)
    # Blocks of equal size with as little filling as possible.
    count = -(-N // block)
    block = -(-N // count)
    fill = count * block - N

    def split(a):
        a = jnp.concatenate([a, jnp.broadcast_to(a[:1], (fill, *a.shape[1:]))]) if fill else a
        return a.reshape(count, block, *a.shape[1:])

    out = jax.lax.map(jax.vmap(function), jax.tree.map(split, arrays))
    return jax.tree.map(lambda a: a.reshape(count * block, *a.shape[2:])[:N], out)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def sum_of_local_energies(model, params, R_ij, species_j, mask, species, atom_mask):
    """Sum of the atomic energies as a function of pair vectors; its derivative is the pair gradients."""
    env = Environment(R_ij, species_j, mask)
    E_i, _ = local_energies(model, params, env, species)
    return jnp.sum(jnp.where(atom_mask, E_i, 0))


@partial(sum_of_local_energies.defjvp, symbolic_zeros=True)
def _sum_of_local_energies_jvp(model, primals, tangents):
    params, R_ij, species_j, mask, species, atom_mask = primals
    d_params, dR_ij, *_ = tangents

    def energies(params):
        return local_energies(model, params, Environment(R_ij, species_j, mask), species)

    if all(map(_is_zero, jax.tree.leaves(d_params, is_leaf=_is_zero))):
        E_i, g = energies(params)
        dE = jnp.zeros((), E_i.dtype)
    else:
        full = jax.tree.map(lambda p, d: jnp.zeros_like(p) if _is_zero(d) else d, params, d_params)
        (E_i, g), (dE_i, _) = jax.jvp(energies, (params,), (full,))
        dE = jnp.sum(jnp.where(atom_mask, dE_i, 0))
    if not _is_zero(dR_ij):
        real = atom_mask[:, None, None] & mask[:, :, None]
        dE = dE + jnp.sum(jnp.where(real, g, 0) * dR_ij)
    return jnp.sum(jnp.where(atom_mask, E_i, 0)), dE


def _is_zero(tangent) -> bool:
    """Whether a tangent is known to be zero, so that nothing need be computed for it."""
    return isinstance(tangent, jax.custom_derivatives.SymbolicZero)


def energy(model: Potential, params: Params, system: System, neighbors: Neighbors) -> Float[Array, ""]:
    r"""Energy in eV relative to the offsets, :math:`\sum_i E_i - \sum_i e_{s(i)}`; differentiable twice.

    A single structure; `vmap` over a padded batch of systems and neighbours, or over the parameters of an ensemble. The
    offsets (isolated atoms and mean, often hundreds of eV per atom) are left out because float32 could not hold the sum: add
    `model.offset_energies(species).sum()` on the host.

    Args:
      model: the potential (static).
      params: its arrays.
      system: positions, species, cell.
      neighbors: all neighbours within the cutoff; more (a skin) do no harm.
    """
    env = environments(system, neighbors)
    mask = jnp.ones(len(env.mask), bool) if system.atom_mask is None else jnp.asarray(system.atom_mask)
    return sum_of_local_energies(model, params, *env, jnp.asarray(system.species), mask)
