r"""Atom-centred symmetry functions (ACSF): kernels as equations.

With neighbours j, k of a centre i, :math:`\theta_{jk}` the angle between them and :math:`f_c` the cutoff function:

.. math::
    G^1 &= \sum_j f_c(r_{ij}) \\
    G^2 &= \sum_j e^{-\eta (r_{ij} - r_s)^2} f_c(r_{ij}) \\
    G^3 &= \sum_j \cos(\kappa r_{ij}) f_c(r_{ij}) \\
    G^4 &= 2^{1-\zeta} \sum_{j<k} (1 + \lambda \cos\theta_{jk})^\zeta
           e^{-\eta [(r_{ij} - r_s)^2 + (r_{ik} - r_s)^2 + (r_{jk} - r_s)^2]} f_c(r_{ij}) f_c(r_{ik}) f_c(r_{jk}) \\
    G^5 &= 2^{1-\zeta} \sum_{j<k} (1 + \lambda \cos\theta_{jk})^\zeta
           e^{-\eta [(r_{ij} - r_s)^2 + (r_{ik} - r_s)^2]} f_c(r_{ij}) f_c(r_{ik})

Sums run over neighbours of one element (G1 to G3) or of one pair of elements (G4, G5), each unordered pair once. With
`weights` there is one channel only and each neighbour counts with the weight of its element (products of weights for pairs).

For integer :math:`\zeta`, G5 needs no double sum. With :math:`(1 + x)^\zeta = \sum_l a_l P_l(x)`,
:math:`a_l = 2^\zeta (2l + 1) \zeta!^2 / [(\zeta - l)!\,(\zeta + l + 1)!]`, the addition theorem gives

.. math::
    \sum_{jk} w_j w_k (1 + \lambda\cos\theta_{jk})^\zeta
    = \sum_l a_l \lambda^l \sum_m \Big(\sum_j w_j C_{lm}(\hat R_{ij})\Big)^2

from which the terms j = k, :math:`(1 + \lambda)^\zeta \sum_j w_j^2`, are subtracted. Both forms are here and
agree to rounding.

References: Behler, J. Chem. Phys. 134, 074106 (2011), doi:10.1063/1.3553717; weights: Gastegger et al., J. Chem. Phys. 148,
241709 (2018), doi:10.1063/1.5019667.
"""

import math

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from bpjax.descriptors import harmonics


def g1(f_c: Float[Array, " K"], c: Float[Array, "K C"]) -> Float[Array, " C"]:
    r"""Coordination :math:`\sum_j f_c(r_{ij})` in each element channel (`c`: weight of each neighbour in each channel)."""
    return f_c @ c


def g2(
    r_ij: Float[Array, " K"],
    f_c: Float[Array, " K"],
    c: Float[Array, "K C"],
    eta: Float[Array, " P"],
    r_s: Float[Array, " P"],
) -> Float[Array, "P C"]:
    r"""Radial function :math:`\sum_j e^{-\eta (r_{ij} - r_s)^2} f_c(r_{ij})`; eta in 1/A^2, r_s in A."""
    return radial_weights(r_ij, f_c, eta, r_s).T @ c


def g3(
    r_ij: Float[Array, " K"], f_c: Float[Array, " K"], c: Float[Array, "K C"], kappa: Float[Array, " P"]
) -> Float[Array, "P C"]:
    r"""Oscillating radial function :math:`\sum_j \cos(\kappa r_{ij}) f_c(r_{ij})`; kappa in 1/A."""
    return (jnp.cos(kappa[None, :] * r_ij[:, None]) * f_c[:, None]).T @ c


def radial_weights(
    r_ij: Float[Array, " K"], f_c: Float[Array, " K"], eta: Float[Array, " Q"], r_s: Float[Array, " Q"]
) -> Float[Array, "K Q"]:
    r"""What a neighbour brings to a radial or angular function, :math:`w_j = e^{-\eta (r_{ij} - r_s)^2} f_c(r_{ij})`."""
    return jnp.exp(-eta[None, :] * (r_ij[:, None] - r_s[None, :]) ** 2) * f_c[:, None]


def angular_powers(cos_jk: Float[Array, "K K"], shapes: tuple[tuple[float, float], ...]) -> Float[Array, "A K K"]:
    r""":math:`2^{1-\zeta} (1 + \lambda\cos\theta)^\zeta` for each (zeta, lam)."""
    powers = []
    for zeta, lam in shapes:
        base = (1 + lam * cos_jk) / 2
        # No clipping at 0, though rounding may go below: for neighbours in line it would spoil second derivatives.
        if float(zeta).is_integer():
            power = lax.integer_pow(base, int(zeta))
        else:  # x^zeta has infinite derivatives at 0 that no later mask can remove
            power = jnp.where(base > 0, jnp.where(base > 0, base, 1.0) ** zeta, 0.0)
        powers.append(2 * power)
    return jnp.stack(powers)


def g4(
    w: Float[Array, "K Q"],
    w_jk: Float[Array, "Q K K"],
    power: Float[Array, "A K K"],
    c: Float[Array, "K C"],
    pairs: tuple[tuple[int, int], ...],
) -> Float[Array, "Q A T"]:
    """Narrow angular function of each radial part, angular shape and element pair; `w_jk` is zero where j = k."""
    M = w.T[:, :, None] * w.T[:, None, :] * w_jk
    sums = [jnp.einsum("qjk,ajk->qa", M * (c[:, s, None] * c[None, :, t])[None], power) for s, t in pairs]
    halves = jnp.asarray([0.5 if s == t else 1.0 for s, t in pairs], w.dtype)
    return jnp.stack(sums, axis=-1) * halves[None, None, :]


def g5_pairs(
    w: Float[Array, "K Q"],
    power: Float[Array, "A K K"],
    c: Float[Array, "K C"],
    pairs: tuple[tuple[int, int], ...],
) -> Float[Array, "Q A T"]:
    """Wide angular function by the double sum; `power` is zero where j = k. Any zeta."""
    s, t = np.array(pairs).T
    halves = jnp.asarray(np.where(s == t, 0.5, 1.0), w.dtype)
    w_c = w[:, :, None] * c[:, None, :]
    inner = jnp.einsum("ajk,kqt->ajqt", power, w_c)
    return jnp.einsum("jqp,ajqp->qap", w_c[:, :, s], inner[..., t]) * halves[None, None, :]


def g5_moments(
    u: Float[Array, "K 3"],
    w: Float[Array, "K Q"],
    c: Float[Array, "K C"],
    shapes: tuple[tuple[float, float], ...],
    pairs: tuple[tuple[int, int], ...],
) -> Float[Array, "Q A T"]:
    r"""Wide angular function through moments :math:`A_{lm} = \sum_j w_j C_{lm}(\hat R_{ij})`; integer zeta (see the module)."""
    l_max = int(max(zeta for zeta, _ in shapes))
    s, t = np.array(pairs).T
    halves = np.where(s == t, 0.5, 1.0)
    w_c = w[:, :, None] * c[:, None, :]
    A = jnp.einsum("kqc,km->qcm", w_c, harmonics.racah(u, l_max))
    by_degree = np.eye(l_max + 1)[harmonics.degrees(l_max)]
    p_l = (A[:, s] * A[:, t]) @ jnp.asarray(by_degree, w.dtype)
    itself = jnp.einsum("kqp,kqp->qp", w_c[:, :, s], w_c[:, :, t])
    a = jnp.asarray([_legendre(int(zeta), lam, l_max) for zeta, lam in shapes], w.dtype)
    # P_l(1) = 1 in every degree: the j = k terms go out before the sum over l, while they are still of the size of p_l.
    return jnp.einsum("qpl,al->qap", p_l - itself[:, :, None], a) * jnp.asarray(halves, w.dtype)[None, None, :]


def _legendre(zeta: int, lam: float, l_max: int) -> list[float]:
    """Legendre coefficients of 2^(1-zeta) (1 + lam x)^zeta."""
    f = math.factorial
    a = [2 * (2 * l + 1) * f(zeta) ** 2 / (f(zeta - l) * f(zeta + l + 1)) * lam**l for l in range(zeta + 1)]
    return a + [0.0] * (l_max - zeta)


def distinct(mask: Bool[Array, " K"]) -> Bool[Array, "K K"]:
    """Pairs of two different real neighbours."""
    return mask[:, None] & mask[None, :] & ~jnp.eye(len(mask), dtype=bool)


def cosines(R_ij: Float[Array, "K 3"], r_ij: Float[Array, " K"]) -> Float[Array, "K K"]:
    """Cosines of the angles between neighbours."""
    u = R_ij / r_ij[:, None]
    return u @ u.T
