"""The training loop: it learns, it resumes to the same numbers, it stops when told to, it says what is wrong."""

import dataclasses
import json
import shutil

import ase.io
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms

from bpjax.descriptors import ACSF, SOAP, DefaultACSF, Radial
from bpjax.errors import ConfigError, DivergedError, FormatError, ModelFileError
from bpjax.networks import MLP
from bpjax.potential import Potential, init, load, save
from bpjax.potential.energy import features_alone
from bpjax.potential.evaluator import Evaluator
from bpjax.potential.free_atoms import free_atoms
from bpjax.training import DataOptions, LikelihoodLoss, OptimizerOptions, TrainingOptions, checkpoint, fit, prepare
from bpjax.training.ensemble import Ensemble
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


def test_last_networks_are_kept_if_asked_for(data, whole):
    """Of a run whose last step is not its best: the learning rate is far too large from the start."""
    options = changed(keep="last", schedule="constant", learning_rate=0.3)
    result = fit(data, options)
    losses = [line["validation_loss"] for line in result.history]
    assert losses[-1] > 1.005 * min(losses)
    again = validate(pose(data, options), options.loss, trainable(result.params), options.optimizer.batch_size)
    assert again["loss"] == pytest.approx(losses[-1], rel=1e-6)
    with pytest.raises(ValueError, match="keep='first': allowed are best, last"):
        changed(keep="first")


ALONE = {"Al": 1.25, "Cu": 3.51}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["single", "ensemble", "learned"])
def test_isolated_atoms_have_their_energies(data, tmp_path, kind):
    options = changed(steps=5)
    if kind == "ensemble":
        options = dataclasses.replace(options, ensemble=Ensemble(2))
    if kind == "learned":
        functions = ACSF(("Al", "Cu"), cutoff=4.0, g2=(Radial(0.5), Radial(1.0, 2.0)), learn=True)
        options = dataclasses.replace(options, descriptor=functions)
    result = fit(dataclasses.replace(data, isolated=ALONE), options)
    path = tmp_path / "model.bpjax"
    save(path, result.model, result.params)
    model, params = load(path)
    without = {name: value for name, value in params.items() if name != "free_atoms"}
    far = [Atoms("AlCu", [[0, 0, 0], [4.1, 0, 0]]), *(Atoms(element, [[0, 0, 0]]) for element in ALONE)]
    found = [p.energy for p in Evaluator(model, params).evaluate_many(far)]
    # Sums of a binding energy of some eV and its negative in single precision.
    np.testing.assert_allclose(found, [sum(ALONE.values()), *ALONE.values()], atol=5e-6)
    plain = [p.energy for p in Evaluator(model, without).evaluate_many(far)]
    assert np.abs(np.subtract(found, plain)).min() > 0.1  # the networks alone know nothing of it
    frames = data.train.frames
    for one, other in zip(*(Evaluator(model, p).evaluate_many(frames) for p in (params, without)), strict=True):
        assert one.energy == other.energy and np.array_equal(one.forces, other.forces)


def test_atoms_that_leave_do_so_smoothly(data):
    """Forces are derivatives where the network goes over to the isolated atom, and the energy ends there."""
    with jax.enable_x64(True):
        model = Potential(DefaultACSF(cutoff=4.0, radial=4, angular=1).build(("Cu",)), MLP((8,)), (0.5,), (3.51,))
        params = init(model, jax.random.key(0), np.float64)
        G = np.full((1, model.descriptor.size), 0.5)
        alone = np.asarray(features_alone(model, params, 0))
        params["free_atoms"] = free_atoms(model.elements, {"Cu": alone}, params["scaling"], G, np.zeros(1, int))
        r, h = np.array([1.5, 2.0, 2.5, 3.0, 3.5, 3.9]), 1e-4
        frames = [Atoms("Cu2", [[0, 0, 0], [d, 0, 0]]) for d in (*r, *(r + h), *(r - h), 4.0)]
        found = Evaluator(model, params, "float64").evaluate_many(frames)
        energies = np.array([p.energy for p in found])
        slopes = (energies[6:12] - energies[12:18]) / (2 * h)
        # Truncation of the difference, h^2 / 6 times the third derivative.
        np.testing.assert_allclose([p.forces[1, 0] for p in found[:6]], -slopes, atol=1e-6)
        assert np.ptp(slopes) > 0.5 and energies[-1] == pytest.approx(2 * 3.51, abs=1e-6)


def test_free_atoms_need_their_energies(data, tmp_path):
    model = Potential(ACSF(("Cu",), cutoff=4.0, g2=(Radial(0.5),)), MLP((4,)))
    params = init(model, jax.random.key(0))
    params["free_atoms"] = {"Cu": {"features": jnp.zeros(1), "steepness": jnp.ones(())}}
    save(tmp_path / "model.bpjax", model, params)
    with pytest.raises(ModelFileError, match="free_atoms, but the model has no energies of isolated atoms"):
        load(tmp_path / "model.bpjax")
    params["free_atoms"]["Cu"]["features"] = jnp.zeros(2)
    save(tmp_path / "other.bpjax", dataclasses.replace(model, isolated=(1.0,)), params)
    with pytest.raises(ModelFileError, match=r"free_atoms.*has shape \(2,\)"):
        load(tmp_path / "other.bpjax")


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


def test_resume_refuses_damaged_metrics(data, whole, tmp_path):
    """But for the last line, which a kill may have cut."""
    folder, _ = whole
    run = shutil.copytree(folder, tmp_path / "run")
    text = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join([text[0], "[1]", *text[2:]]) + "\n")
    with pytest.raises(FormatError, match="metrics.jsonl: line 2: is not a record of a training"):
        fit(data, OPTIONS, run, resume=True)


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
