"""``bpjax train`` from the outside: files in, files out, ctrl-C, and one clear line for each mistake."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import ase.io
import pytest

from bpjax.cli.main import main
from bpjax.descriptors import SOAP
from bpjax.training.prepare import read_run
from tests.training.labelled import structures

CONFIG = """
[data]
train = ["train.extxyz"]
test = ["test.extxyz"]
validation_fraction = 0.25

[descriptor]
type = "DefaultACSF"
cutoff = 4.0
radial = 4
angular = 1
zeta = [1.0]

[network]
hidden = [8]

[optimizer]
steps = {steps}
batch_size = 4
learning_rate = 1e-2
warmup = 5
evaluate_every = 10
checkpoint_every = {checkpoint}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("train")
    ase.io.write(found / "train.extxyz", structures(16))
    ase.io.write(found / "test.extxyz", structures(8, seed=1))
    (found / "config.toml").write_text(CONFIG.format(steps=30, checkpoint=10))
    return found


@pytest.fixture(scope="module")
def run(folder):
    assert main(["train", str(folder / "config.toml"), "-o", str(folder / "run")]) == 0
    return folder / "run"


def test_run_leaves_everything(run):
    assert {"model.bpjax", "metrics.jsonl", "report.json", "learning_curve.png", "parity.png"} <= set(os.listdir(run))
    report = json.loads((run / "report.json").read_text())
    assert report["finished"] and report["steps"] == 30
    assert report["options"]["optimizer"]["batch_size"] == 4
    for split, size in (("train", 12), ("validation", 4), ("test", 8)):
        assert report[split]["structures"] == size
        assert set(report[split]["groups"]) == {"primitive", "alloy", "slab", "molecule"}
        assert 0 < report[split]["energy_rmse"] < 10


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
    text = CONFIG.format(steps=30, checkpoint=10)
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


def test_interrupted_by_signal_and_resumed(folder, tmp_path):
    """Ctrl-C in a process of its own; the resumed run ends in the same file as one that was not interrupted."""
    (folder / "long.toml").write_text(CONFIG.format(steps=2000, checkpoint=500))
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "0"}

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
    text = CONFIG.format(steps=2, checkpoint=10)
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
