r"""Phases of electronic states: making them continuous, and what of them is observable.

Each eigenvector has a phase of its own (a sign, where the matrix is real) that the library sets at whim. Along a path phases
can be made continuous by the overlap of neighbouring states. Around a conical intersection they cannot be: a real state
comes back with the other sign. Berry's phase measures that:

.. math:: \gamma_i = \oint A_i \cdot \mathrm dR = -\arg \prod_k \langle u_i(R_k) | u_i(R_{k+1}) \rangle ,
   \qquad A_i = \mathrm i \langle u_i | \nabla u_i \rangle ,

modulo 2 pi. The product over a closed loop does not change with the phases. States are columns, as in `Adiabatic.states`;
paths are a leading axis K.

References: M. V. Berry, Proc. R. Soc. A 392, 45 (1984), doi:10.1098/rspa.1984.0023; R. Resta, Rev. Mod. Phys. 66, 899 (1994).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact, Int
from optax.assignment import hungarian_algorithm

from bpjax.excited.adiabatic import Adiabatic
from bpjax.excited.eigen import inverse_gaps


def gauge_transform(result: Adiabatic, phases: Inexact[Array, " S"]) -> Adiabatic:
    r"""The same states with other phases, :math:`u_j \to u_j\, p_j` with :math:`|p_j| = 1` (:math:`\pm 1` for real states)."""
    p = phases.astype(jnp.result_type(phases, result.states))
    pairs = (p.conj()[:, None] * p[None, :]).reshape(
        (*result.interstate.shape[:2],) + (1,) * (result.interstate.ndim - 2)
    )
    return Adiabatic(result.energies, result.states * p[None, :], result.interstate * pairs)


def _phase(overlap):
    """Phase factor of numbers, 1 for zero; signs of real ones."""
    if not jnp.iscomplexobj(overlap):
        return jnp.where(overlap < 0, -1.0, 1.0).astype(overlap.dtype)
    size = jnp.abs(overlap)
    return jnp.where(size > 0, overlap, 1.0) / jnp.where(size > 0, size, 1.0)


def aligned(states: Inexact[Array, "B n"], reference: Inexact[Array, "B n"]) -> Inexact[Array, "B n"]:
    r"""States whose overlap with the states of the reference, one by one, is real and positive; their order stays.

    Where the overlap is exactly zero the phase stays.
    """
    overlap = jnp.sum(reference.conj() * states, axis=0)
    return states * _phase(overlap).conj()[None, :]


def matched(
    states: Inexact[Array, "B n"], reference: Inexact[Array, "B n"]
) -> tuple[Inexact[Array, "B n"], Int[Array, " n"]]:
    r"""States in the order and with the phases of the reference, and the order: `states[:, order]` belong to the reference's.

    The assignment has the largest sum of :math:`|\langle \text{reference}_i | u_j \rangle|^2`. Through a trivial
    crossing, where two states swap between two steps, this follows their character where the order by energy would not.
    """
    weight = jnp.abs(reference.conj().T @ states) ** 2
    rows, columns = hungarian_algorithm(-weight)
    order = jnp.zeros(states.shape[1], jnp.int32).at[rows].set(columns.astype(jnp.int32))
    return aligned(states[:, order], reference), order


def parallel_transport(states: Inexact[Array, "B n"], reference: Inexact[Array, "B n"]) -> Inexact[Array, "B n"]:
    r"""Rotates a group of states among themselves until they are as near to those of the reference as they can be.

    With :math:`\langle \text{reference} | u \rangle = W \Sigma V^\dagger` the result is :math:`u V W^\dagger`: its
    overlap with the reference is Hermitian and positive. For one state this is `aligned`; for degenerate ones (the
    components of a triplet, a Kramers pair) it replaces it, since a basis among them is as arbitrary as a phase.
    """
    W, _, Vh = jnp.linalg.svd(reference.conj().T @ states, full_matrices=False)
    return states @ (Vh.conj().T @ W.conj().T)


def followed(states: Inexact[Array, "K B n"]) -> Inexact[Array, "K B n"]:
    """States along a path, each aligned with the one before it; the first stay."""

    def step(before, now):
        now = aligned(now, before)
        return now, now

    _, rest = jax.lax.scan(step, states[0], states[1:])
    return jnp.concatenate([states[:1], rest])


def followed_signs(vectors: Float[Array, "K *shape"]) -> Float[Array, "K *shape"]:
    """Vectors along a path whose signs are arbitrary (couplings of a data set), made to point alike from one to the next.

    The first keeps its sign. The points must be close: two neighbours must differ by less than a right angle.
    """
    flat = vectors.reshape(vectors.shape[0], -1)
    turn = jnp.where(jnp.sum(flat[1:] * flat[:-1], axis=1) < 0, -1.0, 1.0).astype(vectors.dtype)
    sign = jnp.concatenate([jnp.ones(1, vectors.dtype), jnp.cumprod(turn)])
    return vectors * sign.reshape(sign.shape + (1,) * (vectors.ndim - 1))


# ------------------------------------------------------------------------------------------------ loops


def wilson_loop(states: Inexact[Array, "K B n"]) -> Inexact[Array, "n n"]:
    r"""Product of the overlaps around a closed loop, :math:`W = \prod_k \langle u(R_k) | u(R_{k+1}) \rangle`, :math:`R_K = R_0`.

    Each overlap is replaced by the unitary matrix nearest to it, so that W is unitary. The states are one group, of
    any size; the eigenvalues of W do not depend on the basis of the group at any point.
    """
    following = jnp.roll(states, -1, axis=0)

    def step(W, pair):
        u, v = pair
        left, _, right = jnp.linalg.svd(u.conj().T @ v, full_matrices=False)
        return W @ (left @ right), None

    return jax.lax.scan(step, jnp.eye(states.shape[2], dtype=states.dtype), (states, following))[0]


def berry_phases(states: Inexact[Array, "K B S"]) -> Float[Array, " S"]:
    """Berry phase of every state around a closed loop by overlaps, in (-pi, pi]; the first point is not repeated at the end.

    Independent of the phases. For real states it is 0 or pi, exactly, as soon as neighbouring points are near enough for no
    overlap to have the wrong sign.
    """
    overlaps = jnp.sum(states.conj() * jnp.roll(states, -1, axis=0), axis=1)
    factor = jnp.prod(_phase(overlaps), axis=0)
    gamma = -jnp.angle(factor)
    return jnp.where(gamma <= -np.pi, np.pi, gamma)


def fixed_gauge(states: Inexact[Array, "B n"], component: int) -> Inexact[Array, "B n"]:
    """States whose given component in the diabatic basis is real and positive: a smooth choice wherever it is not zero."""
    return states * _phase(states[component]).conj()[None, :]


def berry_connection(states_fn: Callable[[Any], Any], R: Float[Array, "*R"]) -> Float[Array, "S *R"]:
    r"""Berry connection :math:`A_i = \mathrm i \langle u_i | \nabla u_i \rangle` of states in a given smooth gauge.

    Args:
      states_fn: coordinates to states (B, S), smooth and with phases of its own choice, for example
        ``lambda R: fixed_gauge(eigh(model(R))[1], 0)``. With `eigh` alone it is 0: its derivatives are those of parallel
        transport.
      R: coordinates.

    Returns: real; it changes with the gauge by the gradient of the phase, see `berry_curvature` for what does not.
    """
    dU = jax.jacfwd(states_fn)(R)
    overlap = jnp.einsum("bi,bi...->i...", states_fn(R).conj(), dU)
    return -jnp.imag(overlap) if jnp.iscomplexobj(overlap) else jnp.zeros_like(overlap)


def berry_curvature(result: Adiabatic) -> Float[Array, "S *RR"]:
    r"""Curl of the Berry connection, :math:`\Omega_{i,ab} = -2 \operatorname{Im} \sum_{k \ne i} d_{a,ki}^* d_{b,ki}`, (S,
    *R, *R).

    Independent of the gauge; 0 for real states, where all of it sits in the intersections.
    """
    M = result.interstate
    S, shape = M.shape[0], M.shape[2:]
    d = inverse_gaps(result.energies)[..., None].astype(M.dtype) * M.reshape(S, S, -1)
    curvature = -2 * jnp.imag(jnp.einsum("kia,kib->iab", d.conj(), d))
    return curvature.reshape(S, *shape, *shape)


def berry_phase_integral(
    states_fn: Callable[[Any], Any], path: Callable[[Any], Any], points: int
) -> Float[Array, " S"]:
    r"""Berry phases by integrating the connection, :math:`\oint A_i \cdot \dot R\, \mathrm dt`, not reduced modulo 2 pi.

    Args:
      states_fn: smooth single-valued states, as in `berry_connection`.
      path: t in [0, 1) to coordinates, smooth and periodic.
      points: of the trapezoidal rule, which converges exponentially for such a path.
    """
    t = jnp.arange(points) / points

    def along(t):
        U, dU = jax.jvp(lambda t: states_fn(path(t)), (t,), (jnp.ones_like(t),))
        return -jnp.imag(jnp.sum(U.conj() * dU, axis=0))

    return jnp.mean(jax.vmap(along)(t), axis=0)


def loop_integral(points: Float[Array, "K *R"], couplings: Float[Array, "K *R"]) -> Float[Array, ""]:
    r"""Mixing angle :math:`\oint d_{ij} \cdot \mathrm dR` of two real states around a closed loop: pi around an
    intersection, else 0.

    Args:
      points: coordinates at equal steps of a smooth closed loop; the first is not repeated at the end.
      couplings: :math:`d_{ij}` there, with continuous signs (`followed`, `followed_signs`).

    The tangent is the derivative of the trigonometric polynomial through the points: twelve points suffice for a circle.
    """
    K = points.shape[0]
    wave = jnp.fft.fftfreq(K, 1 / K).astype(points.dtype)
    wave = jnp.where(
        jnp.abs(wave) * 2 == K, 0.0, wave
    )  # the highest wave of an even number of points has no derivative
    flat = points.reshape(K, -1)
    tangent = jnp.real(jnp.fft.ifft(2j * np.pi * wave[:, None] * jnp.fft.fft(flat, axis=0), axis=0)).astype(
        points.dtype
    )
    return jnp.sum(tangent * couplings.reshape(K, -1)) / K


def diabatising_rotations(points: Float[Array, "K *R"], couplings: Float[Array, "K S S *R"]) -> Float[Array, "K S S"]:
    r"""Rotations that undo the couplings along a path, :math:`\mathrm dT/\mathrm ds = -d \cdot R'\, T`, T = 1 at the first point.

    Any number of real states, whose couplings have continuous signs. :math:`T^T \operatorname{diag}(E)\, T` is then the
    diabatic matrix along the path. Each step is the exponential of the mean coupling of its ends: orthogonal, with an
    error of second order.

    References: M. Baer, Chem. Phys. Lett. 35, 112 (1975), doi:10.1016/0009-2614(75)85599-0.
    """
    step = points[1:] - points[:-1]
    mean = 0.5 * (couplings[1:] + couplings[:-1])
    X = -jnp.sum(mean * step[:, None, None], axis=tuple(range(3, couplings.ndim)))

    def advance(T, X):
        T = jax.scipy.linalg.expm(X) @ T
        return T, T

    start = jnp.eye(couplings.shape[1], dtype=couplings.dtype)
    return jnp.concatenate([start[None], jax.lax.scan(advance, start, X)[1]])
