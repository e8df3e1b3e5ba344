r"""Potentials that are linear in their parameters, and the least squares that fit them.

With atomic energies :math:`E_i = \sum_p \theta_p \phi_p(G_i)` the energy, the forces and the stress of a structure are linear in
:math:`\theta` too. The likelihood loss of many structures is then

.. math:: L = \frac1W \left( |A\theta - b|^2 \right)

with one row of A for each label, divided by its width. Rows are made structure by structure and kept only as the triangle of a
QR factorisation: memory does not grow with the data, and no digits are lost to the squares of normal equations.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import ase
import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from bpjax.errors import ConfigError, StructureError
from bpjax.geometry import environments, forces_from_pairs, real_atoms, virial_from_pairs
from bpjax.networks.elemental import options_of
from bpjax.networks.kernel import SparseGP
from bpjax.potential.blocks import in_blocks
from bpjax.potential.describe import JACOBIAN_BLOCK, JACOBIAN_COST, alike, pair_jacobian
from bpjax.potential.energy import Params, Potential, energy_from_features
from bpjax.progress import ProgressFn, silent
from bpjax.system import Neighbors, System
from bpjax.training.dataset import VOIGT, Dataset
from bpjax.training.losses import STRESS_MULTIPLICITY, LikelihoodLoss


class Rows(NamedTuple):
    """Energy, forces and virial of a structure for each of the P parameters being one and the others zero."""

    energy: Float[Array, " P"]
    forces: Float[Array, "N 3 P"]
    virial: Float[Array, "3 3 P"]


class Squares(NamedTuple):
    r"""Triangle (P+1, P+1) with :math:`|T (\theta, -1)|^2 = |A\theta - b|^2`, and the sum W of the structures' weights."""

    triangle: np.ndarray
    weight: float

    def loss(self, theta: np.ndarray) -> float:
        """The likelihood loss."""
        return float(np.sum((self.triangle @ np.append(theta, -1.0)) ** 2) / self.weight)

    def minimise(self, penalty: np.ndarray) -> np.ndarray:
        r"""Parameters that minimise :math:`L + |B\theta|^2` for the rows B, (Q, P); where many do, the shortest.

        Pivoted QR of the rows of both, which keeps what the square would lose.
        """
        scale = 1 / math.sqrt(self.weight)
        A = np.concatenate([scale * self.triangle[:, :-1], penalty])
        b = np.concatenate([scale * self.triangle[:, -1], np.zeros(len(penalty))])
        return scipy.linalg.lstsq(A, b, lapack_driver="gelsy")[0]  # pyright: ignore[reportOptionalSubscript]


def linear_part(model: Potential, params: Params) -> dict:
    """The parameters of each element that its atomic energies are linear in.

    Raises:
      ValueError: a network that is not linear in its parameters.
    """
    found = {}
    for index, element in enumerate(model.elements):
        options, own = options_of(model.network, index), params["networks"][element]
        if not isinstance(options, SparseGP) and (options.hidden or options.output_activation != "linear"):
            raise ValueError(f"network={options}: is not linear in its parameters")
        found[element] = {"weights": own["weights"]} if isinstance(options, SparseGP) else own
    return found


def with_linear(params: Params, linear: dict) -> Params:
    """Parameters with the linear part replaced."""
    networks = {element: {**own, **linear[element]} for element, own in params["networks"].items()}
    return {**params, "networks": networks}


@partial(jax.jit, static_argnums=0)
def _rows(model: Potential, params: Params, system: System, neighbors: Neighbors) -> Rows:
    """The rows of one structure; `params` give scaling and sparse points."""
    dtype = jnp.asarray(system.positions).dtype
    start, unravel = ravel_pytree(jax.tree.map(lambda p: jnp.asarray(p, dtype), linear_part(model, params)))

    def one(species_i, env):
        def basis(G):
            def energy(theta):
                return energy_from_features(model, with_linear(params, unravel(theta)), G, species_i)

            return jax.grad(energy)(start)

        G, J = pair_jacobian(model.descriptor, species_i, env)
        along = jax.vmap(lambda tangent: jax.jvp(basis, (G,), (tangent,))[1])
        return basis(G), along(J.reshape(-1, J.shape[-1])).reshape(*J.shape[:-1], -1)

    env, species = environments(system, neighbors), jnp.asarray(system.species)
    with jax.default_matmul_precision("highest"):
        phi, g = in_blocks(one, species, env, JACOBIAN_BLOCK, len(model.elements))
    real = real_atoms(system)
    mask = env.mask & real[:, None]
    forces = jax.vmap(partial(forces_from_pairs, idx=jnp.asarray(neighbors.idx), mask=mask), 3, 2)(g)
    virial = jax.vmap(lambda g: virial_from_pairs(g, env.R_ij, mask), 3, 2)(g)
    return Rows(jnp.sum(jnp.where(real[:, None], phi, 0), axis=0), forces, virial)


def squares(
    model: Potential,
    params: Params,
    frames: Sequence[ase.Atoms],
    data: Dataset,
    loss: LikelihoodLoss,
    dtype: str = "float32",
    progress: ProgressFn = silent,
) -> Squares:
    """The least-squares problem of a data set.

    Args:
      model: a potential that is linear in its parameters, with its energy offsets.
      params: its arrays, whose linear part does not matter.
      frames: the structures.
      data: their labels and weights, from `bpjax.training.dataset.build_dataset`.
      loss: widths of the labels.
      dtype: precision of the features.
      progress: shows how many structures are done.

    Raises:
      ConfigError: a loss that is not a sum of squares with given widths.
      StructureError: no structure has a label that the loss asks for.
    """
    if loss.beyond_squares:
        message = "linear fits are of squares with given widths; leave it out"
        raise ConfigError(message, field=f"loss.{loss.beyond_squares[0]}")
    plain = replace(model, offsets=(), isolated=())  # not to compile again when only these change
    size = sum(leaf.size for leaf in jax.tree.leaves(linear_part(model, params)))
    triangle, waiting = np.zeros((0, size + 1)), [np.zeros((0, size + 1))]
    with progress(len(frames), "least squares") as bar:
        for number, system, neighbors in alike(model.descriptor, frames, dtype, cost=JACOBIAN_COST):
            rows = jax.tree.map(lambda a: np.asarray(a, np.float64), _rows(plain, params, system, neighbors))
            waiting.append(_weighted(model, rows, data, number, loss))
            if sum(map(len, waiting)) > max(4 * size, 1000):
                triangle, waiting = np.linalg.qr(np.concatenate([triangle, *waiting]), mode="r"), []
            bar.update(1)
    triangle = np.linalg.qr(np.concatenate([triangle, *waiting]), mode="r")
    if not len(triangle):
        raise StructureError("no structure has a label that the loss asks for")
    return Squares(triangle, max(float(data.weight.sum()), 1e-12))


def _weighted(model: Potential, rows: Rows, data: Dataset, n: int, loss: LikelihoodLoss) -> np.ndarray:
    """Rows and labels (rows, P+1) of structure n, divided by the widths that they have in `likelihood_loss`."""
    atoms, found = int(data.sizes[n]), []
    here = slice(data.first[n], data.first[n + 1])

    def add(A, b, width):
        known = np.isfinite(b)
        found.append((np.column_stack([A, b]) / np.reshape(width, (-1, 1)))[known])

    if loss.energy is not None:
        offset = data.counts[n] @ model.offset_energies(np.arange(len(model.elements)))
        width = loss.energy * (atoms if loss.energy_per == "atom" else 1)
        add(rows.energy[None], data.energy[n : n + 1] - offset, width)
    if loss.forces is not None:
        wanted = np.where(np.isfinite(data.forces[here]).all(axis=1, keepdims=True), data.forces[here], np.nan)
        width = np.hypot(loss.forces, loss.forces_relative * np.linalg.norm(data.forces[here], axis=1))
        with np.errstate(divide="ignore"):  # of no weight, infinitely wide
            width = math.sqrt(3 * atoms) * width / np.sqrt(data.forces_weight[here])
        add(rows.forces[:atoms].reshape(3 * atoms, -1), wanted.ravel(), np.repeat(width, 3))
    if loss.stress is not None and np.isfinite(data.stress[n]).all():
        W = rows.virial
        stress = -0.5 * (W + W.swapaxes(0, 1))[VOIGT] / data.volume[n]
        add(stress, data.stress[n], 3 * loss.stress / np.sqrt(STRESS_MULTIPLICITY))
    return math.sqrt(data.weight[n]) * np.concatenate(found)
