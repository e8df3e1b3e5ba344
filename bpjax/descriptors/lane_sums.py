r"""Sums over pairs of neighbours, many centres side by side: the fast form of angular functions on a CPU.

.. math::
    S_{qa} = \sum_{jk} w_q(j)\, w_q(k)\, h_q(r_{jk})\, 2 b_a^{\zeta_a}, \qquad b_a = (1 + \lambda_a \cos\theta_{jk}) / 2

over unordered pairs of neighbours j of one channel and k of another or the same one, with
:math:`h_q = e^{-\eta_q (r_{jk} - r_s)^2} f(r_{jk})` for narrow functions and 1 for wide ones. The plain form is in
`bpjax.descriptors.acsf_kernels`; both agree to rounding.

Pairs are taken in tiles: some neighbours of the first channel with some of the second one, in the same places for all centres, so
that operands are slices and all is elementwise. Within one channel there is half a square of tiles, and half of those on its
diagonal counts.

A tile passes through several stages, each of which writes what the next one reads. That is for XLA, which fuses all that stands
together and then computes what is cheap again for each of its users; it does not look across loops, so a stage is a loop of
one step.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from bpjax.descriptors.cutoffs import Cutoff
from bpjax.descriptors.lanes import TILE


class Product(NamedTuple):
    """Some parts that depend on distances times some angular shapes: all combinations, (Q, A).

    Attributes:
      eta, r_s: of each part.
      cutoff: the cutoff function of all of them.
      narrow: whether they depend on r_jk.
      powers: exponents zeta, each with the lam that occur.
    """

    eta: tuple[float, ...]
    r_s: tuple[float, ...]
    cutoff: Cutoff
    narrow: bool
    powers: tuple[tuple[int, tuple[float, ...]], ...]

    @property
    def pair_cutoff(self) -> Cutoff | None:
        """Cutoff function of r_jk, if it matters."""
        return self.cutoff if self.narrow else None


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def pair_sums(
    products: tuple[Product, ...],
    same: Bool[Array, ""],
    count: tuple[Int[Array, ""], Int[Array, ""]],
    R: tuple[Float[Array, "3 C B"], Float[Array, "3 C B"]],
    w: tuple[tuple[Float[Array, "Q C B"], ...], tuple[Float[Array, "Q C B"], ...]],
) -> list[list[Float[Array, "Q L B"]]]:
    """Sums of every product, for each zeta those of each lam.

    Args:
      products: the functions (static).
      same: whether both channels are the same one.
      count: how many places of each channel are in use.
      R: vectors to the neighbours of both channels, in their places.
      w: their weights in each product; 0 in free places.
    """
    return _forward(products, same, count, R, w)[0]


def _forward(products, same, count, R, w):
    tiles = _Tiles(products, same, count, R, w)

    def tile(at: "_Tile", carried):
        (stored, M), acc = carried
        C, D, F = stored = tiles.geometry(at, stored)

        def weigh(_):
            return [
                at.first(w_j) * at.second(w_k) * (2 * tiles.cutoff(F, p))[None] * _exponential(p, D)
                for p, w_j, w_k in zip(products, *w, strict=True)
            ]

        M = at.stage(weigh, M)

        def summed(m, zeta, lams):
            lam = _column(lams, C[0])
            return sum(m[:, None, j] * _power((1 + lam * C[j][None]) * 0.5, zeta)[None] for j in range(TILE))

        values = [[summed(m, *power) for power in p.powers] for p, m in zip(products, M, strict=True)]
        return (stored, M), jax.tree.map(jnp.add, acc, values)

    B, dtype = R[0].shape[-1], R[0].dtype
    acc = [[jnp.zeros((len(p.eta), len(lams), TILE, B), dtype) for _, lams in p.powers] for p in products]
    room = tiles.room_for_geometry(), [tiles.room(len(p.eta)) for p in products]
    _, acc = tiles.over_all(tile, (room, acc))
    return [[a.sum(axis=2) for a in own] for own in acc], (same, count, R, w)


def _backward(products, kept, cotangents):
    same, count, R, w = kept
    tiles = _Tiles(products, same, count, R, w)
    V = [[2 * v[:, :, None, None, :] for v in own] for own in cotangents]

    def tile(at: "_Tile", carried):
        (stored, XY, slopes), sums = carried
        C, D, F = stored = tiles.geometry(at, stored)
        XY = at.stage(lambda _: [_angular_slopes(p, v, C, D) for p, v in zip(products, V, strict=True)], XY)
        slopes = at.stage(lambda _: _pair_slopes(tiles, at, C, D, F, XY), slopes)
        return (stored, XY, slopes), _added(tiles, at, slopes, sums)

    parts = [tiles.room(len(p.eta)) for p in products]
    room = tiles.room_for_geometry(), [(x, x) for x in parts], (*(tiles.room(),) * 3, parts)
    C = R[0].shape[1]
    _, (first, second) = tiles.over_all(tile, (room, (tiles.no_sums(0, C), tiles.no_sums(1, C))))
    (g_j, h_j, u_j), (g_k, h_k, u_k) = first, second
    return None, None, (g_j + 2 * R[0] * h_j[None], g_k + 2 * R[1] * h_k[None]), (u_j, u_k)


pair_sums.defvjp(_forward, _backward)


class _Tile(NamedTuple):
    """A tile: first places of both sides, whether it is on the diagonal of a square, and a one that XLA does not know."""

    j: Int[Array, ""]
    k: Int[Array, ""]
    diagonal: Bool[Array, ""]
    one: Int[Array, ""]

    def first(self, x: Float[Array, "*lead C B"]) -> Float[Array, "*lead c 1 B"]:
        """Values of the first neighbours."""
        return _cut(x, self.j)[..., :, None, :]

    def second(self, x: Float[Array, "*lead C B"]) -> Float[Array, "*lead 1 c B"]:
        """Values of the second neighbours."""
        return _cut(x, self.k)[..., None, :, :]

    def stage(self, function: Callable, room):
        """What the function gives, in the room of what it gave for the last tile."""
        return lax.fori_loop(0, self.one, lambda _, room: function(room), room)


class _Tiles:
    """The pairs of two channels."""

    def __init__(self, products: tuple[Product, ...], same: Bool[Array, ""], count, R, w):
        self.products, self.same, self.R, self.w = products, same, R, w
        self.count = [-(-n // TILE) for n in count]
        self.inverse = [lax.rsqrt(jnp.sum(x * x, axis=0)) for x in R]
        self.cutoffs = tuple(dict.fromkeys(p.pair_cutoff for p in products))

    def over_all(self, function: Callable, carried):
        """Passes from tile to tile; all tiles of the same first neighbours come one after the other."""
        one = jnp.minimum(self.count[0], 1)

        def row(J, carried):
            def tile(K, carried):
                return function(_Tile(J * TILE, K * TILE, self.same & (J == K), one), carried)

            return lax.fori_loop(jnp.where(self.same, J, 0), self.count[1], tile, carried)

        return lax.fori_loop(0, self.count[0], row, carried)

    def room(self, *lead: int) -> Float[Array, "*shape"]:
        """For what a stage leaves."""
        x = self.R[0]
        return jnp.zeros((*lead, TILE, TILE, x.shape[-1]), x.dtype)

    def room_for_geometry(self):
        """Room for what `geometry` leaves."""
        return self.room(), self.room(), [(self.room(), self.room()) for _ in self.cutoffs]

    def geometry(self, at: _Tile, stored):
        """Cosine of the angle, square of the distance, and each cutoff function with its slope; 0 for what does not count."""

        def pairs(_):
            R_j, R_k = at.first(self.R[0]), at.second(self.R[1])
            cos = jnp.sum(R_j * R_k, axis=0) * at.first(self.inverse[0]) * at.second(self.inverse[1])
            d2 = jnp.sum((R_k - R_j) ** 2, axis=0)
            counts = np.tri(TILE, k=-1, dtype=bool).T[:, :, None] | ~at.diagonal
            return cos, d2, [tuple(jnp.where(counts, x, 0) for x in _cutoff(f, d2)) for f in self.cutoffs]

        return at.stage(pairs, stored)

    def cutoff(self, F, p: Product, slope: bool = False) -> Float[Array, "*pairs"]:
        """Cutoff function of a product or its slope."""
        return F[self.cutoffs.index(p.pair_cutoff)][slope]

    def no_sums(self, side: int, places: int):
        """Zeros for the derivatives with respect to vectors, their squares and weights of one side."""

        def zeros(x):
            return jnp.zeros((*x.shape[:-2], places, x.shape[-1]), x.dtype)

        return zeros(self.R[side]), zeros(self.inverse[side]), tuple(map(zeros, self.w[side]))


def _angular_slopes(p: Product, V, C, D):
    """Sum of the shapes, and of their slopes in the cosine, times the exponential of each part: (Q, c, c, B)."""
    T = dT = 0
    for v, (zeta, lams) in zip(V, p.powers, strict=True):
        for i, lam in enumerate(lams):
            b = (1 + lam * C) * 0.5
            lower = _power(b, zeta - 1)
            T = T + v[:, i] * (lower * b)[None]
            dT = dT + v[:, i] * (lower * (0.5 * lam * zeta))[None]
    e = _exponential(p, D)
    return T * e, dT * e


def _pair_slopes(tiles, at, C, D, F, XY):
    """Derivatives with respect to the product of both vectors, to the square of their distance, and what else `_added` needs."""
    A = B = 0
    for p, (x, y), w_j, w_k in zip(tiles.products, XY, *tiles.w, strict=True):
        f, df = tiles.cutoff(F, p), tiles.cutoff(F, p, slope=True)
        for q in range(len(p.eta)):
            ww = at.first(w_j[q]) * at.second(w_k[q])
            A = A + y[q] * ww * f
            if p.narrow:
                B = B + x[q] * ww * (df + f * _log_slope(p, q, D))
    B = jnp.zeros_like(C) + B
    dp = A * at.first(tiles.inverse[0]) * at.second(tiles.inverse[1]) - 2 * B
    return dp, B, 0.5 * A * C, [x * tiles.cutoff(F, p)[None] for p, (x, _) in zip(tiles.products, XY, strict=True)]


def _added(tiles, at, slopes, sums):
    """Adds the derivatives of the pairs of a tile to those of their neighbours.

    With respect to a vector they are a multiple of the other one, which goes to g, and a multiple of itself, whose factor goes
    to h.
    """
    dp, b, ac, u = slopes
    sides = []
    for side, start, other, along in ((0, at.j, at.k, _second_sum), (1, at.k, at.j, _first_sum)):
        R, ir = _cut(tiles.R[1 - side], other), _cut(tiles.inverse[side], start)
        g, h, own = sums[side]
        weights = [_cut(w, other) for w in tiles.w[1 - side]]
        g = _add(g, along(dp[None], R), start)
        h = _add(h, along(b) - along(ac) * ir * ir, start)
        own = tuple(_add(v, along(x, w), start) for v, x, w in zip(own, u, weights, strict=True))
        sides.append((g, h, own))
    return tuple(sides)


def _second_sum(x, w=None):
    """Sum over the second neighbours, weighted: (*lead, c, c, B), (*lead, c, B) -> (*lead, c, B)."""
    return sum(x[..., :, k, :] if w is None else x[..., :, k, :] * w[..., k, None, :] for k in range(TILE))


def _first_sum(x, w=None):
    """Sum over the first neighbours."""
    return sum(x[..., j, :, :] if w is None else x[..., j, :, :] * w[..., j, None, :] for j in range(TILE))


def _exponential(p: Product, d2: Float[Array, "*pairs"]) -> Float[Array, "Q *pairs"] | float:
    """Exponential of the distance of a pair in each part."""
    if not p.narrow:
        return 1.0
    if not any(p.r_s):
        return jnp.exp(-_column(p.eta, d2) * d2[None])
    return jnp.exp(-_column(p.eta, d2) * (_root(d2)[None] - _column(p.r_s, d2)) ** 2)


def _log_slope(p: Product, q: int, d2: Float[Array, "*pairs"]) -> Float[Array, "*pairs"] | float:
    """Derivative of the logarithm of that exponential with respect to the square of the distance."""
    return -p.eta[q] * (1 - p.r_s[q] / _root(d2)) if p.r_s[q] else -p.eta[q]


def _cutoff(cutoff: Cutoff | None, d2: Float[Array, "*pairs"]) -> tuple[Float[Array, "*pairs"], Float[Array, "*pairs"]]:
    """Cutoff function of a distance, if there is one, and its derivative with respect to the square of the distance."""
    if cutoff is None:
        return jnp.ones_like(d2), jnp.zeros_like(d2)
    if cutoff.kind != "cosine" or cutoff.inner:
        return jax.jvp(lambda d2: cutoff(_root(d2)), (d2,), (jnp.ones_like(d2),))
    # In this variable the cosine is an entire function: a short polynomial, and no square root.
    y, inside = d2 * cutoff.radius**-2, d2 < cutoff.radius**2
    f, df = _cosine_series(8 if d2.dtype == jnp.float32 else 13)
    return jnp.where(inside, _horner(f, y), 0), jnp.where(inside, _horner(df, y) * cutoff.radius**-2, 0)


@lru_cache
def _cosine_series(degree: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    r"""Coefficients of :math:`(\cos \pi\sqrt y + 1) / 2` on 0 to 1 and of its derivative; 1e-9 off at degree 8, 1e-17 at 13."""
    series = np.polynomial.chebyshev.Chebyshev.interpolate(
        lambda y: (np.cos(np.pi * np.sqrt(np.maximum(y, 0))) + 1) / 2, degree, domain=[0, 1]
    ).convert(kind=np.polynomial.Polynomial)
    return tuple(series.coef.tolist()), tuple(series.deriv().coef.tolist())


def _horner(coefficients: tuple[float, ...], y: Float[Array, "*pairs"]) -> Float[Array, "*pairs"]:
    value = jnp.full_like(y, coefficients[-1])
    for a in coefficients[-2::-1]:
        value = value * y + a
    return value


def _power(b, zeta: int):
    return lax.integer_pow(b, zeta) if zeta else jnp.ones_like(b)


def _root(d2):
    """Distance; pairs at the same place, which have no weight, get 1."""
    return jnp.sqrt(jnp.where(d2 > 0, d2, 1))


def _column(values: tuple[float, ...], like) -> Float[Array, "n ..."]:
    return jnp.asarray(values, like.dtype).reshape(-1, *(1,) * like.ndim)


def _cut(x, start):
    return lax.dynamic_slice_in_dim(x, start, TILE, x.ndim - 2)


def _add(x, summand, start):
    return lax.dynamic_update_slice_in_dim(x, _cut(x, start) + summand, start, x.ndim - 2)
