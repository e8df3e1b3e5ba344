r"""Baselines on the features, data and loss of the networks, fitted in one step: so that one sees what a network buys.

Both are potentials like any other: they predict, run dynamics, and are saved and loaded.

`fit_ridge`
    :math:`E_i = w \cdot x_i + b` for each element with scaled features x: a network without hidden layers.
`fit_sparse_gp`
    :math:`E_i = \sum_m \alpha_m\, k(x_i, x_m)`: kernels with the environments of the data that differ most from each other.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import ase
import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

from bpjax.descriptors import Descriptor
from bpjax.elements import fit_offsets, species_of
from bpjax.errors import ConfigError
from bpjax.networks.elemental import MLP, PerElement, options_of
from bpjax.networks.kernel import EnvironmentKernel, GaussianKernel, PolynomialKernel, SparseGP
from bpjax.networks.scaling import fit_scaling, scaled_on_host
from bpjax.potential.describe import describe
from bpjax.potential.energy import Params, Potential, init
from bpjax.precision import name_of_dtype, precision, unrounded
from bpjax.progress import ProgressFn, silent
from bpjax.training.dataset import Dataset, build_dataset
from bpjax.training.linear import linear_part, squares, with_linear
from bpjax.training.losses import LikelihoodLoss

LOSS, SOAP_KERNEL = LikelihoodLoss(), PolynomialKernel()


@dataclass(frozen=True, eq=False)
class Baseline:
    """A fitted baseline.

    Attributes:
      model: the potential with its energy offsets.
      params: its arrays.
      loss: likelihood loss of the training structures.
      validation_losses: that of the validation structures for each regularization or scale that was tried; empty without them.
    """

    model: Potential
    params: Params
    loss: float
    validation_losses: dict[float, float]


@dataclass(frozen=True, eq=False)
class Ridge(Baseline):
    """A fitted linear regression.

    Attributes:
      regularization: lambda, in 1/eV^2.
    """

    regularization: float


def fit_ridge(
    descriptor: Descriptor,
    frames: Sequence[ase.Atoms],
    *,
    loss: LikelihoodLoss = LOSS,
    regularization: float | Sequence[float] = 1e-6,
    validation: Sequence[ase.Atoms] = (),
    dtype: str = "float32",
    progress: ProgressFn = silent,
) -> Ridge:
    r"""Linear regression of energies, forces and stresses on the features, with a penalty :math:`\lambda |w|^2`.

    Minimises the likelihood loss plus the penalty in one step. Features are scaled to unit spread, hence w is in eV and lambda in
    1/eV^2; the constant b of each element is free.

    Args:
      descriptor: of the elements of the structures.
      frames: labelled structures; see `bpjax.io.labels.labels`. `info["weight"]` weighs a structure,
        `arrays["forces_weight"]` the force on each atom.
      loss: widths of energies, forces and stresses, as in the training of networks.
      regularization: lambda; of several the one with the smallest loss of the validation structures is taken.
      validation: labelled structures to choose lambda by.
      dtype: precision of the features, "float32" or "float64"; algebra is in float64.
      progress: display.

    Raises:
      ConfigError: a lambda that is negative or not finite, a loss that is not of squares with given widths, several lambdas
        without validation structures, a descriptor of other elements than those of the structures, or a dtype that cannot be
        used.
      StructureError, UnknownSpeciesError: no structures, or structures or labels that cannot be used.
    """
    with precision(dtype := name_of_dtype(dtype)):
        found = _fit_ridge(descriptor, frames, loss, regularization, validation, dtype, progress)
    return replace(found, params=unrounded(found.params))


def _fit_ridge(descriptor, frames, loss, regularization, validation, dtype: str, progress: ProgressFn) -> Ridge:
    several = _several("regularization", regularization, validation)
    data, offsets, features = _posed(descriptor, frames, dtype, progress)
    model = Potential(descriptor, MLP(hidden=()), offsets)
    params = init(model, jax.random.key(0), np.dtype(dtype))
    params["scaling"] = fit_scaling(features, data.species, model.elements)
    train = squares(model, params, frames, data, loss, dtype, progress)
    penalty = _weights(model, params)
    fits = {value: train.minimise(math.sqrt(value) * penalty) for value in several}
    best, losses = _best(model, params, fits, validation, loss, dtype, progress)
    return Ridge(model, _with_parameters(model, params, fits[best]), train.loss(fits[best]), losses, best)


def _weights(model: Potential, params: Params) -> np.ndarray:
    """One row for each parameter of a linear network that is no constant."""
    chosen = jax.tree_util.tree_map_with_path(
        lambda path, leaf: np.full(leaf.shape, path[-1].key == "kernel"), linear_part(model, params)
    )
    marks = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(chosen)])
    return np.eye(len(marks))[marks]


@dataclass(frozen=True, eq=False)
class SparseGPFit(Baseline):
    r"""A fitted sparse Gaussian process, with what the uncertainty of its energies needs.

    Attributes:
      scale: prior standard deviation of an atomic energy in eV.
      prior: for each element the triangle L, with :math:`K = L L^T` between its sparse points.
      posterior: for each element the rows p of its weights, (M, P), with the covariance :math:`p\, p^T` between all weights.
    """

    scale: float
    prior: dict[str, np.ndarray]
    posterior: dict[str, np.ndarray]

    def energy_spread(self, frames: Sequence[ase.Atoms], dtype: str = "float32") -> np.ndarray:
        r"""Standard deviation of the total energy of each structure in eV, as the data and the widths of the loss leave it.

        .. math:: \sigma^2 = \delta^2 (k_{**} - k_*^T K^{-1} k_*) + k_*^T C k_*

        with the sums :math:`k_*` over the kernels of the atoms with the sparse points and :math:`k_{**}` over those of the atoms
        with each other: the variance that no sparse point can explain, and that of the weights.

        References: Quinonero-Candela and Rasmussen, J. Mach. Learn. Res. 6, 1939 (2005), eq. (20b).
        """
        found = []
        features = describe(self.model.descriptor, frames, dtype)
        for atoms, G in zip(frames, features, strict=True):
            species = species_of(atoms.numbers, self.model.elements)
            missing, projected = 0.0, np.zeros(next(iter(self.posterior.values())).shape[1])
            for index, element in enumerate(self.model.elements):
                kernel = options_of(self.model.network, index).kernel  # pyright: ignore[reportAttributeAccessIssue]
                x = scaled_on_host(self.params["scaling"][element], G[species == index])
                k = kernel(x, np.asarray(self.params["networks"][element]["points"], np.float64)).sum(axis=0)
                explained = scipy.linalg.solve_triangular(self.prior[element], k, lower=True)
                missing += max(kernel(x, x).sum() - explained @ explained, 0.0)
                projected = projected + k @ self.posterior[element]
            found.append(math.sqrt(self.scale**2 * missing + projected @ projected))
        return np.array(found)


def fit_sparse_gp(
    descriptor: Descriptor,
    frames: Sequence[ase.Atoms],
    *,
    points: int = 300,
    kernel: PolynomialKernel | GaussianKernel = SOAP_KERNEL,
    scale: float | Sequence[float] = 10.0,
    validation: Sequence[ase.Atoms] = (),
    loss: LikelihoodLoss = LOSS,
    jitter: float = 1e-10,
    dtype: str = "float64",
    progress: ProgressFn = silent,
) -> SparseGPFit:
    r"""Sparse Gaussian process regression of energies, forces and stresses, one process per element.

    Minimises :math:`W L(\alpha) + \alpha^T K \alpha / \delta^2`, with the likelihood loss L of summed weight W and the
    kernel matrix K of the sparse points; solved by QR of the stacked rows. Sparse points are chosen one by one, each time the
    environment that those before explain least. A normalising kernel gets features as they are, but for a common factor; a
    Gaussian one gets them with zero mean and unit spread.

    Args:
      descriptor: of the elements of the structures; a power spectrum (SOAP) with the default kernel is GAP.
      frames: labelled structures; see `bpjax.io.labels.labels`. `info["weight"]` weighs a structure,
        `arrays["forces_weight"]` the force on each atom.
      points: sparse points of each element, at most; fewer where more would explain nothing.
      kernel: between environments.
      scale: :math:`\delta`, prior standard deviation of an atomic energy, in eV; of several the one with the smallest loss of
        the validation structures is taken.
      validation: labelled structures to choose the scale by.
      loss: widths of energies, forces and stresses. As in the training of networks the force components of a structure
        together count as much as its energy; their width in the sense of the process is sigma_F sqrt(3 N).
      jitter: added to the diagonal of K, relative to its mean, to make it positive definite to rounding.
      dtype: precision of the features, "float32" or "float64"; algebra is in float64. Weights are large and of either sign: with
        features of single precision energies are worse (10.1 for 7.7 meV/atom on the shipped silicon, SOAP(8, 4), 300 points),
        and so they are when it is evaluated in single precision.
      progress: display.

    Raises:
      ConfigError: an option that is not positive, a loss that is not of squares with given widths, a descriptor of other elements
        than those of the structures, or a dtype that cannot be used.
      StructureError, UnknownSpeciesError: no structures, or structures or labels that cannot be used.

    References: Bartok, Payne, Kondor, Csanyi, Phys. Rev. Lett. 104, 136403 (2010); solution by QR: Foster et al., J. Mach. Learn.
    Res. 10, 857 (2009).
    """
    with precision(dtype := name_of_dtype(dtype)):
        found = _fit_sparse_gp(descriptor, frames, points, kernel, scale, validation, loss, jitter, dtype, progress)
    return replace(found, params=unrounded(found.params))


def _fit_sparse_gp(
    descriptor, frames, points: int, kernel, scale, validation, loss, jitter: float, dtype: str, progress: ProgressFn
) -> SparseGPFit:
    scales = _several("scale", scale, validation)
    for name, value in (("points", points), ("jitter", jitter), *(("scale", value) for value in scales)):
        if not value > 0:
            raise ConfigError(f"must be positive, got {value}", field=name)
    data, offsets, features = _posed(descriptor, frames, dtype, progress)
    scaling = fit_scaling(features, data.species, descriptor.elements)
    if getattr(kernel, "normalize", False):
        scaling = {element: _common_factor(own) for element, own in scaling.items()}
    chosen = {}
    for index, element in enumerate(descriptor.elements):
        x = scaled_on_host(scaling[element], features[data.species == index])
        chosen[element] = x[sparse_points(kernel, x, points)]
    networks = tuple(SparseGP(len(chosen[element]), kernel) for element in descriptor.elements)
    model = Potential(descriptor, networks[0] if len(set(networks)) == 1 else PerElement(networks), offsets)
    params = {**init(model, jax.random.key(0), np.dtype(dtype)), "scaling": scaling}
    params["networks"] = {
        element: {**own, "points": jnp.asarray(chosen[element], np.dtype(dtype))}
        for element, own in params["networks"].items()
    }
    train = squares(model, params, frames, data, loss, dtype, progress)
    order = sorted(descriptor.elements)  # that of the flat parameters
    prior = {
        e: _cholesky(kernel(x, x), jitter)
        for e in order
        for x in [np.asarray(params["networks"][e]["points"], np.float64)]
    }
    penalty: Any = scipy.linalg.block_diag(*(prior[e].T for e in order))
    fits = {value: train.minimise(penalty / value / math.sqrt(train.weight)) for value in scales}
    best, losses = _best(model, params, fits, validation, loss, dtype, progress)
    total = np.vstack([train.triangle[:, :-1], penalty / best])
    root = scipy.linalg.solve_triangular(np.linalg.qr(total, mode="r"), np.eye(len(penalty)))
    posterior = dict(zip(order, np.split(root, np.cumsum([len(prior[e]) for e in order])[:-1]), strict=True))
    fitted = _with_parameters(model, params, fits[best])
    return SparseGPFit(model, fitted, train.loss(fits[best]), losses, best, prior, posterior)


def sparse_points(kernel: EnvironmentKernel, x: np.ndarray, count: int) -> np.ndarray:
    """Numbers of the environments, of features (A, D), that explain the others best: each the one that is explained least so far.

    Pivoted Cholesky factorisation of the kernel matrix, of which only the columns of the chosen ones are computed. Ends early
    where the rest is explained to rounding.
    """
    A = len(x)
    left = np.array([kernel(one[None], one[None])[0, 0] for one in x])
    smallest = 1e-12 * left.max()
    L, chosen = np.zeros((A, min(count, A))), []
    for m in range(L.shape[1]):
        pivot = int(np.argmax(left))
        if left[pivot] <= smallest and m > 0:
            break
        column = kernel(x, x[pivot][None])[:, 0] - L[:, :m] @ L[pivot, :m]
        L[:, m] = column / math.sqrt(left[pivot])
        left = np.maximum(left - L[:, m] ** 2, 0.0)
        left[pivot] = 0.0
        chosen.append(pivot)
    return np.array(chosen)


def _cholesky(K: np.ndarray, jitter: float) -> np.ndarray:
    """Lower triangle of K with a diagonal raised by `jitter`, or by as many factors of ten more as rounding asks for."""
    step = jitter * np.trace(K) / len(K)
    for _ in range(12):
        try:
            return np.linalg.cholesky(K + step * np.eye(len(K)))
        except np.linalg.LinAlgError:
            step *= 10
    raise ConfigError("the kernel matrix of the sparse points is not positive definite; raise it", field="jitter")


def _posed(
    descriptor: Descriptor, frames: Sequence[ase.Atoms], dtype: str, progress: ProgressFn
) -> tuple[Dataset, tuple[float, ...], np.ndarray]:
    """Labels, energy offsets and features of all atoms."""
    data = build_dataset(frames, descriptor.elements, descriptor.cutoff)
    absent = [e for e, count in zip(descriptor.elements, data.counts.sum(axis=0), strict=True) if count == 0]
    if absent:
        raise ConfigError(f"{', '.join(absent)} does not occur in the structures", field="descriptor.elements")
    known = np.isfinite(data.energy)
    offsets = fit_offsets(data.counts[known], data.energy[known]) if known.any() else np.zeros(len(descriptor.elements))
    features = np.concatenate(describe(descriptor, frames, dtype, progress))
    return data, tuple(offsets.tolist()), features


def _several(name: str, given: float | Sequence[float], validation: Sequence[ase.Atoms]) -> list[float]:
    """The values of an option to choose from."""
    values = np.atleast_1d(np.asarray(given, dtype=np.float64)).tolist()
    if not values or not all(math.isfinite(value) and value >= 0 for value in values):
        raise ConfigError(f"must be at least 0, got {given}", field=name)
    if len(values) > 1 and not len(validation):
        raise ConfigError("several values, and no validation structures to choose by", field=name)
    return values


def _best(
    model: Potential,
    params: Params,
    fits: dict[float, np.ndarray],
    validation: Sequence[ase.Atoms],
    loss: LikelihoodLoss,
    dtype: str,
    progress: ProgressFn,
) -> tuple[float, dict[float, float]]:
    """Which of several fits describes the validation structures best, and the losses of all."""
    if not len(validation):
        return next(iter(fits)), {}
    labels = build_dataset(validation, model.elements, model.cutoff)
    held = squares(model, params, validation, labels, loss, dtype, progress)
    losses = {value: held.loss(theta) for value, theta in fits.items()}
    return min(losses, key=lambda value: losses[value]), losses


def _common_factor(scaling: dict) -> dict:
    """Scaling by one number for all features, without a shift: it leaves the directions of the features as they are."""
    scale = scaling["scale"]
    return {**scaling, "mean": jnp.zeros_like(scale), "scale": jnp.full_like(scale, jnp.median(scale))}


def _with_parameters(model: Potential, params: Params, theta: np.ndarray) -> Params:
    """The arrays with the fitted linear part, in double precision whatever JAX's mode: large weights of either sign cancel."""
    leaves, tree = jax.tree.flatten(linear_part(model, params))
    parts = np.split(theta, np.cumsum([leaf.size for leaf in leaves])[:-1])
    shaped = [part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)]
    return with_linear(params, tree.unflatten(shaped))
