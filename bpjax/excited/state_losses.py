r"""Losses for several electronic states that do not depend on the signs of the states, and are finite where states meet.

Every term is a mean of squares of errors in units of the widths of `StatesLoss`, for one geometry. Couplings and transition
dipoles have the signs of two states each; they are compared with the reference

- as they are, for the pattern of signs, of the :math:`2^{S-1}` that differ, that fits all of them best ("signs"), or
- as dyads, :math:`h_{ij} h_{ij}^T` and :math:`\mu_{ij} \mu_{ij}^T`, which have no signs ("dyads"); the product
  :math:`h_{01} h_{12} h_{20}`, which has none either, is then not learned.

**Near a seam** small errors of the energies turn the two states into each other: gradients and couplings of either state say
little, and at the seam nothing. What is well defined there is the cone: with :math:`g = \nabla(E_j - E_i)/2` and
:math:`s = \nabla(E_i + E_j)/2`, the sum s and the pair (g, h) up to a rotation. The weight goes over from the one to the other
with the gap of the reference, as :math:`w = \Delta^2 / (\Delta^2 + \delta^2)`:

.. math:: w\, (|\Delta G_i|^2 + |\Delta G_j|^2 + 2 |\Delta h|^2)
   + (1 - w) \left( 2 |\Delta s|^2 + 2 \min_{\varphi, \pm} | \mathrm{Rot}_\varphi (g, \pm h) - (g^0, h^0) |^2 \right)
"""

import itertools
import math
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bpjax.excited.states_data import pairs_of
from bpjax.spec import check, register

KINDS = ("energies", "gradients", "couplings", "dipoles")
COMPARISONS = ("signs", "dyads")


class StateLabels(NamedTuple):
    """Labels or predictions of one geometry; None for kinds that are not there.

    Coordinates are one axis C; couplings are those of the pairs i < j. Energies in eV, gradients and couplings in eV/A,
    dipoles in e A.
    """

    energies: Float[Array, "*batch S"]
    gradients: Float[Array, "*batch S C"] | None
    couplings: Float[Array, "*batch P C"] | None
    dipoles: Float[Array, "*batch S S 3"] | None


@register
@dataclass(frozen=True, kw_only=True)
class StatesLoss:
    r"""Widths of the errors of each kind, and how geometries, states and pairs are weighted.

    Attributes:
      energies: width in eV; None to leave a kind out.
      gradients, couplings: widths in eV/A.
      dipoles: width in e A.
      compare: "signs" or "dyads", see the module.
      state_weights: for each state of the data; empty for 1.
      seam: :math:`\delta` in eV, the gap at which cones take over; 0 for never.
      high: widths of a state are multiplied by :math:`1 + (E - E_0)/` `high`, with the energy in eV above the lowest of the
        data: what lies far above counts less. None for no such growth.
      broadening: in eV, see `bpjax.excited.eigen.inverse_gaps`: bounds derivatives of the states in training.

    Raises:
      ValueError: an option out of range, or nothing to fit.
    """

    energies: float | None = 0.03
    gradients: float | None = 0.2
    couplings: float | None = 0.2
    dipoles: float | None = None
    compare: str = "signs"
    state_weights: tuple[float, ...] = ()
    seam: float = 0.1
    high: float | None = 5.0
    broadening: float = 0.01

    def __post_init__(self):
        for name in (*KINDS, "high"):
            value = getattr(self, name)
            good = value is None or (math.isfinite(value) and value > 0)
            check(good, f"StatesLoss {name}", value, "must be positive, or None")
        check(
            any(getattr(self, kind) for kind in KINDS), "StatesLoss", "", "nothing to fit; give the width of one kind"
        )
        check(
            self.compare in COMPARISONS,
            "StatesLoss compare",
            repr(self.compare),
            f"allowed are {', '.join(COMPARISONS)}",
        )
        good = all(math.isfinite(w) and w >= 0 for w in self.state_weights) and (
            not self.state_weights or sum(self.state_weights) > 0
        )
        check(good, "StatesLoss state_weights", self.state_weights, "must be at least 0, and not all 0")
        for name in ("seam", "broadening"):
            value = getattr(self, name)
            check(math.isfinite(value) and value >= 0, f"StatesLoss {name}", value, "must be at least 0, in eV")

    @property
    def wanted(self) -> tuple[str, ...]:
        """Kinds with a width."""
        return tuple(kind for kind in KINDS if getattr(self, kind) is not None)


def sign_patterns(states: int) -> np.ndarray:
    """Patterns of signs of the states that differ for their products, (2^(S-1), S), the first sign positive."""
    return np.array([(1, *rest) for rest in itertools.product((1, -1), repeat=states - 1)], float)


def pair_signs(states: int) -> np.ndarray:
    """Signs of the pairs i < j for each pattern, (2^(S-1), P)."""
    patterns, pairs = sign_patterns(states), pairs_of(states)
    return np.stack([patterns[:, i] * patterns[:, j] for i, j in pairs], axis=1) if pairs else np.zeros((1, 0))


def states_loss(
    loss: StatesLoss, found: StateLabels, wanted: StateLabels, lowest: Float[Array, ""] | float = 0.0
) -> Float[Array, ""]:
    """The loss of one geometry.

    Args:
      loss: options (static).
      found: predictions.
      wanted: labels, with None for kinds that are missing: they contribute nothing.
      lowest: lowest energy of the data in eV, from which `StatesLoss.high` counts.

    Returns: never NaN or infinite for finite arguments, nor is its derivative, degenerate states included.
    """
    weight = _state_weights(loss, wanted.energies, lowest)
    total = jnp.zeros((), wanted.energies.dtype)
    if loss.energies is not None:
        total += jnp.mean(weight * ((found.energies - wanted.energies) / loss.energies) ** 2)
    apart, near = _gap_weights(loss, wanted.energies)
    if loss.gradients is not None and wanted.gradients is not None:
        total += _gradient_term(loss, found, wanted, weight, apart)
    cones = wanted.gradients is not None and wanted.couplings is not None
    if loss.seam > 0 and cones and loss.gradients is not None and loss.couplings is not None:
        total += _cone_term(loss, found, wanted, weight, near)
    return total + _pair_terms(loss, found, wanted, weight, apart)


def _state_weights(loss: StatesLoss, E: Float[Array, " S"], lowest) -> Float[Array, " S"]:
    given = jnp.asarray(loss.state_weights or (1.0,) * E.shape[0], E.dtype)
    given = given * (E.shape[0] / jnp.sum(given))
    return given if loss.high is None else given / (1 + jnp.maximum(E - lowest, 0) / loss.high) ** 2


def _gap_weights(loss: StatesLoss, E: Float[Array, " S"]) -> tuple[Float[Array, "S S"], Float[Array, "S S"]]:
    """Weights w of the pairs, far from a seam one, with ones on the diagonal; and 1 - w."""
    square = (E[:, None] - E[None, :]) ** 2
    one = jnp.eye(E.shape[0], dtype=E.dtype)
    near = jnp.where(one > 0, 0, loss.seam**2 / (square + loss.seam**2)) if loss.seam > 0 else jnp.zeros_like(square)
    return 1 - near, near


def _square(x):
    return jnp.sum(x * x, axis=-1)


def _gradient_term(loss, found, wanted, weight, apart):
    """Gradients of single states, as far as they have no near neighbour."""
    single = weight * jnp.prod(apart, axis=1)
    error = _square(found.gradients - wanted.gradients) / wanted.gradients.shape[-1]
    return jnp.mean(single * error) / loss.gradients**2


def _cone_term(loss, found, wanted, weight, near):
    """Pairs near a seam: the sum of the gradients, and the cone up to a rotation."""
    S, C = wanted.gradients.shape
    total = jnp.zeros((), wanted.energies.dtype)
    for p, (i, j) in enumerate(pairs_of(S)):
        (s, g), (s0, g0) = ((0.5 * (G[i] + G[j]), 0.5 * (G[j] - G[i])) for G in (found.gradients, wanted.gradients))
        cone = cone_difference(g, found.couplings[p], g0, wanted.couplings[p])
        pair = 0.5 * (weight[i] + weight[j]) * near[i, j]
        total += pair * (2 * _square(s - s0) + 2 * cone) / (C * S)
    return total / loss.gradients**2


def cone_difference(g, h, g0, h0) -> Float[Array, ""]:
    r""":math:`\min_{\varphi, \pm} | \mathrm{Rot}_\varphi(g, \pm h) - (g^0, h^0) |^2`, in closed form.

    It vanishes where the two pairs describe one cone: what is left of gradients and coupling of two states at a seam.
    """

    def overlap(sign):
        a, b = jnp.sum(g * g0) + sign * jnp.sum(h * h0), jnp.sum(h * g0) - sign * jnp.sum(g * h0)
        square = a * a + b * b
        return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)

    size = _square(g) + _square(h) + _square(g0) + _square(h0)
    return size - 2 * jnp.maximum(overlap(1.0), overlap(-1.0))


def _pair_terms(loss, found, wanted, weight, apart):
    """Couplings and dipoles, with the signs that fit them best together."""
    S = wanted.energies.shape[0]
    i, j = np.array(np.triu_indices(S, 1), np.int32)
    products, rest = [], jnp.zeros((), wanted.energies.dtype)
    pair_weight = 0.5 * (weight[i] + weight[j]) * _pairs_apart(apart)
    if loss.couplings is not None and wanted.couplings is not None and len(i):
        products.append((found.couplings, wanted.couplings, pair_weight, loss.couplings))
    if loss.dipoles is not None and wanted.dipoles is not None:
        own, k = weight * jnp.prod(apart, axis=1), np.arange(S, dtype=np.int32)
        rest += jnp.mean(own * _square(found.dipoles[k, k] - wanted.dipoles[k, k])) / (3 * loss.dipoles**2)
        if len(i):
            products.append((found.dipoles[i, j], wanted.dipoles[i, j], pair_weight, loss.dipoles))
    if not products:
        return rest
    compare = _by_signs if loss.compare == "signs" else _by_dyads
    return rest + compare(products, S)


def _pairs_apart(apart: Float[Array, "S S"]) -> Float[Array, " P"]:
    """Weight of each pair: its own, and those of either state with every third one."""
    S = apart.shape[0]
    one = jnp.ones((), apart.dtype)
    weights = []
    for i, j in pairs_of(S):
        third = [apart[i, k] * apart[j, k] for k in range(S) if k not in (i, j)]
        weights.append(math.prod(third, start=one) * apart[i, j])
    return jnp.stack(weights) if weights else jnp.zeros(0, apart.dtype)


def _by_signs(products, states: int):
    """The smallest sum over the patterns of signs."""
    signs, total = pair_signs(states), 0.0
    for a, b, weight, width in products:
        same, cross = _square(a) + _square(b), jnp.sum(a * b, axis=-1)
        unit = weight / (width**2 * a.shape[-1])
        total += jnp.mean(unit * (same - 2 * jnp.asarray(signs, a.dtype) * cross), axis=1)
    return jnp.min(total)


def _by_dyads(products, states: int):
    r""":math:`|a a^T - b b^T|^2`, divided so that small errors count as in `_by_signs`."""
    total = 0.0
    for a, b, weight, width in products:
        C = a.shape[-1]
        difference = _square(a) ** 2 - 2 * jnp.sum(a * b, axis=-1) ** 2 + _square(b) ** 2
        total += jnp.mean(weight * difference / (2 * (_square(b) + C * width**2))) / (width**2 * C)
    return total
