r"""Couplings and hopping probabilities from energies alone, for methods that give no couplings.

Two adiabatic states that come from one pair of straight diabatic lines have a gap :math:`\Delta` whose shape tells the
coupling. All formulas here are exact for that case and estimates otherwise. Atomic units (:math:`\hbar = 1`): with
energies in eV and times in eV^-1 they hold as well.
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float


def _ratio(numerator, denominator):
    """The quotient where both are positive, else 0; derivatives are finite."""
    good = (numerator > 0) & (denominator > 0)
    return good, jnp.where(good, numerator, 1.0) / jnp.where(good, denominator, 1.0)


def landau_zener(coupling: Float[Array, "*shape"], rate: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    r"""Probability to stay in the *diabatic* state, :math:`P = e^{-2\pi V^2 / \alpha}`: that of a hop between adiabatic states.

    Args:
      coupling: V, half the smallest gap.
      rate: :math:`\alpha = |\mathrm d(H_{11} - H_{22})/\mathrm dt| = |v\, \Delta F|`, positive.

    References: C. Zener, Proc. R. Soc. A 137, 696 (1932), doi:10.1098/rspa.1932.0165.
    """
    return jnp.exp(-2 * math.pi * coupling**2 / rate)


def belyaev_lebedev(gap: Float[Array, "*shape"], curvature: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    r"""Probability of a hop at a minimum in time of the gap, :math:`P = \exp(-\frac\pi2 \sqrt{\Delta^3 / \ddot\Delta})`.

    Args:
      gap: :math:`\Delta` at its minimum.
      curvature: :math:`\ddot\Delta`, its second derivative by time there; where it is not positive there is no minimum and P = 0.

    References: A. K. Belyaev and O. V. Lebedev, Phys. Rev. A 84, 014701 (2011), doi:10.1103/PhysRevA.84.014701.
    """
    good, ratio = _ratio(gap**3, curvature)
    touching = (gap <= 0) & (curvature > 0)  # an intersection on the path: the states simply cross
    P = jnp.where(good, jnp.exp(-0.5 * math.pi * jnp.sqrt(ratio)), 0.0)
    return jnp.where(touching, 1.0, P)


def baeck_an(gap: Float[Array, "*shape"], curvature: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    r"""Size of the coupling from the curvature of the gap, :math:`|d| = \frac12 \sqrt{\Delta''/\Delta}`; 0 where
    :math:`\Delta'' \le 0`.

    With the second derivative along a coordinate it is the coupling along it, with that by time it is :math:`|v \cdot d|`.
    Its sign is not known. For :math:`\Delta = \sqrt{F^2 x^2 + 4 V^2}` it is exact at the crossing and there :math:`F/4V`.

    References: K. K. Baeck and H. An, J. Chem. Phys. 146, 064107 (2017), doi:10.1063/1.4975323;
    T. do Casal et al., Open Res. Europe 1, 49 (2021).
    """
    good, ratio = _ratio(curvature, gap)
    return jnp.where(good, 0.5 * jnp.sqrt(ratio), 0.0)


def interstate_dyad(gap: Float[Array, ""], gap_hessian: Float[Array, "D D"]) -> Float[Array, "D D"]:
    r""":math:`h h^T \approx \frac14 \Delta\, \nabla\nabla\Delta`, which knows no phase; exact for a linear cone.

    Args:
      gap: :math:`\Delta = E_j - E_i`.
      gap_hessian: its second derivatives, the difference of the Hessians of the two states.

    References: J. Westermayr, M. Gastegger, P. Marquetand, J. Phys. Chem. Lett. 11, 3828 (2020), doi:10.1021/acs.jpclett.0c00527.
    """
    return 0.25 * gap * gap_hessian


def leading_vector(dyad: Float[Array, "D D"]) -> Float[Array, " D"]:
    r"""The vector h, up to its sign, whose dyad is nearest to a symmetric matrix: :math:`\sqrt{\lambda}\, e` of the
    largest eigenvalue.

    0 where no eigenvalue is positive.
    """
    values, vectors = jnp.linalg.eigh(dyad)
    return jnp.sqrt(jnp.maximum(values[-1], 0.0)) * vectors[:, -1]
