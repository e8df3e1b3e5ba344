r"""Behler-Parrinello potentials of several electronic states of a molecule: a smooth diabatic matrix, or one output per state.

Where states meet, energies have a cusp that no smooth network can have. The elements of a diabatic matrix are smooth, and its
eigenvalues have the cusp of themselves:

.. math:: H_{ij}(R) = \delta_{ij}\, \epsilon_i + \sum_t f_t(R) \sum_a N_t^{s(a)}(G_a)

For each element one network has an output :math:`N_t` for each term t of each independent element of the matrix, from the
features :math:`G_a` of atom a. :math:`f_t` is one, or for couplings that change sign under a symmetry operation an odd factor
of `bpjax.excited.odd`. A model and its parameters make a diabatic model in the sense of this folder:
``functools.partial(model, params)`` is a function of the positions in A that returns a matrix in eV.

References: S. Axelrod, E. Shakhnovich, R. Gomez-Bombarelli, Nat. Commun. 13, 3440 (2022),
doi:10.1038/s41467-022-30999-w (diabatic networks); Y. Shu, D. G. Truhlar, J. Chem. Theory Comput. 16, 6456
(2020), doi:10.1021/acs.jctc.0c00623.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from bpjax.descriptors import Descriptor
from bpjax.descriptors.base import parameters_of
from bpjax.elements import atomic_numbers, species_of
from bpjax.excited.hopping_watch import Watch
from bpjax.excited.odd import OddFactor, monomials
from bpjax.geometry import environments
from bpjax.networks.elemental import MLP, apply_outputs, init_networks
from bpjax.networks.scaling import init_scaling, outside, ranges_known, scaled
from bpjax.spec import register
from bpjax.system import Neighbors, System

Params = dict
"""`{"networks": {element: ...}, "scaling": {element: ...}, "scales": (T,)}`, and `"dipoles": {element: ...}` for a model with
dipoles. `scales` in eV: the spread of each term."""


class Term(NamedTuple):
    """One term of an element of the matrix: states i <= j, and the odd factors that multiply it, none for invariants alone."""

    i: int
    j: int
    factors: tuple[int, ...]


class StateModel(ABC):
    """What both kinds of models share; the terms of the matrix are the subclass's."""

    descriptor: Descriptor
    atoms: tuple[str, ...]
    states: int
    network: MLP
    zero: float
    offsets: tuple[float, ...]

    @property
    def elements(self) -> tuple[str, ...]:
        """Chemical symbols in the order of the species indices."""
        return self.descriptor.elements

    @property
    @abstractmethod
    def terms(self) -> tuple[Term, ...]:
        """Terms of the matrix, in the order of the outputs of the networks."""

    @property
    def factors(self) -> tuple[OddFactor, ...]:
        """The odd factors."""
        return ()

    @property
    def has_dipoles(self) -> bool:
        """Whether the model has dipoles."""
        return False

    @cached_property
    def levels(self) -> np.ndarray:
        """Offsets on the diagonal in eV, (S,), float64."""
        return np.array(self.offsets or (0.0,) * self.states)

    @cached_property
    def places(self) -> np.ndarray:
        """Where each term goes in the matrix, (T, S, S)."""
        places = np.zeros((len(self.terms), self.states, self.states))
        for t, (i, j, _) in enumerate(self.terms):
            places[t, i, j] = places[t, j, i] = 1.0
        return places

    @cached_property
    def rows(self) -> tuple[np.ndarray, ...]:
        """Atoms of each element; of 32 bits: JAX mistakes others when a function is traced in one precision, then the other."""
        return tuple(np.flatnonzero(self.species == s).astype(np.int32) for s in range(len(self.elements)))

    @cached_property
    def species(self) -> np.ndarray:
        """Species index of every atom."""
        return species_of(atomic_numbers(self.atoms), self.elements, "atoms")

    @cached_property
    def _neighbors(self) -> Neighbors:
        """All other atoms as neighbours of each."""
        N = len(self.atoms)
        idx = np.array([[j for j in range(N) if j != i] for i in range(N)], np.int32).reshape(N, N - 1)
        return Neighbors(idx, None, np.ones(idx.shape, bool))

    def check_options(self) -> None:
        """Raises for options that do not fit together.

        Raises:
          ValueError: with the name of the option.
        """
        name = type(self).__name__
        if len(self.atoms) < 2:
            raise ValueError(f"{name} atoms={self.atoms}: chemical symbols of at least two atoms")
        unknown = sorted(set(self.atoms) - set(self.elements))
        if unknown:
            raise ValueError(
                f"{name} atoms: {', '.join(unknown)} is not among the elements of the descriptor, {self.elements}"
            )
        if self.states < 1:
            raise ValueError(f"{name} states={self.states}: at least 1")
        if len(self.offsets) not in (0, self.states):
            raise ValueError(f"{name} offsets={self.offsets}: one energy for each of {self.states} states, or none")
        if not all(map(math.isfinite, (self.zero, *self.offsets))):
            raise ValueError(f"{name} zero={self.zero}, offsets={self.offsets}: must be finite, in eV")
        if parameters_of(self.descriptor, np.float32):
            raise ValueError(
                f"{name} descriptor: cannot be one that learns; its features are computed once for training"
            )

    def features(self, R: Float[Array, "N 3"]) -> Float[Array, "N D"]:
        """Features of every atom at positions in A."""
        env = environments(System(R, jnp.asarray(self.species)), self._neighbors)
        G = jnp.zeros((len(self.atoms), self.descriptor.size), R.dtype)
        for s, rows in enumerate(self.rows):
            if len(rows):
                own = jax.tree.map(lambda a, rows=rows: a[rows], env)
                G = G.at[rows].set(jax.vmap(lambda e, s=s: self.descriptor(e, s))(own))
        return G

    def factor_values(self, R: Float[Array, "N 3"]) -> Float[Array, " F"]:
        """Values of the odd factors."""
        return jnp.stack([f(R) for f in self.factors]) if self.factors else jnp.zeros(0, R.dtype)

    def term_factors(self, values: Float[Array, " F"]) -> Float[Array, " T"]:
        """Product of the factors of each term, one for invariants alone."""
        one = jnp.ones((), values.dtype)
        return jnp.stack([math.prod((values[k] for k in term.factors), start=one) for term in self.terms])

    def scaled_features(self, scaling: dict, G: Float[Array, "N D"]) -> Float[Array, "N D"]:
        """Features scaled for the network of each atom's element."""
        x = G
        for element, rows in self._present:
            own = jax.tree.map(lambda p: jnp.asarray(p, G.dtype), scaling[element])
            x = x.at[rows].set(scaled(own, G[rows]))
        return x

    def watch(self, params: Params) -> Watch:
        """What surface hopping looks at in the geometries: distances of atoms, and features outside of training where known."""
        scaling = params["scaling"]
        outside = partial(self.outside, scaling) if ranges_known(scaling) else None
        return Watch(tuple(self.atoms), 1.0, outside, len(self.atoms) * self.descriptor.size)

    def outside(self, scaling: dict, R: Float[Array, "N 3"]) -> Int[Array, ""]:
        """How many features at positions in A lie outside of their range in training."""
        G, found = self.features(R), jnp.zeros((), jnp.int32)
        for element, rows in self._present:
            own = jax.tree.map(lambda p: jnp.asarray(p, G.dtype), scaling[element])
            found += jnp.sum(jax.vmap(partial(outside, own))(G[rows]), dtype=jnp.int32)
        return found

    def outputs(self, networks: dict, x: Float[Array, "N D"]) -> Float[Array, "N C"]:
        """Outputs of the networks for every atom, from scaled features."""
        parts = []
        for element, rows in self._present:
            params = jax.tree.map(lambda p: jnp.asarray(p, x.dtype), networks[element])
            parts.append(apply_outputs(self.network, params, x[rows]))
        order = np.argsort(np.concatenate([rows for _, rows in self._present])).astype(np.int32)
        return jnp.concatenate(parts)[order]

    @property
    def _present(self) -> list[tuple[str, np.ndarray]]:
        """Elements that the molecule has, with their atoms."""
        return [(element, rows) for element, rows in zip(self.elements, self.rows, strict=True) if len(rows)]

    def matrix(self, params: Params, V: Float[Array, " T"], f: Float[Array, " T"]) -> Float[Array, "S S"]:
        """The matrix in eV from sums V of outputs over the atoms and the factors f of the terms."""
        scales = jnp.asarray(params["scales"], V.dtype)
        H = jnp.einsum("t,tij->ij", scales * f * V, jnp.asarray(self.places, V.dtype))
        return H + jnp.asarray(np.diag(self.levels), V.dtype)

    def __call__(self, params: Params, R: Float[Array, "N 3"]) -> Float[Array, "S S"]:
        """The diabatic matrix.

        Args:
          params: the arrays of the model.
          R: positions in A, of the atoms in the order of `atoms`; no periodic images. `vmap` for batches.

        Returns: symmetric matrix in eV relative to `zero`, in the type of the positions.
        """
        if R.shape != (len(self.atoms), 3):
            raise ValueError(
                f"positions of shape {R.shape}: the model is one of {len(self.atoms)} atoms, so {(len(self.atoms), 3)}"
            )
        with jax.default_matmul_precision("highest"):
            y = self.outputs(params["networks"], self.scaled_features(params["scaling"], self.features(R)))
            return self.matrix(params, jnp.sum(y, axis=0), self.term_factors(self.factor_values(R)))


@register
@dataclass(frozen=True)
class MultiStatePotential(StateModel):
    """An adiabatic model for comparison: one output per state and no couplings, hence rounded where states meet.

    As a diabatic model it is a diagonal matrix.

    Attributes:
      descriptor: what describes an environment.
      atoms: chemical symbols of the molecule, in order.
      states: number of states S.
      network: options of the per-element networks.
      zero: energy in eV that is left out of the matrix, because float32 could not hold the sum: add it on the host.
      offsets: further constants in eV for each state, (S,); empty for none.

    Raises:
      ValueError: options that do not fit together.
    """

    descriptor: Descriptor
    atoms: tuple[str, ...]
    states: int
    network: MLP = field(default_factory=MLP)
    zero: float = 0.0
    offsets: tuple[float, ...] = ()

    def __post_init__(self):
        self.check_options()

    @cached_property
    def terms(self) -> tuple[Term, ...]:
        """The diagonal."""
        return tuple(Term(i, i, ()) for i in range(self.states))


@register
@dataclass(frozen=True)
class DiabaticPotential(StateModel):
    """A Behler-Parrinello potential whose output is a diabatic matrix.

    Attributes:
      descriptor: what describes an environment.
      atoms: chemical symbols of the molecule, in order.
      states: number of diabatic states S; more than the data have adiabatic ones is allowed, the data then are the lowest.
      network: options of the per-element networks, which have one output for each term of the matrix.
      odd: odd factors for couplings, see `bpjax.excited.odd`; empty for invariants alone.
      signs: for each state the names of the operations that turn it over; empty for none. The coupling of two states has a term
        for each factor, and each product of two, that is odd under just the operations in which the two differ.
      zero: energy in eV that is left out of the matrix, because float32 could not hold the sum: add it on the host.
      offsets: constants in eV on the diagonal, (S,); empty for none.
      dipoles: whether there is a dipole matrix as well, see `bpjax.excited.dipoles`.
      charge: of the molecule, in e, which decides how permanent dipoles change when it is moved.

    Raises:
      ValueError: options that do not fit together, among them a coupling that no factor has the signs for.
    """

    descriptor: Descriptor
    atoms: tuple[str, ...]
    states: int
    network: MLP = field(default_factory=MLP)
    odd: tuple[OddFactor, ...] = ()
    signs: tuple[tuple[str, ...], ...] = ()
    zero: float = 0.0
    offsets: tuple[float, ...] = ()
    dipoles: bool = False
    charge: float = 0.0

    def __post_init__(self):
        self.check_options()
        if self.odd and not self.signs:
            raise ValueError("DiabaticPotential signs=(): with odd factors every state must say which signs it carries")
        if len(self.signs) not in (0, self.states):
            raise ValueError(f"DiabaticPotential signs={self.signs}: for each of {self.states} states, or empty")
        for factor in self.odd:
            name = type(factor).__name__
            if max(factor.named, default=0) >= len(self.atoms):
                raise ValueError(
                    f"DiabaticPotential odd: {name} names atoms {factor.named}, there are {len(self.atoms)}"
                )
            if getattr(factor, "atoms", self.atoms) != self.atoms:
                raise ValueError(f"DiabaticPotential odd: {name} is for the atoms {factor.atoms}, not {self.atoms}")  # pyright: ignore[reportAttributeAccessIssue]
        self.terms  # noqa: B018  checks that every coupling has a term

    @property
    def factors(self) -> tuple[OddFactor, ...]:
        """The odd factors."""
        return self.odd

    @property
    def has_dipoles(self) -> bool:
        """Whether the model has dipoles."""
        return self.dipoles

    @cached_property
    def terms(self) -> tuple[Term, ...]:
        """Terms of the matrix: the diagonal, then for each pair of states what has its signs."""
        own = [frozenset(signs) for signs in self.signs or ((),) * self.states]
        found = [Term(i, i, ()) for i in range(self.states)]
        for i in range(self.states):
            for j in range(i + 1, self.states):
                products = monomials(self.odd, own[i] ^ own[j])
                if not products:
                    wanted = ", ".join(sorted(own[i] ^ own[j]))
                    raise ValueError(
                        f"DiabaticPotential odd: the coupling of states {i} and {j} needs a factor, or a product of two, with "
                        f"the signs {wanted}; there is none"
                    )
                found += [Term(i, j, product) for product in products]
        return tuple(found)


def init(model: StateModel, key: PRNGKeyArray, dtype=jnp.float32) -> Params:
    """Random parameters of the networks, the identity scaling, scales of 1 eV.

    Args:
      model: the options.
      key: random key.
      dtype: float type in which parameters are stored; evaluation follows the positions.
    """
    size, T = model.descriptor.size, len(model.terms)
    energies, dipoles = jax.random.split(key)
    params = {
        "networks": init_networks(model.network, model.elements, size, energies, dtype, outputs=T),
        "scaling": init_scaling(model.elements, size, dtype),
        "scales": jnp.ones(T, dtype),
    }
    if model.has_dipoles:
        params["dipoles"] = init_networks(model.network, model.elements, size, dipoles, dtype, outputs=2 * T)
    return params
