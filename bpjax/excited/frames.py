r"""The electronic problem at one geometry as dynamics needs it: energies, states, and gradients by one reverse pass each.

For three states there are six matrix elements, of which a step needs the gradient of one combination: the weights are put in
first, :math:`\sum_{ab} W_{ab} \nabla H_{ab}`, and the whole gradient of the matrix is never made.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float, Inexact, Int

from bpjax.excited.adiabatic import Diabatic
from bpjax.excited.eigen import eigh, inverse_gaps


class Frame(NamedTuple):
    r"""The electronic problem at one geometry: energies, states, and a function of weights W,
    :math:`\operatorname{Re} \sum_{ab} W_{ab} \nabla H_{ab}`.
    """

    E: Float[Array, " S"]
    U: Inexact[Array, "S S"]
    project: Callable[[Any], Any]


def frame(model: Diabatic, R: Float[Array, "*R"]) -> Frame:
    """Energies and states, with the gradient of the matrix as a reverse pass for one weight at a time."""
    H, pullback = jax.vjp(model, R)
    E, U = eigh(H)
    return Frame(E, U, lambda W: pullback(W.astype(H.dtype))[0])


def state_gradient(at: Frame, k: Int[Array, ""]) -> Float[Array, "*R"]:
    r""":math:`\nabla E_k = \langle k | \nabla H | k \rangle`."""
    u = at.U[:, k]
    return at.project(u.conj()[:, None] * u[None, :])


def mean_gradient(at: Frame, C: Complex[Array, " S"]) -> Float[Array, "*R"]:
    r"""Ehrenfest's mean gradient, :math:`\langle C | \nabla H | C \rangle`."""
    W = C.conj()[:, None] * C[None, :]
    return at.project(W if jnp.iscomplexobj(at.U) else jnp.real(W))


def interstate_vector(at: Frame, i: Int[Array, ""], j: Int[Array, ""]) -> Float[Array, "*R"]:
    r"""The direction of :math:`h_{ij} = \langle i | \nabla H | j \rangle`, real also for complex states.

    The phase of a complex h is arbitrary: it is turned until its real part is as long as it can be. The sign is arbitrary.
    """
    W = at.U[:, i].conj()[:, None] * at.U[:, j][None, :]
    if not jnp.iscomplexobj(W):
        return at.project(0.5 * (W + W.T))
    # Weights of the Hermitian and the anti-Hermitian part: real and imaginary part of h.
    x, y = at.project(0.5 * (W + W.conj().T)), at.project(-0.5j * (W - W.conj().T))
    turn = 0.5 * jnp.arctan2(2 * jnp.sum(x * y), jnp.sum(x * x) - jnp.sum(y * y))
    return jnp.cos(turn) * x + jnp.sin(turn) * y


def time_couplings(model: Diabatic, R, v, E, U) -> Float[Array, "S S"]:
    r""":math:`\sigma_{ij} = v \cdot d_{ij}` from one directional derivative of the matrix; real states."""
    _, dH = jax.jvp(model, (R,), (v,))
    M = U.T @ dH @ U
    return inverse_gaps(E) * 0.5 * (M + M.T)
