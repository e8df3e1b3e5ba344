"""Sweeps: members equal the same runs made one by one, halving, studies, resuming, and the best model as it is handed back."""

import dataclasses
import json
import tomllib

import ase.io
import jax
import numpy as np
import pytest

from bpjax.descriptors import ACSF, Angular, DefaultACSF, Radial
from bpjax.errors import ConfigError
from bpjax.networks import MLP
from bpjax.potential import load
from bpjax.potential.evaluator import Evaluator
from bpjax.spec import from_spec, to_spec
from bpjax.training import DataOptions, OptimizerOptions, TrainingOptions, fit, prepare
from bpjax.training.halving import Batch
from bpjax.training.kalman_options import KalmanFilter
from bpjax.training.sweep import pareto_front, sweep
from bpjax.training.sweep_files import Trial, read_trials
from bpjax.training.sweep_options import SweepOptions
from bpjax.training.sweep_program import Programs
from bpjax.training.sweep_space import TrainingFile, read_space
from tests.tiers import exhaustive
from tests.training.labelled import structures

OPTIONS = TrainingOptions(
    data=DataOptions(train=("train.extxyz",), validation_fraction=0.25),
    descriptor=DefaultACSF(cutoff=4.0, radial=3, angular=1, zeta=(1.0,)),
    network=MLP((6,), "silu"),
    optimizer=OptimizerOptions(
        steps=16, batch_size=4, learning_rate=1e-2, warmup=2, evaluate_every=4, checkpoint_every=4, average=0.9
    ),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    ase.io.write(folder / "train.extxyz", structures(12))
    return prepare(OPTIONS.data, folder, seed=0)


def trained(data, space, points, base=OPTIONS, **settings):
    """Outcome and potential of each point, trained together, without halving; and how many programs that took."""
    file = TrainingFile(to_spec(base), data.elements)
    batch = Batch(
        Programs(data, read_space(space), base), SweepOptions(space=space, **({"halving": 0} | settings)), base.loss
    )
    options = [file.options(p) for p in points]
    outcomes = batch.train(options)
    alive = [n for n, o in enumerate(outcomes) if o.state == "complete"]
    return options, outcomes, {n: batch.potential(n) for n in alive}, len(batch._sides)


def assert_equal_alone(data, options, outcomes, potentials, atol):
    """Each member equals the run of its options alone."""
    for n, (model, params) in potentials.items():
        alone = fit(data, options[n])
        assert to_spec(model) == to_spec(alone.model)
        shapes = [jax.tree.map(np.shape, p) for p in (params, alone.params)]
        assert shapes[0] == shapes[1]
        for part in ("networks", "scaling", "energy_scale"):
            for a, b in zip(jax.tree.leaves(params[part]), jax.tree.leaves(alone.params[part]), strict=True):
                # Sums in another order, in float32: Adam divides each gradient by its own size, rounding included.
                np.testing.assert_allclose(a, b, atol=atol, rtol=1e-3)
        # A run keeps the best of its own loss; that of the table is the loss of the training file.
        best = min(alone.history, key=lambda line: line["validation_loss"])
        assert outcomes[n].errors["forces_rmse"] == pytest.approx(best["validation_forces_rmse"], rel=1e-3)
        assert outcomes[n].errors["energy_mae"] == pytest.approx(best["validation_energy_mae"], rel=1e-3)


@pytest.mark.slow
def test_members_equal_single_runs(data):
    """Everything that is an array of one program, all different."""
    space = {
        "optimizer.learning_rate": {"low": 1e-3, "high": 2e-2, "log": True},
        "optimizer.weight_decay": [0.0, 0.1],
        "optimizer.start_seed": {"low": 0, "high": 9, "integer": True},
        "loss.energy": [0.01, 0.04],
        "loss.forces": {"low": 0.05, "high": 0.2},
        "network.hidden": [[3], [6], [8]],
        "network.activation": ["tanh", "silu"],
    }
    points = [
        dict(zip(space, values, strict=True))
        for values in ((1e-3, 0.0, 3, 0.01, 0.05, (3,), "tanh"), (2e-2, 0.1, 5, 0.04, 0.2, (6,), "silu"))
    ]
    options, outcomes, potentials, programs = trained(data, space, points)
    assert programs == 1
    assert potentials[0][0].network == MLP((3,), "tanh") and potentials[1][0].network == MLP((6,), "silu")
    assert_equal_alone(data, options, outcomes, potentials, atol=2e-4)


RADIAL = (Radial(0.5), Radial(4.0, 2.5), Radial(4.0, 3.2))
ANGULAR = (Angular(0.1, 1.0, 1.0), Angular(0.1, 1.0, -1.0))


@pytest.mark.slow
@pytest.mark.parametrize("angular", [pytest.param((), marks=pytest.mark.exhaustive), ANGULAR])
def test_traced_symmetry_functions_equal_single_runs(data, angular):
    base = dataclasses.replace(OPTIONS, descriptor=ACSF(data.elements, 4.0, g2=RADIAL, g5=angular))
    space = {"descriptor.g2[1].r_s": {"low": 2.0, "high": 3.0}, "descriptor.g2[0].eta": {"low": 0.1, "high": 1.0}}
    points = [dict(zip(space, values, strict=True)) for values in ((2.1, 0.2), (2.8, 0.9))]
    options, outcomes, potentials, programs = trained(data, space, points, base)
    assert programs == 1
    for (model, _), (r_s, eta) in zip(potentials.values(), ((2.1, 0.2), (2.8, 0.9)), strict=True):
        assert isinstance(model.descriptor, ACSF) and not model.descriptor.learn
        assert model.descriptor.g2[:2] == (Radial(eta), Radial(4.0, r_s))
    # The features are computed with eta and r_s as float32 arrays, and forces by the reverse pass.
    assert_equal_alone(data, options, outcomes, potentials, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("space", "values", "programs"),
    [
        ({"descriptor.cutoff": [3.6, 4.0], "optimizer.start_seed": [1, 2]}, [(3.6, 1), (4.0, 2)], 2),
        *exhaustive(
            ({"network.hidden": [[3], [4, 4], [8, 2]]}, [((3,),), ((4, 4),), ((8, 2),)], 2),
            ({"descriptor.centred[0]": [0.03, 0.3]}, [(0.03,), (0.3,)], 2),
            ({"descriptor.centred[0]": {"low": 0.02, "high": 0.09}}, [(0.03,), (0.08,)], 1),
            (
                {"optimizer.method": ["adam", "muon"], "network.hidden": [[3], [6]]},
                [("adam", (3,)), ("muon", (6,))],
                2,
            ),
            ({"optimizer.batch_size": [3, 4], "loss.huber": [1.0, 2.0]}, [(3, 1.0), (4, 2.0)], 2),
            (
                {"optimizer.precondition": [False, True], "network.activation": ["tanh", "silu"]},
                [(False, "tanh"), (True, "tanh"), (True, "silu")],
                2,
            ),
            ({"loss.energy_per": ["atom", "structure"], "data.weights.slab": [0.5, 2.0]}, [("atom", 0.5)], 1),
        ),
    ],
)
def test_static_options_make_programs(data, space, values, programs):
    points = [dict(zip(space, row, strict=True)) for row in values]
    options, outcomes, potentials, found = trained(data, space, points)
    assert found == programs and len(potentials) == len(points)
    assert_equal_alone(data, options, outcomes, potentials, atol=1e-3)


@pytest.mark.slow
def test_halving_keeps_the_best(data):
    rates = [1e-6, 1e-2, 1e-5, 3e-3, 1e-7]
    space = {"optimizer.learning_rate": rates}
    points = [{"optimizer.learning_rate": rate} for rate in rates]
    options, outcomes, potentials, _ = trained(data, space, points, halving=2, rungs=2)
    assert [o.steps for o in outcomes].count(4) == 2  # 5 members, 3, then 2
    assert sorted(o.steps for o in outcomes) == [4, 4, 8, 16, 16]
    first = {n: o.rungs[0][1] for n, o in enumerate(outcomes)}
    pruned = {n for n, o in enumerate(outcomes) if o.steps == 4}
    assert all(o.state == ("complete" if o.steps == 16 else "pruned") for o in outcomes)
    assert min(first[n] for n in pruned) >= max(first[n] for n in set(first) - pruned)
    second = {n: o.rungs[1][1] for n, o in enumerate(outcomes) if n not in pruned}
    assert max(second, key=second.__getitem__) == next(n for n, o in enumerate(outcomes) if o.steps == 8)
    assert set(potentials) == {n for n, o in enumerate(outcomes) if o.steps == 16}
    # Those that are left have gone the way of a full run.
    n = min(potentials)
    assert_equal_alone(data, options, outcomes, {n: potentials[n]}, atol=2e-4)


@pytest.mark.slow
def test_members_that_diverge(data):
    rates = [1e-2, 1e30]
    points = [{"optimizer.learning_rate": rate} for rate in rates]
    _, outcomes, potentials, _ = trained(data, {"optimizer.learning_rate": rates}, points)
    assert [o.state for o in outcomes] == ["complete", "diverged"]
    assert outcomes[1].objective is None and outcomes[1].errors == {} and set(potentials) == {0}


SPACE = {"optimizer.learning_rate": {"low": 1e-3, "high": 2e-2, "log": True}, "network.hidden": [[3], [6]]}
SWEEP = SweepOptions(space=SPACE, trials=6, members=4, halving=2, rungs=1, objective="forces_rmse")


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, sweep(data, OPTIONS, SWEEP, folder)


def plain(trials):
    """Trials without the clock."""
    return [dataclasses.replace(t, cost=None) for t in trials]


@pytest.mark.slow
def test_sweep_leaves_the_best_model(data, whole):
    folder, result = whole
    assert result.finished and [t.number for t in result.trials] == list(range(6))
    assert [t.state for t in result.trials].count("complete") == 3
    complete = [t for t in result.trials if t.state == "complete"]
    assert result.best in complete and result.best.objective == min(t.objective for t in complete)
    assert all(t.cost is not None and 0 < t.cost < 1e5 for t in complete)
    assert read_trials(folder) == list(result.trials)
    model, params = load(folder / "best" / "model.bpjax")
    assert model == result.model and model.network.hidden == result.best.point["network.hidden"]
    atoms = data.validation.frames[0]
    one, other = (Evaluator(*p).evaluate(atoms) for p in ((model, params), (result.model, result.params)))
    np.testing.assert_array_equal(one.forces, other.forces)
    # Its errors are those of the table.
    squares = [(Evaluator(model, params).evaluate(a).forces - a.get_forces()) ** 2 for a in data.validation.frames]
    rmse = np.sqrt(np.mean(np.concatenate(squares)))
    assert rmse == pytest.approx(result.best.errors["forces_rmse"], rel=1e-4)


@pytest.mark.slow
def test_training_file_of_the_best_point(whole):
    folder, result = whole
    spec = tomllib.loads((folder / "best" / "config.toml").read_text())
    assert from_spec(TrainingOptions, spec) == result.options
    assert result.options.optimizer.learning_rate == result.best.point["optimizer.learning_rate"]


@pytest.mark.slow
def test_killed_sweep_resumes_to_the_same(data, whole, tmp_path, monkeypatch):
    calls = []
    train = Batch.train

    def killed(self, points, progress):
        calls.append(len(points))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return train(self, points, progress)

    monkeypatch.setattr(Batch, "train", killed)
    first = sweep(data, OPTIONS, SWEEP, tmp_path)
    assert not first.finished and len(first.trials) == 4 and calls == [4, 2]
    again = sweep(data, OPTIONS, SWEEP, tmp_path, resume=True)
    assert again.finished and calls == [4, 2, 2]
    assert plain(again.trials) == plain(whole[1].trials)
    np.testing.assert_array_equal(*(jax.tree.leaves(r.params)[0] for r in (again, whole[1])))
    with pytest.raises(ConfigError, match="sweep.json: sweep: is not what it was"):
        sweep(data, OPTIONS, dataclasses.replace(SWEEP, seed=1), tmp_path, resume=True)


def test_the_kalman_filter_has_no_members(data):
    space = {"optimizer.type": ["KalmanFilter"]}
    base = dataclasses.replace(OPTIONS, optimizer=KalmanFilter())
    with pytest.raises(ConfigError, match="optimizer.type: the Kalman filter trains one network at a time"):
        sweep(data, base, SweepOptions(space=space, trials=1))


def test_pareto_front():
    def trial(number, cost, objective):
        return Trial(number, {}, "complete", 1, objective, {}, (), cost)

    trials = [trial(0, 2.0, 1.0), trial(1, 1.0, 3.0), trial(2, 3.0, 2.0), trial(3, 4.0, 0.5), trial(4, None, 0.1)]
    assert [t.number for t in pareto_front(trials)] == [1, 0, 3]


def test_objective_without_labels(data):
    options = dataclasses.replace(SWEEP, objective="stress_mae", trials=1)
    for atoms in data.validation.frames:
        assert atoms.calc is not None
    bare = []
    for atoms in data.validation.frames:
        copy = atoms.copy()
        copy.calc = type(atoms.calc)(copy, energy=atoms.get_potential_energy(), forces=atoms.get_forces())
        bare.append(copy)
    without = dataclasses.replace(data, validation=dataclasses.replace(data.validation, frames=tuple(bare)))
    with pytest.raises(ConfigError, match="sweep.objective.*stress_mae.*no such labels"):
        sweep(without, OPTIONS, options)


@pytest.mark.slow
def test_trials_are_lines_of_json(whole):
    folder, result = whole
    lines = [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()]
    assert [line["number"] for line in lines] == [t.number for t in result.trials]
    header, *rows = (folder / "trials.csv").read_text().splitlines()
    assert header.startswith("trial,state,steps,objective,optimizer.learning_rate,network.hidden,validation_loss")
    assert len(rows) == 6
