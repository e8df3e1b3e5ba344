r"""Kernels, and the sparse Gaussian process: an atomic energy that is a sum of kernels with chosen environments.

A kernel says how alike two environments are, from their features. The same formulas serve NumPy arrays on the host
(`bpjax.analysis.similarity`, fits) and traced arrays in a potential.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bpjax.spec import register

Features = Float[Array, "N D"] | Float[np.ndarray, "N D"]
Matrix = Float[Array, "N M"] | Float[np.ndarray, "N M"]


EnvironmentKernel = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Similarity of all pairs of environments of two lists: from features (N, D) and (M, D) to (N, M)."""


@register
@dataclass(frozen=True)
class LinearKernel:
    r""":math:`k(x, y) = x \cdot y`, or the cosine between the two.

    Attributes:
      normalize: whether features are divided by their length.
    """

    normalize: bool = False

    def __call__(self, X: Features, Y: Float[Array, "M D"] | Float[np.ndarray, "M D"]) -> Matrix:
        """Kernel matrix (N, M)."""
        return (unit(X) @ unit(Y).T) if self.normalize else X @ Y.T


@register
@dataclass(frozen=True)
class PolynomialKernel:
    r""":math:`k(x, y) = (\gamma\, x \cdot y + c)^\zeta`.

    With the defaults it is the kernel of SOAP: the cosine between the features to the power zeta, 1 for equal environments.

    Attributes:
      zeta: the power, an integer of at least 1. Higher powers tell environments apart more sharply.
      normalize: whether features are divided by their length.
      gamma: factor of the product.
      offset: c.

    Raises:
      ValueError: an option out of range.

    References: Bartok, Kondor, Csanyi, Phys. Rev. B 87, 184115 (2013).
    """

    zeta: int = 4
    normalize: bool = True
    gamma: float = 1.0
    offset: float = 0.0

    def __post_init__(self):
        if self.zeta < 1:
            raise ValueError(f"PolynomialKernel zeta={self.zeta}: must be an integer of at least 1")
        if not (math.isfinite(self.gamma) and self.gamma > 0):
            raise ValueError(f"PolynomialKernel gamma={self.gamma}: must be positive")
        if not (math.isfinite(self.offset) and self.offset >= 0):
            raise ValueError(f"PolynomialKernel offset={self.offset}: must be at least 0")

    def __call__(self, X: Features, Y: Float[Array, "M D"] | Float[np.ndarray, "M D"]) -> Matrix:
        """Kernel matrix (N, M)."""
        return (self.gamma * LinearKernel(self.normalize)(X, Y) + self.offset) ** self.zeta


@register
@dataclass(frozen=True)
class GaussianKernel:
    r""":math:`k(x, y) = e^{-|x - y|^2 / 2 \ell^2}`, also called rbf, with :math:`\gamma = 1 / 2 \ell^2`.

    Attributes:
      length: :math:`\ell`, in units of the features.

    Raises:
      ValueError: a length that is not positive.
    """

    length: float = 1.0

    def __post_init__(self):
        if not (math.isfinite(self.length) and self.length > 0):
            raise ValueError(f"GaussianKernel length={self.length}: must be positive")

    def __call__(self, X: Features, Y: Float[Array, "M D"] | Float[np.ndarray, "M D"]) -> Matrix:
        """Kernel matrix (N, M)."""
        square = (X * X).sum(axis=1)[:, None] + (Y * Y).sum(axis=1)[None, :] - 2 * (X @ Y.T)
        return _module(X).exp(square / (-2 * self.length**2))


def unit(X: Features) -> Features:
    """Features divided by their length; zeros, of an atom that sees nothing, stay zeros."""
    xp = _module(X)
    square = (X * X).sum(axis=1, keepdims=True)
    return X / xp.sqrt(xp.where(square > 0, square, 1))


def _module(X):
    return jnp if isinstance(X, jax.Array) else np


@register
@dataclass(frozen=True)
class SparseGP:
    r"""Options of a sparse Gaussian process in place of a network, :math:`E_i = \sum_m \alpha_m\, k(x_i, x_m)`.

    Attributes:
      points: number M of sparse points :math:`x_m`.
      kernel: k, smooth, since forces are derivatives.

    Raises:
      ValueError: no points.

    References: Bartok, Payne, Kondor, Csanyi, Phys. Rev. Lett. 104, 136403 (2010).
    """

    points: int
    kernel: PolynomialKernel | GaussianKernel = PolynomialKernel()

    def __post_init__(self):
        if self.points < 1:
            raise ValueError(f"SparseGP points={self.points}: must be at least 1")


def init_sparse_gp(options: SparseGP, size: int, key, dtype) -> dict:
    """Random sparse points, (M, D), and weights of zero, (M,): what a fit (`bpjax.training.fit_sparse_gp`) replaces."""
    return {
        "points": jax.random.normal(key, (options.points, size), dtype),
        "weights": jnp.zeros(options.points, dtype),
    }


def apply_sparse_gp(options: SparseGP, params: dict, x: Float[Array, "*batch D"]) -> Float[Array, "*batch"]:
    """Sum over the sparse points of one element; `x` are features scaled for this element, as the points are."""
    k = options.kernel(x.reshape(-1, x.shape[-1]), params["points"])
    return (k @ params["weights"]).reshape(x.shape[:-1])
