"""Baselines against planted weights, NumPy's least squares, a dense Gaussian process, and finite differences."""

from dataclasses import replace
from functools import cache

import ase.io
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator

import bpjax as bp
from bpjax import datasets
from bpjax.analysis.errors import error_metrics
from bpjax.descriptors import ACSF, DefaultACSF, Radial
from bpjax.elements import species_of
from bpjax.errors import ConfigError, StructureError, UnknownSpeciesError
from bpjax.io.labels import labels
from bpjax.networks import MLP, GaussianKernel, PerElement, PolynomialKernel, SparseGP
from bpjax.potential import Potential, init
from bpjax.potential.describe import describe, jacobian
from bpjax.potential.evaluator import Evaluator
from bpjax.training.baselines import fit_ridge, fit_sparse_gp, sparse_points
from bpjax.training.dataset import BatchPlan, build_dataset, targets
from bpjax.training.inputs import as_environments, evaluate_batch, gather, to_device
from bpjax.training.linear import linear_part
from bpjax.training.losses import LikelihoodLoss, likelihood_loss
from tests.training.labelled import structures

# Neither alphabetical nor by atomic number: parameters are flattened in the order of the symbols.
ELEMENTS = ("Cu", "Al")
DESCRIPTOR = ACSF(ELEMENTS, 4.5, "poly2", g2=(Radial(0.1), Radial(0.6), Radial(1.0, 2.5), Radial(2.0, 3.3)))
D = DESCRIPTOR.size


@cache
def frames():
    return structures(16)


def relabelled(atoms, result):
    copy = atoms.copy()
    copy.calc = SinglePointCalculator(copy, energy=result.energy, forces=result.forces, stress=result.stress)
    return copy


def evaluated(fit, structures, dtype="float64"):
    """Evaluations, the offsets added here: fits that differ in these alone then share what is compiled."""
    found = Evaluator(replace(fit.model, offsets=()), fit.params, dtype).evaluate_many(structures)
    offsets = [fit.model.offset_energies(species_of(a.numbers, fit.model.elements)) for a in structures]
    return [
        replace(one, energy=one.energy + offset.sum(), atomic_energies=one.atomic_energies + offset)
        for one, offset in zip(found, offsets, strict=True)
    ]


def same(found, expected, atol):
    for one, other in zip(found, expected, strict=True):
        assert one.energy == pytest.approx(other.energy, abs=atol)
        np.testing.assert_allclose(one.forces, other.forces, atol=atol)
        if other.stress is not None:
            np.testing.assert_allclose(one.stress, other.stress, atol=atol)


# ------------------------------------------------------------------------------------------- ridge


def test_planted_weights_are_recovered():
    """Labels of a random linear potential; the fit predicts those of structures that it has not seen."""
    planted = Potential(DESCRIPTOR, MLP(hidden=()), offsets=(-3.0, -50.0))
    params = init(planted, jax.random.key(1), np.float64)
    rng = np.random.default_rng(0)
    params["networks"] = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape)), params["networks"])
    new = structures(6, seed=9)
    given, wanted = (Evaluator(planted, params, "float64").evaluate_many(list(s)) for s in (frames(), new))
    assert np.std([r.energy for r in given]) > 1
    train = [relabelled(a, r) for a, r in zip(frames(), given, strict=True)]
    fit = fit_ridge(DESCRIPTOR, train, regularization=0.0, dtype="float64")
    assert fit.loss < 1e-14
    same(evaluated(fit, new), wanted, 1e-8)
    forces = fit_ridge(
        DESCRIPTOR, train, loss=LikelihoodLoss(energy=None, stress=None), regularization=0.0, dtype="float64"
    )
    for one, other in zip(evaluated(forces, new), wanted, strict=True):  # energies only up to constants
        np.testing.assert_allclose(one.forces, other.forces, atol=1e-8)


def plain_rows(fit, atoms, loss):
    """Rows and labels of one structure from its Jacobian, by plain NumPy; columns as (element, feature), constants last."""
    G, J = describe(DESCRIPTOR, [atoms], "float64")[0], jacobian(DESCRIPTOR, atoms, "float64")
    n, symbols = len(atoms), np.array(atoms.get_chemical_symbols())
    energy, forces, constants = [], [], []
    for element in ELEMENTS:
        own, scaling = symbols == element, fit.params["scaling"][element]
        scale = np.asarray(scaling["scale"], np.float64)
        energy.append(((G[own] - np.asarray(scaling["mean"], np.float64)) * scale).sum(axis=0))
        forces.append(-(J[own].sum(axis=0) * scale).reshape(3 * n, D))
        constants.append(own.sum())
    label = labels(atoms)
    offset = sum(fit.model.offsets[ELEMENTS.index(s)] for s in symbols)
    A = np.block([[np.concatenate(energy), np.array(constants)], [np.hstack(forces), np.zeros((3 * n, 2))]])
    b = np.concatenate([[label.energy - offset], label.forces.ravel()])
    width = np.concatenate([[loss.energy * n], np.full(3 * n, loss.forces * np.sqrt(3 * n))])
    return A / width[:, None], b / width


@pytest.mark.parametrize("regularization", [1e-3, 0.0])
def test_ridge_is_least_squares_of_numpy(regularization):
    loss = LikelihoodLoss(energy=0.01, forces=0.2, stress=None)
    fit = fit_ridge(DESCRIPTOR, frames(), loss=loss, regularization=regularization, dtype="float64")
    A, b = (np.concatenate(parts) for parts in zip(*(plain_rows(fit, a, loss) for a in frames()), strict=True))
    A, b = A / np.sqrt(len(frames())), b / np.sqrt(len(frames()))
    penalty = np.sqrt(regularization) * np.eye(2 * D + 2)[: 2 * D]
    wanted = np.linalg.lstsq(np.vstack([A, penalty]), np.concatenate([b, np.zeros(2 * D)]), rcond=None)[0]
    for n, element in enumerate(ELEMENTS):
        own = fit.params["networks"][element]["output"]
        np.testing.assert_allclose(np.ravel(own["kernel"]), wanted[n * D : (n + 1) * D], rtol=1e-6, atol=1e-7)
        assert own["bias"][0] == pytest.approx(wanted[2 * D + n], rel=1e-6, abs=1e-7)
    assert fit.loss == pytest.approx(np.sum((A @ wanted - b) ** 2), rel=1e-8)
    assert fit.regularization == regularization and fit.validation_losses == {}


def test_the_loss_is_that_of_training():
    """Weights of structures and forces, relative widths and stresses included."""
    weighted = [relabelled(a, labels(a)) for a in frames()]
    for n, atoms in enumerate(weighted):
        atoms.info["weight"] = 1.0 + n % 3
        atoms.arrays["forces_weight"] = np.arange(len(atoms)) / 2
    loss = LikelihoodLoss(energy=0.3, forces=0.2, stress=0.02, energy_per="structure", forces_relative=0.4)
    fit = fit_ridge(DESCRIPTOR, weighted, loss=loss, regularization=1e-4, dtype="float64")
    data = build_dataset(weighted, ELEMENTS, DESCRIPTOR.cutoff)
    plan = BatchPlan.of(data.sizes, len(data))
    chosen = plan.in_order()[0]
    rows, layout = plan.layout(data, chosen)
    wanted = targets(data, np.array(fit.model.offsets), chosen, rows, layout)
    inputs = to_device(gather(as_environments(data), rows))
    outputs = jax.jit(evaluate_batch, static_argnums=0)(fit.model, fit.params, inputs, layout)
    assert fit.loss == pytest.approx(float(likelihood_loss(loss, outputs, wanted, layout)), rel=1e-4)  # in float32


def test_validation_chooses_the_regularization():
    values, held = (1e-8, 1e-4, 1e-1, 1e3), structures(6, seed=5)
    fit = fit_ridge(DESCRIPTOR, frames(), regularization=values, validation=held, dtype="float64")
    assert fit.regularization == min(values, key=fit.validation_losses.get) and len(set(fit.validation_losses)) == 4
    alone = fit_ridge(DESCRIPTOR, frames(), regularization=fit.regularization, dtype="float64")
    same(evaluated(fit, held[:2]), evaluated(alone, held[:2]), 1e-9)
    # What was measured on the validation structures is what a fit to them alone calls its loss.
    backwards = fit_ridge(DESCRIPTOR, held, regularization=0.0, dtype="float64")
    assert all(loss > backwards.loss for loss in fit.validation_losses.values())


def test_a_linear_model_is_a_model_like_any_other(tmp_path):
    fit = fit_ridge(DESCRIPTOR, frames(), regularization=1e-5, dtype="float64")
    bp.save(tmp_path / "m.bpjax", fit.model, fit.params)
    model, params = bp.load(tmp_path / "m.bpjax")
    assert model == fit.model
    found = Evaluator(fit.model, fit.params, "float64").evaluate_many(frames()[:4])
    same(evaluated(fit, frames()[:4]), found, 1e-10)
    same(Evaluator(model, params, "float64").evaluate_many(frames()[:4]), found, 0.0)
    same(evaluated(fit, frames()[:4], "float32"), found, 2e-4)


# --------------------------------------------------------------------------------------- sparse GP


POLYNOMIAL = PolynomialKernel(4)


@cache
def gp(kernel=POLYNOMIAL):
    return fit_sparse_gp(DESCRIPTOR, frames(), points=12, kernel=kernel, scale=3.0, dtype="float64")


KERNELS = pytest.mark.parametrize(
    "kernel", [POLYNOMIAL, pytest.param(GaussianKernel(2.0), marks=pytest.mark.slow)], ids=["polynomial", "gaussian"]
)


def kernel_by_hand(kernel, x, y):
    if isinstance(kernel, GaussianKernel):
        return np.exp(-np.sum((x[:, None] - y[None]) ** 2, axis=2) / (2 * kernel.length**2))
    return np.einsum("nd,md->nm", x, y) ** kernel.zeta / np.outer(
        np.linalg.norm(x, axis=1) ** kernel.zeta, np.linalg.norm(y, axis=1) ** kernel.zeta
    )


def scaled_by_hand(fit, element, G):
    return (G - np.asarray(fit.params["scaling"][element]["mean"], float)) * np.asarray(
        fit.params["scaling"][element]["scale"], float
    )


@KERNELS
def test_energies_are_sums_of_kernels(kernel):
    fit, atoms = gp(kernel), frames()[1]
    G = describe(DESCRIPTOR, [atoms], "float64")[0]
    found = evaluated(fit, [atoms])[0].atomic_energies
    for n, (symbol, g) in enumerate(zip(atoms.get_chemical_symbols(), G, strict=True)):
        own = fit.params["networks"][symbol]
        k = kernel_by_hand(kernel, scaled_by_hand(fit, symbol, g[None]), np.asarray(own["points"]))[0]
        wanted = k @ np.asarray(own["weights"]) + fit.model.offsets[ELEMENTS.index(symbol)]
        assert found[n] == pytest.approx(wanted, abs=1e-9)


@KERNELS
def test_forces_are_derivatives_of_the_energy(kernel):
    fit, atoms, h = gp(kernel), frames()[1], 1e-4
    moved = []
    for j, a in ((0, 0), (2, 1), (3, 2)):
        for sign in (1, -1):
            copy = atoms.copy()
            copy.positions[j, a] += sign * h
            moved.append(copy)
    E = np.array([r.energy for r in evaluated(fit, moved)]).reshape(-1, 2)
    forces = evaluated(fit, [atoms])[0].forces[[0, 2, 3], [0, 1, 2]]
    np.testing.assert_allclose(forces, (E[:, 1] - E[:, 0]) / (2 * h), atol=1e-6)


@pytest.mark.slow
def test_interpolates_without_noise():
    """Every environment is a sparse point and the widths go to zero: the energies are met."""
    loss = LikelihoodLoss(energy=1e-6, forces=None, stress=None, energy_per="structure")
    fit = fit_sparse_gp(
        DESCRIPTOR, frames(), points=1000, kernel=GaussianKernel(1.0), loss=loss, jitter=1e-14, dtype="float64"
    )
    for atoms, result in zip(frames(), evaluated(fit, frames()), strict=True):
        assert result.energy == pytest.approx(labels(atoms).energy, abs=1e-4)
    assert (
        fit.energy_spread(frames(), "float64").max() < 1e-4 < fit.energy_spread(structures(4, seed=3), "float64").max()
    )


def test_all_points_give_the_dense_process():
    """Mean and spread against the textbook formulas with all environments, solved by NumPy."""
    kernel, sigma, scale = GaussianKernel(1.5), 0.05, 2.0
    loss = LikelihoodLoss(energy=sigma, forces=None, stress=None, energy_per="structure")
    train, new = frames()[:8], structures(4, seed=4)
    fit = fit_sparse_gp(
        DESCRIPTOR, train, points=1000, kernel=kernel, scale=scale, loss=loss, jitter=1e-13, dtype="float64"
    )
    species = [np.array(a.get_chemical_symbols()) for a in (*train, *new)]
    G = describe(DESCRIPTOR, [*train, *new], "float64")
    x = [
        np.array([scaled_by_hand(fit, s, g) for s, g in zip(*both, strict=True)])
        for both in zip(species, G, strict=True)
    ]

    def total(a, b):
        return np.sum(kernel_by_hand(kernel, x[a], x[b]) * (species[a][:, None] == species[b][None, :]))

    K = scale**2 * np.array([[total(a, b) for b in range(12)] for a in range(12)])
    noisy = np.linalg.inv(K[:8, :8] + sigma**2 * np.eye(8))
    counts = np.array([[np.sum(s == e) for e in ELEMENTS] for s in species])
    offsets = counts @ np.array(fit.model.offsets)
    y = np.array([labels(a).energy for a in train]) - offsets[:8]
    mean = K[8:, :8] @ noisy @ y + offsets[8:]
    spread = np.sqrt(np.diag(K[8:, 8:] - K[8:, :8] @ noisy @ K[:8, 8:]))
    np.testing.assert_allclose([r.energy for r in evaluated(fit, new)], mean, atol=1e-4)
    np.testing.assert_allclose(fit.energy_spread(new, "float64"), spread, rtol=1e-3)


def test_sparse_points_explain_most():
    """Each is the environment with the largest variance left, by explicit inversion; copies are never taken twice."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 3))
    x[20:] = x[:10]
    kernel = GaussianKernel(1.0)
    K, chosen = kernel(x, x), sparse_points(kernel, x, 12)
    for m in range(1, 12):
        known = chosen[:m]
        left = np.diag(K) - np.einsum("na,ab,nb->n", K[:, known], np.linalg.inv(K[np.ix_(known, known)]), K[:, known])
        assert left[chosen[m]] == pytest.approx(left.max(), abs=1e-9)
    assert len(sparse_points(kernel, x, 1000)) <= 20
    assert len(sparse_points(PolynomialKernel(1), x, 1000)) == 3  # the rank


@pytest.mark.slow
def test_a_process_is_a_model_like_any_other(tmp_path):
    """Elements with unlike numbers of points included; saved, loaded, in float32, and in a supercell."""
    lone = [a for a in frames() if "Al" not in a.get_chemical_symbols()][:3] + [frames()[3]]
    fit = fit_sparse_gp(DESCRIPTOR, lone, points=6, dtype="float64")
    assert isinstance(fit.model.network, PerElement) and [n.points for n in fit.model.network.networks] == [5, 1]
    bp.save(tmp_path / "m.bpjax", fit.model, fit.params)
    model, params = bp.load(tmp_path / "m.bpjax")
    assert model == fit.model
    found = Evaluator(fit.model, fit.params, "float64").evaluate_many(lone)
    same(Evaluator(model, params, "float64").evaluate_many(lone), found, 0.0)
    same(evaluated(fit, lone, "float32"), found, 1e-3)
    double = lone[0].repeat((2, 1, 1))
    assert evaluated(fit, [double])[0].energy == pytest.approx(2 * found[0].energy, abs=1e-9)


@pytest.mark.slow
def test_validation_chooses_the_scale():
    held = structures(6, seed=5)
    fit = fit_sparse_gp(DESCRIPTOR, frames(), points=12, scale=(1e-3, 3.0), validation=held, dtype="float64")
    assert fit.scale == 3.0 and fit.validation_losses[3.0] < fit.validation_losses[1e-3]
    same(evaluated(fit, held[:2]), evaluated(gp(), held[:2]), 1e-9)


# -------------------------------------------------------------------------------------- both of them


@pytest.mark.exhaustive
def test_errors_fall_with_the_data():
    """Silicon: with more structures the process errs less in everything; the linear model soon reaches what its form allows."""
    descriptor = DefaultACSF(cutoff=5.0, radial=6, angular=3, zeta=(1.0, 2.0)).build(("Si",))
    folder = datasets.path("silicon")
    train, held, test = (ase.io.read(folder / f"silicon_{name}.extxyz", ":") for name in ("train", "val", "test"))
    reference, sizes = [labels(a) for a in test], [len(a) for a in test]
    ridge, process = [], []
    for stride in (40, 8, 1):
        part = train[::stride]
        linear = fit_ridge(descriptor, part, regularization=[10.0**n for n in range(-8, 1)], validation=held)
        kernels = fit_sparse_gp(descriptor, part, points=150, scale=(1.0, 10.0, 100.0), validation=held)
        for errors, fit in ((ridge, linear), (process, kernels)):
            found = error_metrics(evaluated(fit, test, "float32"), reference, sizes)
            errors.append([found[f"{name}_rmse"] for name in ("energy", "forces", "stress")])
    ridge, process = np.array(ridge), np.array(process)
    assert (np.diff(process, axis=0) < 0).all()
    assert ridge[2, 0] < 0.6 * ridge[0, 0] and (np.diff(ridge[:, 2]) < 0).all()
    assert (process[2] < ridge[2]).all() and ridge[2, 0] < 0.04 and ridge[2, 1] < 0.26  # eV/atom, eV/A


@pytest.mark.parametrize("fit", [fit_ridge, fit_sparse_gp])
def test_bad_structures(fit):
    with pytest.raises(StructureError, match="there are no structures"):
        fit(DESCRIPTOR, [])
    bare = frames()[0].copy()
    with pytest.raises(StructureError, match="frame 1: has neither energy nor forces"):
        fit(DESCRIPTOR, [frames()[0], bare])
    with pytest.raises(UnknownSpeciesError, match="atom 0 is Cu"):
        fit(ACSF(("Al",), 4.0, g1=True), frames()[:1])
    with pytest.raises(ConfigError, match=r"descriptor\.elements: Al does not occur"):
        fit(DESCRIPTOR, frames()[:1])
    with pytest.raises(ConfigError, match="dtype: 'half'"):
        fit(DESCRIPTOR, frames()[:2], dtype="half")
    energies = [relabelled(a, labels(a)) for a in frames()[:2]]
    for atoms in energies:
        del atoms.calc.results["forces"], atoms.calc.results["stress"]
    with pytest.raises(StructureError, match="no structure has a label that the loss asks for"):
        fit(DESCRIPTOR, energies, loss=LikelihoodLoss(energy=None, stress=None))


def test_bad_options():
    for value in (-1.0, np.nan, (), (1e-3, np.inf)):
        with pytest.raises(ConfigError, match="regularization: must be at least 0"):
            fit_ridge(DESCRIPTOR, frames(), regularization=value)
    with pytest.raises(ConfigError, match="regularization: several values, and no validation"):
        fit_ridge(DESCRIPTOR, frames(), regularization=(0.1, 0.2))
    for options in ({"points": 0}, {"scale": 0.0}, {"jitter": -1e-3}, {"scale": (1.0, np.nan)}):
        with pytest.raises(ConfigError, match=f"{next(iter(options))}: must be"):
            fit_sparse_gp(DESCRIPTOR, frames(), **options)
    for name, value in {"huber": 1.0, "learned": True, "final_energy": 0.1}.items():
        with pytest.raises(ConfigError, match=rf"loss\.{name}: linear fits are of squares with given widths"):
            fit_ridge(DESCRIPTOR, frames(), loss=LikelihoodLoss(**{name: value}))
    with pytest.raises(ValueError, match="SparseGP points=0"):
        SparseGP(0)
    with pytest.raises(ValueError, match="is not linear in its parameters"):
        linear_part(Potential(DESCRIPTOR, MLP((3,))), init(Potential(DESCRIPTOR, MLP((3,))), jax.random.key(0)))


def test_scaling_of_a_normalising_kernel_keeps_directions():
    fit = gp()
    for element in ELEMENTS:
        scaling = fit.params["scaling"][element]
        assert np.ptp(scaling["scale"]) == 0 and not np.any(scaling["mean"]) and np.isfinite(scaling["max"]).all()
