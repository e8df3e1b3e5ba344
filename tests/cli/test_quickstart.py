import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from bpjax.analysis import quickstart
from bpjax.cli.main import main

FIGURES = ("learning_curve", "parity_train", "parity_validation", "parity_test", "energy_volume", "dynamics", "g_of_r")


def numbers(value):
    if isinstance(value, dict):
        for item in value.values():
            yield from numbers(item)
    elif isinstance(value, list):
        for item in value:
            yield from numbers(item)
    elif isinstance(value, float):
        yield value


def check(folder: Path) -> dict:
    """Everything is there, and the numbers are sane."""
    report = json.loads((folder / "report.json").read_text())
    assert all(math.isfinite(value) for value in numbers(report))
    for name in FIGURES:
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    text = (folder / "report.md").read_text()
    assert "{" not in text and str(folder) not in text
    for target in re.findall(r"\]\(([^)]+)\)", text):
        assert (folder / target).is_file(), target
    for split, count in (("train", 176), ("validation", 27), ("test", 24)):
        errors = report["errors"][split]
        assert errors["structures"] == count and sum(g["structures"] for g in errors["groups"].values()) == count
    assert len(report["phases"]["dft"]) == 9
    assert report["phases"]["lattice_constant"]["dft"] == pytest.approx(5.477, abs=0.003)
    for name in ("nvt_300K", "nve_300K", "melt"):
        assert (folder / f"{name}.extxyz").stat().st_size > 1000
        assert (folder / f"{name}.jsonl").read_text().count("\n") >= 2
    return report


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of the run that `--fast` gives."""
    found = tmp_path_factory.mktemp("quickstart") / "run"
    assert main(["quickstart", "--fast", "-o", str(found)]) == 0
    return found


@pytest.mark.slow
@pytest.mark.as_users
def test_fast_run_is_sane(folder):
    report = check(folder)
    assert report["errors"]["test"]["energy_rmse"] < 0.030 and report["errors"]["test"]["forces_rmse"] < 0.4
    phases = report["phases"]
    assert phases["lattice_constant"]["model"] == pytest.approx(phases["lattice_constant"]["dft"], abs=0.06)
    assert phases["order"]["model"][0] in ("diamond", "lonsdaleite")
    assert abs(report["dynamics"]["nve_300K"]["drift"]) < 1e-3
    assert 50 < report["dynamics"]["nvt_300K"]["temperature"] < 500


@pytest.mark.slow
@pytest.mark.as_users
def test_second_run_keeps_its_hands_off_and_a_requested_one_replaces(folder, tmp_path, monkeypatch, capsys):
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    before = (copy / "report.json").read_bytes()
    assert main(["quickstart", "--fast", "-o", str(copy)]) == 2
    error = capsys.readouterr().err
    assert "already holds files" in error and "--overwrite" in error and error.count("\n") == 1
    assert (copy / "report.json").read_bytes() == before
    # The shortest run that still has every stage: what `--fast` does, with less dynamics.
    fast = quickstart.fast_plan
    short = {f"{stage}_steps": 20 for stage in ("nvt", "nve", "melt")}
    monkeypatch.setattr(quickstart, "fast_plan", lambda seed=0, steps=None: replace(fast(seed, steps), **short))
    assert main(["quickstart", "--fast", "--steps", "100", "-o", str(copy), "--overwrite"]) == 0
    report = check(copy)
    assert report["training"]["steps"] == 100 and report["dynamics"]["atoms"] == 64
    assert not report["dynamics"]["melt"]["molten"]
    out = capsys.readouterr().out
    assert "test structures" in out and "crystal phases" in out and str(copy / "report.md") in out


def test_output_that_is_a_file_is_refused(tmp_path, capsys):
    path = tmp_path / "file"
    path.write_text("precious")
    assert main(["quickstart", "-o", str(path)]) == 2
    assert "is a file, not a folder" in capsys.readouterr().err and path.read_text() == "precious"


@pytest.mark.parametrize(("option", "value"), [("--steps", "0"), ("--seed", "-1")])
def test_options_out_of_range(option, value, tmp_path, capsys):
    assert main(["quickstart", "-o", str(tmp_path / "run"), option, value]) == 2
    assert option[2:] in capsys.readouterr().err and not (tmp_path / "run").exists()
