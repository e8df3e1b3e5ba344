r"""The extended Kalman filter: state and update, as pure functions of flat arrays.

For m errors :math:`\xi` with derivatives H (m, n) of the predictions with the n weights w, an update is

.. math:: X = P H^T, \quad A = H X + R, \quad K = X A^{-1}, \quad
          w \leftarrow w + K \xi, \quad P \leftarrow (P - K X^T) / \lambda + q

with :math:`R = \lambda/\eta` (the identity is implied) and :math:`\lambda = 1` but for "fading". With U updates per epoch, eta
grows before each update, :math:`\eta \leftarrow \eta\, e^{\eta_\tau / U}` while below its maximum; q decays after it,
:math:`q \leftarrow q\, e^{-q_\tau / U}` while above its minimum; and lambda goes to one after each fading update,
:math:`\lambda \leftarrow \nu \lambda + 1 - \nu`.

With Cholesky's :math:`A = L L^T` and :math:`Y = L^{-1} X^T` the gain is not needed: :math:`K \xi = Y^T L^{-1} \xi` and
:math:`K X^T = Y^T Y`, which is symmetric to the last bit, so that P stays so.

References: Blank, Brown, J. Chemom. 8, 391 (1994); Singraber, Morawietz, Behler, Dellago, J. Chem. Theory Comput. 15, 3075
(2019); for blocks of P that share A, Puskorius, Feldkamp, IEEE Trans. Neural Netw. 5, 279 (1994).
"""

import math
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bpjax.errors import ConfigError
from bpjax.training.kalman_options import KalmanFilter


class Filter(NamedTuple):
    """What a filter remembers: the diagonal blocks of P, and the schedules."""

    P: tuple[Float[Array, "_ _"], ...]
    eta: Float[Array, ""]
    q: Float[Array, ""]
    lam: Float[Array, ""]


def block_sizes(blocks: str, trained: Any) -> dict[tuple[str, ...], int]:
    """Weights in each block of P, in the order in which `ravel_pytree` puts them, by place in the tree of parameters.

    Args:
      blocks: "global", "element" or "layer".
      trained: parameters, `{"networks": {element: {layer: {...}}}}`.

    Raises:
      ConfigError: blocks of elements, but a descriptor that learns, which belongs to none.
    """
    if blocks == "element" and "descriptor" in trained:
        raise ConfigError("'element' has no place for what the descriptor learns; take global or layer", field="blocks")
    depth = {"global": 0, "element": 2, "layer": 3}[blocks]
    sizes: dict[tuple[str, ...], int] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(trained)[0]:
        place = tuple(str(key.key) for key in path[:depth])
        sizes[place] = sizes.get(place, 0) + int(np.size(leaf))
    return sizes


def init_filter(options: KalmanFilter, sizes: tuple[int, ...], dtype) -> Filter:
    """The filter before the first update, for blocks of so many weights."""
    P = tuple(jnp.eye(n, dtype=dtype) / options.epsilon for n in sizes)
    return Filter(P, *(jnp.asarray(x, dtype) for x in (options.eta, options.q0, options.lambda_0)))


def update(
    options: KalmanFilter,
    per_epoch: int,
    state: Filter,
    w: Float[Array, " n"],
    H: Float[Array, "m n"],
    xi: Float[Array, "b m"],
) -> tuple[Filter, Float[Array, " n"]]:
    """One update of the filter and the weights.

    Args:
      options: kind, blocks and schedules.
      per_epoch: updates per epoch.
      state: the filter.
      w: weights, in the order of the blocks.
      H: derivatives of the predictions. Rows of zeros (with an error of zero) change nothing.
      xi: errors, reference less prediction, as each block sees them; only blocks of elements see different ones.

    Returns: the filter and the weights after it.
    """
    fading = options.kind == "fading"
    eta = _while_below(state.eta, options.eta_max, options.eta_tau / per_epoch)
    R = (state.lam if fading else 1) / eta
    edges = np.cumsum([0, *(len(P) for P in state.P)]).tolist()
    parts = [slice(a, b) for a, b in pairwise(edges)]
    X = [H[:, part] @ P for part, P in zip(parts, state.P, strict=True)]  # P is symmetric
    A = [x @ H[:, part].T for part, x in zip(parts, X, strict=True)]
    if options.blocks == "layer":
        A = [sum(A[1:], A[0])] * len(A)
    L = [jnp.linalg.cholesky(a + R * jnp.eye(len(a), dtype=a.dtype)) for a in A]
    Y = [jax.scipy.linalg.solve_triangular(low, x, lower=True) for low, x in zip(L, X, strict=True)]
    z = [jax.scipy.linalg.solve_triangular(low, xi[b], lower=True) for b, low in enumerate(L)]
    w = w + jnp.concatenate([y.T @ short for y, short in zip(Y, z, strict=True)])
    lam = state.lam if fading else None
    P = tuple(_covariance(P, y, lam, state.q) for P, y in zip(state.P, Y, strict=True))
    q = _while_above(state.q, options.q_min, options.q_tau / per_epoch)
    after = options.nue * state.lam + (1 - options.nue) if fading else state.lam
    return Filter(P, eta, q, after), w


UNROLLED = 8
"""Rows of Y up to which P is changed in a single pass over memory; a matrix product is faster beyond."""


def _covariance(P, Y, lam, q):
    """(P - Y^T Y) / lam + q, exactly symmetric."""
    if len(Y) <= UNROLLED:
        for y in Y:  # products commute: element (i, j) is rounded as (j, i) is
            P = P - y[:, None] * y[None, :]
    else:
        S = Y.T @ Y
        P = P - 0.5 * (S + S.T)
    P = P if lam is None else P / lam
    diagonal = jnp.arange(len(P))  # a sum with the identity would read a matrix more
    return P.at[diagonal, diagonal].add(q, indices_are_sorted=True, unique_indices=True)


def _while_below(x, limit, exponent):
    return jnp.where(x < limit, x * math.exp(exponent), x)


def _while_above(x, limit, exponent):
    return jnp.where(x > limit, x * math.exp(-exponent), x)
