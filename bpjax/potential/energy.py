r"""The potential: descriptor, scaling, per-element networks, and the sum :math:`E = \sum_i E_i(\{R_{ij}\})`.

The atomic energies and their *pair gradients* :math:`g_{ij} = \partial E_i / \partial R_{ij}` come out of one function,
`local_energies`, block by block: a block of atoms runs through descriptor, network and back before the next one starts.
`energy` is built on it with a differentiation rule of its own (its derivative *is* the pair gradients), so that
`jax.grad(energy)` costs one such pass and can be differentiated again.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from bpjax.descriptors import Descriptor
from bpjax.descriptors.base import of_species, parameters_of, require_descriptor
from bpjax.errors import ConfigError
from bpjax.geometry import environments, real_atoms
from bpjax.networks.elemental import MLP, PerElement, apply_network, init_networks, options_of
from bpjax.networks.kernel import SparseGP
from bpjax.networks.noise import NoiseModel, init_noise, log_widths
from bpjax.networks.scaling import init_scaling, outside, scaled
from bpjax.potential.blocks import (
    LANES,
    block_size,
    in_blocks,
    in_element_blocks,
    lanes_pay,
    one_of,
    whole_vectors,
)
from bpjax.potential.free_atoms import with_free_atom
from bpjax.spec import register
from bpjax.system import Environment, Neighbors, System

Params = dict
"""Arrays of a model: `{"networks": {element: ...}, "scaling": {element: {"mean", "scale", "min", "max"}}, "energy_scale": ()}`;
`"descriptor"` where it learns something, `"free_atoms"` where energies of isolated atoms are exact (see `free_atoms`), `"noise"`
where widths of errors are predicted, and in sweeps `"choices"`, a `bpjax.networks.NetworkChoices`; in a committee each has a
leading axis of members."""


@register
@dataclass(frozen=True)
class Potential:
    """A Behler-Parrinello potential, without its arrays: frozen and hashable, hence a static argument of jit.

    Attributes:
      descriptor: what describes an environment, such as `bpjax.descriptors.ACSF`.
      network: options of the per-element networks (or sparse Gaussian processes), the same for all or one by one.
      offsets: energy per atom of each element, in eV, that is added on the host in float64 (see `total_energy`); empty for none.
      isolated: energies of the isolated atoms in eV, which the potential gives if its arrays include `"free_atoms"`; empty if not
        known.
      members: how many networks a committee has for each element; its energy is their mean. None for a single one.
      noise: networks that predict the widths of the errors of the labels, or None.
    """

    descriptor: Descriptor
    network: MLP | SparseGP | PerElement = field(default_factory=MLP)
    offsets: tuple[float, ...] = ()
    isolated: tuple[float, ...] = ()
    members: int | None = None
    noise: NoiseModel | None = None

    def __post_init__(self):
        try:
            require_descriptor(self.descriptor)
        except ConfigError as error:
            raise ValueError(f"Potential descriptor: {error.message}") from None
        if not isinstance(self.network, MLP | SparseGP | PerElement):
            raise ValueError(
                f"Potential network: {type(self.network).__name__} is none of MLP, PerElement, SparseGP, which are options: "
                "arrays are in the parameters"
            )
        if self.members is not None and self.members < 1:
            raise ValueError(f"Potential members={self.members}: at least 1, or None for no committee")
        if self.members is not None and parameters_of(self.descriptor, np.float32):
            raise ValueError(
                "Potential members: networks of a committee share their features, so the descriptor cannot learn"
            )
        if isinstance(self.network, PerElement) and len(self.network.networks) != len(self.elements):
            raise ValueError(f"Potential network: one for each of {', '.join(self.elements)}")
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


def require_potential(model: Any) -> None:
    """Raises for what is none of `Potential`.

    Raises:
      ConfigError: naming what it is, and what takes it.
    """
    if not isinstance(model, Potential):
        several = hasattr(model, "states") and hasattr(model, "atoms")
        text = "is a potential of several states; bpjax hop and bpjax.excited take it" if several else "is no Potential"
        raise ConfigError(f"{type(model).__name__} {text}", field="model")


def init(model: Potential, key: PRNGKeyArray, dtype=jnp.float32) -> Params:
    """Random network parameters and the identity scaling.

    Args:
      model: the potential.
      key: random key.
      dtype: float type in which parameters are stored, of those that JAX is set to; evaluation follows the positions.
    """
    if model.members is not None:
        one = replace(model, members=None)
        return jax.vmap(lambda k: init(one, k, dtype))(jax.random.split(key, model.members))
    params = {
        "networks": init_networks(model.network, model.elements, model.descriptor.size, key, dtype),
        "scaling": init_scaling(model.elements, model.descriptor.size, dtype),
        "energy_scale": jnp.ones((), dtype),
    }
    learned = parameters_of(model.descriptor, dtype)
    if learned:
        params["descriptor"] = learned
    if model.noise is not None:
        key = jax.random.fold_in(key, 1)
        params["noise"] = init_noise(model.noise, model.elements, model.descriptor.size, key, dtype)
    return params


def with_fixed_descriptor(model: Potential, params: Params) -> tuple[Potential, Params]:
    """The same potential with what its descriptor has learned as options of the descriptor, where it can hold them (ACSF)."""
    fixed = getattr(model.descriptor, "with_parameters", None)
    if fixed is None or "descriptor" not in params:
        return model, params
    rest = {name: value for name, value in params.items() if name != "descriptor"}
    return replace(model, descriptor=fixed(params["descriptor"])), rest


def environment_features(
    descriptor: Descriptor, params: Params, env: Environment, species_i: Int[Array, ""] | int
) -> Float[Array, " D"]:
    """Features of one environment, with what the descriptor has learned in a model."""
    if "descriptor" not in params:
        return descriptor(env, species_i)
    return descriptor(env, species_i, params["descriptor"])  # pyright: ignore[reportCallIssue]


def features_alone(model: Potential, params: Params, species: int) -> Float[Array, " D"]:
    """Features of an atom of this species index that has no neighbours."""
    nothing = Environment(jnp.zeros((1, 3)), jnp.zeros(1, jnp.int32), jnp.zeros(1, bool))
    return environment_features(model.descriptor, params, nothing, species)


def energy_from_features(
    model: Potential, params: Params, G: Float[Array, "*batch D"], species: Int[Array, "*batch"] | int
) -> Float[Array, "*batch"]:
    """Atomic energies in eV, relative to the offsets, from unscaled features; the one place where features meet networks."""
    if G.ndim > 1:
        return jax.vmap(lambda G, species: energy_from_features(model, params, G, species))(G, species)
    if model.members is not None:
        one = replace(model, members=None)
        return jnp.mean(jax.vmap(lambda params: energy_from_features(one, params, G, species))(params))
    params = jax.tree.map(lambda p: jnp.asarray(p, G.dtype), params)

    def energy(s):
        element = model.elements[s]
        scaling, own = params["scaling"][element], params["networks"][element]

        def network(x):
            return params["energy_scale"] * apply_network(options_of(model.network, s), own, x, params.get("choices"))

        x = scaled(scaling, G)
        if "free_atoms" not in params:
            return network(x)
        offset = model.offsets[s] if model.offsets else 0.0
        return with_free_atom(params["free_atoms"][element], scaling, x, network, model.isolated[s] - offset)

    return of_species(model.elements, energy, species)


def noise_from_features(
    model: Potential, params: Params, G: Float[Array, " D"], species: Int[Array, ""] | int
) -> Float[Array, " 2"]:
    """Logarithms of the widths of an atom's energy and force relative to those of `Potential.noise`; see `NoiseModel`."""
    assert model.noise is not None
    options, elements = model.noise, model.elements
    params = jax.tree.map(lambda p: jnp.asarray(p, G.dtype), {name: params[name] for name in ("noise", "scaling")})

    def network(s):
        return log_widths(options, params["noise"][elements[s]], scaled(params["scaling"][elements[s]], G))

    return of_species(elements, network, species)


def features_outside(
    model: Potential, params: Params, G: Float[Array, " D"], species: Int[Array, ""] | int
) -> Bool[Array, " D"]:
    """Which features of an atom lie outside the range of training (in a committee, outside that of any member)."""
    if model.members is not None:
        one = replace(model, members=None)
        return jnp.any(jax.vmap(lambda params: features_outside(one, params, G, species))(params), axis=0)
    scaling = jax.tree.map(lambda p: jnp.asarray(p, G.dtype), params["scaling"])
    return of_species(model.elements, lambda s: outside(scaling[model.elements[s]], G), species)


class LocalEnergies(NamedTuple):
    r"""Atomic energies in eV and pair gradients :math:`\partial E_i / \partial R_{ij}` in eV/A.

    `outside`, if asked for, is how many features of each atom lie outside the range of training; `noise` is what
    `noise_from_features` gives, for a model that predicts it.
    """

    energies: Float[Array, " N"]
    pair_gradients: Float[Array, "N K 3"]
    outside: Int[Array, " N"] | None = None
    noise: Float[Array, "N 2"] | None = None


def local_energies(
    model: Potential,
    params: Params,
    env: Environment,
    species: Int[Array, " N"],
    *,
    watch: bool = False,
    block: int | None = None,
    lanes: bool | None = None,
) -> LocalEnergies:
    """Atomic energies and pair gradients, block by block; `watch` also counts features outside the range of training.

    Where nothing is differentiated any further, blocks are evaluated in the fast form that their descriptor may have; derivatives
    of the result are those of the plain one. `block` is the number of atoms per block of the plain form, `lanes` whether the fast
    one is taken; by default both are what is fastest.
    """
    block = block_size(model.descriptor, env.mask.shape[-1]) if block is None else block
    lanes = lanes_pay(model.descriptor) if lanes is None else lanes
    with jax.default_matmul_precision("highest"):  # tensor cores would round float32 products to 10 bits
        if not lanes:
            return _plain(model, watch, block, params, env, species)
        return _in_lanes(model, watch, block, params, env, species)


def _plain(model, watch, block, params, env, species) -> LocalEnergies:
    return in_blocks(partial(value_and_gradient, model, params, watch), species, env, block, len(model.elements))


@partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _in_lanes(model, watch, block, params, env, species) -> LocalEnergies:
    return _all_in_lanes(model, watch)(params, env, species)


@partial(_in_lanes.defjvp, symbolic_zeros=True)
def _in_lanes_jvp(model, watch, block, primals, tangents):
    """The plain form and its derivatives with respect to what is differentiated."""
    leaves, tree = jax.tree.flatten(primals)
    tangents = jax.tree.leaves(tangents, is_leaf=_is_zero)
    moving = [n for n, tangent in enumerate(tangents) if not _is_zero(tangent)]

    def plain(values):
        own = dict(zip(moving, values, strict=True))
        return _plain(model, watch, block, *tree.unflatten([own.get(n, leaf) for n, leaf in enumerate(leaves)]))

    return jax.jvp(plain, ([leaves[n] for n in moving],), ([tangents[n] for n in moving],))


def _all_in_lanes(model: Potential, watch: bool) -> Callable[..., LocalEnergies]:
    """Blocks of the fast form over all atoms; a batch of structures is evaluated as one with all their atoms."""

    @jax.custom_batching.custom_vmap
    def evaluate(params, env, species):
        elements, N = len(model.elements), len(species)
        one_block = partial(block_in_lanes, model, params, watch)
        if elements == 1 and N <= LANES and N == whole_vectors(N):
            return one_block(jnp.zeros((), jnp.int32), env)
        lanes = min(whole_vectors(-(-N // elements)), LANES)
        return in_element_blocks(one_block, species, env, lanes, elements, jnp.sum(env.mask, axis=1, dtype=jnp.int32))

    @evaluate.def_vmap
    def _(size, batched, params, env, species):
        all_params, all_atoms = (jax.tree.leaves(flags) for flags in (batched[0], batched[1:]))
        if not any(all_atoms):  # members: the features are theirs together
            axes = jax.tree.map(lambda moves: 0 if moves else None, batched[0])
            out = jax.vmap(evaluate.fun, in_axes=(axes, None, None), axis_size=size)(params, env, species)
        else:
            env, species = jax.tree.map(partial(_broadcast, size), tuple(batched[1:]), (env, species))
            if any(all_params):
                params = jax.tree.map(partial(_broadcast, size), batched[0], params)
                out = jax.lax.map(lambda one: evaluate(*one), (params, env, species))
            else:
                atoms = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (env, species))
                out = jax.tree.map(lambda x: x.reshape(size, -1, *x.shape[1:]), evaluate(params, *atoms))
        return out, jax.tree.map(lambda _: True, out)

    return evaluate


def _broadcast(size: int, batched: bool, x):
    return x if batched else jnp.broadcast_to(x, (size, *jnp.shape(x)))


def block_energies(
    model: Potential, params: Params, watch: bool, element: Int[Array, ""], env: Environment
) -> LocalEnergies:
    """Energies and pair gradients of a block of atoms of one element, in the form that is fastest.

    Zeros if `element` is the number of elements, which marks a block that is not needed.
    """
    if lanes_pay(model.descriptor):
        return block_in_lanes(model, params, watch, element, env)
    plain = partial(value_and_gradient, model, params, watch)
    return one_of([jax.vmap(partial(plain, s)) for s in range(len(model.elements))], element, env)


def block_in_lanes(
    model: Potential, params: Params, watch: bool, element: Int[Array, ""], env: Environment
) -> LocalEnergies:
    """What `block_energies` gives, in the fast form of the descriptor."""
    descriptor: Any = model.descriptor
    elements = range(len(model.elements))

    def network(s):
        return jax.vmap(jax.value_and_grad(partial(_from_features, model, params, watch, s), has_aux=True))

    def evaluate(s, networks, env):
        G, pull = jax.vjp(lambda R_ij: descriptor.in_lanes(env._replace(R_ij=R_ij), s), env.R_ij)
        (E_i, rest), dG = networks(G)
        return LocalEnergies(E_i, *pull(dG), *rest)

    if not descriptor.same_for_all:
        return one_of([partial(evaluate, s, network(s)) for s in elements], element, env)
    # Features are compiled once for all elements, networks for each.
    networks = partial(one_of, [network(s) for s in elements], element)
    return one_of([partial(evaluate, 0, networks)], element // len(elements), env)


def value_and_gradient(
    model: Potential, params: Params, watch: bool, species_i: Int[Array, ""] | int, env: Environment
) -> LocalEnergies:
    """Energy and pair gradients of one atom."""

    def energy(R_ij):
        G = environment_features(model.descriptor, params, env._replace(R_ij=R_ij), species_i)
        return _from_features(model, params, watch, species_i, G)

    (E_i, rest), g = jax.value_and_grad(energy, has_aux=True)(env.R_ij)
    return LocalEnergies(E_i, g, *rest)


def _from_features(model, params, watch, species_i, G):
    """Energy of an atom, and what else `LocalEnergies` holds."""
    outside = jnp.sum(features_outside(model, params, G, species_i), dtype=jnp.int32) if watch else None
    noise = noise_from_features(model, params, G, species_i) if model.noise and model.members is None else None
    return energy_from_features(model, params, G, species_i), (outside, noise)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def sum_of_local_energies(model, params, R_ij, species_j, mask, species, atom_mask):
    """Sum of the atomic energies as a function of pair vectors; its derivative is the pair gradients."""
    env = Environment(R_ij, species_j, mask)
    E_i = local_energies(model, params, env, species).energies
    return jnp.sum(jnp.where(atom_mask, E_i, 0))


@partial(sum_of_local_energies.defjvp, symbolic_zeros=True)
def _sum_of_local_energies_jvp(model, primals, tangents):
    params, R_ij, species_j, mask, species, atom_mask = primals
    d_params, dR_ij, *_ = tangents

    def energies(params):
        return local_energies(model, params, Environment(R_ij, species_j, mask), species)[:2]

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
    return sum_of_local_energies(model, params, *env, jnp.asarray(system.species), real_atoms(system))
