"""``bpjax hop`` from the outside: files in, populations, hops and restart out, one line for each mistake."""

import csv
import json
import os
import shutil
from dataclasses import fields
from pathlib import Path

import ase.io
import numpy as np
import pytest
import scipy.spatial.transform

from bpjax.cli.hop import Options
from bpjax.cli.main import main
from bpjax.excited import hopping_files
from bpjax.excited.hopping_files import load_run
from bpjax.excited.hopping_options import HoppingOptions
from bpjax.excited.sharc import read_lvc_template
from bpjax.excited.states_store import save_states
from bpjax.io.lock import only_run
from bpjax.units import BOHR, ELECTRON_MASS, HARTREE
from tests.excited.methaniminium import TWISTED, model, parameters


def read(folder, name):
    text = (folder / name).read_text()
    if name.endswith(".jsonl"):
        return [json.loads(line) for line in text.splitlines()]
    return json.loads(text) if name.endswith(".json") else list(csv.DictReader(text.splitlines()))


PYRAZINE = (
    "hop",
    "pyrazine",
    "sample",
    "--state",
    "1",
    "--basis",
    "diabatic",
    "--timestep",
    "0.2",
    "--log-interval",
    "10",
)


@pytest.fixture(scope="module")
def pyrazine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hop") / "out"
    more = ("--steps", "60", "--trajectories", "12", "--seed", "3", "--save", "2", "-o", str(folder))
    assert main([*PYRAZINE, *more]) == 0
    return folder


def test_results_of_a_run(pyrazine):
    rows, report = read(pyrazine, "populations.csv"), read(pyrazine, "report.json")
    assert [float(row["time_fs"]) for row in rows] == pytest.approx([0, 2, 4, 6, 8, 10, 12])
    for row in rows:
        assert sum(float(row[f"population_{i}"]) for i in (0, 1)) == pytest.approx(1)
        assert sum(float(row[f"diabatic_{i}"]) for i in (0, 1)) == pytest.approx(1)
        p = float(row["population_1"])
        assert float(row["error_1"]) == pytest.approx(np.sqrt(p * (1 - p) / 12 + 1 / 24**2) / (1 + 1 / 12), abs=1e-9)
    assert float(rows[0]["diabatic_1"]) == pytest.approx(1, abs=0.1)
    table = read(pyrazine, "populations.json")
    assert table["population_1"] == pytest.approx([float(row["population_1"]) for row in rows])
    hops = read(pyrazine, "hops.jsonl")
    assert (
        sum(hop["accepted"] for hop in hops) == report["hops"]
        and len(hops) == report["hops"] + report["frustrated_hops"]
    )
    assert all(set(hop) == {"trajectory", "step", "time_fs", "source", "target", "gap", "accepted"} for hop in hops)
    assert (pyrazine / "populations.png").stat().st_size > 1000
    with np.load(pyrazine / "trajectories.npz") as kept:
        assert kept["R"].shape == (7, 2, 3)


@pytest.mark.slow
def test_resumed_run_is_the_whole_run(pyrazine, tmp_path):
    more = ("--trajectories", "12", "--seed", "3", "--save", "2", "-o", str(tmp_path / "out"))
    assert main([*PYRAZINE, "--steps", "30", *more]) == 0
    assert main([*PYRAZINE, "--steps", "30", *more, "--resume"]) == 0
    for name in ("populations.csv", "hops.jsonl", "report.json"):
        assert (tmp_path / "out" / name).read_bytes() == (pyrazine / name).read_bytes()


def test_runs_of_another_model_or_start_are_not_resumed(pyrazine, tmp_path, capsys):
    shutil.copytree(pyrazine, tmp_path / "run")
    for words, what in ((("pyrazine4", "sample"), "model"), (("pyrazine", "start.extxyz"), "start")):
        command = ["hop", *words, "--state", "0", "-o", str(tmp_path / "run"), "--resume"]
        assert main(command) == 2
        assert f"restart.npz: is of another {what} than {words[what == 'start']} is now" in capsys.readouterr().err


def test_defaults_are_those_of_python():
    given = Options("pyrazine", "sample", Path("out"), 0)
    ours = HoppingOptions()
    renamed = {"timestep_fs": "timestep", "energy_tolerance_ev": "energy_tolerance", "max_drift_ev": "max_drift"}
    shared = {f.name for f in fields(HoppingOptions)} - {"tracking", "region", "temperature", "friction_per_fs"}
    for name in shared - {"hop_capacity", "units", "lost"}:
        assert getattr(given, renamed.get(name, name)) == getattr(ours, name), name
    assert given.lost is None and ours.lost == "stop"  # None: stop, or with --resume as before


def test_steps_that_are_much_too_long_fail(tmp_path, capsys):
    command = ["hop", "pyrazine", "sample", "--state", "1", "--steps", "10", "--timestep", "50", "--trajectories", "3"]
    assert main([*command, "--energy-tolerance", "0", "-o", str(tmp_path / "out")]) == 2
    assert "would go more than max_drift_ev = 1 eV from that at the start" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.exhaustive
def test_the_shipped_potential_goes_astray(tmp_path, capsys):
    """In its own example, and it is said: README has 22 of 100 at 40 fs."""
    data = Path("data/methaniminium")
    command = ["hop", str(data / "diabatic.bpjax"), str(data / "hessian.npz"), "--state", "2", "--steps", "160"]
    assert main([*command, "--timestep", "0.25", "-o", str(tmp_path / "out")]) == 0
    report = read(tmp_path / "out", "report.json")
    # Of another processor or version other trajectories; 22 has a standard deviation of 4 alone.
    assert 10 <= len(report["astray"]) <= 35 and len(report["astray"]) + report["sound"] + len(report["lost"]) == 100
    assert f"{len(report['astray'])} gone astray" in capsys.readouterr().out
    assert min(min(report["closest_contacts"][pair]) for pair in ("C-H", "H-N")) < 0.6


@pytest.fixture
def vibronic(tmp_path, shared):
    """A run of SHARC's sulfur dioxide from its geometry, and the folder of its inputs."""
    for name in ("LVC.template", "V.txt", "geom", "veloc"):
        (tmp_path / name).write_bytes((shared / "reference" / "physics" / "so2_lvc" / name).read_bytes())
    run = ["hop", str(tmp_path / "LVC.template"), str(tmp_path / "geom"), "--state", "0", "--steps", "1"]
    run += ["-o", str(tmp_path / "run")]
    assert main([*run, "--timestep", "0.25"]) == 0
    return run, tmp_path


@pytest.mark.parametrize("name, what", [("V.txt", "model"), ("veloc", "start")])
def test_a_run_is_that_of_all_files_of_its_model_and_start(vibronic, name, what, capsys):
    """The file of modes that a template names, and the velocities beside a geometry, are parts of them."""
    run, folder = vibronic
    assert main([*run, "--resume"]) == 0
    path = folder / name
    path.write_text(path.read_text().replace("1", "2", 1))
    assert main([*run, "--resume"]) == 2
    assert f"restart.npz: is of another {what} than" in capsys.readouterr().err


def test_velocities_are_no_output(vibronic, capsys):
    run, folder = vibronic
    os.rename(folder / "veloc", folder / "run" / "report.json")
    (folder / "veloc").symlink_to(Path("run") / "report.json")
    before = (folder / "veloc").read_text()
    assert main([*run, "--overwrite"]) == 2
    assert "report.json: it is the file" in capsys.readouterr().err and (folder / "veloc").read_text() == before


def test_a_run_is_resumed_in_its_own_precision(tmp_path):
    command = [
        "hop",
        "pyrazine",
        "sample",
        "--state",
        "1",
        "--steps",
        "2",
        "--trajectories",
        "3",
        "-o",
        str(tmp_path / "run"),
    ]
    assert main([*command, "--dtype", "float32"]) == 0
    assert main([*command, "--resume"]) == 0
    assert load_run(tmp_path / "run" / "restart.npz").state.R.dtype == np.float32


def resigned(path, **changes):
    """A restart file with other arrays and a checksum that is right."""
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    arrays |= {name: change(arrays[name]) for name, change in changes.items()}
    header = json.loads(arrays.pop("header").item())
    header["checksum"] = hopping_files._checksum(header, arrays)
    np.savez(path, **arrays, header=np.array(json.dumps(header)))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("state.R", lambda a: a.astype("f4"), "holds float64, not float32 as the others"),
        ("state.key", lambda a: a.astype("u8"), "holds uint64, not uint32"),
        ("state.v", lambda a: a.astype(np.longdouble), "is not known here"),
        ("state.drift", lambda a: a * np.nan, "is not finite"),
        ("state.C", lambda a: a + np.inf, "is not finite"),
        ("state.step", lambda a: a - 1000, "allowed are 0 to any"),
        ("state.level", lambda a: a + 90, "allowed are 0 to 12"),
        ("log.count", lambda a: a + 10**7, "allowed are 0 to 32"),
        ("log.count", lambda a: a - 3, "allowed are 0 to 32"),
        ("times_fs", lambda a: a[::-1], "must ascend"),
        ("records.active", lambda a: a + 7, "allowed are 0 to 1"),
    ],
)
def test_restart_files_that_cannot_be(pyrazine, tmp_path, capsys, name, change, message):
    """They are refused by field and file, also with a checksum that is right; any other change is seen by that."""
    run = shutil.copytree(pyrazine, tmp_path / "run")
    resigned(run / "restart.npz", **{name: change})
    command = ["hop", "pyrazine", "sample", "--state", "1", "--steps", "2", "-o", str(run), "--resume"]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "restart.npz: field" in error and message in error, error


def test_restart_files_of_other_byte_order_and_changed_ones(pyrazine, tmp_path, capsys):
    run = shutil.copytree(pyrazine, tmp_path / "run")
    command = ["hop", "pyrazine", "sample", "--state", "1", "--steps", "10", "-o", str(run), "--resume"]
    with np.load(run / "restart.npz") as archive:
        arrays = {name: archive[name] for name in archive.files}
    np.savez(run / "restart.npz", **{**arrays, "state.R": arrays["state.R"].astype(">f8")})
    assert main(command) == 0
    np.savez(run / "restart.npz", **{**arrays, "state.R": arrays["state.R"] + 1e-9})
    capsys.readouterr()
    assert main(command) == 2
    assert "restart.npz: was changed after it was written" in capsys.readouterr().err


def test_a_hessian_that_faces_another_way_is_turned(vibronic, capsys):
    """Of SHARC's models, which are of displacements: 23 eV for 3 at the start otherwise."""
    run, folder = vibronic
    model = read_lvc_template(folder / "LVC.template")
    R, masses = np.asarray(model.modes.reference), np.asarray(model.modes.masses)
    K = np.asarray(model.modes.modes) * np.repeat(np.sqrt(masses), 3)[:, None]
    H = (K * np.asarray(model.modes.frequencies) ** 2) @ K.T
    turn = scipy.spatial.transform.Rotation.from_euler("xyz", [1.0, -0.5, 2.0]).as_matrix()
    T, energies = np.kron(np.eye(len(R)), turn), []
    for name, (positions, hessian) in {"own": (R, H), "turned": (R @ turn.T, T @ H @ T.T)}.items():
        np.savez(folder / f"{name}.npz", positions=positions, hessian=hessian, units=np.array("hartree-bohr"))
        command = [run[0], run[1], str(folder / f"{name}.npz"), *run[3:-1], str(folder / name), "--trajectories", "4"]
        assert main([*command, "--timestep", "0.25"]) == 0
        assert ("turned by up to" in capsys.readouterr().err) == (name == "turned")
        energies.append(load_run(folder / name / "restart.npz").records.potential[0])
    assert np.abs(energies).max() < 0.1 and energies[1].mean() == pytest.approx(energies[0].mean(), abs=0.02)


def test_the_folder_is_taken_before_anything_is_read(tmp_path, capsys):
    """Until the results are written: no model is looked for while another run writes there, and none is left empty."""
    command = ["hop", str(tmp_path / "none.bpjax"), "sample", "--state", "0", "-o", str(tmp_path / "out")]
    assert main(command) == 2
    assert "none.bpjax: no such file" in capsys.readouterr().err and not (tmp_path / "out").exists()
    with only_run(tmp_path / "out"):
        assert main([*command, "--overwrite"]) == 2
    assert "another run" in capsys.readouterr().err


def test_scattering(tmp_path, capsys):
    command = ["hop", "tully1", "sample", "--state", "0", "--momentum", "20", "--timestep", "0.2", "--steps", "400"]
    assert main([*command, "--log-interval", "400", "--trajectories", "20", "-o", str(tmp_path / "t")]) == 0
    report = read(tmp_path / "t", "report.json")
    assert report["unfinished"] == 0 and sum(report["transmitted"]) == pytest.approx(1)
    assert "20 trajectories" in capsys.readouterr().out


@pytest.mark.slow
def test_molecule_from_structures(tmp_path, shared, capsys):
    """SHARC's sulfur dioxide from its geometry and velocities: kinetic energy, spins, frames with velocities."""
    folder = shared / "reference" / "physics" / "so2_lvc"
    for name in ("LVC.template", "V.txt"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    rows = [line.split() for line in (folder / "geom").read_text().splitlines() if line.strip()]
    atoms = ase.Atoms([row[0] for row in rows], np.array([row[2:5] for row in rows], float) * BOHR)
    atoms.set_masses([float(row[5]) for row in rows])
    v = np.array([line.split() for line in (folder / "veloc").read_text().splitlines() if line.strip()], float)
    from bpjax.units import ATOMIC_TIME_FS, TIME_UNIT_FS

    atoms.set_velocities(v * BOHR * TIME_UNIT_FS / ATOMIC_TIME_FS)
    ase.io.write(tmp_path / "start.extxyz", [atoms, atoms])
    command = ["hop", str(tmp_path / "LVC.template"), str(tmp_path / "start.extxyz"), "--state", "4"]
    out = tmp_path / "out"
    assert main([*command, "--steps", "4", "--timestep", "0.25", "--save", "1", "-o", str(out)]) == 0
    frames = ase.io.read(out / "trajectories.extxyz", ":")
    assert len(frames) == 5
    np.testing.assert_allclose(frames[0].positions, atoms.positions, atol=1e-8)
    np.testing.assert_allclose(frames[0].get_velocities(), atoms.get_velocities(), rtol=1e-6, atol=1e-9)
    assert frames[0].info["kinetic"] == pytest.approx(1.226989, abs=1e-4)  # SHARC's table, eV
    assert frames[0].info["potential"] == pytest.approx(4.263616, abs=1e-3)
    assert sum(read(out, "report.json")["multiplicity_populations"]) == pytest.approx(1)
    # SHARC's own files, and a molecule that faces another way: the same trajectory
    for name in ("geom", "veloc"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    command[2] = str(tmp_path / "geom")
    assert main([*command, "--steps", "4", "--timestep", "0.25", "-o", str(tmp_path / "sharc")]) == 0
    capsys.readouterr()
    turned = atoms.copy()
    Q = scipy.spatial.transform.Rotation.from_rotvec(np.radians(70) * np.array([1, 2, 2]) / 3).as_matrix()
    turned.positions = turned.positions @ Q.T + [5, 0, -2]
    turned.set_momenta(turned.get_momenta() @ Q.T)
    ase.io.write(tmp_path / "turned.extxyz", turned)
    command[2] = str(tmp_path / "turned.extxyz")
    assert main([*command, "--steps", "4", "--timestep", "0.25", "-o", str(tmp_path / "turned")]) == 0
    assert "turned.extxyz: turned by up to 70 degrees to face as the geometry of" in capsys.readouterr().err
    energies = [read(tmp_path / name, "report.json")["largest_energy_drift_ev"] for name in ("out", "sharc", "turned")]
    assert energies[1:] == pytest.approx([energies[0]] * 2, rel=1e-3)
    (tmp_path / "veloc").write_text("0 0 0\n")
    command[2] = str(tmp_path / "geom")
    assert main([*command, "-o", str(tmp_path / "c")]) == 2
    assert "veloc: has 1 rows; needed is one for each of 3 atoms" in capsys.readouterr().err
    # another element, no velocities
    command[2] = str(tmp_path / "start.extxyz")
    wrong = atoms.copy()
    wrong.symbols[0] = "O"
    ase.io.write(tmp_path / "start.extxyz", wrong)
    assert main([*command, "-o", str(tmp_path / "b")]) == 2


def springs(R):
    """Second derivatives, in hartree/bohr^2, of springs between all atoms that are at rest at these positions (bohr)."""
    N = len(R)
    H = np.zeros((N, 3, N, 3))
    for i in range(N):
        for j in range(i):
            u = (R[i] - R[j]) / np.linalg.norm(R[i] - R[j])
            block = 0.1 * np.outer(u, u)
            H[i, :, i] += block
            H[j, :, j] += block
            H[i, :, j] -= block
            H[j, :, i] -= block
    return H.reshape(3 * N, 3 * N)


@pytest.mark.slow
def test_trained_molecule_from_a_hessian(tmp_path, capsys):
    """A model file of several states, and a Hessian in other units than the model's: zero-point energy of the samples."""
    own, R = model("odd"), TWISTED / BOHR
    save_states(tmp_path / "m.bpjax", own, parameters(own))
    np.savez(tmp_path / "h.npz", positions=R, hessian=springs(R), units="hartree-bohr", numbers=[6, 7, 1, 1, 1, 1])
    command = ["hop", str(tmp_path / "m.bpjax"), str(tmp_path / "h.npz"), "--state", "2", "--timestep", "0.1"]
    out = tmp_path / "out"
    assert main([*command, "--steps", "3", "--trajectories", "150", "--save", "150", "-o", str(out)]) == 0
    assert read(out, "report.json")["trajectories"] == 150
    frames = ase.io.read(out / "trajectories.extxyz", ":")
    starts = [atoms for atoms in frames if atoms.info["time_fs"] == 0]
    mass = np.repeat(ase.Atoms("CNH4").get_masses(), 3) / ELECTRON_MASS
    squares = np.linalg.eigvalsh(springs(R) / np.sqrt(np.outer(mass, mass)))[6:]
    zero_point = 0.25 * np.sqrt(squares).sum() * HARTREE  # half of it is kinetic
    assert np.mean([atoms.get_kinetic_energy() for atoms in starts]) == pytest.approx(zero_point, rel=0.1)
    capsys.readouterr()
    np.savez(tmp_path / "h.npz", positions=R, hessian=-springs(R), units="hartree-bohr")
    assert main([*command, "-o", str(tmp_path / "b")]) == 2
    assert "h.npz: hessian: is not that of a minimum" in capsys.readouterr().err
    np.savez(tmp_path / "h.npz", positions=R, hessian=springs(R))
    assert main([*command, "-o", str(tmp_path / "b")]) == 2
    assert "h.npz: has no field 'units'; there are positions, hessian" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tully9", "sample", "--state", "0"], "no such file, and no model of that name; names are tully1"),
        (["tully1", "sample", "--state", "0"], "needs --momentum"),
        (["tully1", "sample", "--state", "2", "--momentum", "9"], "state: 2: the model has states 0 to 1"),
        (["pyrazine", "sample", "--state", "0", "--momentum", "9"], "--momentum: is for Tully's models"),
        (["pyrazine", "start.extxyz", "--state", "0"], "start.extxyz"),
        (
            ["pyrazine", "sample", "--state", "0", "--steps", "7", "--log-interval", "2"],
            "must be a multiple of log_interval",
        ),
        (["pyrazine", "sample", "--state", "0", "--timestep", "0"], "timestep_fs=0.0: must be positive"),
        (["pyrazine", "sample", "--state", "0", "--resume"], "restart.npz: no such file"),
    ],
)
def test_mistakes_are_one_line(arguments, words, tmp_path, capsys):
    assert main(["hop", *arguments, "-o", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and words in err
    assert not (tmp_path / "out").exists()


def test_results_are_not_overwritten(pyrazine, capsys):
    before = (pyrazine / "report.json").read_bytes()
    assert main([*PYRAZINE, "--steps", "10", "-o", str(pyrazine)]) == 2
    assert "already exists" in capsys.readouterr().err
    assert (pyrazine / "report.json").read_bytes() == before
