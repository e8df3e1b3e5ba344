"""``bpjax md`` from the outside: files in, trajectory and log out, one line for each mistake."""

import json
import os
import subprocess
import sys

import ase.io
import numpy as np
import pytest

from bpjax.cli.main import main
from bpjax.dynamics.parallel import WORTH
from bpjax.interop.ase import BpjaxCalculator
from bpjax.machine import cores
from bpjax.potential import save
from tests.dynamics.model import MODEL, crystal, params


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("md")
    save(found / "model.bpjax", MODEL, params())
    ase.io.write(found / "start.extxyz", crystal(1))
    return found


def command(folder, out, *more):
    return ["md", str(folder / "model.bpjax"), str(folder / "start.extxyz"), "-o", str(out), *more]


@pytest.fixture(scope="module")
def run(folder):
    out = folder / "run.extxyz"
    more = ("--steps", "20", "--log-interval", "5", "--trajectory-interval", "10", "--temperature", "200")
    assert main(command(folder, out, *more)) == 0
    return out


def test_trajectory_and_log(folder, run):
    frames = ase.io.read(run, ":")
    records = [json.loads(line) for line in run.with_suffix(".jsonl").read_text().splitlines()]
    assert len(frames) == 3
    assert [r["step"] for r in records] == [0, 5, 10, 15, 20]
    assert {"time_fs", "potential_energy", "total_energy", "temperature", "pressure_gpa"} <= set(records[0])
    assert records[0]["temperature"] == pytest.approx(200, rel=1e-4)
    # What the log says of a frame is what the model says of it, to float32 rounding of positions and sums.
    last = frames[-1].copy()
    last.calc = BpjaxCalculator(folder / "model.bpjax")
    assert records[-1]["potential_energy"] == pytest.approx(last.get_potential_energy(), abs=1e-4)
    assert frames[-1].get_kinetic_energy() == pytest.approx(records[-1]["kinetic_energy"], rel=1e-4)
    energies = np.array([r["total_energy"] for r in records])
    assert np.ptp(energies) < 1e-3 * len(last)


@pytest.mark.exhaustive
def test_every_core_is_a_device_unless_the_environment_says_otherwise(folder, tmp_path):
    """In processes of their own; trajectories agree to rounding, which float64 keeps small for ten steps."""
    ase.io.write(tmp_path / "start.extxyz", crystal(4))
    base = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")}
    for name, more in (("all", {}), ("one", {"JAX_NUM_CPU_DEVICES": "1"})):
        line = [
            sys.executable,
            "-m",
            "bpjax.cli.main",
            "md",
            str(folder / "model.bpjax"),
            str(tmp_path / "start.extxyz"),
        ]
        line += [
            "-o",
            str(tmp_path / f"{name}.extxyz"),
            "--steps",
            "10",
            "--trajectory-interval",
            "10",
            "--dtype",
            "float64",
        ]
        said = subprocess.run(
            line, env={**base, "JAX_PLATFORMS": "cpu", **more}, check=True, capture_output=True, text=True
        )
        devices = min(cores(), len(crystal(4)) // WORTH["cpu"]) if name == "all" else 1
        assert ("devices" in said.stdout) == (devices > 1) and (devices == 1 or f"on {devices} devices" in said.stdout)
    one, all_ = (ase.io.read(tmp_path / f"{name}.extxyz") for name in ("one", "all"))
    np.testing.assert_allclose(all_.positions, one.positions, atol=1e-9)


def test_a_ladder_of_temperatures_is_one_program(folder, tmp_path, capsys):
    out = tmp_path / "ladder.extxyz"
    more = ("--steps", "4", "--log-interval", "2", "--trajectory-interval", "4", "--temperatures", "100", "200", "300")
    assert main(command(folder, out, *more)) == 0
    assert "3 systems, 4 steps" in capsys.readouterr().out
    records = [json.loads(line) for line in out.with_suffix(".jsonl").read_text().splitlines()]
    assert [(r["step"], r["replica"]) for r in records] == [(step, r) for step in (0, 2, 4) for r in range(3)]
    assert [r["temperature"] for r in records[:3]] == pytest.approx([100, 200, 300], rel=1e-4)
    frames = ase.io.read(out, ":")
    assert [(f.info["step"], f.info["replica"]) for f in frames] == [(step, r) for step in (0, 4) for r in range(3)]


@pytest.mark.slow
def test_all_frames_run_at_once_as_alone(folder, tmp_path):
    """Unlike systems: a crystal and a cluster, which are two frames of a file."""
    cluster = crystal(1)[:3]
    cluster.pbc = False
    ase.io.write(tmp_path / "both.extxyz", [crystal(1), cluster])
    model, more = str(folder / "model.bpjax"), ("--steps", "10", "--trajectory-interval", "10", "--temperature", "50")
    assert (
        main(["md", model, str(tmp_path / "both.extxyz"), "-o", str(tmp_path / "all.extxyz"), "--all-frames", *more])
        == 0
    )
    last = ase.io.read(tmp_path / "all.extxyz", "-2:")
    for r in (0, 1):
        frame, out = ("--frame", str(r), "--seed", str(r)), tmp_path / f"{r}.extxyz"
        assert main(["md", model, str(tmp_path / "both.extxyz"), "-o", str(out), *frame, *more]) == 0
        np.testing.assert_allclose(last[r].positions, ase.io.read(out, "-1").positions, atol=1e-5)


def test_existing_output_is_left_alone(folder, run, capsys):
    before = run.read_bytes()
    assert main(command(folder, run, "--steps", "5")) == 2
    assert "already exists" in capsys.readouterr().err
    assert run.read_bytes() == before


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--temperature", "-1"), ("temperature", "-1")),
        (("--timestep", "0"), ("timestep", "positive")),
        (("--steps", "0"), ("steps", "at least 1")),
        (("--ensemble", "nvs"), ("nvs", "nve")),
        (("--stepz", "3"), ("stepz",)),
        (("--devices", "99"), ("devices", "99")),
        (("--replicas", "0"), ("replicas", "at least 1")),
        (("--replicas", "3", "--temperatures", "300", "400"), ("temperatures", "2 of them", "3 replicas")),
        (("--replicas", "2", "--all-frames"), ("replicas", "all-frames")),
        (("--replicas", "2", "--max-extrapolations", "5"), ("max_extrapolations", "replicas")),
        (("--replicas", "2", "--devices", "2"), ("devices", "more than 1")),
        (("--all-frames", "--temperatures", "300", "400"), ("temperatures", "2 of them", "1 systems")),
    ],
)
def test_bad_options(folder, tmp_path, capsys, more, words):
    assert main(command(folder, tmp_path / "out.extxyz", *more)) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and all(word in message for word in words), message
    assert not list(tmp_path.iterdir())


def test_unknown_element(folder, tmp_path, capsys):
    atoms = crystal(1)
    atoms.symbols[1] = "Kr"
    ase.io.write(tmp_path / "krypton.extxyz", atoms)
    out = tmp_path / "out.extxyz"
    assert main(["md", str(folder / "model.bpjax"), str(tmp_path / "krypton.extxyz"), "-o", str(out)]) == 2
    message = capsys.readouterr().err
    assert "Kr" in message and message.count("\n") == 1
    assert not out.exists()
