r"""Electronic amplitudes along a given path of the nuclei, :math:`\mathrm i\, \dot c = H(R(t))\, c`, in atomic units
(:math:`\hbar = 1`).

In the diabatic basis the couplings are in H. In the adiabatic one they are :math:`v \cdot d`. Both give the same populations.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float, Inexact

from bpjax.excited.adiabatic import Diabatic, adiabatic
from bpjax.excited.couplings import time_derivative_couplings
from bpjax.excited.eigen import eigh
from bpjax.excited.gauge import aligned

Path = Callable[[Any], Any]
"""Time to coordinates."""


def evolve(H: Inexact[Array, "S S"], c: Complex[Array, " S"], dt: Float[Array, ""]) -> Complex[Array, " S"]:
    """One step with a constant matrix, exact and unitary."""
    E, U = eigh(H)
    U = U.astype(c.dtype)
    return U @ (jnp.exp(-1j * E * dt) * (U.conj().T @ c))


def propagate_diabatic(
    model: Diabatic, path: Path, times: Float[Array, " T"], c: Complex[Array, " S"]
) -> Complex[Array, "T S"]:
    """Diabatic amplitudes at all times, with the matrix of the middle of each step; the error is of second order.

    Args:
      model: diabatic model.
      path: time to coordinates.
      times: ascending; steps need not be equal.
      c: amplitudes at the first time.
    """

    def step(c, interval):
        t, dt = interval
        c = evolve(model(path(t + 0.5 * dt)), c, dt)
        return c, c

    return jnp.concatenate([c[None], jax.lax.scan(step, c, (times[:-1], jnp.diff(times)))[1]])


def propagate_adiabatic(
    model: Diabatic, path: Path, times: Float[Array, " T"], c: Complex[Array, " S"]
) -> Complex[Array, "T S"]:
    r"""Adiabatic amplitudes at all times, from :math:`\mathrm i \dot c = (\operatorname{diag}(E) - \mathrm i\, v \cdot d)\, c`.

    Energies and couplings of the middle of each step. Phases follow the path from the states of the first time.
    Arguments as in `propagate_diabatic`; the amplitudes are those of the adiabatic states at the first time.
    """

    def step(carry, interval):
        c, before = carry
        t, dt = interval
        middle = t + 0.5 * dt
        R, v = jax.jvp(path, (middle,), (jnp.ones_like(middle),))
        result = adiabatic(model, R)
        states = aligned(result.states, before)
        sign = jnp.sum(states * result.states.conj(), axis=0)  # the phase by which each state was turned
        sigma = sign.conj()[:, None] * time_derivative_couplings(result, v) * sign[None, :]
        H = jnp.diag(result.energies).astype(c.dtype) - 1j * sigma
        c = evolve(H, c, dt)
        return (c, states), c

    start = adiabatic(model, path(times[0])).states
    return jnp.concatenate([c[None], jax.lax.scan(step, (c, start), (times[:-1], jnp.diff(times)))[1]])
