"""``bpjax sweep`` from the outside: files in, files out, resuming, and one clear line for each mistake."""

import json

import ase.io
import pytest

from bpjax.cli.main import main
from bpjax.potential import load
from bpjax.potential.store import provenance
from bpjax.training.repeat import read_repetition
from tests.training.labelled import structures

CONFIG = """
[data]
train = ["train.extxyz"]
validation_fraction = 0.25

[descriptor]
type = "ACSF"
cutoff = 4.0
g2 = [{{ eta = 0.5 }}, {{ eta = 4.0, r_s = 2.5 }}]

[network]
hidden = [4]

[optimizer]
steps = 8
batch_size = 4
warmup = 2
evaluate_every = 4
checkpoint_every = 4

[sweep]
trials = {trials}
members = 4
halving = 2
rungs = 1
{more}

[sweep.space]
"optimizer.learning_rate" = {{ low = 1e-3, high = 1e-2, log = true }}
"optimizer.start_seed" = {{ low = 0, high = 99, integer = true }}
"network.hidden" = [[2], [4]]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("sweep")
    ase.io.write(found / "train.extxyz", structures(12))
    (found / "config.toml").write_text(CONFIG.format(trials=4, more=""))
    return found


@pytest.fixture(scope="module")
def run(folder):
    assert main(["sweep", str(folder / "config.toml"), "-o", str(folder / "run")]) == 0
    return folder / "run"


@pytest.mark.slow
def test_sweep_leaves_everything(run):
    names = {path.name for path in run.iterdir()}
    assert {"trials.csv", "trials.jsonl", "report.json", "parallel.png", "pareto.png", "best"} <= names
    report = json.loads((run / "report.json").read_text())
    assert report["finished"] and report["trials"] == 4 and report["complete"] == report["pruned"] == 2
    best = report["best"]
    lines = [json.loads(line) for line in (run / "trials.jsonl").read_text().splitlines()]
    assert best["objective"] == min(line["objective"] for line in lines if line["state"] == "complete")
    model, _ = load(run / best["model"])
    assert list(model.network.hidden) == best["point"]["network.hidden"]
    assert best["trial"] in {line["number"] for line in lines} and set(report["pareto"]) <= set(range(4))


@pytest.mark.slow
def test_the_best_model_knows_how_it_was_made(run, monkeypatch, tmp_path):
    """Options, data and where these are, as a model of a training does, from whatever folder."""
    monkeypatch.chdir(tmp_path)
    settings, data, place = read_repetition(run / "best" / "model.bpjax")
    best = json.loads((run / "report.json").read_text())["best"]
    assert list(settings.network.hidden) == best["point"]["network.hidden"]
    assert place.resolve() == run.parent and len(data.train) + len(data.validation) == 12
    assert provenance(run / "best" / "model.bpjax")["periodic"] in ("all", "some", "none")


@pytest.mark.slow
def test_best_point_trains_alone_to_the_same_errors(folder, run):
    assert main(["train", str(run / "best" / "config.toml"), "-o", str(folder / "alone")]) == 0
    wanted = json.loads((run / "report.json").read_text())["best"]["validation"]
    found = json.loads((folder / "alone" / "report.json").read_text())["validation"]
    for name in ("energy_rmse", "forces_mae", "forces_rmse"):
        assert found[name] == pytest.approx(wanted[name], rel=1e-3)


@pytest.mark.slow
def test_more_trials(folder, run, capsys):
    before = (run / "trials.jsonl").read_text()
    (folder / "more.toml").write_text(CONFIG.format(trials=6, more=""))
    assert main(["sweep", str(folder / "more.toml"), "-o", str(run), "--resume"]) == 0
    after = (run / "trials.jsonl").read_text()
    costless = [{**json.loads(line), "cost": None} for line in after.splitlines()]
    assert len(costless) == 6
    assert costless[:4] == [{**json.loads(line), "cost": None} for line in before.splitlines()]
    assert "best of 6 trials (3 complete, 3 pruned, 0 diverged)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[sweep.space]", "[sweep.spaces]", "sweep.spaces: unknown option; did you mean 'space'"),
        ('"optimizer.learning_rate"', '"optimizer.rate"', "sweep.space.optimizer.rate: unknown option"),
        ("low = 1e-3", "low = 1.0", "sweep.space.optimizer.learning_rate: low=1.0: must be below high=0.01"),
        ("rungs = 1", 'sampler = "best"', "sweep: sampler='best': allowed are random"),
        ("[4]]", "[-4]]", "sweep.space.network.hidden: network: MLP hidden"),
        ("trials = 4", "trials = 1.5", "sweep.trials: must be an integer"),
    ],
)
def test_mistakes_are_one_clear_line(folder, tmp_path, capsys, old, new, message):
    path = folder / "wrong.toml"
    path.write_text(CONFIG.format(trials=4, more="").replace(old, new))
    assert main(["sweep", str(path), "-o", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error and str(path) in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_no_section_and_nothing_to_resume(folder, tmp_path, capsys):
    path = folder / "plain.toml"
    path.write_text(CONFIG.format(trials=4, more="").split("[sweep]")[0])
    assert main(["sweep", str(path), "-o", str(tmp_path)]) == 2
    assert "plain.toml: sweep: missing" in capsys.readouterr().err
    assert main(["sweep", str(folder / "config.toml"), "-o", str(tmp_path), "--resume"]) == 2
    assert "holds no sweep to resume" in capsys.readouterr().err
