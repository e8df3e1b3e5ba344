"""Paths between two geometries of a molecule: straight lines in Cartesian coordinates and in interatomic distances.

Host code in numpy. Atoms of both ends must be in the same order.
"""

from typing import Any

import numpy as np
import scipy.optimize
from jaxtyping import Float

from bpjax.errors import StructureError
from bpjax.geometry import superposing_rotation


def superposed(R: Float[np.ndarray, "N 3"], reference: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 3"]:
    """R moved and turned, without reflection, to be as near to the reference as possible (least squares of all atoms)."""
    return (R - R.mean(axis=0)) @ superposing_rotation(R, reference) + reference.mean(axis=0)


def linear_path(start: Any, end: Any, points: int, internal: bool = False) -> Float[np.ndarray, "K N 3"]:
    r"""Geometries from one to the other, both ends included.

    Args:
      start, end: geometries (N, 3); the end is superposed on the start first.
      points: how many, at least 2.
      internal: interpolate all interatomic distances instead of the positions, :math:`d(s) = (1 - s)\, d_0 + s\, d_1`, and
        find the geometry that fits them best, with weights :math:`d(s)^{-4}`; large rotations of groups do not then
        squeeze bonds. The ends are kept as they are.

    Raises:
      StructureError: geometries that do not fit each other or are not finite.
      ValueError: fewer than two points.
    """
    if points < 2:
        raise ValueError(f"linear_path points={points}: must be at least 2")
    R0, R1 = np.asarray(start, float), np.asarray(end, float)
    if R0.shape != R1.shape or R0.ndim != 2 or R0.shape[1] != 3:
        raise StructureError(f"must be of one shape (N, 3), got {R0.shape} and {R1.shape}", field="start, end")
    if not (np.isfinite(R0).all() and np.isfinite(R1).all()):
        raise StructureError("must be finite", field="start, end")
    R1 = superposed(R1, R0)
    s = np.linspace(0, 1, points)
    straight = R0 + s[:, None, None] * (R1 - R0)
    if not internal:
        return straight
    i, j = np.triu_indices(len(R0), 1)
    path = [R0]
    for k in range(1, points - 1):
        d = (1 - s[k]) * _distances(R0, i, j) + s[k] * _distances(R1, i, j)
        path.append(superposed(_fitted(straight[k], path[-1], d, i, j), path[-1]))
    return np.stack([*path, R1])


def _distances(R, i, j):
    return np.linalg.norm(R[i] - R[j], axis=1)


def _fitted(straight, previous, d, i, j):
    """The geometry nearest to distances d, from whichever of two starts gives the better fit."""

    def residual(x):
        return (_distances(x.reshape(-1, 3), i, j) - d) / d**2

    fits = [scipy.optimize.least_squares(residual, start.ravel(), method="trf") for start in (straight, previous)]
    return min(fits, key=lambda fit: fit.cost).x.reshape(-1, 3)
