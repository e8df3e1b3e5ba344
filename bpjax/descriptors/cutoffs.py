r"""Cutoff functions f_c(r): 1 at the centre, 0 from the cutoff radius on, smooth in between.

With an inner radius :math:`r_i = \alpha r_c` the function is 1 up to :math:`r_i` and the formula holds in
:math:`x = (r - r_i) / (r_c - r_i)`. The two tanh forms and the step have no inner radius. The step exists for potentials that
were published with it: energies jump where an atom crosses the cutoff.

========  =====================================================  ==========================
name      f_c                                                    derivatives that vanish at r_c
========  =====================================================  ==========================
cosine    :math:`(\cos \pi x + 1) / 2`                           1
tanh3     :math:`\tanh^3(1 - r / r_c)`                           2
tanh3n    :math:`\tanh^3(1 - r / r_c) / \tanh^3 1`               2
exp       :math:`e^{1 - 1 / (1 - x^2)}`                          all
poly1     :math:`(2x - 3) x^2 + 1`                               1
poly2     :math:`((15 - 6x) x - 10) x^3 + 1`                     2
poly3     :math:`(x (x (20 x - 70) + 84) - 35) x^4 + 1`          3
poly4     :math:`(x (x ((315 - 70 x) x - 540) + 420) - 126) x^5 + 1`  4
hard      1                                                      none (a step)
========  =====================================================  ==========================

References: Behler, J. Chem. Phys. 134, 074106 (2011); Singraber, Behler, Dellago, J. Chem. Theory Comput. 15, 1827 (2019).
"""

import math
from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float

from bpjax.spec import register


def _cosine(x):
    return 0.5 * (jnp.cos(math.pi * x) + 1)


def _tanh3(x):
    return jnp.tanh(1 - x) ** 3


def _tanh3n(x):
    return jnp.tanh(1 - x) ** 3 / math.tanh(1.0) ** 3


def _exp(x):
    # At x -> 1 the exponent goes to -inf: stop where the value has long underflowed, so that derivatives stay finite.
    inside = 1 - x * x
    safe = jnp.where(inside > 1e-3, inside, 1.0)
    return jnp.where(inside > 1e-3, jnp.exp(1 - 1 / safe), 0.0)


def _poly1(x):
    return (2 * x - 3) * x**2 + 1


def _poly2(x):
    return ((15 - 6 * x) * x - 10) * x**3 + 1


def _poly3(x):
    return (x * (x * (20 * x - 70) + 84) - 35) * x**4 + 1


def _poly4(x):
    return (x * (x * ((315 - 70 * x) * x - 540) + 420) - 126) * x**5 + 1


def _hard(x):
    return jnp.ones_like(x)


FORMULAS = {
    "cosine": _cosine,
    "tanh3": _tanh3,
    "tanh3n": _tanh3n,
    "exp": _exp,
    "poly1": _poly1,
    "poly2": _poly2,
    "poly3": _poly3,
    "poly4": _poly4,
    "hard": _hard,
}

WITHOUT_INNER_RADIUS = ("tanh3", "tanh3n", "hard")


def cutoff_values(
    r: Float[Array, "..."], r_c: Float[Array, "..."] | float, kind: str, inner: float = 0.0
) -> Float[Array, "..."]:
    """Cutoff function at distances `r` for radii `r_c`, which broadcast; exactly 0, with zero derivatives, from `r_c` on.

    Args:
      r: distances.
      r_c: radii, in the same unit.
      kind: one of `FORMULAS`.
      inner: inner radius as a fraction of `r_c`.
    """
    r_i = inner * r_c
    # Outside, the argument is replaced before the formula: derivatives of all orders are then finite everywhere.
    between = (r >= r_i) & (r < r_c)
    x = jnp.where(between, (r - r_i) / (r_c - r_i), 0.0)
    return jnp.where(r < r_c, jnp.where(between, FORMULAS[kind](x), 1.0), 0.0).astype(r.dtype)


@register
@dataclass(frozen=True)
class Cutoff:
    """Options of a cutoff function.

    Attributes:
      radius: r_c in A.
      kind: name of the formula, see the module.
      inner: inner radius as a fraction of `radius`, in [0, 1).

    Raises:
      ValueError: an option out of range.
    """

    radius: float
    kind: str = "cosine"
    inner: float = 0.0

    def __post_init__(self):
        if self.kind not in FORMULAS:
            raise ValueError(f"cutoff kind={self.kind!r}: allowed are {', '.join(FORMULAS)}")
        if not (math.isfinite(self.radius) and self.radius > 0):
            raise ValueError(f"cutoff radius={self.radius}: must be positive, in A")
        if not 0 <= self.inner < 1:
            raise ValueError(f"cutoff inner={self.inner}: must be at least 0 and less than 1 (fraction of the radius)")
        if self.inner and self.kind in WITHOUT_INNER_RADIUS:
            raise ValueError(f"cutoff inner={self.inner}: {self.kind} has no inner radius, it must be 0")

    def __call__(self, r: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Value at distances r in A; exactly 0, with zero derivatives, from the radius on."""
        return cutoff_values(r, self.radius, self.kind, self.inner)
