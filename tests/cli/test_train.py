"""``bpjax train`` from the outside: files in, files out, ctrl-C, and one clear line for each mistake."""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import ase.io
import pytest

from bpjax.cli.main import main
from bpjax.cli.train import finish, read_task, remarks
from bpjax.descriptors import SOAP
from bpjax.io.labels import group_of
from bpjax.io.model_file import read_model_file, write_model_file
from bpjax.potential.store import load
from bpjax.spec import to_spec
from bpjax.training import Fit
from bpjax.training.prepare import Dropped, read_run
from tests.training.labelled import of_processes, structures, training_file


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("train")
    ase.io.write(found / "train.extxyz", structures(16))
    ase.io.write(found / "test.extxyz", structures(8, seed=1))
    (found / "config.toml").write_text(training_file(30, 10, test=True))
    return found


@pytest.fixture(scope="module")
def run(folder):
    """A whole run; what it printed is in `stdout` of its folder."""
    with open(folder / "stdout", "w") as file, contextlib.redirect_stdout(file):
        assert main(["train", str(folder / "config.toml"), "-o", str(folder / "run")]) == 0
    return folder / "run"


def test_run_leaves_everything(run):
    plots = {"learning_curve.png", "parity.png", "errors.png"}
    assert {"model.bpjax", "metrics.jsonl", "report.json", *plots} <= set(os.listdir(run))
    report = json.loads((run / "report.json").read_text())
    assert report["finished"] and report["steps"] == 30
    assert report["options"]["optimizer"]["batch_size"] == 4
    for split, size in (("train", 12), ("validation", 4), ("test", 8)):
        assert report[split]["structures"] == size
        assert set(report[split]["groups"]) == {"primitive", "alloy", "slab", "molecule"}
        assert 0 < report[split]["energy_rmse"] < 10


def test_report_says_what_it_cost_and_where_errors_are(run):
    report = json.loads((run / "report.json").read_text())
    cost = report["cost"]
    # 30 steps of 4 of 12 structures are ten passes.
    assert cost["steps"] == 30 and cost["members"] is None and cost["device"]
    assert 0 < cost["compile_seconds"] < cost["training_seconds"] < cost["seconds"]
    working = cost["training_seconds"] - cost["compile_seconds"]
    assert cost["seconds_per_step"] * 30 == pytest.approx(working, abs=2e-3)  # of what is rounded to milliseconds
    assert cost["structures_per_second"] * working == pytest.approx(120, rel=0.1)
    assert cost["atoms_per_second"] / cost["structures_per_second"] == pytest.approx(report["train"]["atoms"] / 12)
    assert 0.05 < cost["memory_peak_gb"] < 500
    assert report["widths"] is None and report["dropped"] == []
    memory = report["memory"]
    assert memory["kind"] == "stored" and memory["bytes"] == memory["alternatives"]["stored"] > 0
    assert set(report["sanity"]["splits"]) == {"train", "validation", "test"}
    for split in ("train", "validation", "test"):
        errors = report[split]
        assert set(errors["elements"]) == {"Al", "Cu"}
        for entries in (errors["elements"].values(), errors["force_size"]):
            assert sum(entry["atoms"] for entry in entries) == errors["atoms"]
    worst = report["test"]["worst"]["forces"]
    assert len(worst) == 5 and worst[0]["file"].endswith("test.extxyz") and worst[0]["error"] >= worst[-1]["error"]
    assert worst[0]["group"] == group_of(structures(8, seed=1)[worst[0]["frame"]])


def test_what_a_run_prints(run):
    text = (run.parent / "stdout").read_text()
    parts = [
        "train: 12 structures of 1 to 4 atoms",
        "validation: 4 structures",
        "features with derivatives stored: ",
        "kind ",
        "test: forces by element",
        "test: forces by size",
        "test: largest errors",
        "cost of training",
    ]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)


def test_model_file_repeats_its_run(folder, run, tmp_path, monkeypatch, capsys):
    """The file of the model and the data are all that it takes; the new file is the same to the last bit."""
    for name in ("train.extxyz", "test.extxyz"):
        shutil.copy(folder / name, tmp_path / name)
    shutil.copy(run / "model.bpjax", tmp_path / "old.bpjax")
    monkeypatch.chdir(tmp_path)
    assert main(["train", "old.bpjax", "-o", "again"]) == 0
    assert (tmp_path / "again" / "model.bpjax").read_bytes() == (run / "model.bpjax").read_bytes()
    assert "warning" not in capsys.readouterr().err

    frames = structures(16)
    frames[3].calc.results["energy"] += 1e-9
    ase.io.write("train.extxyz", frames)
    assert main(["train", "old.bpjax", "-o", "other"]) == 2
    message = capsys.readouterr().err
    assert "old.bpjax: was trained on other data than train.extxyz now hold" in message and message.count("\n") == 1
    assert not (tmp_path / "other").exists()


def test_models_that_cannot_repeat_their_run(folder, run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    meta, arrays = read_model_file(run / "model.bpjax")
    made = meta["provenance"]
    assert {"python", "bpjax", "jax", "numpy"} <= set(made["versions"])
    bad = tmp_path / "bad.bpjax"
    for provenance, words in (
        ({}, "does not say how it was trained"),
        ({**made, "options": {**made["options"], "loss": {"enrgy": 1.0}}}, "provenance: loss.enrgy: unknown option"),
    ):
        write_model_file(bad, {**meta, "provenance": provenance}, arrays)
        assert main(["train", str(bad), "-o", str(tmp_path / "again")]) == 2
        assert words in capsys.readouterr().err
    write_model_file(bad, {**meta, "provenance": {**made, "versions": {"jax": "0.1"}}}, arrays)
    with pytest.warns(UserWarning, match=r"was made with jax 0\.1: numbers may differ"):
        settings, found, _ = read_task(bad)
    assert to_spec(settings) == made["options"] and found.fingerprint() == made["data"]


@pytest.mark.slow
def test_finish_takes_what_other_fits_return(folder, run, tmp_path, capsys):
    """Metrics without learning rates, of several members, or none yet; learned widths."""
    settings, found = read_run(folder / "config.toml")
    model, params = load(run / "model.bpjax")
    lines = [json.loads(line) for line in open(run / "metrics.jsonl")]
    bare = [{k: v for k, v in line.items() if k != "learning_rate"} for line in lines]
    several = [{**line, "members": {k: [v, 2 * v] for k, v in line.items() if "_" in k}} for line in bare]
    found = dataclasses.replace(found, train=found.validation, test=found.test.pick([]), report=None)
    for name, history in (("bare", bare), ("several", several), ("none", [])):
        (tmp_path / name).mkdir()
        result = Fit(model, params, 30, True, tuple(history), {"energy": 0.012, "forces": 0.1})
        finish(tmp_path / name, result, found, settings)
        report = json.loads((tmp_path / name / "report.json").read_text())
        assert report["widths"] == {"energy": 0.012, "forces": 0.1} and report["cost"] is None
        assert report["memory"] is None and report["sanity"] is None and "test" not in report
        text = capsys.readouterr().out
        assert "learned widths: energy 0.012, forces 0.1\n" in text
        assert "validation: largest errors" in text


def test_structures_that_are_not_used_are_named(folder):
    _, found = read_run(folder / "config.toml")
    assert remarks(found)[0].startswith("train: 12 structures")
    some = dataclasses.replace(found, report=None, dropped=tuple(Dropped("a.xyz", n, "no forces") for n in range(7)))
    lines = remarks(some)
    assert lines[0] == "not used: 7 structures" and lines[1] == "  a.xyz: frame 0: no forces"
    assert lines[-1] == "  and 2 more" and len(lines) == 7


@pytest.mark.slow
@pytest.mark.parametrize(
    "sections",
    [
        pytest.param("[ensemble]\nmembers = 3\n\n[noise]\n", marks=pytest.mark.exhaustive),
        "[loss]\nlearned = true\n",
    ],
)
def test_other_kinds_of_runs(folder, tmp_path, capsys, sections):
    """Ensembles with predicted noise, and learned widths: their reports have what is special to them."""
    config = folder / "other.toml"
    config.write_text(training_file(20, 10, test=True) + sections)
    assert main(["train", str(config), "-o", str(tmp_path / "run")]) == 0
    text = capsys.readouterr().out
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    if "ensemble" in sections:
        assert report["cost"]["members"] == 3
        assert set(report["test"]["calibration"]) == {"energy", "forces"}
        assert report["test"]["calibration"]["energy"]["count"] == 8
        assert "test: errors against expected errors" in text
    else:
        assert set(report["widths"]) == {"energy", "forces", "stress"} and "learned widths: energy" in text
        assert "calibration" not in report["test"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizer", "length"),
    [pytest.param("LBFGS", "steps = 10", marks=pytest.mark.exhaustive), ("KalmanFilter", "epochs = 2")],
)
def test_runs_of_other_optimizers(folder, tmp_path, optimizer, length):
    text = training_file(20, 10, test=True)
    text = text[: text.index("[optimizer]")] + f'[optimizer]\ntype = "{optimizer}"\n{length}\n'
    (folder / "optimizer.toml").write_text(text)
    assert main(["train", str(folder / "optimizer.toml"), "-o", str(tmp_path / "run")]) == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    # A step takes all structures.
    cost = report["cost"]
    assert cost["steps"] == report["steps"] == int(length.split()[-1])
    assert cost["structures_per_second"] * cost["seconds_per_step"] == pytest.approx(12)


def test_report_agrees_with_evaluate(folder, run):
    # The same model, the same structures, the same program path: equal to rounding of float32 sums.
    out = folder / "errors.json"
    assert main(["evaluate", str(run / "model.bpjax"), str(folder / "test.extxyz"), "--json", str(out)]) == 0
    report, errors = json.loads((run / "report.json").read_text())["test"], json.loads(out.read_text())
    for name in ("energy_rmse", "forces_mae", "stress_rmse"):
        assert errors[name] == pytest.approx(report[name], rel=1e-5)


def test_validation_in_the_log_is_that_of_the_report(run):
    best = min((json.loads(line) for line in open(run / "metrics.jsonl")), key=lambda line: line["validation_loss"])
    report = json.loads((run / "report.json").read_text())["validation"]
    for name in ("energy_rmse", "forces_rmse"):
        assert best[f"validation_{name}"] == pytest.approx(report[name], rel=1e-3)


def test_existing_run_is_left_alone(folder, run, capsys):
    before = {name: (run / name).read_bytes() for name in os.listdir(run)}
    assert main(["train", str(folder / "config.toml"), "-o", str(run)]) == 2
    assert "already holds files" in capsys.readouterr().err
    assert {name: (run / name).read_bytes() for name in os.listdir(run)} == before


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (("steps = 30", "stepps = 30"), ("optimizer.stepps", "steps")),
        (("steps = 30", "steps = 0"), ("optimizer", "steps=0")),
        (('train = ["train.extxyz"]', 'train = ["nowhere.extxyz"]'), ("nowhere.extxyz",)),
        (("hidden = [8]", 'hidden = "8"'), ("network.hidden",)),
        (("cutoff = 4.0", "cutoff = -4.0"), ("descriptor",)),
        (("[network]", "[network"), ("config.toml", "line")),
        (("[optimizer]", "[optimiser]"), ("optimiser", "optimizer")),
    ],
)
def test_bad_configurations(folder, tmp_path, capsys, edit, words):
    text = training_file(30, 10, test=True)
    assert edit[0] in text
    bad = tmp_path / "config.toml"
    bad.write_text(text.replace(*edit).replace('"t', f'"{folder}/t'))
    assert main(["train", str(bad), "-o", str(tmp_path / "run")]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and all(word in message for word in words), message
    assert not (tmp_path / "run").exists()


def test_nothing_to_resume(folder, tmp_path, capsys):
    assert main(["train", str(folder / "config.toml"), "-o", str(tmp_path / "no"), "--resume"]) == 2
    assert "no run to resume" in capsys.readouterr().err


@pytest.mark.slow
def test_interrupted_by_signal_and_resumed(folder, tmp_path):
    """Ctrl-C in a process of its own; the resumed run ends in the same file as one that was not interrupted."""
    (folder / "long.toml").write_text(training_file(1000, 250, test=True))
    environment = of_processes(tmp_path / "compiled", JAX_PLATFORMS="cpu", JAX_ENABLE_X64="0")

    def command(name, *more):
        return [sys.executable, "-m", "bpjax", "train", str(folder / "long.toml"), "-o", str(tmp_path / name), *more]

    whole = subprocess.run(command("whole"), env=environment, capture_output=True, text=True)
    assert whole.returncode == 0, whole.stderr
    # A shell that runs the tests in the background makes its children deaf to ctrl-C: give this one its ears back.
    process = subprocess.Popen(
        command("cut"),
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    metrics = tmp_path / "cut" / "metrics.jsonl"
    _wait_for_lines(metrics, 3, process)
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=120)
    assert process.returncode == 130, message
    assert "--resume" in message.splitlines()[-1]
    resumed = subprocess.run(command("cut", "--resume"), env=environment, capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    one, two = (tmp_path / name / "model.bpjax" for name in ("whole", "cut"))
    assert one.read_bytes() == two.read_bytes()


def _wait_for_lines(path: Path, count: int, process) -> None:
    for _ in range(1200):
        if process.poll() is not None:
            raise AssertionError(f"the run ended by itself: {process.stderr.read()}")
        if path.exists() and path.read_text().count("\n") >= count:
            return
        time.sleep(0.1)
    raise AssertionError("no metrics after two minutes")


def test_elements_of_a_descriptor_are_those_of_the_data(folder, capsys):
    text = training_file(2, 10, test=True)
    section = text[text.index("[descriptor]") : text.index("[network]")]
    soap = '[descriptor]\ntype = "SOAP"\nradius = 4.0\nn_max = 2\nl_max = 1\n\n'
    (folder / "soap.toml").write_text(text.replace(section, soap))
    options, data = read_run(folder / "soap.toml")
    assert options.descriptor == SOAP(data.elements, 4.0, 2, 1)
    (folder / "bad.toml").write_text(text.replace(section, soap.replace("n_max = 2", "n_max = 99")))
    assert main(["train", str(folder / "bad.toml"), "-o", str(folder / "bad")]) == 2
    assert "descriptor: SOAP n_max=99: must be between 1 and 30" in capsys.readouterr().err
    (folder / "bad.toml").write_text(text.replace(section, soap.replace("n_max", "nmax")))
    assert main(["train", str(folder / "bad.toml"), "-o", str(folder / "bad")]) == 2
    assert "descriptor.nmax: unknown option" in capsys.readouterr().err
