r"""Predictions of multi-state models from features and derivatives that are computed once.

With :math:`V_t = \sum_a N_t(x_a)` the matrix and its gradient are linear in :math:`V_t` and
:math:`\nabla V_t = \sum_a \partial N_t/\partial x_a \cdot \partial x_a/\partial R`, and energies, gradients
and couplings are their transforms by the eigenvectors. A step of training is then a few matrix products.
"""

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bpjax.errors import ConfigError
from bpjax.excited.diabatic import Params, StateModel
from bpjax.excited.dipoles import dipole_parts, dipoles_from_outputs
from bpjax.excited.eigen import eigh
from bpjax.excited.state_losses import StateLabels, StatesLoss
from bpjax.excited.states_data import StatesData, without_rigid_motions


class StateInputs(NamedTuple):
    """What a geometry enters the networks with: scaled features and their derivatives by the C coordinates, factors of the terms
    and theirs, positions.
    """

    x: Float[Array, "*batch N D"]
    dx: Float[Array, "*batch N D C"]
    f: Float[Array, "*batch T"]
    df: Float[Array, "*batch T C"]
    R: Float[Array, "*batch N 3"]


@partial(jax.jit, static_argnums=0)
def _inputs(model: StateModel, scaling: dict, R: Float[Array, "n N 3"]) -> StateInputs:
    def one(R):
        def features(R):
            x = model.scaled_features(scaling, model.features(R))
            return x, x

        def factors(R):
            f = model.term_factors(model.factor_values(R))
            return f, f

        (dx, x), (df, f) = jax.jacfwd(features, has_aux=True)(R), jax.jacrev(factors, has_aux=True)(R)
        return StateInputs(x, dx.reshape(*x.shape, -1), f, df.reshape(len(f), -1), R)

    return jax.lax.map(one, R, batch_size=16)


def state_inputs(model: StateModel, params: Params, R: Float[Array, "n N 3"]) -> StateInputs:
    """Inputs of n geometries at positions in A, with the scaling of the parameters."""
    return _inputs(without_energies(model), params["scaling"], R)


def without_energies(model: Any) -> Any:
    """The model without its energies, on which features do not depend: one compilation for all of them."""
    return replace(model, zero=0.0, offsets=())


@partial(jax.jit, static_argnums=0)
def features_and_factors(model: StateModel, R: Float[Array, "n N 3"]):
    """Unscaled features (n, N, D) and factors of the terms (n, T), to choose scales by."""

    def one(R):
        return model.features(R), model.term_factors(model.factor_values(R))

    return jax.lax.map(one, R, batch_size=16)


def prediction(
    model: StateModel, params: Params, inputs: StateInputs, states: int, broadening: float = 0.0
) -> StateLabels:
    """Energies, gradients, couplings and (of a model with dipoles) dipoles of the lowest states, for one geometry.

    Args:
      model: the model (static).
      params: its arrays.
      inputs: of one geometry.
      states: how many of the lowest adiabatic states.
      broadening: see `bpjax.excited.eigen.inverse_gaps`; changes derivatives only.
    """
    y, dy = _with_derivatives(model, params["networks"], inputs.x)
    V, dV = jnp.sum(y, axis=0), jnp.einsum("atd,adc->tc", dy, inputs.dx)
    H = model.matrix(params, V, inputs.f)
    scale = jnp.asarray(params["scales"], V.dtype)[:, None]
    dH = jnp.einsum("tc,tij->ijc", scale * (inputs.f[:, None] * dV + inputs.df * V[:, None]), _places(model, V))
    E, U = eigh(H, broadening)
    U = U[:, :states]
    interstate = jnp.einsum("ai,abc,bj->ijc", U, dH, U)
    k, (i, j) = np.arange(states, dtype=np.int32), np.array(np.triu_indices(states, 1), np.int32)
    mu = None
    if model.has_dipoles:
        df = inputs.df.reshape(len(inputs.f), -1, 3)
        out = model.outputs(params["dipoles"], inputs.x)
        mu = dipoles_from_outputs(model, out, dipole_parts(inputs.f, df, inputs.R), inputs.R)
        mu = jnp.einsum("ai,abx,bj->ijx", U, mu, U)
    return StateLabels(E[:states], interstate[k, k], interstate[i, j], mu)


def _places(model: StateModel, like) -> Array:
    return jnp.asarray(model.places, like.dtype)


def _with_derivatives(model: StateModel, networks: dict, x: Float[Array, "N D"]):
    """Outputs (N, T) and their derivatives by the atom's own features, (N, T, D)."""
    y, pullback = jax.vjp(lambda x: model.outputs(networks, x), x)
    one = jnp.eye(y.shape[1], dtype=y.dtype)
    # Outputs of an atom depend on its own features alone: one seed serves all atoms.
    dy = jax.vmap(lambda seed: pullback(jnp.broadcast_to(seed, y.shape))[0])(one)
    return y, jnp.swapaxes(dy, 0, 1)


def labels_of(data: StatesData, zero: float, loss: StatesLoss, dtype) -> StateLabels:
    """The labels that a loss asks for, in the terms of the loss: energies relative to `zero`, couplings without rigid rotations.

    Raises:
      ConfigError: labels that the data do not have; says which losses are possible.
    """
    missing = [kind for kind in loss.wanted if getattr(data, kind) is None]
    if missing:
        possible = ", ".join(data.possible_losses())
        message = (
            f"the data have no {' and no '.join(missing)}; possible are losses of {possible}: set the others to None"
        )
        raise ConfigError(message, field="loss")
    n = len(data)

    def flat(a, project=False):
        if a is None:
            return None
        a = without_rigid_motions(a, data.positions) if project else a
        return jnp.asarray(a.reshape(n, a.shape[1], -1), dtype)

    return StateLabels(
        jnp.asarray(data.energies - zero, dtype),
        flat(data.gradients) if loss.gradients is not None else None,
        flat(data.couplings, project=True) if loss.couplings is not None else None,
        jnp.asarray(data.dipoles, dtype) if loss.dipoles is not None else None,
    )
