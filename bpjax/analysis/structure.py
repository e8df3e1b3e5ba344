"""Structure of crystals, liquids and glasses from frames of a trajectory."""

from __future__ import annotations

from collections.abc import Sequence

import ase
import numpy as np

from bpjax.dynamics.observers import PairCorrelation
from bpjax.errors import BpjaxError


def radial_distribution(
    frames: Sequence[ase.Atoms], r_max: float = 8.0, bins: int = 160, pair: tuple[str, str] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Pair correlation function g(r), averaged over frames; see `bpjax.dynamics.observers.PairCorrelation`.

    Args:
      frames: periodic structures.
      r_max: largest distance in A; may exceed the cell.
      bins: number of bins.
      pair: two chemical symbols for a partial g(r).

    Returns: centres of the bins in A, and g.
    """
    observer = PairCorrelation(r_max, bins, pair)
    for atoms in frames:
        observer(atoms)
    return observer.r, observer.g


def coordination_number(r: np.ndarray, g: np.ndarray, density: float, radius: float) -> float:
    r"""Average number of neighbours within a radius, :math:`4\pi\rho \int_0^R g(r)\, r^2 dr`.

    Args:
      r: centres of equal bins that start at zero, in A.
      g: pair correlation function.
      density: atoms per A^3.
      radius: in A; bins whose centre lies within it count.
    """
    width = r[1] - r[0]
    edges = np.append(r - width / 2, r[-1] + width / 2)
    shells = 4 * np.pi / 3 * np.diff(edges**3)
    return float(density * np.sum((g * shells)[r <= radius]))


def mean_squared_displacement(frames: Sequence[ase.Atoms]) -> np.ndarray:
    """Mean squared distance of the atoms from where they were in the first frame, in A^2, for each frame.

    Positions must be unwrapped, or move by less than half a cell between frames: jumps through a periodic face are undone
    (for a cell that does not change). The drift of the centre of mass is removed.

    Raises:
      BpjaxError: frames with different numbers of atoms.
    """
    if len({len(atoms) for atoms in frames}) > 1:
        raise BpjaxError("mean squared displacement: the frames do not have the same atoms")
    if not len(frames):
        return np.zeros(0)
    path = np.array([atoms.positions for atoms in frames])
    steps = np.diff(path, axis=0)
    cell, pbc = frames[0].cell, frames[0].pbc
    if pbc.any():
        fractions = steps @ np.linalg.inv(cell.complete())
        steps = steps - np.where(pbc, np.round(fractions), 0.0) @ cell.complete()
    masses = frames[0].get_masses()
    steps = steps - np.average(steps, axis=1, weights=masses)[:, None]
    moved = np.concatenate([np.zeros((1, *path.shape[1:])), np.cumsum(steps, axis=0)])
    return np.mean(np.sum(moved**2, axis=-1), axis=-1)


def first_minimum(r: np.ndarray, g: np.ndarray) -> float:
    """Value of g(r) at its lowest point between the first two maxima.

    Next to zero in a crystal, where shells are apart; well above in a liquid. The first maximum is the highest one; the
    second one is looked for at 1.3 to 1.9 times its distance, which covers the coordinations from four to twelve.
    """
    first = int(np.argmax(g))
    window = (r >= 1.3 * r[first]) & (r <= 1.9 * r[first])
    if not window.any():
        return float(g[-1])
    second = int(np.flatnonzero(window)[np.argmax(g[window])])
    return float(np.min(g[first : second + 1]))
