"""Optimisers, schedules, ensembles and predicted noise: they learn, they agree with single runs, nothing is compiled twice."""

import dataclasses
from itertools import pairwise

import ase.calculators.singlepoint
import ase.io
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bpjax.descriptors import DefaultACSF
from bpjax.errors import ConfigError
from bpjax.networks import MLP
from bpjax.networks.elemental import apply_network
from bpjax.networks.noise import NoiseModel
from bpjax.potential import load, save
from bpjax.potential.evaluator import Evaluator
from bpjax.training import LBFGS, DataOptions, Ensemble, LikelihoodLoss, OptimizerOptions, TrainingOptions, fit, prepare
from bpjax.training.ensemble import member
from bpjax.training.inputs import evaluate_batch, take
from bpjax.training.losses import likelihood_loss
from bpjax.training.problem import make_batch, pose
from bpjax.training.updaters import Descent, Hyper, _descend, start
from tests.training.labelled import structures

OPTIONS = TrainingOptions(
    data=DataOptions(train=("train.extxyz",), validation_fraction=0.25),
    descriptor=DefaultACSF(cutoff=4.0, radial=4, angular=1, zeta=(1.0,)),
    network=MLP((8,), "silu"),
    optimizer=OptimizerOptions(
        steps=40, batch_size=4, learning_rate=1e-2, warmup=5, evaluate_every=10, checkpoint_every=20, average=0.9
    ),
)


def changed(loss=None, **optimizer):
    options = dataclasses.replace(OPTIONS, optimizer=dataclasses.replace(OPTIONS.optimizer, **optimizer))
    return options if loss is None else dataclasses.replace(options, loss=loss)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    ase.io.write(folder / "train.extxyz", structures(16))
    return prepare(OPTIONS.data, folder, seed=0)


@pytest.mark.parametrize(("method", "rate"), [("adam", 1e-2), ("amsgrad", 1e-2), ("muon", 3e-2)])
@pytest.mark.slow
def test_methods_learn(data, method, rate):
    history = fit(data, changed(method=method, learning_rate=rate, weight_decay=0.0)).history
    assert history[-1]["validation_loss"] < 0.5 * history[0]["validation_loss"]


@pytest.mark.slow
def test_adamw_takes_the_steps_of_optax(data):
    options = changed(steps=5, evaluate_every=5, checkpoint_every=5, weight_decay=0.1)
    problem = pose(data, options)
    updater = Descent(problem, options, Hyper.of(options))
    state = start(problem, updater, None)
    o, values = options.optimizer, state.trained
    schedule = optax.warmup_cosine_decay_schedule(o.learning_rate / 5, o.learning_rate, 4, 5, o.learning_rate * 1e-3)
    chain = optax.chain(optax.clip_by_global_norm(o.clip), optax.adamw(schedule, weight_decay=0.1))
    own = chain.init(values)

    @jax.jit
    def gradient(values, batch):
        def objective(values):
            inputs = take(problem.inputs.arrays, batch.rows)
            full = {**problem.params, **values}
            return likelihood_loss(
                options.loss, evaluate_batch(problem.model, full, inputs, batch.layout), batch.wanted, batch.layout
            )

        return jax.grad(objective)(values)

    for step, chosen in enumerate(updater.plan.epoch(0, 0)):
        batch = make_batch(problem, problem.train, updater.plan, chosen)
        change, own = chain.update(gradient(values, batch), own, values)
        values = optax.apply_updates(values, change)
        state = updater.advance(state, step, step + 1)
        for a, b in zip(jax.tree.leaves(state.trained), jax.tree.leaves(values), strict=True):
            # Rounding of a gradient is relative to the largest ones; Adam divides each by its own size.
            np.testing.assert_allclose(a, b, atol=1e-2 * o.learning_rate)


@pytest.mark.exhaustive
def test_lbfgs_learns_faster_per_step(data):
    options = dataclasses.replace(
        OPTIONS, optimizer=LBFGS(steps=40, batch_size=4, evaluate_every=10, checkpoint_every=20)
    )
    history = fit(data, options).history
    losses = [line["train_loss"] for line in history]
    assert all(b < a for a, b in pairwise(losses))  # every line search goes down
    assert losses[-1] < 0.5 * fit(data, OPTIONS).history[-1]["train_loss"]


@pytest.mark.slow
def test_plateau_lowers_the_rate(data):
    # With a tiny rate and the average off, validation gets better by less and less; with no rate at all never.
    options = changed(schedule="plateau", plateau_patience=2, learning_rate=1e-30, average=0.0, evaluate_every=5)
    history = fit(data, options).history
    rates = [line["learning_rate"] / 1e-30 for line in history]
    np.testing.assert_allclose(rates, [1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.125], rtol=1e-5)


def test_constant_rate(data):
    history = fit(data, changed(schedule="constant")).history
    np.testing.assert_allclose([line["learning_rate"] for line in history], 1e-2, rtol=1e-6)


@pytest.mark.slow
def test_members_equal_single_runs(data):
    several = fit(data, dataclasses.replace(OPTIONS, ensemble=Ensemble(3)))
    atoms = data.validation.frames[0]
    for n in range(3):
        single = fit(data, changed(start_seed=n))
        model, params = member(several.model, several.params, n)
        # Sums in another order: after 40 steps of float32 the paths differ by far less than the errors.
        one, other = (Evaluator(*pair).evaluate(atoms) for pair in ((single.model, single.params), (model, params)))
        np.testing.assert_allclose(one.forces, other.forces, atol=2e-3)
        losses = [line["members"]["validation_loss"][n] for line in several.history]
        np.testing.assert_allclose(losses, [line["validation_loss"] for line in single.history], rtol=1e-3)


@pytest.mark.slow
def test_ensemble_is_a_committee(data, tmp_path):
    options = dataclasses.replace(OPTIONS, ensemble=Ensemble(3, "bootstrap"))
    found = fit(data, options, tmp_path)
    save(tmp_path / "model.bpjax", found.model, found.params)
    model, params = load(tmp_path / "model.bpjax")
    atoms = data.validation.frames[0]
    together = Evaluator(model, params).evaluate(atoms)
    each = [Evaluator(*member(model, params, n)).evaluate(atoms) for n in range(3)]
    assert together.energy == pytest.approx(np.mean([e.energy for e in each]), abs=1e-5)
    np.testing.assert_allclose(together.forces_spread, np.std([e.forces for e in each], axis=0), atol=1e-5)
    again = fit(data, options, tmp_path, resume=True)
    for a, b in zip(jax.tree.leaves(again.params), jax.tree.leaves(found.params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_draws():
    assert Ensemble(4).weights(10, 0) is None
    bootstrap = Ensemble(400, "bootstrap").weights(50, 0)
    np.testing.assert_array_equal(bootstrap.sum(axis=1), 50)
    # A structure is left out with probability (1 - 1/n)^n, of 20000 draws: five standard deviations.
    assert (bootstrap == 0).mean() == pytest.approx((1 - 1 / 50) ** 50, abs=5 * np.sqrt(0.25 / 20000))
    subset = Ensemble(6, "subset", 0.4).weights(10, 0)
    assert set(np.unique(subset)) == {0, 1} and (subset.sum(axis=1) == 4).all()
    assert len({tuple(row) for row in subset}) > 1


@pytest.mark.slow
def test_members_see_their_own_structures(data):
    # A member that sees no structure with a label learns nothing.
    problem = pose(data, OPTIONS)
    hyper = jax.tree.map(lambda a: jnp.broadcast_to(a, (2,)), Hyper.of(OPTIONS))
    weights = np.ones((2, len(problem.train)), np.float32)
    weights[1] = 0
    updater = Descent(problem, changed(weight_decay=0.0), hyper._replace(weights=weights, weight_decay=jnp.zeros(2)), 2)
    first = start(problem, updater, np.array([0, 0]))
    last = updater.advance(first, 0, 3)
    moved = [
        np.abs(a - b).max(axis=tuple(range(1, a.ndim)))
        for a, b in zip(*map(jax.tree.leaves, (first.trained, last.trained)), strict=True)
    ]
    assert min(m[0] for m in moved) > 0 and max(m[1] for m in moved) == 0


def test_no_compilation_after_the_first_epoch(data):
    options = changed()
    problem = pose(data, options)
    updater = Descent(problem, options, Hyper.of(options))
    state = start(problem, updater, None)
    state = updater.advance(state, 0, updater.per_epoch)
    compiled = _descend._cache_size()
    assert compiled > 0
    updater.advance(state, updater.per_epoch, 4 * updater.per_epoch)
    assert _descend._cache_size() == compiled


def noisy(folder, width_of, count=60):
    """Structures whose forces are nothing but noise, of a width that depends on the element."""
    rng = np.random.default_rng(0)
    frames = []
    for atoms in structures(count):
        width = np.array([width_of[s] for s in atoms.get_chemical_symbols()])[:, None]
        label = {"energy": atoms.get_potential_energy(), "forces": rng.normal(size=(len(atoms), 3)) * width}
        frames.append(ase.Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc))
        frames[-1].calc = ase.calculators.singlepoint.SinglePointCalculator(frames[-1], **label)
    ase.io.write(folder / "train.extxyz", frames)
    return prepare(OPTIONS.data, folder, seed=0)


ONLY_FORCES = LikelihoodLoss(energy=None, forces=0.1, stress=None)


@pytest.mark.slow
def test_learned_width_is_that_of_the_noise(tmp_path):
    data = noisy(tmp_path, {"Al": 0.3, "Cu": 0.3})
    loss = dataclasses.replace(ONLY_FORCES, learned=True)
    found = fit(data, changed(loss, steps=400, evaluate_every=50, checkpoint_every=50, average=0.99))
    assert "widths" not in found.params and set(found.widths) == {"forces"}
    # About 500 components: 3 % of spread; the network explains some of the noise that it has seen.
    assert found.widths["forces"] == pytest.approx(0.3, rel=0.12)


@pytest.mark.slow
def test_noise_is_predicted(tmp_path):
    """Forces of one element with ten times the noise of the other: the model says so."""
    width_of = {"Al": 0.03, "Cu": 0.3}
    data = noisy(tmp_path, width_of)
    options = changed(ONLY_FORCES, steps=800, evaluate_every=100, checkpoint_every=100, average=0.99)
    found = fit(data, dataclasses.replace(options, noise=NoiseModel(forces=0.1, network=MLP((8,)))))
    save(tmp_path / "model.bpjax", found.model, found.params)
    evaluations = Evaluator(*load(tmp_path / "model.bpjax")).evaluate_many(data.validation.frames)
    for element, width in width_of.items():
        own = [
            e.forces_noise[np.array(a.get_chemical_symbols()) == element]
            for e, a in zip(evaluations, data.validation.frames, strict=True)
        ]
        assert np.sqrt(np.mean(np.concatenate(own) ** 2)) == pytest.approx(width, rel=0.3)
    assert all(e.energy_noise > 0 for e in evaluations)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Ensemble(1), "members=1"),
        (lambda: Ensemble(4, "boot"), "draw='boot'.*all, bootstrap, subset"),
        (lambda: Ensemble(4, "subset", 0.0), r"fraction=0.0"),
        (lambda: LBFGS(history=0), "history=0"),
        (lambda: NoiseModel(forces=0.0), "forces=0.0"),
        (lambda: NoiseModel(energy_per="cell"), "energy_per='cell'"),
    ],
)
def test_bad_options(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_ensembles_cannot_learn_descriptors(data):
    from bpjax.descriptors import SOAP

    soap = SOAP(("Al", "Cu"), 4.0, 2, 1, 0.5, species_weights=((1.0, 0.6),), learn_weights=True)
    with pytest.raises(ConfigError, match="ensemble.*descriptor cannot learn"):
        fit(data, dataclasses.replace(OPTIONS, descriptor=soap, ensemble=Ensemble(2)))


@pytest.mark.slow
def test_preconditioned_start(data):
    options = changed(precondition=True)
    problem = pose(data, options)
    plain = pose(data, OPTIONS)
    for element, X in problem.samples.items():
        y = apply_network(OPTIONS.network, problem.params["networks"][element], X)
        assert abs(float(y.mean())) < 1e-5 and float(y.std()) == pytest.approx(1, abs=1e-5)
        assert float(apply_network(OPTIONS.network, plain.params["networks"][element], X).std()) != pytest.approx(
            1, abs=0.01
        )
    state = start(problem, Descent(problem, options, Hyper.of(options)), np.array([0, 5]), precondition=True)
    one = jax.tree.map(lambda a: a[0], state.trained["networks"])
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(problem.params["networks"]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
