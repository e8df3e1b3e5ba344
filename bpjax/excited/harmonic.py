r"""Exact quantum dynamics and levels of linear vibronic models, in a basis of harmonic oscillators.

A wave packet is an array (S, n_1, ..., n_M): an amplitude for each electronic state and number of quanta in each mode. With
:math:`Q_m = (a_m + a_m^\dagger)/\sqrt2` the Hamiltonian is

.. math:: H = \sum_m \omega_m (a_m^\dagger a_m + \tfrac12) + C + \sum_m \Lambda_m Q_m ,

applied mode by mode: no matrix of the size of the basis is ever made. Atomic units (:math:`\hbar = 1`), as in the model.

References: T. J. Park and J. C. Light, J. Chem. Phys. 85, 5870 (1986), doi:10.1063/1.451548 (short iterative Lanczos).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse.linalg
from jaxtyping import Array, Complex, Float, Inexact

from bpjax.excited.lvc import LinearVibronic

DENSE = 256
"""Bases up to this size are diagonalised as a whole."""


class WavePacketRun(NamedTuple):
    """What was recorded of a wave packet at every step, the start included.

    Attributes:
      populations: of the diabatic states.
      autocorrelation: overlap of the packet with the first one.
      final: the packet after the last step.
    """

    populations: Float[Array, "T S"]
    autocorrelation: Complex[Array, " T"]
    final: Complex[Array, "S *n"]


def hamiltonian(model: LinearVibronic, psi: Inexact[Array, "S *n"]) -> Inexact[Array, "S *n"]:
    """The Hamiltonian applied to a wave packet, in hartree."""
    quanta = psi.shape[1:]
    out = jnp.tensordot(model.constant.astype(psi.dtype), psi, 1)
    for mode, n in enumerate(quanta):
        shape = (1,) * (mode + 1) + (n,) + (1,) * (len(quanta) - mode - 1)
        zero_point = model.frequencies[mode] * (jnp.arange(n, dtype=model.frequencies.dtype) + 0.5)
        out = out + zero_point.reshape(shape) * psi
        out = out + jnp.tensordot(model.linear[mode].astype(psi.dtype), _coordinate(psi, mode + 1), 1)
    return out


def _coordinate(psi, axis):
    """Q applied along one axis: <n+1|Q|n> = sqrt((n + 1) / 2)."""
    n = psi.shape[axis]
    shape = tuple(n - 1 if k == axis else 1 for k in range(psi.ndim))
    factor = np.sqrt(0.5 * np.arange(1, n)).reshape(shape).astype(np.finfo(psi.dtype).dtype)
    lower = factor * jax.lax.slice_in_dim(psi, 0, n - 1, axis=axis)
    upper = factor * jax.lax.slice_in_dim(psi, 1, n, axis=axis)
    pad = [(0, 0)] * psi.ndim
    raised = jnp.pad(lower, [(1, 0) if k == axis else p for k, p in enumerate(pad)])
    lowered = jnp.pad(upper, [(0, 1) if k == axis else p for k, p in enumerate(pad)])
    return raised + lowered


def ground_packet(quanta: Sequence[int], states: int, state: int) -> Complex[Array, "S *n"]:
    """The vibrational ground state of the reference, put vertically on one diabatic state."""
    return jnp.zeros((states, *quanta), complex).at[(state, *(0 for _ in quanta))].set(1.0)


def lanczos_step(
    apply: Callable[[Any], Any], psi: Complex[Array, "*shape"], dt: float, order: int
) -> Complex[Array, "*shape"]:
    r""":math:`e^{-\mathrm i H \Delta t} \psi` in the Krylov space of `order` vectors; unitary in that space.

    Args:
      apply: the Hamiltonian on a packet, a Hermitian linear function.
      psi: packet, not zero.
      dt: step in atomic units of time. The error falls as (dt * width of the spectrum)^order / order!.
      order: number of vectors.
    """
    size = jnp.sqrt(jnp.sum(jnp.abs(psi) ** 2))
    tiny = jnp.finfo(size.dtype).eps

    def advance(carry, _):
        v, before, beta = carry
        w = apply(v) - beta * before
        alpha = jnp.real(jnp.sum(v.conj() * w))
        w = w - alpha * v
        beta = jnp.sqrt(jnp.sum(jnp.abs(w) ** 2))
        # An invariant subspace ends the recursion: what follows is zero and takes no part.
        w = jnp.where(beta > tiny, w / jnp.where(beta > tiny, beta, 1.0), 0.0)
        beta = jnp.where(beta > tiny, beta, 0.0)
        return (w, v, beta), (v, alpha, beta)

    start = (psi / size, jnp.zeros_like(psi), jnp.zeros_like(size))
    _, (V, alpha, beta) = jax.lax.scan(advance, start, None, length=order)
    E, U = jnp.linalg.eigh(jnp.diag(alpha) + jnp.diag(beta[:-1], 1) + jnp.diag(beta[:-1], -1))
    c = size * (U.astype(psi.dtype) @ (jnp.exp(-1j * E * dt) * U[0]))
    return jnp.tensordot(c, V, 1)


def propagate(
    model: LinearVibronic, psi: Complex[Array, "S *n"], dt: float, steps: int, order: int = 24
) -> WavePacketRun:
    """A wave packet over `steps` steps of `dt` atomic units of time, see `lanczos_step`; its shape is the basis."""
    first = psi

    def record(psi):
        return jnp.sum(jnp.abs(psi) ** 2, axis=tuple(range(1, psi.ndim))), jnp.sum(first.conj() * psi)

    def step(psi, _):
        psi = lanczos_step(lambda v: hamiltonian(model, v), psi, dt, order)
        return psi, record(psi)

    final, (P, C) = jax.lax.scan(step, psi, None, length=steps)
    P_0, C_0 = record(psi)
    return WavePacketRun(jnp.concatenate([P_0[None], P]), jnp.concatenate([C_0[None], C]), final)


def vibronic_levels(model: LinearVibronic, quanta: Sequence[int], count: int) -> np.ndarray:
    """The lowest vibronic levels in hartree, ascending, each as often as it is degenerate; on the host.

    Args:
      model: the model.
      quanta: size of the basis of each mode. Levels fall towards the exact ones as it grows.
      count: how many levels.

    Raises:
      ValueError: the numbers of modes differ, or the basis is smaller than `count`.
    """
    if len(quanta) != len(model.frequencies):
        raise ValueError(
            f"vibronic_levels quanta={tuple(quanta)}: must be one number for each of {len(model.frequencies)} modes"
        )
    shape = (model.constant.shape[0], *quanta)
    size = int(np.prod(shape))
    if not 0 < count < size:
        raise ValueError(f"vibronic_levels count={count}: must be less than the size of the basis, {size}")
    apply = jax.jit(lambda v: hamiltonian(model, v.reshape(shape)).reshape(-1))
    if size <= DENSE:
        return np.linalg.eigvalsh(np.asarray(jax.vmap(apply)(jnp.eye(size))))[:count]
    # Work-around for the annotations of SciPy, which describe the base class that LinearOperator(...) never returns.
    operator = scipy.sparse.linalg.LinearOperator(  # pyright: ignore[reportCallIssue]
        (size, size),
        matvec=lambda v: np.asarray(apply(jnp.asarray(v).reshape(-1))),  # pyright: ignore[reportCallIssue]
        dtype=float,  # pyright: ignore[reportCallIssue]
    )
    start = np.random.default_rng(0).normal(size=size)
    # More Lanczos vectors than the default: degenerate levels must not be missed.
    vectors = min(size, 4 * count + 40)
    values = scipy.sparse.linalg.eigsh(operator, k=count, which="SA", ncv=vectors, v0=start, return_eigenvectors=False)
    return np.sort(values)
