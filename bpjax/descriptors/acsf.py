r"""Atom-centred symmetry functions (ACSF): kernels as equations, and `ACSF`, the options that combine them.

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
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations_with_replacement

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from bpjax.descriptors import harmonics
from bpjax.descriptors.cutoffs import Cutoff
from bpjax.geometry import norm, sanitised
from bpjax.spec import register


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


@register
@dataclass(frozen=True)
class Radial:
    """Parameters of a G2 function: `eta` in 1/A^2 (at least 0), centre `r_s` in A."""

    eta: float
    r_s: float = 0.0

    def __post_init__(self):
        if not (math.isfinite(self.eta) and self.eta >= 0):
            raise ValueError(f"Radial eta={self.eta}: must be finite and at least 0, in 1/A^2")
        if not math.isfinite(self.r_s):
            raise ValueError(f"Radial r_s={self.r_s}: must be finite, in A")


@register
@dataclass(frozen=True)
class Angular:
    """Parameters of a G4 or G5 function: `eta` in 1/A^2, `zeta` at least 1, `lam` +1 or -1, centre `r_s` in A."""

    eta: float
    zeta: float
    lam: float
    r_s: float = 0.0

    def __post_init__(self):
        if not (math.isfinite(self.eta) and self.eta >= 0):
            raise ValueError(f"Angular eta={self.eta}: must be finite and at least 0, in 1/A^2")
        if not (math.isfinite(self.zeta) and self.zeta >= 1):
            raise ValueError(f"Angular zeta={self.zeta}: must be at least 1")
        if self.lam not in (1, -1):
            raise ValueError(f"Angular lam={self.lam}: must be 1 or -1")
        if not math.isfinite(self.r_s):
            raise ValueError(f"Angular r_s={self.r_s}: must be finite, in A")


LARGEST_MOMENT = 16
"""Highest zeta for which moments can be asked."""

MOMENTS_PAY = 8
"""Highest zeta that goes through moments by default. Measured with 45 neighbours on a CPU: a fifth of the time of the double
sum up to zeta 4, a third at 8, twice its time (and a long compilation) at 16."""


@register
@dataclass(frozen=True)
class ACSF:
    """Atom-centred symmetry functions as a descriptor: called on one environment, it returns its features.

    Attributes:
      elements: chemical symbols; their order is the order of the species indices.
      cutoff: radius in A.
      cutoff_kind: formula of the cutoff function, see `bpjax.descriptors.cutoffs`.
      cutoff_inner: inner radius as a fraction of `cutoff`.
      g1: whether to include G1.
      g2: parameters of the G2 functions.
      g3: kappa of the G3 functions, in 1/A.
      g4: parameters of the narrow angular functions.
      g5: parameters of the wide angular functions.
      weights: None for one channel per element (pair of elements), or one weight per element for a single channel.
      wide: how G5 is evaluated: "moments", "pairs" (the double sum), or "auto", the cheaper one for each zeta.

    Raises:
      ValueError: an option out of range, with its name and what is allowed.
    """

    elements: tuple[str, ...]
    cutoff: float
    cutoff_kind: str = "cosine"
    cutoff_inner: float = 0.0
    g1: bool = False
    g2: tuple[Radial, ...] = ()
    g3: tuple[float, ...] = ()
    g4: tuple[Angular, ...] = ()
    g5: tuple[Angular, ...] = ()
    weights: tuple[float, ...] | None = None
    wide: str = "auto"

    def __post_init__(self):
        if not self.elements or len(set(self.elements)) != len(self.elements):
            raise ValueError(f"ACSF elements={self.elements}: at least one chemical symbol, each once")
        if self.weights is not None and len(self.weights) != len(self.elements):
            raise ValueError(f"ACSF weights={self.weights}: one for each of the {len(self.elements)} elements, or None")
        if not all(map(math.isfinite, self.weights or ())):
            raise ValueError(f"ACSF weights={self.weights}: must be finite")
        if not all(map(math.isfinite, self.g3)):
            raise ValueError(f"ACSF g3={self.g3}: every kappa must be finite, in 1/A")
        if self.wide not in ("auto", "moments", "pairs"):
            raise ValueError(f"ACSF wide={self.wide!r}: allowed are auto, moments, pairs")
        if self.wide == "moments" and not all(_has_moments(p) for p in self.g5):
            raise ValueError(f"ACSF wide='moments': zeta of every g5 must be an integer up to {LARGEST_MOMENT}")
        for name in ("g2", "g3", "g4", "g5"):
            if len(set(getattr(self, name))) != len(getattr(self, name)):
                raise ValueError(f"ACSF {name}: the same parameters are listed twice")
        if self.size == 0:
            raise ValueError("ACSF: no function; give at least one of g1, g2, g3, g4, g5")
        self.cutoff_function  # noqa: B018  checks radius, kind and inner radius

    @cached_property
    def cutoff_function(self) -> Cutoff:
        """The cutoff function shared by all functions."""
        return Cutoff(self.cutoff, self.cutoff_kind, self.cutoff_inner)

    @property
    def channels(self) -> int:
        """Element channels C: one per element, or one altogether with `weights`."""
        return len(self.elements) if self.weights is None else 1

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Unordered pairs of channels, (0, 0), (0, 1), ..."""
        return tuple(combinations_with_replacement(range(self.channels), 2))

    @property
    def size(self) -> int:
        """Number of features."""
        radial = int(self.g1) + len(self.g2) + len(self.g3)
        return radial * self.channels + (len(self.g4) + len(self.g5)) * len(self.pairs)

    @property
    def labels(self) -> tuple[str, ...]:
        """Name of each feature, in order: function, parameters, elements of the neighbours."""
        one = self.elements if self.weights is None else ("*",)
        two = tuple(f"{one[s]}-{one[t]}" for s, t in self.pairs)
        radial = (
            [f"G1 {e}" for e in one if self.g1]
            + [f"G2 eta={p.eta:g} r_s={p.r_s:g} {e}" for p in self.g2 for e in one]
            + [f"G3 kappa={kappa:g} {e}" for kappa in self.g3 for e in one]
        )
        angular = [
            f"{name} eta={p.eta:g} zeta={p.zeta:g} lam={p.lam:+g} r_s={p.r_s:g} {e}"
            for name, functions in (("G4", self.g4), ("G5", self.g5))
            for p in functions
            for e in two
        ]
        return tuple(radial + angular)

    def working_set(self, slots: int) -> int:
        """About how many numbers the evaluation of one environment holds at a time."""
        parts = len(set(self.g4)) + sum(not self._through_moments(p) for p in self.g5)
        return slots * slots * parts + slots * (self.size + (LARGEST_MOMENT + 1) ** 2)

    def __call__(
        self,
        R_ij: Float[Array, "K 3"],
        species_j: Int[Array, " K"],
        mask: Bool[Array, " K"],
        species_i: Int[Array, ""] | int | None = None,
    ) -> Float[Array, " D"]:
        """Features of one environment, the same functions for every centre; see `bpjax.descriptors.base.Descriptor`."""
        dtype = R_ij.dtype
        R_ij = sanitised(R_ij, mask)
        r_ij = norm(R_ij)
        f_c = jnp.where(mask, self.cutoff_function(r_ij), 0)
        table = np.eye(len(self.elements)) if self.weights is None else np.array(self.weights)[:, None]
        c = jnp.asarray(table, dtype)[species_j]
        parts = []
        if self.g1:
            parts.append(g1(f_c, c))
        if self.g2:
            eta, r_s = (jnp.asarray([getattr(p, name) for p in self.g2], dtype) for name in ("eta", "r_s"))
            parts.append(g2(r_ij, f_c, c, eta, r_s))
        if self.g3:
            parts.append(g3(r_ij, f_c, c, jnp.asarray(self.g3, dtype)))
        if self.g4:
            parts.append(self._narrow(R_ij, r_ij, f_c, c, mask))
        if self.g5:
            parts.append(self._wide(R_ij, r_ij, f_c, c, mask))
        return jnp.concatenate([part.reshape(-1) for part in parts])

    def _narrow(self, R_ij, r_ij, f_c, c, mask):
        grid = _Grid(self.g4)
        eta, r_s = jnp.asarray(grid.eta, r_ij.dtype), jnp.asarray(grid.r_s, r_ij.dtype)
        distinct = _distinct(mask)
        R_jk = sanitised(R_ij[None, :, :] - R_ij[:, None, :], distinct)
        r_jk = norm(R_jk)
        f_jk = jnp.where(distinct, self.cutoff_function(r_jk), 0)
        w_jk = jnp.exp(-eta[:, None, None] * (r_jk[None] - r_s[:, None, None]) ** 2) * f_jk[None]
        power = angular_powers(_cosines(R_ij, r_ij), grid.shapes)
        return grid.pick(g4(radial_weights(r_ij, f_c, eta, r_s), w_jk, power, c, self.pairs))

    def _through_moments(self, p: Angular) -> bool:
        largest = {"moments": LARGEST_MOMENT, "auto": MOMENTS_PAY, "pairs": 0}[self.wide]
        return _has_moments(p) and p.zeta <= largest

    def _wide(self, R_ij, r_ij, f_c, c, mask):
        through_moments = [self._through_moments(p) for p in self.g5]
        out = jnp.zeros((len(self.g5), len(self.pairs)), r_ij.dtype)
        for moments in (True, False):
            chosen = np.flatnonzero(np.array(through_moments) == moments)
            if not len(chosen):
                continue
            grid = _Grid(tuple(self.g5[n] for n in chosen))
            w = radial_weights(r_ij, f_c, jnp.asarray(grid.eta, r_ij.dtype), jnp.asarray(grid.r_s, r_ij.dtype))
            if moments:
                values = g5_moments(R_ij / r_ij[:, None], w, c, grid.shapes, self.pairs)
            else:
                power = jnp.where(_distinct(mask)[None], angular_powers(_cosines(R_ij, r_ij), grid.shapes), 0)
                values = g5_pairs(w, power, c, self.pairs)
            out = out.at[chosen].set(grid.pick(values))
        return out


class _Grid:
    """Splits angular parameters into distinct radial parts and distinct shapes, and picks the listed combinations."""

    def __init__(self, functions: tuple[Angular, ...]):
        radial = list(dict.fromkeys((p.eta, p.r_s) for p in functions))
        self.shapes = tuple(dict.fromkeys((p.zeta, p.lam) for p in functions))
        self.eta, self.r_s = np.array(radial).T
        self.q = np.array([radial.index((p.eta, p.r_s)) for p in functions])
        self.a = np.array([self.shapes.index((p.zeta, p.lam)) for p in functions])

    def pick(self, values: Float[Array, "Q A T"]) -> Float[Array, "F T"]:
        """The functions in the order in which they were listed."""
        return values[self.q, self.a]


def _has_moments(p: Angular) -> bool:
    return float(p.zeta).is_integer() and p.zeta <= LARGEST_MOMENT


def _distinct(mask: Bool[Array, " K"]) -> Bool[Array, "K K"]:
    """Pairs of two different real neighbours."""
    return mask[:, None] & mask[None, :] & ~jnp.eye(len(mask), dtype=bool)


def _cosines(R_ij: Float[Array, "K 3"], r_ij: Float[Array, " K"]) -> Float[Array, "K K"]:
    u = R_ij / r_ij[:, None]
    return u @ u.T
