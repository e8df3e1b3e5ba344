r"""Two-state models of the literature, each a function from coordinates (D,) to a diabatic matrix (2, 2).

In atomic units as published: hartree, bohr, electron masses, :math:`\hbar = 1`. Derivatives of any order exist everywhere but
at x = 0 of Tully's first and third model, whose second derivative jumps there (the right-hand one is taken).
Models with any number of states and modes are in `bpjax.excited.lvc`.

References: J. C. Tully, J. Chem. Phys. 93, 1061 (1990), doi:10.1063/1.459170; C. Zener, Proc. R. Soc. A 137, 696 (1932);
H. C. Longuet-Higgins, U. Opik, M. H. L. Pryce, R. A. Sack, Proc. R. Soc. A 244, 1 (1958), doi:10.1098/rspa.1958.0022.
"""

import math
from dataclasses import dataclass, fields

import jax.numpy as jnp
from jaxtyping import Array, Float

from bpjax.excited.lvc import LinearVibronic
from bpjax.spec import register


def _matrix(a, b, c):
    return jnp.stack([jnp.stack([a, c]), jnp.stack([c, b])])


def _check_finite(model) -> None:
    for field in fields(model):
        value = getattr(model, field.name)
        if not math.isfinite(value):
            raise ValueError(f"{type(model).__name__} {field.name}={value}: must be finite")


def _check_positive(model, *names: str) -> None:
    for name in names:
        if not getattr(model, name) > 0:
            raise ValueError(f"{type(model).__name__} {name}={getattr(model, name)}: must be positive")


def _halves(x):
    """The negative and the other half of the axis, 0 in place of the other: arguments that cannot overflow."""
    right = x >= 0
    return right, jnp.where(right, 0.0, x), jnp.where(right, x, 0.0)


@register
@dataclass(frozen=True)
class TullySimple:
    r"""Tully's first model, a single avoided crossing.

    .. math:: H_{11} = -H_{22} = \operatorname{sgn}(x)\, A (1 - e^{-B|x|}), \qquad H_{12} = C e^{-D x^2}

    Attributes:
      A, C: hartree.  B: 1/bohr.  D: 1/bohr^2.
      mass: electron masses.

    Raises:
      ValueError: B, D or mass not positive, anything not finite.
    """

    A: float = 0.01
    B: float = 1.6
    C: float = 0.005
    D: float = 1.0
    mass: float = 2000.0

    def __post_init__(self):
        _check_finite(self)
        _check_positive(self, "B", "D", "mass")

    def __call__(self, R: Float[Array, "1"]) -> Float[Array, "2 2"]:
        """Diabatic matrix in hartree at x in bohr."""
        right, x_l, x_r = _halves(R[0])
        a = self.A * jnp.where(right, -jnp.expm1(-self.B * x_r), jnp.expm1(self.B * x_l))
        return _matrix(a, -a, self.C * jnp.exp(-self.D * R[0] ** 2))


@register
@dataclass(frozen=True)
class TullyDual:
    r"""Tully's second model, a dual avoided crossing.

    .. math:: H_{11} = 0, \qquad H_{22} = E_0 - A e^{-B x^2}, \qquad H_{12} = C e^{-D x^2}

    Attributes:
      A, E0, C: hartree.  B, D: 1/bohr^2.
      mass: electron masses.

    Raises:
      ValueError: B, D or mass not positive, anything not finite.
    """

    A: float = 0.1
    B: float = 0.28
    E0: float = 0.05
    C: float = 0.015
    D: float = 0.06
    mass: float = 2000.0

    def __post_init__(self):
        _check_finite(self)
        _check_positive(self, "B", "D", "mass")

    def __call__(self, R: Float[Array, "1"]) -> Float[Array, "2 2"]:
        """Diabatic matrix in hartree at x in bohr."""
        x2 = R[0] ** 2
        b = self.E0 - self.A * jnp.exp(-self.B * x2)
        return _matrix(jnp.zeros_like(b), b, self.C * jnp.exp(-self.D * x2))


@register
@dataclass(frozen=True)
class TullyExtended:
    r"""Tully's third model, extended coupling with reflection.

    .. math:: H_{11} = -H_{22} = A, \qquad H_{12} = B e^{C x} \text{ for } x < 0, \quad B (2 - e^{-C x}) \text{ else}

    Attributes:
      A, B: hartree.  C: 1/bohr.
      mass: electron masses.

    Raises:
      ValueError: C or mass not positive, anything not finite.
    """

    A: float = 6e-4
    B: float = 0.1
    C: float = 0.9
    mass: float = 2000.0

    def __post_init__(self):
        _check_finite(self)
        _check_positive(self, "C", "mass")

    def __call__(self, R: Float[Array, "1"]) -> Float[Array, "2 2"]:
        """Diabatic matrix in hartree at x in bohr."""
        right, x_l, x_r = _halves(R[0])
        c = self.B * jnp.where(right, 2 - jnp.exp(-self.C * x_r), jnp.exp(self.C * x_l))
        a = jnp.full_like(c, self.A)
        return _matrix(a, -a, c)


@register
@dataclass(frozen=True)
class LandauZener:
    r"""Two straight lines and a constant coupling, :math:`H_{11} = -H_{22} = \frac12 F x`, :math:`H_{12} = V`.

    With x = t it is the time-dependent problem of Landau and Zener, of rate F.

    Attributes:
      slope: F, difference of the slopes, hartree/bohr (or hartree per atomic unit of time).
      coupling: V in hartree.

    Raises:
      ValueError: not finite, or slope zero.
    """

    slope: float
    coupling: float

    def __post_init__(self):
        _check_finite(self)
        if self.slope == 0:
            raise ValueError("LandauZener slope=0: must not be zero, or the lines never cross")

    def __call__(self, R: Float[Array, "1"]) -> Float[Array, "2 2"]:
        """Diabatic matrix."""
        a = 0.5 * self.slope * R[0]
        return _matrix(a, -a, jnp.full_like(a, self.coupling))


@register
@dataclass(frozen=True)
class JahnTeller:
    r"""The E x e Jahn-Teller model, a conical intersection at the origin.

    .. math:: H = \tfrac12 \omega r^2 + k (x \sigma_z + y \sigma_x) + \tfrac12 g [(x^2 - y^2) \sigma_z - 2 x y\, \sigma_x]

    Dimensionless coordinates x, y. The gap is :math:`2kr` for g = 0, and :math:`|d_{01}| = 1/2r`, along the circle. The
    quadratic term adds three more intersections at r = 2k/g: a loop around all four has phase zero.

    Attributes:
      coupling: k, linear coupling, in units of energy.
      frequency: omega, in the same units; positive.
      quadratic: g, quadratic coupling.

    Raises:
      ValueError: frequency not positive, anything not finite.
    """

    coupling: float = 1.0
    frequency: float = 1.0
    quadratic: float = 0.0

    def __post_init__(self):
        _check_finite(self)
        _check_positive(self, "frequency")

    def __call__(self, R: Float[Array, "2"]) -> Float[Array, "2 2"]:
        """Diabatic matrix."""
        x, y = R[0], R[1]
        z = self.coupling * x + 0.5 * self.quadratic * (x * x - y * y)
        u = self.coupling * y - self.quadratic * x * y
        mean = 0.5 * self.frequency * (x * x + y * y)
        return _matrix(mean + z, mean - z, u)

    def linear_model(self) -> LinearVibronic:
        """The same as a linear vibronic model, for exact quantum dynamics.

        Raises:
          ValueError: there is a quadratic term.
        """
        if self.quadratic:
            raise ValueError(f"JahnTeller quadratic={self.quadratic}: must be 0 for a linear vibronic model")
        k, w = self.coupling, self.frequency
        return LinearVibronic.build((w, w), [[0, 0], [0, 0]], [[[k, 0], [0, -k]], [[0, k], [k, 0]]])
