r"""Real spherical harmonics in Racah's normalisation, by recursion on Cartesian unit vectors.

:math:`C_{lm}(\hat u) = \sqrt{4\pi/(2l+1)}\, Y_{lm}(\hat u)`, so that the addition theorem has no prefactor:
:math:`P_l(\hat u \cdot \hat v) = \sum_m C_{lm}(\hat u) C_{lm}(\hat v)`.
"""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def size(l_max: int) -> int:
    """Number of harmonics up to `l_max`: (l_max + 1)^2, ordered (l, m) with m = -l ... l."""
    return (l_max + 1) ** 2


def degrees(l_max: int) -> np.ndarray:
    """Degree l of each harmonic, (M,)."""
    return np.repeat(np.arange(l_max + 1), 2 * np.arange(l_max + 1) + 1)


def racah(u: Float[Array, "K 3"], l_max: int) -> Float[Array, "K M"]:
    r"""Harmonics of unit vectors, polynomials in x, y, z: smooth everywhere, poles included.

    .. math:: C_{lm} = n_{l|m|}\, Q_l^{|m|}(z)\, \{\mathrm{Re}, \mathrm{Im}\}(x + iy)^{|m|}

    with :math:`Q_l^m = d^m P_l / dz^m` from
    :math:`(l-m) Q_l^m = (2l-1) z Q_{l-1}^m - (l+m-1) Q_{l-2}^m`, Condon-Shortley sign left out.

    Args:
      u: unit vectors.
      l_max: highest degree.

    References: Press et al., Numerical Recipes, section 6.7 (recursion of associated Legendre functions).
    """
    x, y, z = u[:, 0], u[:, 1], u[:, 2]
    re, im = [jnp.ones_like(x)], [jnp.zeros_like(x)]
    for _ in range(l_max):
        re, im = [*re, x * re[-1] - y * im[-1]], [*im, x * im[-1] + y * re[-1]]
    q = {}
    for m in range(l_max + 1):
        q[m, m] = jnp.full_like(z, math.prod(range(1, 2 * m, 2)))
        for l in range(m + 1, l_max + 1):
            lower = (l + m - 1) * q[l - 2, m] if l >= m + 2 else 0.0
            q[l, m] = ((2 * l - 1) * z * q[l - 1, m] - lower) / (l - m)
    columns = []
    for l in range(l_max + 1):
        for m in range(-l, l + 1):
            k = abs(m)
            n = math.sqrt(math.factorial(l - k) / math.factorial(l + k) * (2 if m else 1))
            columns.append(n * q[l, k] * (re[k] if m >= 0 else im[k]))
    return jnp.stack(columns, axis=-1)
