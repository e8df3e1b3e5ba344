"""Angular functions of a descriptor that go through `lane_sums`, and features of a block of centres that are made of them.

A descriptor that has such functions offers `in_lanes`, see `bpjax.descriptors.base`.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from bpjax.descriptors.cutoffs import Cutoff
from bpjax.descriptors.lane_sums import Product, pair_sums
from bpjax.descriptors.lanes import Packing, packed, packing
from bpjax.geometry import sanitised
from bpjax.system import Environment

ALL = -1
"""Channel of all neighbours, each with the weight of its element."""


class AngularFunction(NamedTuple):
    """A function of `bpjax.descriptors.symmetry` of kind 3 (narrow), 9, or 13, for one pair of channels, in ascending order."""

    channels: tuple[int, int]
    cutoff: Cutoff
    narrow: bool
    eta: float
    r_s: float
    zeta: float
    lam: float

    @property
    def simple(self) -> bool:
        """Whether its shape is a whole power of what is never negative."""
        return float(self.zeta).is_integer() and abs(self.lam) <= 1


class Plan(NamedTuple):
    """What is summed over which pairs.

    Attributes:
      groups: pairs of channels that have the same products, and these.
      where: of each function among the values of all groups, pair by pair.
    """

    groups: tuple[tuple[tuple[tuple[int, int], ...], tuple[Product, ...]], ...]
    where: tuple[int, ...]


@lru_cache(maxsize=1024)
def plan(functions: tuple[AngularFunction, ...]) -> Plan:
    """Arranges functions so that nothing is evaluated twice: distinct parts, each times the shapes that it occurs with."""
    needs: dict[tuple[int, int], dict[tuple[Cutoff, bool], dict]] = {}
    for f in functions:
        parts = needs.setdefault(f.channels, {}).setdefault((f.cutoff, f.narrow), {})
        parts.setdefault((f.eta, f.r_s), set()).add((int(f.zeta), f.lam))
    groups: dict[tuple[Product, ...], list[tuple[int, int]]] = {}
    for channels, families in needs.items():
        products = tuple(p for (f_c, narrow), own in families.items() for p in _products(f_c, narrow, own))
        groups.setdefault(products, []).append(channels)
    place: dict[tuple, int] = {}
    for products, pairs in groups.items():
        for channels in pairs:
            for key in (key for p in products for key in _values(p)):
                place[channels, *key] = len(place)
    where = tuple(place[f.channels, f.cutoff, f.narrow, f.eta, f.r_s, int(f.zeta), f.lam] for f in functions)
    return Plan(tuple((tuple(pairs), products) for products, pairs in groups.items()), where)


def _products(cutoff: Cutoff, narrow: bool, parts: dict[tuple, set]) -> list[Product]:
    """Products of the parts that occur with the same shapes."""
    alike: dict[tuple, list] = {}
    for part, shapes in parts.items():
        alike.setdefault(tuple(sorted(shapes)), []).append(part)
    found = []
    for shapes, own in alike.items():
        eta, r_s = zip(*sorted(own), strict=True)
        powers = tuple((zeta, tuple(lam for z, lam in shapes if z == zeta)) for zeta in sorted({z for z, _ in shapes}))
        found.append(Product(eta, r_s, cutoff, narrow, powers))
    return found


def _values(p: Product) -> list[tuple]:
    """The functions of a product in the order of their values."""
    parts = list(zip(p.eta, p.r_s, strict=True))
    return [(p.cutoff, p.narrow, *q, zeta, lam) for zeta, lams in p.powers for q in parts for lam in lams]


def angular_values(
    functions: tuple[AngularFunction, ...],
    weights: Sequence[float],
    R: Float[Array, "3 K B"],
    species: Int[Array, "K B"],
    mask: Bool[Array, "K B"],
) -> Float[Array, "F B"]:
    """Values of angular functions for the centres of a block, in the layout of `bpjax.descriptors.lanes`.

    Args:
      functions: the functions (static), all of them `simple`.
      weights: of each element in the channel `ALL`.
      R: vectors to the neighbours, sanitised.
      species: their species.
      mask: which slots are real.
    """
    groups, where = plan(functions)
    reach = max(f.cutoff.radius for f in functions)
    near = mask & (jnp.sum(R * R, axis=0) < reach**2)
    channels = {c: _Channel(c, weights, R, species, near) for c in _used(pair for pairs, _ in groups for pair in pairs)}
    values = jnp.concatenate([_of_pairs(products, channels, pairs) for pairs, products in groups])
    return values if where == tuple(range(len(values))) else values[np.array(where, np.int32)]


def _used(pairs: Iterable[tuple[int, int]]) -> list[int]:
    """The channels of some pairs."""
    return sorted({channel for pair in pairs for channel in pair})


def _of_pairs(products, channels: "dict[int, _Channel]", pairs) -> Float[Array, "F B"]:
    """Values of products for some pairs of channels, one after the other in a loop that is compiled once."""
    used = _used(pairs)
    own = [channels[c] for c in used]
    count = jnp.stack([c.where.count for c in own])
    R = jnp.stack([c.R for c in own])
    w: Any = tuple(jnp.stack([c.weights(p) for c in own]) for p in products)

    def one(pair):
        s, t = pair
        weights = tuple(x[s] for x in w), tuple(x[t] for x in w)
        sums: Any = pair_sums(products, s == t, (count[s], count[t]), (R[s], R[t]), weights)
        return jnp.concatenate([x.reshape(-1, x.shape[-1]) for values in sums for x in values])

    first, second = np.array([[used.index(c) for c in pair] for pair in pairs], np.int32).T
    if len(pairs) == 1:
        return one((jnp.asarray(first[0]), jnp.asarray(second[0])))
    values = jax.lax.map(one, (jnp.asarray(first), jnp.asarray(second)))
    return values.reshape(-1, values.shape[-1])


class _Channel:
    """Neighbours of one channel in their places."""

    def __init__(self, channel: int, weights: Sequence[float], R, species, near):
        self.where: Packing = packing(near if channel == ALL else near & (species == channel))
        self.R = packed(self.where, R)
        self.r = jnp.sqrt(jnp.sum(self.R * self.R, axis=0))
        c = jnp.asarray(weights, R.dtype)[packed(self.where, species)] if channel == ALL else 1
        self.c = jnp.where(self.where.free, 0, c).astype(R.dtype)

    def weights(self, p: Product) -> Float[Array, "Q C B"]:
        """Weight of each neighbour in each part."""
        eta, r_s = (jnp.asarray(column, self.r.dtype)[:, None, None] for column in (p.eta, p.r_s))
        return jnp.exp(-eta * (self.r[None] - r_s) ** 2) * (p.cutoff(self.r) * self.c)[None]


def block_features(
    chosen: Callable[..., Array],
    indices: tuple[int, ...],
    functions: Sequence[AngularFunction | None],
    weights: Sequence[float],
    unit: float,
    env: Environment,
    species_i: int,
) -> Float[Array, "B F"]:
    """Features of a block of centres of one element.

    Args:
      chosen: method of the descriptor that evaluates features of one environment; see `bpjax.descriptors.reduced`.
      indices: numbers of the features.
      functions: for each of them its function, or None for one that is evaluated centre by centre.
      weights: of each element in the channel `ALL`.
      unit: length unit of the functions, in A.
      env: of all centres: pair vectors in A (B, K, 3), species of the neighbours, which slots are real.
      species_i: species of the centres.
    """
    angular: list[Any] = [f for f in functions if f is not None]
    rest = [n for n, f in enumerate(functions) if f is None]
    order = [n for n, f in enumerate(functions) if f is not None] + rest
    parts = []
    if angular:
        R = sanitised(env.R_ij / unit, env.mask).transpose(2, 1, 0)
        parts.append(angular_values(tuple(angular), weights, R, env.species_j.T, env.mask.T).T)
    if rest:
        others = tuple(indices[n] for n in rest)
        parts.append(jax.vmap(lambda one: chosen(others, one, species_i))(env))
    G = jnp.concatenate(parts, axis=1)
    back = np.argsort(order)
    return G if np.array_equal(back, np.arange(len(order))) else G[:, back.astype(np.int32)]
