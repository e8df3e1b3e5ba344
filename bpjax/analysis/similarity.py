r"""Similarity of structures: kernels between their environments, and what is made of these.

A structure is the list of its environments' features (N, D), as `bpjax.potential.describe.describe` gives them. A kernel between
environments, :math:`k_{ij}`, becomes one between structures as

.. math:: K = \sum_{ij} P_{ij} k_{ij}

with :math:`P_{ij} = 1/NM` (`average_kernel`), the assignment that makes K largest (`best_match_kernel`), or the smoothed
assignment that makes :math:`K - \alpha \sum_{ij} P_{ij} \ln P_{ij}` largest (`rematch_kernel`), which is differentiable and has
the other two as its limits. Rows of P sum to 1/N and columns to 1/M. Normalised, :math:`K_{AB} / \sqrt{K_{AA} K_{BB}}`, equal
structures have 1.

Where species are given, :math:`k_{ij} = 0` for unlike elements; without them elements are told apart by the features alone.

References: De, Bartok, Csanyi, Ceriotti, Phys. Chem. Chem. Phys. 18, 13754 (2016), doi:10.1039/C6CP00415F.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from bpjax.errors import BpjaxError, ConfigError, StructureError
from bpjax.networks.kernel import EnvironmentKernel, LinearKernel
from bpjax.progress import ProgressFn, silent
from bpjax.spec import register

LINEAR, COSINE = LinearKernel(), LinearKernel(normalize=True)

PAIRS = 4_000_000
"""Pairs of environments that are held at a time."""


@register
@dataclass(frozen=True)
class LaplacianKernel:
    r""":math:`k(x, y) = e^{-|x - y|_1 / \ell}`, with :math:`\gamma = 1 / \ell`; for comparing only, since it is not smooth.

    Attributes:
      length: :math:`\ell`, in units of the features.

    Raises:
      ValueError: a length that is not positive.
    """

    length: float = 1.0

    def __post_init__(self):
        if not (math.isfinite(self.length) and self.length > 0):
            raise ValueError(f"LaplacianKernel length={self.length}: must be positive")

    def __call__(self, X: Float[np.ndarray, "N D"], Y: Float[np.ndarray, "M D"]) -> Float[np.ndarray, "N M"]:
        """Kernel matrix (N, M)."""
        return np.exp(-cdist(X, Y, "cityblock") / self.length)


class Environments(NamedTuple):
    """Environments of several structures end to end: features (A, D), species (A,) or None, first row of each and the total."""

    features: np.ndarray
    species: np.ndarray | None
    first: np.ndarray

    def part(self, start: int, stop: int) -> "Environments":
        """Those of the structures from `start` to before `stop`."""
        rows = slice(self.first[start], self.first[stop])
        first = self.first[start : stop + 1] - self.first[start]
        return Environments(self.features[rows], None if self.species is None else self.species[rows], first)


Match = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""From k_ij of one structure with several, (N, sum M), and the first column of each, to K of each."""


def average_kernel(
    features: Sequence[np.ndarray],
    kernel: EnvironmentKernel = LINEAR,
    *,
    species: Sequence[np.ndarray] | None = None,
    others: Sequence[np.ndarray] | None = None,
    other_species: Sequence[np.ndarray] | None = None,
    normalize: bool = True,
    progress: ProgressFn = silent,
) -> np.ndarray:
    r"""Mean over all pairs of environments, :math:`K = \frac{1}{NM} \sum_{ij} k_{ij}`.

    Args:
      features: (N, D) of each structure.
      kernel: between environments.
      species: element of each environment, (N,), of each structure; pairs of unlike elements then count 0.
      others: structures to compare with; None for each other.
      other_species: their elements.
      normalize: divide by :math:`\sqrt{K_{AA} K_{BB}}`.
      progress: shows how many structures are done.

    Returns: (structures, structures), symmetric, or (structures, others).

    Raises:
      StructureError: a structure without atoms, or with features that do not fit or are not finite, or that is not similar to
        itself (all features zero).
      ConfigError: species of one side only, or not of all atoms.
    """
    sets = _sets(features, species, others, other_species)
    return _matrix(sets, kernel, _mean, normalize, progress)


def best_match_kernel(
    features: Sequence[np.ndarray],
    kernel: EnvironmentKernel = COSINE,
    *,
    species: Sequence[np.ndarray] | None = None,
    others: Sequence[np.ndarray] | None = None,
    other_species: Sequence[np.ndarray] | None = None,
    normalize: bool = True,
    progress: ProgressFn = silent,
) -> np.ndarray:
    """Mean over the pairs of the best assignment of environments to each other, by the Hungarian algorithm.

    Structures of different size are repeated up to the least common multiple of their sizes. The kernel is not positive
    definite in general.

    Args, returns, raises: see `average_kernel`.
    """
    sets = _sets(features, species, others, other_species)
    return _matrix(sets, kernel, _best, normalize, progress)


def rematch_kernel(
    features: Sequence[np.ndarray],
    kernel: EnvironmentKernel = COSINE,
    alpha: float = 0.1,
    *,
    tolerance: float = 1e-6,
    iterations: int = 20_000,
    species: Sequence[np.ndarray] | None = None,
    others: Sequence[np.ndarray] | None = None,
    other_species: Sequence[np.ndarray] | None = None,
    normalize: bool = True,
    progress: ProgressFn = silent,
) -> np.ndarray:
    r"""Regularised-entropy match: the smoothed assignment with temperature :math:`\alpha` in units of k, by Sinkhorn iteration.

    Args:
      features: (N, D) of each structure.
      kernel: between environments; at most 1 on the diagonal, for alpha to have its usual meaning.
      alpha: small values approach the best match, large ones the average kernel.
      tolerance: largest sum over the deviations of the rows of P from 1/N that counts as converged.
      iterations: limit, at each of the temperatures through which a small alpha is approached.
      species, others, other_species, normalize, progress: see `average_kernel`.

    Returns: see `average_kernel`.

    Raises:
      ConfigError: alpha, tolerance or iterations that are not positive.
      BpjaxError: not converged.
      StructureError: see `average_kernel`.
    """
    for name, value in (("alpha", alpha), ("tolerance", tolerance), ("iterations", iterations)):
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(f"must be positive, got {value}", field=name)
    sets = _sets(features, species, others, other_species)
    match = partial(_rematch, alpha=alpha, tolerance=tolerance, iterations=iterations)
    return _matrix(sets, kernel, match, normalize, progress)


def distances(K: Float[np.ndarray, "n m"]) -> Float[np.ndarray, "n m"]:
    r"""Distances that a kernel induces, :math:`d_{AB} = \sqrt{K_{AA} + K_{BB} - 2 K_{AB}}`.

    Raises:
      ConfigError: no square matrix.
    """
    own = np.diag(_square(K))
    return np.sqrt(np.maximum(own[:, None] + own[None, :] - (K + K.T), 0))


class Map(NamedTuple):
    """Coordinates (n, count) of each structure, and the share of the variance that each of them explains, (count,)."""

    coordinates: np.ndarray
    shares: np.ndarray


def kernel_pca(K: Float[np.ndarray, "n m"], count: int = 2) -> Map:
    """Principal components in the space of a kernel: a map on which distances are those of the kernel as far as possible.

    Args:
      K: kernel matrix.
      count: number of coordinates.

    Returns: coordinates by falling variance; the sign of each is such that its largest entry is positive.

    Raises:
      ConfigError: no square matrix, or more coordinates than have a variance.
    """
    n = len(_square(K))
    centred = K - K.mean(axis=0)[None, :] - K.mean(axis=1)[:, None] + K.mean()
    values, vectors = np.linalg.eigh((centred + centred.T) / 2)
    values, vectors = values[::-1], vectors[:, ::-1]
    most = int(np.sum(values > 1e-12 * max(values[0], np.abs(K).max())))
    if not 1 <= count <= most:
        raise ConfigError(f"must be from 1 to {most}, the rank of the centred kernel of {n} structures", field="count")
    coordinates = vectors[:, :count] * np.sqrt(values[:count])
    largest = coordinates[np.argmax(np.abs(coordinates), axis=0), np.arange(count)]
    return Map(coordinates * np.sign(largest), values[:count] / values[values > 0].sum())


def _square(K: np.ndarray) -> np.ndarray:
    if K.ndim != 2 or K.shape[0] != K.shape[1]:
        raise ConfigError(f"must be a square matrix, has shape {K.shape}", field="K")
    return K


# ------------------------------------------------------------------------------------- matrices


def _sets(features, species, others, other_species) -> tuple[Environments, Environments | None]:
    """Both sides, checked; None for the second where structures are compared with each other."""
    if others is None:
        if other_species is not None:
            raise ConfigError("given without others", field="other_species")
        return _joined(features, species, None), None
    if (species is None) != (other_species is None):
        raise ConfigError("species are needed of both sides or of none", field="species")
    first = _joined(features, species, None)
    return first, _joined(others, other_species, first.features.shape[1])


def _joined(features, species, size: int | None) -> Environments:
    if len(features) == 0:
        raise StructureError("there are no structures")
    if species is not None and [len(s) for s in species] != [len(G) for G in features]:
        raise ConfigError("must have one entry for each atom of each structure", field="species")
    for number, G in enumerate(features):
        size = np.shape(G)[-1] if size is None and np.ndim(G) == 2 else size
        if np.ndim(G) != 2 or len(G) == 0 or np.shape(G)[1] != size:
            raise StructureError(f"have shape {np.shape(G)}, not (atoms, {size})", frame=number, field="features")
        if not np.isfinite(G).all():
            raise StructureError("are not finite", frame=number, field="features")
    first = np.cumsum([0, *(len(G) for G in features)])
    flat = np.concatenate([np.asarray(G, dtype=np.float64) for G in features])
    return Environments(flat, None if species is None else np.concatenate(species), first)


def _between(kernel: EnvironmentKernel, one: Environments, many: Environments) -> np.ndarray:
    k = kernel(one.features, many.features)
    if one.species is None or many.species is None:
        return k
    return np.where(one.species[:, None] == many.species[None, :], k, 0.0)


def _matrix(
    sets: tuple[Environments, Environments | None],
    kernel: EnvironmentKernel,
    match: Match,
    normalize: bool,
    progress: ProgressFn,
) -> np.ndarray:
    rows, columns = sets[0], sets[1] or sets[0]
    symmetric = sets[1] is None
    n, m = len(rows.first) - 1, len(columns.first) - 1
    K = np.zeros((n, m))
    with progress(n, "similarities") as bar:
        for a in range(n):
            one = rows.part(a, a + 1)
            start = a if symmetric else 0
            while start < m:
                room = columns.first[start] + max(1, PAIRS // len(one.features))
                stop = max(start + 1, int(np.searchsorted(columns.first, room, side="right")) - 1)
                part = columns.part(start, stop)
                K[a, start:stop] = match(_between(kernel, one, part), part.first)
                start = stop
            bar.update(1)
    if symmetric:
        K = np.triu(K) + np.triu(K, 1).T
    if not normalize:
        return K
    own = np.diag(K) if symmetric else _selves(rows, kernel, match)
    other = own if symmetric else _selves(columns, kernel, match)
    for values in (own, other):
        if not (values > 0).all():
            message = "has no similarity to itself, by which to divide: all of its features are zero"
            raise StructureError(message, frame=int(np.argmin(values > 0)))
    return K / np.sqrt(own[:, None] * other[None, :])


def _selves(environments: Environments, kernel: EnvironmentKernel, match: Match) -> np.ndarray:
    ones = (environments.part(a, a + 1) for a in range(len(environments.first) - 1))
    return np.concatenate([match(_between(kernel, one, one), one.first) for one in ones])


# -------------------------------------------------------------------------------------- matches


def _mean(k: np.ndarray, first: np.ndarray) -> np.ndarray:
    return np.add.reduceat(k.mean(axis=0), first[:-1]) / np.diff(first)


def _best(k: np.ndarray, first: np.ndarray) -> np.ndarray:
    found = []
    for part in np.split(k, first[1:-1], axis=1):
        N, M = part.shape
        common = math.lcm(N, M)
        repeated = part.repeat(common // N, axis=0).repeat(common // M, axis=1)
        found.append(repeated[linear_sum_assignment(repeated, maximize=True)].mean())
    return np.array(found)


NEWTON_EVERY = 10
"""Sinkhorn iterations between two tries of a Newton step, without which near-equal assignments take long at small alpha."""

COOLING = 3.0
"""Factor between the temperatures through which a small alpha is approached, each starting from the match of the last."""


def _rematch(k: np.ndarray, first: np.ndarray, alpha: float, tolerance: float, iterations: int) -> np.ndarray:
    """Smoothed match of one structure with several at a time."""
    sizes = np.diff(first)
    inside = np.arange(sizes.max())[None, :] < sizes[:, None]
    padded = np.zeros((len(sizes), len(k), sizes.max()))
    padded.transpose(0, 2, 1)[inside] = k.T
    steps = max(0, math.ceil(math.log(max(np.ptp(k), alpha) / alpha, COOLING)))
    f = np.zeros(padded.shape[:2])
    P, off = padded, np.zeros(0)
    for temperature in alpha * COOLING ** np.arange(steps, -1, -1):
        log_k = np.where(inside[:, None, :], padded / temperature, -np.inf)
        last = temperature == alpha
        f, P, off = _sinkhorn(log_k, f, sizes, tolerance if last else max(tolerance, 1e-2), iterations)
        f = f * COOLING
    if not (off <= tolerance).all():
        message = f"after {iterations} iterations rows of the match still deviate by {off.max():.2g}"
        raise BpjaxError(f"REMatch did not converge: {message}; raise alpha (now {alpha:g}) or iterations")
    return np.sum(P * padded, axis=(1, 2))


def _sinkhorn(log_k: np.ndarray, f: np.ndarray, sizes: np.ndarray, tolerance: float, iterations: int):
    r"""Sinkhorn's iteration in logarithms, which small alpha does not overflow, with Newton steps between.

    :math:`P_{ij} = e^{k_{ij}/\alpha + f_i + g_j}`; g and f are adjusted in turn until columns sum to 1/M and rows to 1/N.

    Returns: f, P, and how far its rows are off.
    """
    f, N = f.copy(), f.shape[1]
    P, off = _fit_columns(log_k, f, sizes)
    todo = np.flatnonzero(off > tolerance)
    for iteration in range(1, iterations):
        if not len(todo):
            break
        own = log_k[todo], sizes[todo]
        rows = np.maximum(P[todo].sum(axis=2), np.finfo(float).tiny)
        tried = f[todo] - np.log(N * rows)
        found, deviation = _fit_columns(own[0], tried, own[1])
        if iteration % NEWTON_EVERY == 0:
            jumped = tried + _newton_step(found, own[1])
            other, other_deviation = _fit_columns(own[0], jumped, own[1])
            closer = other_deviation < deviation
            tried[closer], found[closer], deviation[closer] = jumped[closer], other[closer], other_deviation[closer]
        f[todo], P[todo], off[todo] = tried, found, deviation
        todo = todo[deviation > tolerance]
    return f, P, off


def _fit_columns(log_k: np.ndarray, f: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The match whose columns sum to 1/M exactly, and the sum over the deviations of its rows from 1/N."""
    log_P = log_k + f[:, :, None]
    top = log_P.max(axis=1, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)  # padding
    P = np.exp(log_P - top)
    columns = P.sum(axis=1, keepdims=True)
    P = P / np.where(columns > 0, columns * sizes[:, None, None], 1.0)
    return P, np.abs(P.sum(axis=2) - 1 / P.shape[1]).sum(axis=1)


def _newton_step(P: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Change of f that solves the linearised conditions on the rows, columns being fitted for every f."""
    N = P.shape[1]
    rows = P.sum(axis=2)
    S = rows[:, :, None] * np.eye(N) - sizes[:, None, None] * (P @ P.swapaxes(1, 2))
    return (np.linalg.pinv(S, rcond=1e-13, hermitian=True) @ (1 / N - rows)[:, :, None])[:, :, 0]
