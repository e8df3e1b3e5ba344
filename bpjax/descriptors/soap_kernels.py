r"""Kernels of the SOAP power spectrum: what one environment needs, as equations.

With the neighbour density expanded in radial functions and spherical harmonics, one coefficient for each channel c (element),
radial function n, degree l and order m,

.. math::
    c_{cnlm} = \sum_j w_{cj}\, I_{nl}(r_{ij})\, Y_{lm}(\hat R_{ij}), \qquad
    p_{cc'nn'l} = f_l \sum_m c_{cnlm}\, c_{c'n'lm}

The radial integrals are Chebyshev series, :math:`I_{nl}(r) = \sum_t B_{tnl} T_t(x)`. The sum over neighbours is taken first,
over products of few T with few Y, and B is applied to the sums: no array has neighbours and radial functions at once.

References: Bartók, Kondor, Csányi, Phys. Rev. B 87, 184115 (2013), doi:10.1103/PhysRevB.87.184115, eqs. 25 to 36.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def chebyshev(x: Float[Array, " K"], count: int) -> Float[Array, "T K"]:
    """Chebyshev polynomials T_0 ... T_{count-1} in [-1, 1], twice as many in each step by T_{m+j} = 2 T_m T_j - T_{m-j}."""
    T = jnp.stack([jnp.ones_like(x), x])
    while len(T) < count:
        m = len(T) - 1
        T = jnp.concatenate([T, 2 * T[m][None] * T[1:] - T[m - 1 :: -1]])
    return T[:count]


def expansion(
    T: Float[Array, "T K"], Y: Float[Array, "K M"], w: Float[Array, "K C"], B: Float[Array, "T n L"]
) -> list[Float[Array, "C n _"]]:
    """Expansion coefficients of each degree l, (C, n, 2l + 1).

    Args:
      T: Chebyshev polynomials at the distance of each neighbour.
      Y: harmonics up to degree L - 1.
      w: weight of each neighbour in each channel.
      B: series of the radial integrals.
    """
    C, M = w.shape[1], Y.shape[1]
    sums = (T @ (w[:, :, None] * Y[:, None, :]).reshape(len(Y), C * M)).reshape(len(T), C, M)
    return [jnp.einsum("tn,tcm->cnm", B[:, :, l], sums[:, :, l * l : (l + 1) ** 2]) for l in range(B.shape[2])]
