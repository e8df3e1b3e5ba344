"""The training loop: it learns, it resumes to the same numbers, it stops when told to, it says what is wrong."""

import dataclasses
import json

import ase.io
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bpjax.descriptors import ACSF, SOAP, DefaultACSF, Radial
from bpjax.errors import ConfigError, DivergedError, ModelFileError
from bpjax.networks import MLP
from bpjax.potential import load, save
from bpjax.potential.evaluator import Evaluator
from bpjax.training import DataOptions, LikelihoodLoss, OptimizerOptions, TrainingOptions, checkpoint, fit, prepare
from bpjax.training.fit import Run
from bpjax.training.problem import pose, trainable, validate
from tests.training.labelled import structures

OPTIONS = TrainingOptions(
    data=DataOptions(train=("train.extxyz",), validation_fraction=0.25),
    descriptor=DefaultACSF(cutoff=4.0, radial=4, angular=1, zeta=(1.0,)),
    network=MLP((8,), "silu"),
    optimizer=OptimizerOptions(
        steps=40, batch_size=4, learning_rate=1e-2, warmup=5, evaluate_every=5, checkpoint_every=10, average=0.9
    ),
)


def changed(**optimizer):
    return dataclasses.replace(OPTIONS, optimizer=dataclasses.replace(OPTIONS.optimizer, **optimizer))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    ase.io.write(folder / "train.extxyz", structures(16))
    return prepare(OPTIONS.data, folder, seed=0)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, fit(data, OPTIONS, folder)


def lines(folder):
    """The metrics of a run, without the clock."""
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in found]


def assert_same(one, two):
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(two.params), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.as_users
def test_learns(whole):
    folder, result = whole
    history = lines(folder)
    assert result.finished and result.step == 40
    assert [line["step"] for line in history] == list(range(5, 41, 5))
    assert history[-1]["train_loss"] < 0.2 * history[0]["train_loss"]
    assert history[-1]["validation_loss"] < 0.5 * history[0]["validation_loss"]
    assert len(result.history) == len(history)


def test_best_networks_are_kept(data, whole):
    _, result = whole
    losses = [line["validation_loss"] for line in result.history]
    again = validate(pose(data, OPTIONS), OPTIONS.loss, trainable(result.params), OPTIONS.optimizer.batch_size)
    assert again["loss"] == pytest.approx(min(losses), rel=1e-6)


@pytest.mark.parametrize("stop", [7, 10, 23])
def test_interrupted_and_resumed_equals_uninterrupted(data, whole, tmp_path, monkeypatch, stop):
    folder, wanted = whole
    step = Run._step

    def interrupted(self, number):
        if number == stop:
            raise KeyboardInterrupt
        return step(self, number)

    monkeypatch.setattr(Run, "_step", interrupted)
    first = fit(data, OPTIONS, tmp_path)
    assert not first.finished and first.step == stop
    monkeypatch.undo()
    second = fit(data, OPTIONS, tmp_path, resume=True)
    assert second.finished
    assert_same(second, wanted)
    assert lines(tmp_path) == lines(folder)


def test_killed_and_resumed_equals_uninterrupted(data, whole, tmp_path, monkeypatch):
    # A kill leaves the last periodic checkpoint (step 10), metrics beyond it, and perhaps half a line.
    folder, wanted = whole
    step = Run._step

    class Kill(BaseException):
        pass

    def killed(self, number):
        if number == 18:
            raise Kill
        return step(self, number)

    monkeypatch.setattr(Run, "_step", killed)
    with pytest.raises(Kill):
        fit(data, OPTIONS, tmp_path)
    monkeypatch.undo()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 20, "trai')
    second = fit(data, OPTIONS, tmp_path, resume=True)
    assert_same(second, wanted)
    assert lines(tmp_path) == lines(folder)


def test_finished_run_resumes_to_itself(data, whole):
    folder, wanted = whole
    again = fit(data, OPTIONS, folder, resume=True)
    assert_same(again, wanted)


def test_resume_refuses_another_run(data, whole):
    folder, _ = whole
    with pytest.raises(ConfigError, match=r"optimizer\.batch_size.*4.*3"):
        fit(data, changed(batch_size=3), folder, resume=True)
    other = dataclasses.replace(data, train=data.train.pick(range(len(data.train) - 1)))
    with pytest.raises(ConfigError, match=r"checkpoint.*data"):
        fit(other, OPTIONS, folder, resume=True)


def test_damaged_checkpoint(data, whole, tmp_path):
    folder, _ = whole
    content = (folder / checkpoint.NAME).read_bytes()
    (tmp_path / checkpoint.NAME).write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelFileError, match=checkpoint.NAME):
        fit(data, OPTIONS, tmp_path, resume=True)


def test_stored_and_recomputed_inputs_train_alike(data, whole):
    # Same mathematics in another order of sums: after 40 steps of float32 the paths differ by far less than the errors.
    _, wanted = whole
    found = fit(data, changed(inputs="environments"))
    for a, b in zip(found.history, wanted.history, strict=True):
        assert a["validation_loss"] == pytest.approx(b["validation_loss"], rel=2e-2)


def test_early_stop(data):
    # After the first evaluation nothing gets better, since nothing is learnt.
    result = fit(data, changed(learning_rate=1e-30, patience=2, average=0.0))
    assert result.finished and result.step == 15


def test_divergence_is_said(data):
    with pytest.raises(DivergedError, match=r"not finite at step.*learning_rate"):
        fit(data, changed(learning_rate=1e30, clip=1e30))


@pytest.mark.slow
def test_explicit_descriptor_fixes_the_order_of_elements(data):
    descriptor = ACSF(("Cu", "Al"), 4.0, g2=(Radial(0.5), Radial(1.0, 2.0)))
    options = dataclasses.replace(changed(steps=5), descriptor=descriptor)
    result = fit(data, options)
    assert result.model.elements == ("Cu", "Al")
    wrong = dataclasses.replace(options, descriptor=dataclasses.replace(descriptor, elements=("Cu", "Ni")))
    with pytest.raises(ConfigError, match="Cu, Ni.*the data has Al, Cu"):
        fit(data, wrong)


def test_labels_of_one_kind_are_enough(data):
    loss = LikelihoodLoss(energy=None, forces=0.1, stress=None)
    result = fit(data, dataclasses.replace(changed(steps=20), loss=loss))
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps=0"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0"),
        ({"average": 1.0}, "average=1.0"),
        ({"inputs": "tape"}, "inputs='tape'.*auto, stored.*disk"),
        ({"method": "sgd"}, "method='sgd'.*adamw, adam, amsgrad, muon"),
        ({"schedule": "steps"}, "schedule='steps'.*cosine, constant, plateau"),
        ({"start_seed": -1}, "start_seed=-1"),
        ({"checkpoint_every": 7}, "checkpoint_every=7.*multiple"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        changed(**options)


@pytest.mark.exhaustive
def test_species_weights_of_soap_are_learned(data, tmp_path):
    descriptor = SOAP(("Al", "Cu"), 4.0, 2, 1, 0.5, species_weights=((1.0, 0.6),), learn_weights=True)
    options = dataclasses.replace(changed(steps=10, checkpoint_every=5), descriptor=descriptor)
    result = fit(data, options, tmp_path)
    learned = result.params["descriptor"]["species_weights"]
    assert np.abs(np.asarray(learned) - [[1.0, 0.6]]).min() > 1e-3
    # They belong to the model: saved, loaded, and part of what it predicts.
    save(tmp_path / "model.bpjax", result.model, result.params)
    model, params = load(tmp_path / "model.bpjax")
    np.testing.assert_array_equal(params["descriptor"]["species_weights"], learned)
    atoms = data.train.frames[0]
    energy = Evaluator(model, params).evaluate(atoms).energy
    fixed = dataclasses.replace(
        descriptor, learn_weights=False, species_weights=tuple(map(tuple, np.asarray(learned, float).tolist()))
    )
    rest = {name: value for name, value in params.items() if name != "descriptor"}
    same = Evaluator(dataclasses.replace(model, descriptor=fixed), rest).evaluate(atoms).energy
    start = {**params, "descriptor": {"species_weights": jnp.asarray([[1.0, 0.6]], jnp.float32)}}
    other = Evaluator(model, start).evaluate(atoms).energy
    assert abs(energy - same) < 1e-4 < abs(energy - other)
    with pytest.raises(ConfigError, match="stored"):
        pose(data, dataclasses.replace(options, optimizer=dataclasses.replace(options.optimizer, inputs="stored")))
    with pytest.raises(ValueError, match="members"):
        dataclasses.replace(model, members=2)


def test_cutoff_below_the_first_neighbours(data):
    options = dataclasses.replace(OPTIONS, descriptor=ACSF(("Al", "Cu"), 1.5, g2=(Radial(0.5),)))
    with pytest.raises(ConfigError, match=r"descriptor: a cutoff of 1.5 A is below the first neighbours"):
        pose(data, options)
