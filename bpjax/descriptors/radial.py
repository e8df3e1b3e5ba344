r"""Radial integrals of a smeared neighbour in the bases of SOAP, made once on the host as Chebyshev series.

A neighbour at distance R is a Gaussian :math:`g(\mathbf r) = e^{-|\mathbf r - \mathbf R|^2 / 2\sigma^2}`. Its projection on
:math:`R_{nl}(r) Y_{lm}(\hat r)` is :math:`I_{nl}(R)\, Y_{lm}(\hat R)` with

.. math:: I_{nl}(R) = 4\pi e^{-R^2/2\sigma^2} \int_0^\infty r^2 R_{nl}(r)\, e^{-r^2/2\sigma^2}\, i_l(rR/\sigma^2)\, dr

and the modified spherical Bessel functions i_l. Whatever the basis, these are entire functions of R: a few tens of Chebyshev
polynomials hold them to rounding, values and derivatives of every order, and cost one matrix product.

============  ==========================================================================================  ==================
basis         :math:`R_{nl}(r)`                                                                           orthonormalised
============  ==========================================================================================  ==================
bessel        :math:`j_l(z_{nl} r / r_c)`, zero at :math:`r_c`: the smoothest functions of the ball        by construction
gto           :math:`r^l e^{-\alpha_{nl} r^2}`, reaching :math:`10^{-3}` at radii from 1 A to :math:`r_c`   Löwdin, DScribe
polynomial    :math:`(r_c - r)^{n+2}` up to :math:`r_c`                                                   Löwdin, DScribe
gto_featomic  :math:`r^n e^{-r^2 / 2\sigma_n^2}`, :math:`\sigma_n = r_c \max(\sqrt n, 1) / n_{max}`        Löwdin, featomic
============  ==========================================================================================  ==================

For "bessel" the integral is closed: smearing multiplies an eigenfunction of the Laplacian by
:math:`e^{-\sigma^2 z_{nl}^2 / 2 r_c^2}`.

References: Bartók, Kondor, Csányi, Phys. Rev. B 87, 184115 (2013), doi:10.1103/PhysRevB.87.184115, eq. 25 ff.; gto and
polynomial: Himanen et al., Comput. Phys. Commun. 247, 106949 (2020), doi:10.1016/j.cpc.2019.106949, eqs. 20-25; bessel: Kocer,
Mason, Erturk, AIP Advances 10, 015021 (2020), and Bigi, Huguenin-Dumittan, Ceriotti, Manolopoulos, J. Chem. Phys. 157, 234101
(2022), doi:10.1063/5.0124363; Löwdin: J. Chem. Phys. 18, 365 (1950).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import mpmath
import numpy as np
from numpy.polynomial import chebyshev, legendre
from scipy.optimize import brentq
from scipy.special import ive, spherical_jn

BASES = ("bessel", "gto", "polynomial", "gto_featomic")

DIGITS = 80
"""Decimal digits in which overlaps are inverted: those of ten polynomials have a condition number of 1e20."""

ALIKE = 1e13
"""Largest condition number of orbitals that are evaluated in extended precision of 19 digits."""

MOST_TERMS = 256
"""Chebyshev polynomials that a series may have."""

TAIL = {"float64": 1e-12, "float32": 1e-8}
"""What may be left out of a series, relative to its largest value."""

NODES = 100
"""Gauss-Legendre nodes of integrals over polynomials, as many as DScribe has."""

MOST_PIECES = 25
"""Pieces with as many nodes each into which an integral may be cut."""


@dataclass(frozen=True, eq=False)
class RadialTable:
    r"""Chebyshev series of the radial integrals on [0, reach], and their values at R = 0.

    Attributes:
      reach: end of the interval in A.
      series: (T, n, l) coefficients, :math:`I_{nl}(R) = \sum_t B_{tnl} T_t(2R/\text{reach} - 1)`.
      centre: (n,) :math:`I_{n0}(0)`; the other degrees vanish there.
    """

    reach: float
    series: np.ndarray
    centre: np.ndarray

    def terms(self, dtype) -> np.ndarray:
        """The coefficients that matter in this precision."""
        left = np.cumsum(np.abs(self.series[::-1]), axis=0)[::-1]
        matters = np.any(left > TAIL[np.dtype(dtype).name] * np.abs(self.series).sum(axis=0), axis=(1, 2))
        return self.series[: max(int(np.flatnonzero(matters)[-1]) + 1, 2)]


@lru_cache(maxsize=64)
def radial_table(basis: str, radius: float, reach: float, n_max: int, l_max: int, sigma: float) -> RadialTable:
    """Radial integrals of unnormalised Gaussians.

    Args:
      basis: one of `BASES`.
      radius: r_c of the basis in A.
      reach: largest distance of a neighbour in A.
      n_max: number of radial functions for each degree.
      l_max: highest degree.
      sigma: width of the Gaussians in A.

    Raises:
      ValueError: the quadrature or the series does not converge, or the basis cannot be made orthonormal.
    """
    integrals = _INTEGRALS[basis](radius, n_max, l_max, sigma)
    count = 64
    while True:
        x = chebyshev.chebpts1(count)
        series = chebyshev.chebfit(x, integrals(reach * (x + 1) / 2).reshape(count, -1), count - 1)
        if np.all(np.abs(series[-4:]) <= 1e-13 * np.abs(series).max(axis=0)):
            break
        count *= 2
        if count > MOST_TERMS:
            raise ValueError(
                f"sigma={sigma}: too small for a radius of {radius} A; {MOST_TERMS} Chebyshev polynomials do not hold "
                f"the radial integrals of basis {basis!r} with n_max={n_max}"
            )
    series = series.reshape(count, n_max, l_max + 1)
    return RadialTable(reach, series, integrals(np.zeros(1))[0, :, 0])


def _bessel(radius: float, n_max: int, l_max: int, sigma: float) -> Callable[[np.ndarray], np.ndarray]:
    """Integrals (R, n, l) in eigenfunctions of the Laplacian."""
    z = bessel_zeros(n_max, l_max)
    degree = np.arange(l_max + 1)
    # int_0^rc j_l(z r / rc)^2 r^2 dr = rc^3 j_{l+1}(z)^2 / 2
    norm = np.sqrt(2 / radius**3) / np.abs(spherical_jn(degree[None, :] + 1, z))
    k = z / radius
    factor = norm * (2 * np.pi * sigma**2) ** 1.5 * np.exp(-((sigma * k) ** 2) / 2)
    return lambda R: factor * spherical_jn(degree, k * R[:, None, None])


def bessel_zeros(n_max: int, l_max: int) -> np.ndarray:
    """First `n_max` positive zeros of each spherical Bessel function j_l, (n, l)."""
    # Zeros of j_l lie between those of j_{l-1}, and those of j_0 are multiples of pi.
    zeros = np.arange(1, n_max + l_max + 1) * np.pi
    columns = [zeros[:n_max]]
    for l in range(1, l_max + 1):
        zeros = np.array([brentq(lambda x, l=l: spherical_jn(l, x), a, b) for a, b in pairwise(zeros)])
        columns.append(zeros[:n_max])
    return np.stack(columns, axis=1)


def _gto(radius: float, n_max: int, l_max: int, sigma: float) -> Callable[[np.ndarray], np.ndarray]:
    """Integrals (R, n, l) in DScribe's Gaussian orbitals, in closed form."""
    a = 1 / (2 * np.longdouble(sigma) ** 2)
    alpha, beta = [], []
    for l in range(l_max + 1):
        with mpmath.workdps(DIGITS):
            r = [1 + mpmath.mpf(n) * (mpmath.mpf(radius) - 1) / max(n_max - 1, 1) for n in range(n_max)]
            exact = [-mpmath.log(mpmath.mpf("1e-3") / x**l) / x**2 for x in r]
            power = l + mpmath.mpf(3) / 2
            overlap = [[mpmath.gamma(power) / 2 * (p + q) ** -power for q in exact] for p in exact]
            beta.append(_longdouble(_lowdin(overlap, ALIKE)))
            alpha.append(_longdouble(exact))

    def integrals(R: np.ndarray) -> np.ndarray:
        out = np.empty((len(R), n_max, l_max + 1))
        x = np.asarray(R, np.longdouble)[:, None]
        for l in range(l_max + 1):
            s = alpha[l] + a
            primitive = (np.longdouble(np.pi) / s) ** 1.5 * (a / s) ** l * np.exp(-alpha[l] * a / s * x**2) * x**l
            out[:, :, l] = primitive @ beta[l].T
        return out

    return integrals


def _polynomial(radius: float, n_max: int, l_max: int, sigma: float) -> Callable[[np.ndarray], np.ndarray]:
    """Integrals (R, n, l) in DScribe's polynomials, by quadrature."""
    with mpmath.workdps(DIGITS):
        r_c = mpmath.mpf(radius)
        i = range(1, n_max + 1)
        overlap = [[2 * r_c ** (7 + p + q) / ((5 + p + q) * (6 + p + q) * (7 + p + q)) for q in i] for p in i]
        beta = _lowdin(overlap)

    def functions(r: np.ndarray) -> np.ndarray:
        with mpmath.workdps(DIGITS):
            powers = mpmath.matrix([[(r_c - mpmath.mpf(x)) ** (n + 2) for x in r] for n in range(1, n_max + 1)])
            return np.array((beta * powers).tolist(), dtype=float)

    return _by_quadrature("polynomial", functions, radius, l_max, sigma)


def _gto_featomic(radius: float, n_max: int, l_max: int, sigma: float) -> Callable[[np.ndarray], np.ndarray]:
    """Integrals (R, n, l) in featomic's Gaussian orbitals, which do not depend on l, by quadrature over all space."""
    width = [radius * max(math.sqrt(n), 1) / n_max for n in range(n_max)]
    with mpmath.workdps(DIGITS):
        a = [1 / (2 * mpmath.mpf(w) ** 2) for w in width]
        half = mpmath.mpf(1) / 2

        def product(p: int, q: int):
            power = (3 + p + q) * half
            return half * mpmath.gamma(power) * (a[p] + a[q]) ** -power

        norm = [1 / mpmath.sqrt(product(n, n)) for n in range(n_max)]
        overlap = [[norm[p] * norm[q] * product(p, q) for q in range(n_max)] for p in range(n_max)]
        beta = _longdouble(_lowdin(overlap, ALIKE)) * _longdouble(norm)[None, :]

    def functions(r: np.ndarray) -> np.ndarray:
        x = np.asarray(r, np.longdouble)
        return np.asarray(beta @ np.array([x**n * np.exp(-(x**2) / (2 * w**2)) for n, w in enumerate(width)]), float)

    # Beyond, the neighbour's Gaussian is below 1e-17 of its height.
    end = radius + 9 * sigma
    pieces = math.ceil(0.2 * end / min(sigma, *width))
    if pieces > MOST_PIECES:
        raise ValueError(
            f"sigma={sigma}: too small for a radius of {radius} A; must be at least {0.2 * end / MOST_PIECES:.2g}"
        )
    return _by_quadrature("gto_featomic", functions, end, l_max, sigma, pieces)


def _by_quadrature(basis: str, functions, end: float, l_max: int, sigma: float, pieces: int = 1):
    """Integrals (R, n, l) over [0, end] by Gauss-Legendre rules on equal pieces, after a check with twice as many nodes."""

    def rule(nodes: int) -> Callable[[np.ndarray], np.ndarray]:
        x, weight = legendre.leggauss(nodes)
        starts = end / pieces * np.arange(pieces)
        r = (starts[:, None] + end / pieces * (x + 1) / 2).reshape(-1)
        weighted = functions(r) * (np.tile(weight, pieces) * end / pieces / 2 * r**2)

        def integrals(R: np.ndarray) -> np.ndarray:
            z = r[None, :] * np.maximum(R, 1e-12)[:, None] / sigma**2
            # exp(-R^2/2s^2 - r^2/2s^2) i_l(z) = exp(-(r - R)^2 / 2s^2) [exp(-z) i_l(z)]
            gauss = 4 * np.pi * np.exp(-((r[None, :] - R[:, None]) ** 2) / (2 * sigma**2)) * np.sqrt(np.pi / (2 * z))
            columns = [(gauss * ive(l + 0.5, z)) @ weighted.T for l in range(l_max + 1)]
            return np.stack(columns, axis=-1)

        return integrals

    R = np.linspace(0, end, 41)
    found, better = rule(NODES)(R), rule(2 * NODES)(R)
    if not np.abs(found - better).max() <= 1e-8 * np.abs(better).max():
        raise ValueError(
            f"sigma={sigma}: so small that the quadrature of basis {basis!r} ({pieces * NODES} nodes on {end:.3g} A) fails"
        )
    return rule(NODES)


def _lowdin(overlap: list[list], most: float = 1e30) -> mpmath.matrix:
    r""":math:`S^{-1/2}`, the symmetric orthonormalisation, for condition numbers up to `most`."""
    values, vectors = mpmath.eigsy(mpmath.matrix(overlap))
    if min(values) <= 0 or max(values) / min(values) > most:
        raise ValueError(
            f"n_max={len(overlap)}: so many radial functions are too much alike to be made orthonormal; take fewer of "
            "them, a larger radius, or the basis 'bessel', which is orthonormal by construction"
        )
    return vectors * mpmath.diag([1 / mpmath.sqrt(v) for v in values]) * vectors.T


def _longdouble(numbers) -> np.ndarray:
    """Numbers of extended precision as an array with as many digits as NumPy has, (n,) or (n, m)."""
    shape = (numbers.rows, numbers.cols) if isinstance(numbers, mpmath.matrix) else (len(numbers),)
    return np.array([np.longdouble(mpmath.nstr(x, 25)) for x in numbers]).reshape(shape)


_INTEGRALS = {"bessel": _bessel, "gto": _gto, "polynomial": _polynomial, "gto_featomic": _gto_featomic}
