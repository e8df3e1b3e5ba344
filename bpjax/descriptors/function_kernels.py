"""Parts of symmetry functions for whole tables of parameters: compact functions, angles, powers."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from bpjax.descriptors.cutoffs import FORMULAS

CORE_FORMULAS = {"p1": "poly1", "p2": "poly2", "p3": "poly3", "p4": "poly4", "e": "exp"}
"""The cores of compact functions are cutoff functions; both fall from 1 to 0."""


def compact(
    a: Float[Array, "..."],
    left: Float[Array, "..."],
    right: Float[Array, "..."],
    core: Shaped[Array, "..."],
    cores: tuple[str, ...],
) -> Float[Array, "..."]:
    r"""Compact function :math:`h(|a - (l + r)/2| / ((r - l)/2))`, 0 outside of l to r; all arrays broadcast.

    Args:
      a: distances or angles.
      left: l.
      right: r, in the unit of `a`.
      core: index of each function's core in `cores`.
      cores: names of the cores that occur.
    """
    x = (2 * a - left - right) / (right - left)
    x = jnp.where(x >= 0, x, -x)  # |x| has no second derivative at 0, where the core is as smooth as anywhere
    inside = x < 1
    x = jnp.where(inside, x, 0)
    value = jnp.zeros_like(x)
    for number, name in enumerate(cores):
        y = (2 - x) * x if name.endswith("a") else x
        h = FORMULAS[CORE_FORMULAS[name.removesuffix("a")]](y)
        value = h if len(cores) == 1 else jnp.where(core == number, h, value)
    return jnp.where(inside, value, 0)


def angle(cos: Float[Array, "*pairs"]) -> Float[Array, "*pairs"]:
    r"""Angle in radians whose derivatives can be used up to 0 and 180 degrees.

    :math:`d\theta/d\cos` is infinite there, but what is made of the angle is smooth in the cosine. Held just inside of -1 to 1,
    with the derivative of the place where it is held, the product stays finite and right to rounding.
    """
    limit = 1 - 64 * jnp.finfo(cos.dtype).eps
    held = cos + jax.lax.stop_gradient(jnp.clip(cos, -limit, limit) - cos)
    return jnp.arccos(held)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def integer_powers(base: Float[Array, "A *pairs"], zeta: tuple[int, ...]) -> Float[Array, "A *pairs"]:
    r""":math:`b^\zeta` for a table of integer exponents, by repeated squaring of the whole table."""
    exponents = np.array(zeta).reshape(-1, *(1,) * (base.ndim - 1))
    power, square = jnp.ones_like(base), base
    for bit in range(max(zeta).bit_length()):
        square = square * square if bit else base
        power = power * jnp.where((exponents >> bit) & 1 == 1, square, 1)
    return power


@integer_powers.defjvp
def _integer_powers_jvp(zeta, primals, tangents):
    (base,), (d_base,) = primals, tangents
    exponents = np.array(zeta).reshape(-1, *(1,) * (base.ndim - 1))
    lower = integer_powers(base, tuple(max(z - 1, 0) for z in zeta))  # one chain of products for value and slope
    power = base * lower if exponents.all() else jnp.where(exponents > 0, base * lower, 1)
    return power, jnp.asarray(exponents, base.dtype) * lower * d_base


def angular_powers(cos: Float[Array, "*pairs"], zeta: np.ndarray, lam: np.ndarray) -> Float[Array, "A *pairs"]:
    r""":math:`2^{1-\zeta} (1 + \lambda\cos\theta)^\zeta`, 0 where :math:`1 + \lambda\cos\theta < 0`.

    Args:
      cos: cosines.
      zeta: exponents (A,).
      lam: lambda (A,).
    """
    zeta, lam = (p.reshape(-1, *(1,) * cos.ndim) for p in (zeta, lam))
    base = (1 + jnp.asarray(lam, cos.dtype) * cos[None]) / 2
    # Where |lambda| = 1 only rounding goes below 0; cutting that off would spoil second derivatives of atoms in line.
    if (np.abs(lam) > 1).any():
        base = jnp.where((np.abs(lam) <= 1) | (base > 0), base, 0)
    whole = zeta == np.round(zeta)
    power = integer_powers(base, tuple(int(z) for z in np.where(whole, zeta, 1).flat))
    if not whole.all():
        positive = base > 0  # x^zeta has infinite derivatives at 0 that no later mask can remove
        general = jnp.where(positive, base, 1) ** jnp.asarray(zeta, cos.dtype)
        power = jnp.where(whole, power, jnp.where(positive, general, 0))
    return 2 * power


@jax.custom_jvp
def pair_sums(V: Float[Array, "Q rows m"], P: Float[Array, "A rows m"]) -> Float[Array, "Q A"]:
    r"""Sums over pairs :math:`\sum_{jk} V_q(j, k) P_a(j, k)` of all combinations; pairs stand in rows.

    Row by row, because XLA has no fast code for both sums at once on a CPU. What is differentiated is the double sum: its
    transpose, which the reverse pass runs, is fast, that of the sum of rows is not.
    """
    return jnp.einsum("qjk,ajk->jqa", V, P).sum(axis=0)


@pair_sums.defjvp
def _pair_sums_jvp(primals, tangents):
    (V, P), (dV, dP) = primals, tangents
    return pair_sums(V, P), jnp.einsum("qjk,ajk->qa", dV, P) + jnp.einsum("qjk,ajk->qa", V, dP)
