"""Studies: which points are asked for, and several processes at one study."""

import builtins
import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from bpjax.errors import ConfigError, FormatError
from bpjax.training.halving import Outcome
from bpjax.training.sweep_files import Trial, check_identity, read_pending, read_trials, write_trials
from bpjax.training.sweep_options import SweepOptions
from bpjax.training.sweep_study import open_study

SPACE = {
    "x": {"low": -1.0, "high": 1.0},
    "n": {"low": 1, "high": 4, "integer": True, "points": 4},
    "w": [[8], [8, 8], [16]],
}
SETTINGS = SweepOptions(space=SPACE, trials=12, members=4, halving=0)


def outcome(point, state="complete"):
    value = point["x"] ** 2 + 0.1 * point["n"] + len(point["w"])
    return Outcome(state, 10, value, {}, ((5, 2 * value), (10, value)))


def all_asked(study, members=4):
    """Points of a whole sweep with an objective that is known."""
    found = []
    while asked := study.ask(members, len(found)):
        study.tell(asked, [outcome(a.point) for a in asked])
        found += asked
    return found


def test_random_and_grid_need_no_optuna(monkeypatch):
    real = builtins.__import__

    def missing(name, *rest):
        if name.split(".")[0] == "optuna":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    assert len(all_asked(open_study(SETTINGS, None))) == 12
    grid = dataclasses.replace(SETTINGS, space={**SPACE, "x": [0.0, 0.5]}, sampler="grid", trials=100)
    points = [tuple(a.point.values()) for a in all_asked(open_study(grid, None), 7)]
    assert len(points) == len(set(points)) == 2 * 4 * 3
    for change in ({"sampler": "tpe"}, {"storage": "study.log"}):
        with pytest.raises(ConfigError, match=r"sweep\.(sampler|storage): .* needs Optuna: pip install bpjax\[sweep\]"):
            open_study(dataclasses.replace(SETTINGS, **change), None)


optuna = pytest.importorskip("optuna")
optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.mark.parametrize("sampler", ["random", "tpe", "qmc", "halton", "cmaes"])
def test_samplers_are_reproducible(sampler, tmp_path):
    if sampler == "cmaes":
        pytest.importorskip("cmaes")
    # A storage makes "random" one of Optuna's.
    storage = str(tmp_path / "shared.log") if sampler == "random" else None
    settings = dataclasses.replace(SETTINGS, sampler=sampler, storage=storage)
    first = all_asked(open_study(settings, tmp_path))
    assert [a.number for a in first] == list(range(12)) and len({str(a.point) for a in first}) > 8
    for _, point in first:
        assert -1 <= point["x"] <= 1 and point["n"] in (1, 2, 3, 4) and point["w"] in ((8,), (8, 8), (16,))
    assert open_study(settings, tmp_path).ask(4, 12) == []  # the study is full, for a later process as well
    if storage is None:
        other = tmp_path / "other"
        other.mkdir()
        assert all_asked(open_study(settings, other)) == first
        again = all_asked(open_study(dataclasses.replace(settings, seed=1), None))
        assert again != first


def test_grid_of_optuna_is_the_whole_grid(tmp_path):
    pytest.importorskip("optuna")
    grid = dataclasses.replace(
        SETTINGS, space={**SPACE, "x": [0.0, 0.5]}, sampler="grid", trials=100, storage=str(tmp_path / "grid.log")
    )
    points = [tuple(a.point.values()) for a in all_asked(open_study(grid, tmp_path), 7)]
    assert len(set(points)) == 24


def test_tree_of_parzen_estimators_learns():
    settings = dataclasses.replace(SETTINGS, sampler="tpe", trials=60, members=6)
    values = [outcome(a.point).objective for a in all_asked(open_study(settings, None), 6)]
    # Of random points: 1/3 + 0.25 + 4/3 on average, the least is 1.1.
    assert np.mean(values[30:]) < 1.5


def test_what_is_told_is_in_the_study(tmp_path):
    settings = dataclasses.replace(SETTINGS, sampler="tpe", trials=3)
    study = open_study(settings, tmp_path)
    asked = study.ask(3, 0)
    outcomes = [outcome(asked[0].point), outcome(asked[1].point, "pruned"), Outcome("diverged", 2, None, {}, ())]
    # A process that resumes has the numbers only.
    open_study(settings, tmp_path).tell(asked, outcomes)
    open_study(settings, tmp_path).tell(asked, outcomes)
    found = open_study(settings, tmp_path).study.get_trials()
    assert [t.state.name for t in found] == ["COMPLETE", "PRUNED", "PRUNED"]
    assert found[0].value == outcomes[0].objective and found[0].intermediate_values == dict(outcomes[0].rungs)
    assert found[1].intermediate_values == dict(outcomes[1].rungs) and found[2].intermediate_values == {}


PROCESS = """
import dataclasses, sys, time
from tests.training.test_sweep_study import SETTINGS, all_asked, open_study
from pathlib import Path
settings = dataclasses.replace(SETTINGS, sampler="tpe", trials=12, storage=sys.argv[1])
study = open_study(settings, Path(sys.argv[2]))
tell = study.tell
study.tell = lambda asked, outcomes: (time.sleep(0.5), tell(asked, outcomes))
print(len(all_asked(study, 3)))
"""


@pytest.mark.slow
def test_two_processes_share_a_study(tmp_path):
    storage = str(tmp_path / "shared.log")
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    started = [
        subprocess.Popen([sys.executable, "-c", PROCESS, storage, str(f)], stdout=subprocess.PIPE, text=True)
        for f in folders
    ]
    counts = [int(p.communicate(timeout=300)[0]) for p in started]
    assert [p.returncode for p in started] == [0, 0]
    found = open_study(dataclasses.replace(SETTINGS, sampler="tpe", storage=storage), None).study.get_trials()
    # Both look how many trials there are before they ask, hence at most a batch of one more.
    assert sum(counts) == len(found) and 12 <= len(found) <= 15
    assert all(t.state.name == "COMPLETE" for t in found)
    assert len({str(t.params) for t in found}) == len(found)


def test_storage_that_cannot_be_used(tmp_path):
    from bpjax.errors import BpjaxError

    with pytest.raises(BpjaxError, match="the folder .* does not exist"):
        open_study(dataclasses.replace(SETTINGS, storage=str(tmp_path / "no" / "study.log")), tmp_path)
    with pytest.raises(ConfigError, match="sweep.storage: nodb://x"):
        open_study(dataclasses.replace(SETTINGS, storage="nodb://x"), tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: is not a trial of a sweep: Expecting"),
        ("[1]", "line 2: is not a trial of a sweep: .*must be a table"),
        ('{"number": 1}', "line 2: .*point: missing"),
        ('{"number": 1, "point": {}, "state": "complete", "steps": 1, "objective": "low", "errors": {}}', "objective"),
        (
            '{"number": 1, "point": {}, "state": "complete", "steps": 1, "objective": NaN, "errors": {}}',
            "NaN is no number",
        ),
    ],
)
def test_a_damaged_table_of_trials_is_refused_by_line(tmp_path, line, message):
    sound = Trial(0, {"network.hidden": (8, 8)}, "complete", 10, 0.5, {"forces_rmse": 0.5}, ((5, 0.7),), 12.0)
    write_trials(tmp_path, [sound])
    assert read_trials(tmp_path) == [sound]
    with open(tmp_path / "trials.jsonl", "a") as file:
        file.write(line + "\n")
    with pytest.raises(FormatError, match=message):
        read_trials(tmp_path)


@pytest.mark.parametrize("text", ["{}", "[1]", '[["a", {}]]', "[[1, []]]", "[", "[[1]]", "[" * 100000])
def test_damaged_points_of_an_interrupted_batch_are_refused(tmp_path, text):
    assert read_pending(tmp_path) == []
    (tmp_path / "pending.json").write_text('[[4, {"network.hidden": [8, 8]}]]')
    assert read_pending(tmp_path) == [(4, {"network.hidden": (8, 8)})]
    (tmp_path / "pending.json").write_text(text)
    with pytest.raises(FormatError, match="pending.json: (must hold|cannot be read)"):
        read_pending(tmp_path)
    (tmp_path / "sweep.json").write_text(text)
    with pytest.raises((FormatError, ConfigError), match="sweep.json"):
        check_identity(tmp_path, {"data": 1})
