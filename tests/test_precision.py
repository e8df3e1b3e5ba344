"""What JAX is switched to outside changes nothing: importing Sella, or making pymbar's MBAR, switches double precision on."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bpjax.descriptors import ANI, SOAP, Chosen, DefaultACSF, ImbalzanoACSF
from bpjax.dynamics import run_md, run_replicas
from bpjax.elements import atomic_numbers
from bpjax.excited.adiabatic import adiabatic, gradients
from bpjax.excited.hopping_options import HoppingOptions
from bpjax.excited.hopping_run import run_hopping
from bpjax.excited.lvc import pyrazine_3_modes
from bpjax.excited.models import TullySimple
from bpjax.excited.state_losses import StatesLoss
from bpjax.excited.states_data import StatesData
from bpjax.excited.states_store import load_states, save_states
from bpjax.excited.train import StatesTraining, train_states
from bpjax.io.structures import write_structures
from bpjax.networks.elemental import MLP
from bpjax.potential import Potential, init, load, save
from bpjax.potential.describe import describe, jacobian
from bpjax.potential.evaluator import Evaluator
from bpjax.precision import name_of_dtype
from bpjax.training import fit, fit_ridge, fit_sparse_gp
from bpjax.training.prepare import read_run
from tests.excited.methaniminium import model as states_model
from tests.excited.methaniminium import parameters as states_parameters
from tests.excited.methaniminium import shaken
from tests.small_model import MODEL, crystal, molecule, small_params
from tests.training.labelled import structures, training_file


def switched(compute):
    """What is computed with double precision off and on outside, for the whole process, as a library that is imported does it."""
    results, before = [], jax.config.jax_enable_x64
    try:
        for on in (False, True):
            jax.config.update("jax_enable_x64", on)
            results.append(compute())
    finally:
        jax.config.update("jax_enable_x64", before)
    return results


def test_evaluation():
    atoms, params = crystal(), small_params()
    energies = {}
    for dtype in ("float32", "float64"):
        one, two = switched(lambda dtype=dtype: Evaluator(MODEL, params, dtype).evaluate(atoms))
        assert one.energy == two.energy
        np.testing.assert_array_equal(one.forces, two.forces)
        energies[dtype] = one.energy
    assert 1e-9 < abs(energies["float32"] - energies["float64"]) < 1e-4


def test_features():
    for dtype in ("float32", "float64"):
        one, two = switched(lambda dtype=dtype: describe(MODEL.descriptor, [crystal(), molecule()], dtype))
        for a, b in zip(one, two, strict=True):
            assert a.dtype == b.dtype == dtype
            np.testing.assert_array_equal(a, b)
    one, two = switched(lambda: jacobian(MODEL.descriptor, molecule(), "float64"))
    np.testing.assert_array_equal(one, two)
    assert name_of_dtype(np.float64) == name_of_dtype(np.dtype("f8")) == "float64"


@pytest.mark.slow
@pytest.mark.parametrize(
    "descriptor",
    [
        DefaultACSF(4.0, radial=3, angular=2).build(("O", "Si")),
        ImbalzanoACSF(cutoff=4.0, intervals=3, angular_intervals=2).build(("O", "Si")),
        SOAP(("O", "Si"), radius=4.0, n_max=3, l_max=2, sigma=0.5),
        SOAP(("O", "Si"), radius=4.0, n_max=3, l_max=2, sigma=0.5, channels="mu2"),
        ANI(("O", "Si"), 4.0, 3.0, (8.0,), (0.9, 2.0), (6.0,), (8.0,), (0.9, 2.0), (0.4, 1.2)),
        Chosen(DefaultACSF(4.0, radial=3, angular=2).build(("O", "Si")), (0, 3, 5)),
    ],
    ids=["acsf", "narrow", "soap", "mu2", "ani", "reduced"],
)
def test_one_precision_after_the_other(descriptor):
    """Whole numbers of 64 bits among the tables of a descriptor would be mistaken when a function is traced again (jax 0.10)."""
    model = Potential(descriptor, MLP((4,)))
    params = init(model, jax.random.key(0))
    found = {}
    for dtype in ("float32", "float64", "float32", "float64"):
        Evaluator(model, params, dtype).evaluate(molecule())  # another shape between
        result = Evaluator(model, params, dtype).evaluate(crystal())
        first = found.setdefault(dtype, result)
        np.testing.assert_array_equal(first.forces, result.forces)
    np.testing.assert_allclose(found["float32"].forces, found["float64"].forces, atol=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dynamics(dtype):
    """Of one system and of many; observers find JAX as their caller has it."""
    options = dict(steps=20, log_interval=10, temperature=10.0, timestep_fs=0.2, dtype=dtype)
    found = []

    def run():
        def observer(atoms, record):
            assert jnp.zeros(1, float).dtype == outside

        outside = jnp.zeros(1, float).dtype
        alone = run_md(MODEL, small_params(), crystal(), observers=[observer], trajectory_interval=10, **options)
        many = run_replicas(MODEL, small_params(), crystal(), replicas=2, **options)
        found.append(alone)
        return [np.append(one.atoms.positions.ravel(), one.log["total_energy"]) for one in (alone, *many)]

    one, two = switched(run)
    np.testing.assert_array_equal(one, two)
    assert found[0].log["conserved"].max() - found[0].log["conserved"].min() < (1e-3 if dtype == "float32" else 1e-6)


@pytest.mark.parametrize("kind", ["potential", "states"])
def test_models_are_read_as_they_were_saved(tmp_path, kind):
    """With double precision off, JAX would round arrays of 64 bits; what is computed of them in double precision would differ."""
    path, write, read = tmp_path / "m.bpjax", *((save, load) if kind == "potential" else (save_states, load_states))
    with jax.enable_x64(True):
        made = MODEL if kind == "potential" else states_model()
        params = small_params() if kind == "potential" else states_parameters(made)
        write(path, made, jax.tree.map(lambda a: np.asarray(a, np.float64) * (1 + 1e-10), params))
    one, two = switched(lambda: jax.tree.map(np.asarray, read(path)[1]))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    assert any(np.asarray(leaf).dtype == np.float64 for leaf in jax.tree.leaves(one))
    if kind == "potential":
        one, two = switched(lambda: Evaluator(*load(path), "float64").evaluate(crystal()).energy)
        assert one == two


@pytest.mark.slow
def test_states():
    """Training in single precision, then what is asked of the potential in double, and the other way round."""
    own = states_model()
    params, R = states_parameters(own), shaken(0, 2)
    rng = np.random.default_rng(0)
    E, G, h = np.sort(rng.normal(size=(8, 3))), rng.normal(size=(8, 3, 6, 3)), rng.normal(size=(8, 3, 6, 3))
    data = StatesData(atomic_numbers(own.atoms), shaken(1, 8), E, G, h, None, ("all",) * 8, "arbitrary")
    options = StatesTraining(epochs=2, batch_size=4, starts=1, loss=StatesLoss(dipoles=None))
    before, found = jax.config.jax_enable_x64, []
    try:
        for on in (True, False, True):
            jax.config.update("jax_enable_x64", on)
            found.append(jax.tree.leaves(jax.tree.map(np.asarray, train_states(own, data, options).params)))
            result = adiabatic(partial(own, params), jnp.asarray(R[0]))
            assert jnp.isfinite(gradients(result)).all() and result.energies.dtype == (np.float64 if on else np.float32)
    finally:
        jax.config.update("jax_enable_x64", before)
    for one, two in zip(found[0], found[1], strict=True):
        assert one.dtype == two.dtype == np.float32
        np.testing.assert_array_equal(one, two)


@pytest.mark.slow
def test_hopping():
    """Amplitudes, the default energy tolerance and with them populations hung on the switch; models of numbers as well."""

    def run():
        R, v = np.full((20, 1), -4.0), np.full((20, 1), 12 / TullySimple().mass)
        options = HoppingOptions(timestep_fs=0.5)
        found = run_hopping(TullySimple(), R, v, [TullySimple().mass], 0, 20, options, interval=20, seed=1)
        return np.concatenate(
            [np.ravel(found.state.R), np.ravel(found.records.adiabatic), np.ravel(pyrazine_3_modes().linear)]
        )

    one, two = switched(run)
    np.testing.assert_array_equal(one, two)
    assert one.dtype == np.float64


@pytest.mark.slow
@pytest.mark.parametrize("fit", [fit_ridge, fit_sparse_gp])
def test_baselines(fit):
    """Features and rows of double precision are that with JAX's switch off, too: weights of either sign show it at once."""
    frames, some = structures(8), dict(points=20) if fit is fit_sparse_gp else {}
    rule = DefaultACSF(4.5, radial=4, angular=2).build(("Al", "Cu"))
    one, two = switched(lambda: fit(rule, frames, dtype="float64", **some))
    assert one.loss == two.loss
    energies = switched(lambda: Evaluator(one.model, one.params, "float64").evaluate(frames[0]).energy)
    assert energies[0] == energies[1] == Evaluator(two.model, two.params, "float64").evaluate(frames[0]).energy
    single = fit(rule, frames, dtype="float32", **some)
    assert single.loss != one.loss and single.loss == pytest.approx(one.loss, rel=0.05)


@pytest.mark.slow
def test_training(tmp_path):
    """To rounding: what Python's numbers become in between differs in the last digit."""
    write_structures(tmp_path / "train.extxyz", structures(16))
    (tmp_path / "train.toml").write_text(training_file(20, 10))

    def run():
        options, found = read_run(tmp_path / "train.toml")
        leaves = jax.tree.leaves(fit(found, options).params)
        assert {np.asarray(leaf).dtype for leaf in leaves} == {np.dtype("float32")}
        return np.concatenate([np.asarray(leaf).ravel() for leaf in leaves])

    one, two = switched(run)
    np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5)
