r"""Electronic amplitudes along a trajectory, hopping probabilities, decoherence; for one trajectory.

Amplitudes c belong to adiabatic states, :math:`\dot c = -(\mathrm i E/\hbar + \sigma)\, c` with
:math:`\sigma_{ij} = v \cdot d_{ij}`. Only ratios that do not change with the phases of the states leave this file.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float, Inexact, Int

from bpjax.excited.gap_couplings import belyaev_lebedev

Scalar = float | Float[Array, ""]
"""A number that may be of one trajectory alone."""

SWAPPED = 0.5
"""Squared overlap above which, for both, two states have swapped their characters."""


class ElectronicStep(NamedTuple):
    """Amplitudes after a step and what they say about hops.

    Attributes:
      c: amplitudes of the states after the step.
      probability: of a hop from the active state to each other one, at least 0; their sum may exceed 1 by rounding.
    """

    c: Complex[Array, " S"]
    probability: Float[Array, " S"]


def swapped_order(U0: Inexact[Array, "S S"], U1: Inexact[Array, "S S"]) -> Int[Array, " S"]:
    r"""Where each state has gone: `order[i]` after the step has the character of i before.

    Two states swap if :math:`|\langle i | j' \rangle|^2` and :math:`|\langle j | i' \rangle|^2` both exceed one half; all
    others stay. Above one half there is at most one such partner, hence no search for the best assignment.
    """
    weight = jnp.abs(U0.conj().T @ U1) ** 2
    partner = (weight > SWAPPED) & (weight.T > SWAPPED)
    index = jnp.arange(U0.shape[1])
    return jnp.where(jnp.any(partner, axis=1), jnp.argmax(partner, axis=1), index)


def local_diabatisation(
    E0: Float[Array, " S"],
    E1: Float[Array, " S"],
    T: Inexact[Array, "S S"],
    c: Complex[Array, " S"],
    k: Int[Array, ""],
    now: Int[Array, ""],
    phase: Scalar,
) -> ElectronicStep:
    r"""A step in the diabatic basis that agrees with the adiabatic states before it.

    .. math:: c' = P c, \qquad P = e^{-\mathrm i E_1 \Delta t / 2\hbar}\; T^\dagger\; e^{-\mathrm i E_0 \Delta t/2\hbar}, \qquad
       T_{ij} = \langle i | j' \rangle

    .. math:: g_{k \to j} = \left(1 - \frac{|c'_{k'}|^2}{|c_k|^2}\right)
       \frac{\operatorname{Re}(c'_j P_{jk}^* c_k^*)}{|c_k|^2 - \operatorname{Re}(c'_{k'} P_{k'k}^* c_k^*)}

    No coupling enters: a trivial crossing in the middle of the step does no harm. The exponential of the mean
    matrix, used by the authors, is split in two here; both are unitary and of second order.

    Args:
      E0, E1: energies before and after.
      T: overlaps of the states before with those after; unitary.
      c: amplitudes before.
      k, now: the active state before and, k', the state after that has its character; k itself where nothing crosses.
      phase: :math:`\Delta t / \hbar`.

    References: G. Granucci, M. Persico, A. Toniolo, J. Chem. Phys. 114, 10608 (2001), doi:10.1063/1.1376633;
    F. Plasser et al., J. Chem. Phys. 137, 22A514 (2012), doi:10.1063/1.4738960.
    """
    # Phases common to all states cancel: without the mean energy large absolute energies cost no digits.
    mean = jnp.mean(E0)
    before, after = jnp.exp(-0.5j * phase * (E0 - mean)), jnp.exp(-0.5j * phase * (E1 - mean))
    P = after[:, None] * T.conj().T * before[None, :]
    new = P @ c
    flow = jnp.real(new * (P[:, k] * c[k]).conj())
    old_k, kept = jnp.abs(c[k]) ** 2, flow[now]
    lost = old_k - jnp.abs(new[now]) ** 2
    good = (old_k > 0) & (old_k - kept > 0) & (lost > 0)
    scale = jnp.where(good, lost / jnp.where(good, old_k * (old_k - kept), 1.0), 0.0)
    return ElectronicStep(new, _others(jnp.maximum(scale * flow, 0.0), now))


def by_coupling(
    E0: Float[Array, " S"],
    E1: Float[Array, " S"],
    sigma0: Float[Array, "S S"],
    sigma1: Float[Array, "S S"],
    c: Complex[Array, " S"],
    k: Int[Array, ""],
    phase: Scalar,
    dt: Scalar,
    substeps: int,
) -> ElectronicStep:
    r"""A step with energies and :math:`\sigma = v \cdot d` interpolated linearly over substeps; Tully's probabilities.

    .. math:: g_{k \to j} = \max\left(0, \frac{1}{|c_k(0)|^2}
       \int_0^{\Delta t} 2 \operatorname{Re}(c_k^* c_j\, \sigma_{kj})\, \mathrm dt\right)

    Each substep is unitary, :math:`e^{-\mathrm i E \tau/2\hbar}\, e^{-\sigma \tau}\, e^{-\mathrm i E \tau / 2\hbar}`.

    Args:
      E0, E1, c, k, phase: as in `local_diabatisation`.
      sigma0, sigma1: real antisymmetric, with the phases of one set of states.
      dt: time step.
      substeps: how many.

    References: J. C. Tully, J. Chem. Phys. 93, 1061 (1990); S. Hammes-Schiffer and J. C. Tully, J. Chem. Phys.
    101, 4657 (1994), doi:10.1063/1.467455 (interpolation).
    """
    mean, tau = jnp.mean(E0), dt / substeps

    def flux(c, sigma):
        return 2 * jnp.real(c[k].conj() * c * sigma[k])

    def substep(carry, s):
        c, total = carry
        half = jnp.exp(-0.5j * phase / substeps * (E0 + s * (E1 - E0) - mean))
        sigma = sigma0 + s * (sigma1 - sigma0)
        c = half * c
        turned = rotation(-tau * sigma).astype(c.dtype) @ c
        total = total + 0.5 * tau * (flux(c, sigma) + flux(turned, sigma))
        return (half * turned, total), None

    middles = (jnp.arange(substeps, dtype=E0.dtype) + 0.5) / substeps
    (new, total), _ = jax.lax.scan(substep, (c, jnp.zeros_like(E0)), middles)
    old_k = jnp.abs(c[k]) ** 2
    g = jnp.where(old_k > 0, total / jnp.where(old_k > 0, old_k, 1.0), 0.0)
    return ElectronicStep(new, _others(jnp.maximum(g, 0.0), k))


def rotation(A: Float[Array, "S S"]) -> Float[Array, "S S"]:
    """Exponential of an antisymmetric matrix; in closed form for two states."""
    if A.shape[0] != 2:
        return jax.scipy.linalg.expm(A)
    cos, sin = jnp.cos(A[0, 1]), jnp.sin(A[0, 1])
    return jnp.stack([jnp.stack([cos, sin]), jnp.stack([-sin, cos])])


def landau_zener_probability(
    before: Float[Array, " S"],
    middle: Float[Array, " S"],
    now: Float[Array, " S"],
    k: Int[Array, ""],
    dt: float,
    hbar: float,
) -> Float[Array, " S"]:
    r"""Probabilities at a minimum of the gap to a neighbouring state, from energies at three successive times.

    The parabola through the three gaps gives the smallest gap and its curvature for `gap_couplings.belyaev_lebedev`; the
    hop comes one step after the minimum. 0 where the middle gap is not the smallest.

    References: A. K. Belyaev, C. Lasser, G. Trigila, J. Chem. Phys. 140, 224108 (2014), doi:10.1063/1.4882073.
    """
    a, b, c = (jnp.abs(E - E[k]) for E in (before, middle, now))
    curvature, slope = (c - 2 * b + a) / dt**2, (c - a) / (2 * dt)
    bent = curvature > 0
    smallest = b - jnp.where(bent, slope**2 / (2 * jnp.where(bent, curvature, 1.0)), 0.0)
    # A cusp that the steps do not resolve would make it negative: the states simply cross.
    P = belyaev_lebedev(jnp.maximum(smallest, 0.0) / hbar, curvature / hbar)
    neighbour = jnp.abs(jnp.arange(now.shape[0]) - k) == 1
    return jnp.where(neighbour & (b < c) & (b <= a), P, 0.0)


def chosen(probability: Float[Array, " S"], k: Int[Array, ""], random: Float[Array, ""]) -> Int[Array, ""]:
    """The state to hop to with a random number in [0, 1): the active one where there is no hop."""
    total = jnp.cumsum(probability)
    return jnp.where(random < total[-1], jnp.argmax(random < total), k).astype(k.dtype)


def decohered(
    c: Complex[Array, " S"],
    E: Float[Array, " S"],
    k: Int[Array, ""],
    kinetic: Float[Array, ""],
    phase: Scalar,
    constant: float,
) -> Complex[Array, " S"]:
    r"""Amplitudes of the other states damped, that of the active one enlarged to keep the norm.

    .. math:: c_j \to c_j\, e^{-\Delta t/\tau_{kj}}, \qquad
       \tau_{kj} = \frac{\hbar}{|E_j - E_k|} \left(1 + \frac{C}{E_\text{kin}}\right)

    Args:
      c, E, k: amplitudes, energies, active state.
      kinetic: kinetic energy of the nuclei; without any there is no damping.
      phase: :math:`\Delta t/\hbar`.
      constant: C, 0.1 hartree.

    References: G. Granucci and M. Persico, J. Chem. Phys. 126, 134114 (2007), doi:10.1063/1.2715585.
    """
    rate = jnp.abs(E - E[k]) * kinetic / (kinetic + constant)
    active = jnp.arange(c.shape[0]) == k
    damped = jnp.where(active, 0.0, c * jnp.exp(-phase * rate))
    norm, others = jnp.sum(jnp.abs(c) ** 2), jnp.sum(jnp.abs(damped) ** 2)
    size = jnp.abs(c[k])
    unit = jnp.where(size > 0, c[k] / jnp.where(size > 0, size, 1.0), 1.0)
    return jnp.where(active, unit * jnp.sqrt(jnp.maximum(norm - others, 0.0)), damped)


def _others(g, k):
    return jnp.where(jnp.arange(g.shape[0]) == k, 0.0, g)
