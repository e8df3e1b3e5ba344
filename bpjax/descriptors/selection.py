r"""Choosing features by their values on a data set: CUR, farthest points, Pearson correlation, principal components.

All functions take a matrix G (atoms A, features D) and work in float64 on the host. Features count as deviations from their
mean, :math:`X = G - \bar G`: what is the same for all atoms says nothing, and a constant feature is never chosen. None of them
changes the scale; features whose magnitudes differ by orders (symmetry functions do) should be brought to unit spread first,
by `standardised`, else the largest win. Every result is a function of G alone: ties go to the feature that comes first.

References: CUR and farthest points for fingerprints of atoms: Imbalzano, Anelli, Giofré, Klees, Behler, Ceriotti, J. Chem. Phys.
148, 241730 (2018), doi:10.1063/1.5024611; CUR: Mahoney, Drineas, Proc. Natl. Acad. Sci. 106, 697 (2009),
doi:10.1073/pnas.0803205106.
"""

from typing import NamedTuple

import numpy as np
import scipy.linalg
import scipy.sparse.linalg

Array = np.ndarray

NOISE = 1e-6
"""Spread, relative to the largest value, up to which a feature counts as constant: it may be mere rounding in float32."""

FLOOR = 1e-3
"""Smallest spread, relative to the median spread, that is scaled to one: that of `bpjax.networks.scaling`."""

DEPENDENT = 1e-6
"""What is left of a feature, relative to its spread, when it counts as a linear combination of others."""

LANCZOS = 400
"""Features above which leading vectors are found by iteration. Measured: LAPACK is faster below."""


def varying(G: Array) -> Array:
    """Which features (D,) are not constant."""
    G = _matrix(G)
    return G.std(axis=0) > NOISE * np.abs(G).max(axis=0)


def scales(G: Array, floor: float = FLOOR) -> Array:
    r"""Factor :math:`1/\max(\sigma, f \tilde\sigma)` for each feature (D,); 0 for constant ones.

    Args:
      G: features (A, D).
      floor: f, relative to the median :math:`\tilde\sigma` of the spreads; 0 for none.
    """
    G = _matrix(G)
    varies, spread = varying(G), G.std(axis=0)
    smallest = floor * np.median(spread[varies]) if varies.any() else 0.0
    return np.where(varies, 1 / np.where(varies, np.maximum(spread, smallest), 1), 0)


def standardised(G: Array, floor: float = FLOOR) -> Array:
    """Features with mean 0 and spread 1, as networks see them; below the floor the spread is less, constant features are 0.

    Without the floor, functions that are next to nothing but for a few extreme atoms would stand out, and be chosen first.
    """
    G = _matrix(G)
    return (G - G.mean(axis=0)) * scales(G, floor)


def cur(G: Array, count: int, *, cost: Array | None = None, vectors: int = 1) -> Array:
    r"""Features that span the matrix best, by the columns of a CUR decomposition.

    The feature with the highest leverage score :math:`\pi_j = \sum_{c \le k} v_{cj}^2`, from the leading right singular vectors
    v of X, is taken, its direction is removed from all features, :math:`X \to X - \hat x_j \hat x_j^T X`, and the scores are
    computed anew; like this a feature that resembles a chosen one is not chosen too (Imbalzano et al., section on CUR).

    Args:
      G: features (A, D).
      count: how many to choose.
      cost: (D,) what each feature costs, in any unit; scores are divided by it.
      vectors: number k of singular vectors in the score.

    Returns: indices (count,) in the order of choice.

    Raises:
      ValueError: fewer features than `count` are not constant and linearly independent; an option out of range.
    """
    X, varies = _deviations(G, count)
    if vectors < 1:
        raise ValueError(f"cur vectors={vectors}: must be at least 1")
    price = np.ones(X.shape[1]) if cost is None else np.asarray(cost, dtype=np.float64)
    if price.shape != (X.shape[1],) or not (np.isfinite(price).all() and (price > 0).all()):
        raise ValueError(f"cur cost: one positive number for each of {X.shape[1]} features")
    C = X.T @ X  # its leading eigenvectors are the singular vectors wanted
    left = np.diag(C) * DEPENDENT**2
    chosen: list[int] = []
    while len(chosen) < count:
        eligible = varies & (np.diag(C) > left)
        eligible[chosen] = False
        if not eligible.any():
            raise ValueError(
                f"cur: only {len(chosen)} of {X.shape[1]} features are not constant and linearly independent; {count} wanted"
            )
        j = _first(np.where(eligible, np.sum(_leading(C, vectors) ** 2, axis=1) / price, -1.0))
        chosen.append(j)
        C = C - np.outer(C[j], C[j]) / C[j, j]
    return np.array(chosen)


def farthest_points(G: Array, count: int, *, axis: int = 1, start: int | None = None) -> Array:
    """Features (or atoms) that lie as far apart as possible: each is the one farthest from all that were chosen before.

    Distances are Euclidean, between columns of X for features, between its rows for atoms.

    Args:
      G: features (A, D).
      count: how many to choose.
      axis: 1 for features, 0 for atoms.
      start: the first one; by default that with the largest norm: the feature that varies most, the atom farthest from the mean.

    Returns: indices (count,) in the order of choice.

    Raises:
      ValueError: fewer than `count` are different from each other (and not constant); an option out of range.
    """
    if axis not in (0, 1):
        raise ValueError(f"farthest_points axis={axis}: allowed are 1 (features) and 0 (atoms)")
    X, varies = _deviations(G, count, axis)
    points, eligible = (X.T, varies) if axis else (X, np.ones(len(X), bool))
    squares = np.sum(points**2, axis=1)
    if start is None:
        start = _first(np.where(eligible, squares, -1.0))
    if not (0 <= start < len(points) and eligible[start]):
        raise ValueError(f"farthest_points start={start}: must be one of {len(points)}, and not constant")
    chosen, distance = [start], np.where(eligible, np.inf, -1.0)
    while len(chosen) < count:
        distance = np.minimum(distance, np.sum((points - points[chosen[-1]]) ** 2, axis=1))
        j = _first(distance)
        if distance[j] <= DEPENDENT**2 * squares[j]:
            raise ValueError(
                f"farthest_points: only {len(chosen)} of {len(points)} differ and are not constant; {count} wanted"
            )
        chosen.append(j)
    return np.array(chosen)


def correlations(G: Array) -> Array:
    """Pearson correlation of each feature with each (D, D); that of a constant one is 0."""
    X = standardised(G, floor=0.0)
    return X.T @ X / len(X)


def uncorrelated(G: Array, *, largest: float | None = None, count: int | None = None) -> Array:
    """Features that are not correlated with each other; give either the limit or the number.

    With `largest`, features are taken in their order, each one unless its correlation with an earlier one that was kept is
    larger than the limit: put the cheap ones first. With `count`, of the pair with the largest correlation the one that is on
    average more correlated with all that are left goes, until so many are left.

    Args:
      G: features (A, D).
      largest: largest absolute correlation, from 0 to 1.
      count: how many to keep.

    Returns: indices, increasing.

    Raises:
      ValueError: fewer than `count` features are not constant; an option out of range.
    """
    if (largest is None) == (count is None):
        raise ValueError("uncorrelated: give either largest or count")
    if largest is not None and not 0 <= largest <= 1:
        raise ValueError(f"uncorrelated largest={largest}: must be from 0 to 1")
    _, varies = _deviations(G, 1 if count is None else count)
    r = np.abs(correlations(G))
    left = np.flatnonzero(varies).tolist()
    if largest is not None:
        kept: list[int] = []
        for j in left:
            if not kept or r[j, kept].max() <= largest:
                kept.append(j)
        return np.array(kept)
    assert count is not None
    if len(left) < count:
        raise ValueError(f"uncorrelated: only {len(left)} of {len(varies)} features are not constant; {count} wanted")
    return np.array(_without_most_correlated(r, left, count))


def _without_most_correlated(r: Array, left: list[int], count: int) -> list[int]:
    r = r[np.ix_(left, left)] - np.eye(len(left))
    there = np.ones(len(left), bool)
    while there.sum() > count:
        i, j = np.unravel_index(_first(r.ravel()), r.shape)
        total = r[[i, j]] @ there
        # Rounding must not decide between features that are equal: then the later one goes.
        gone = i if total[0] > total[1] * (1 + NOISE) else j
        there[gone], r[gone], r[:, gone] = False, -1.0, -1.0
    return [n for n, kept in zip(left, there, strict=True) if kept]


class PrincipalComponents(NamedTuple):
    r"""Principal components of features, :math:`p = W (G - \bar G)`.

    Attributes:
      mean: :math:`\bar G` (D,).
      components: W (count, D), orthonormal rows; the largest entry of each is positive.
      explained: share of the variance that each component carries, (count,).
    """

    mean: Array
    components: Array
    explained: Array


def principal_components(G: Array, count: int) -> PrincipalComponents:
    """Directions of the largest variance, by the singular value decomposition of X.

    Raises:
      ValueError: the features do not vary in so many independent directions.
    """
    X, _ = _deviations(G, count)
    _, sizes, W = np.linalg.svd(X, full_matrices=False)
    independent = int(np.sum(sizes > DEPENDENT * sizes[0])) if sizes[0] > 0 else 0
    if count > independent:
        raise ValueError(f"principal_components: features vary in {independent} independent directions; {count} wanted")
    W = W[:count]
    W = W * np.sign(W[np.arange(count), np.argmax(np.abs(W), axis=1)])[:, None]
    return PrincipalComponents(_matrix(G).mean(axis=0), W, sizes[:count] ** 2 / np.sum(sizes**2))


def _matrix(G: Array) -> Array:
    G = np.asarray(G, dtype=np.float64)
    if G.ndim != 2 or not len(G) or not G.shape[1]:
        raise ValueError(f"features must be a matrix (atoms, features), got an array of shape {G.shape}")
    if not np.isfinite(G).all():
        raise ValueError(f"feature {int(np.argwhere(~np.isfinite(G))[0][1])} is not finite for every atom")
    return G


def _deviations(G: Array, count: int, axis: int = 1) -> tuple[Array, Array]:
    """X, with zeros for constant features, and which features vary."""
    G = _matrix(G)
    if not 1 <= count <= G.shape[axis]:
        raise ValueError(
            f"count={count}: must be from 1 to {G.shape[axis]}, the number of {('atoms', 'features')[axis]}"
        )
    varies = varying(G)
    return np.where(varies, G - G.mean(axis=0), 0), varies


def _leading(C: Array, count: int) -> Array:
    """Eigenvectors (D, k) of the largest eigenvalues of a symmetric matrix."""
    D = len(C)
    count = min(count, D)
    if D > LANCZOS and count < D // 10:
        try:  # from a fixed vector, for the same result every time
            return scipy.sparse.linalg.eigsh(C, count, which="LA", v0=C[np.argmax(np.diag(C))])[1]
        except scipy.sparse.linalg.ArpackNoConvergence:
            pass  # eigenvalues too close to each other
    return scipy.linalg.eigh(C, subset_by_index=(D - count, D - 1))[1]


def _first(scores: Array) -> int:
    """Index of the largest score; among those that are equal to rounding the first."""
    return int(np.argmax(scores >= scores.max() * (1 - 1e-10)))
