r"""How far a kernel is from the limit of the machine: operations and bytes counted from the formulas, against measured peaks.

Counted is what energy and pair gradients of *one* environment need at least: K neighbours inside the cutoff, each unordered pair
of them once, nothing twice, no padding, intermediates in the cache. Additions, multiplications and divisions count as one
operation each; exp, cos, sqrt and other functions are counted apart, because they cost more and the machine has a rate of its own
for them. Bytes are those that must be moved: pair vectors, species and mask in; pair gradients and the energy out.

===================  ======================================  =======================================================
part                 operations                              functions
===================  ======================================  =======================================================
neighbour            14                                      1: sqrt; 3 with cos and sin of a cosine cutoff
G2                   10 K P                                  K P
radial weights       9 K Q                                   K Q
pair j < k           7: scalar product, cosine; 23 back
... within r_c       10: r_jk and its cutoff function        as for a neighbour
... each radial      6; 10 back                              1
... each lam         2
... each shape       powers; 4 back                          2 where zeta is no integer
... each function    2; 4 back
harmonics            12 K M, gradient included
moments              6 K Q M, 6 Q M and 4 F (L + 1) a pair
SOAP expansion       10 K n (L + 1), 6 K n M
power spectrum       6 sum_l (2l + 1) products of degree l
===================  ======================================  =======================================================

with P functions, Q radial parts, M = (L + 1)^2 harmonics, n radial functions. The least time is
:math:`\max(\text{bytes}/B,\; \text{operations}/P + \text{functions}/E)` with bandwidth B, peak P and rate of functions E.

References: S. Williams, A. Waterman, D. Patterson, Commun. ACM 52, 65 (2009), doi:10.1145/1498765.1498785.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from bpjax.descriptors.acsf import ACSF, Angular
from bpjax.descriptors.soap import SOAP
from bpjax.machine import timed

CHAIN = 16
"""Functions in a row for each number, when their rate is measured: enough that memory does not count."""


@dataclass(frozen=True)
class Work:
    """Operations, evaluations of functions (exp, cos, sqrt), and bytes moved."""

    operations: int | float = 0
    functions: int | float = 0
    bytes: int | float = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.operations + other.operations, self.functions + other.functions, self.bytes + other.bytes)

    def __mul__(self, factor: int | float) -> Work:
        return Work(factor * self.operations, factor * self.functions, factor * self.bytes)

    __rmul__ = __mul__

    @property
    def intensity(self) -> float:
        """Operations per byte."""
        return self.operations / self.bytes


@dataclass(frozen=True)
class Peaks:
    """Measured limits of a machine.

    Attributes:
      flops: operations per second, of a product of matrices.
      functions: evaluations of exp per second.
      bandwidth: bytes per second, of a triad `a = b + s c` on arrays that no cache holds.
    """

    flops: float
    functions: float
    bandwidth: float

    def seconds(self, work: Work) -> float:
        """The least time for some work."""
        return max(work.bytes / self.bandwidth, work.operations / self.flops + work.functions / self.functions)


def distances(count: int | float, cosine: bool) -> Work:
    """Evaluations of functions for distances, their (cosine) cutoff function, and derivatives."""
    return Work(0, (3 if cosine else 1) * count)


def neighbours(K: int | float, itemsize: int, cosine: bool = True) -> Work:
    """Distances, cutoff function, their derivatives, and what must be moved, for K neighbours."""
    return Work(14 * K, 0, K * (6 * itemsize + 5) + itemsize) + distances(K, cosine)


def radial(K: int | float, functions: int) -> Work:
    """G2 functions of K neighbours, with gradient."""
    return Work(10 * K * functions, K * functions)


def radial_parts(K: int | float, parts: int) -> Work:
    """Radial weights of K neighbours in angular functions, with gradient."""
    return Work(9 * K * parts, K * parts)


def powers(functions: Sequence[Angular]) -> Work:
    """(1 + lam cos)^zeta for one pair and every distinct (zeta, lam), with slope: squares, and products of them."""
    shapes = {(p.zeta, p.lam) for p in functions}
    found = Work(2 * len({lam for _, lam in shapes}) + 4 * len(shapes))
    for lam in {lam for _, lam in shapes}:
        whole = [int(zeta) for zeta, sign in shapes if sign == lam and float(zeta).is_integer()]
        squares = max(whole, default=1).bit_length() - 1
        found += Work(squares + sum(zeta.bit_count() - 1 for zeta in whole))
    return found + Work(0, 2 * sum(not float(zeta).is_integer() for zeta, _ in shapes))


def narrow(
    K: int | float, pairs: int | float, within: int | float, functions: Sequence[Angular], cosine: bool = True
) -> Work:
    """G4 functions, with gradient.

    Args:
      K: neighbours.
      pairs: unordered pairs of them, K (K - 1) / 2 on average.
      within: pairs that are no further apart than the cutoff: only these have a value.
      functions: parameters.
      cosine: whether the cutoff function is the cosine.
    """
    parts = len({(p.eta, p.r_s) for p in functions})
    each = Work(10) + distances(1, cosine) + parts * Work(16, 1) + powers(functions) + Work(6 * len(functions))
    return radial_parts(K, parts) + pairs * Work(30) + within * each


def wide_moments(K: int | float, functions: Sequence[Angular], channels: int = 1) -> Work:
    """G5 functions through moments, with gradient; integer zeta."""
    parts, L = len({(p.eta, p.r_s) for p in functions}), int(max(p.zeta for p in functions))
    M, element_pairs = (L + 1) ** 2, channels * (channels + 1) // 2
    per_neighbour = 12 * M + 6 * parts * M + 4 * parts  # the last: the terms j = k
    per_centre = element_pairs * (6 * parts * M + 4 * len(functions) * (L + 1))
    return radial_parts(K, parts) + Work(K * per_neighbour + per_centre)


def soap(K: int | float, n_max: int, l_max: int, products: Sequence[int]) -> Work:
    """Expansion coefficients and power spectrum, with gradient; radial integrals from cubic splines.

    Args:
      K: neighbours.
      n_max: radial functions.
      l_max: highest degree.
      products: number of features of each degree.
    """
    M = (l_max + 1) ** 2
    expansion = 12 * M + 10 * n_max * (l_max + 1) + 6 * n_max * M
    return Work(K * expansion + 6 * sum((2 * l + 1) * count for l, count in enumerate(products)))


def work_of(descriptor: ACSF | SOAP, neighbors: np.ndarray, within: np.ndarray, itemsize: int) -> Work:
    """Mean work for energy and pair gradients of one environment, without the network.

    Args:
      descriptor: symmetry functions or SOAP; each element has its own functions, so that a pair counts once.
      neighbors: number of neighbours of each atom.
      within: of each atom, pairs of neighbours that are no further apart than the cutoff.
      itemsize: bytes of a number.

    Raises:
      ValueError: wide functions with a zeta that moments cannot do.
    """
    K, pairs = float(np.mean(neighbors)), float(np.mean(neighbors * (neighbors - 1) / 2))
    cosine = descriptor.cutoff_function.kind == "cosine"
    found = neighbours(K, itemsize, cosine)
    if isinstance(descriptor, SOAP):
        degrees = np.bincount([int(label.rsplit("l=", 1)[1]) for label in descriptor.labels])
        return found + soap(K, descriptor.n_max, descriptor.l_max, degrees.tolist())
    if descriptor.g2:
        found += radial(K, len(descriptor.g2))
    if descriptor.g4:
        found += narrow(K, pairs, float(np.mean(within)), descriptor.g4, cosine)
    if descriptor.g5:
        if not all(float(p.zeta).is_integer() for p in descriptor.g5):
            raise ValueError("work_of: every zeta of g5 must be an integer")
        found += wide_moments(K, descriptor.g5, descriptor.channels)
    return found


def measured_peaks(dtype: str, *, size: int = 0, repeats: int = 5) -> Peaks:
    """Measures the limits of the device: product of matrices, exp, triad.

    Args:
      dtype: "float32" or "float64".
      size: rows of the matrices, whose square is also the length of the arrays for exp and, times 8, for the triad; 0 chooses
        what fills the device.
      repeats: runs, of which the shortest counts.
    """
    cpu = jax.default_backend() == "cpu"
    size = size or (1024 if cpu else 8192)
    ones = jnp.ones((size, size), dtype)
    with jax.default_matmul_precision("highest"):
        product = timed(lambda a, b: a @ b, ones, ones, repeats=repeats).shortest
    # On a CPU the numbers stay in the cache; an accelerator needs many to be busy.
    x = jnp.linspace(0, 1, min(size * size, 2**14) if cpu else size * size, dtype=dtype)
    repeat = 64 if cpu else 1

    def chain(x):
        for _ in range(CHAIN):
            x = jnp.exp(-x)
        return x

    functions = timed(lambda x: jax.lax.fori_loop(0, repeat, lambda _, x: chain(x), x), x, repeats=repeats).shortest
    b, c = jnp.ones((8 * size * size,), dtype), jnp.ones((8 * size * size,), dtype)
    triad = timed(lambda b, c: b + jnp.asarray(3, dtype) * c, b, c, repeats=repeats).shortest
    return Peaks(2 * size**3 / product, CHAIN * repeat * x.size / functions, 3 * b.nbytes / triad)
