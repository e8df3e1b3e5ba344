"""Two runs in one place, inputs that are outputs, surroundings without terminals, seeds that are none."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import ase.io
import jax
import numpy as np
import pytest
from ase.build import bulk

from bpjax.cli.main import main
from bpjax.cli.train import read_task
from bpjax.descriptors import ACSF
from bpjax.descriptors.acsf import Radial
from bpjax.dynamics.settings import Settings
from bpjax.errors import BpjaxError, ConfigError, FormatError, OutputExistsError
from bpjax.excited.intersections import IntersectionOptions
from bpjax.excited.wigner import HarmonicModes, wigner_samples
from bpjax.io import lock
from bpjax.io.lock import LOCK, only_run
from bpjax.io.structures import write_structures
from bpjax.machine import processor
from bpjax.networks.elemental import MLP
from bpjax.potential import Potential, init, save
from bpjax.training import DataOptions, prepare
from bpjax.training.optimizers import OptimizerOptions
from tests.training.labelled import structures, training_file

MODEL = Potential(ACSF(("Cu",), 4.0, g2=(Radial(0.5),)), MLP(()))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    save(tmp_path / "m.bpjax", MODEL, init(MODEL, jax.random.key(0)))
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=1)
    atoms.set_velocities(np.full((4, 3), 0.01))
    ase.io.write(tmp_path / "in.extxyz", atoms)
    (tmp_path / "link.extxyz").symlink_to("in.extxyz")
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ------------------------------------------------------------------------------------------- one file


@pytest.mark.parametrize(
    "words",
    [
        "md m.bpjax in.extxyz -o in.extxyz --steps 5",
        "md m.bpjax in.extxyz -o link.extxyz --steps 5",
        "md m.bpjax in.extxyz -o o.extxyz --max-extrapolations 5 --extrapolation-file in.extxyz --steps 5",
        "evaluate m.bpjax in.extxyz --json in.extxyz",
        "evaluate m.bpjax in.extxyz --json ./link.extxyz",
        "evaluate m.bpjax in.extxyz --json m.bpjax",
        "predict m.bpjax in.extxyz -o in.extxyz",
        "predict m.bpjax in.extxyz -o o.extxyz --extrapolation-file ../{folder}/in.extxyz",
        "convert in.extxyz in.extxyz",
        "convert link.extxyz in.extxyz",
        "bench m.bpjax in.extxyz --json in.extxyz",
        "hop m.bpjax in.extxyz --state 0 -o .",
    ],
)
def test_no_input_is_replaced(folder, capsys, words):
    if words.startswith("hop"):
        os.rename("in.extxyz", "trajectories.extxyz")
        words = words.replace("in.extxyz", "trajectories.extxyz")
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.exists()}
    assert main([*words.format(folder=folder.name).split(), "--overwrite"]) == 2
    assert "which is read" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.exists()} == before


@pytest.mark.parametrize(
    "words",
    [
        "evaluate nnp in.extxyz --json nnp/input.nn",
        "bench nnp in.extxyz --json nnp/../nnp/scaling.data",
        "md nnp in.extxyz -o link.xyz",
        "predict nnp in.extxyz -o link.xyz",
        "convert nnp link.bpjax --units ev-angstrom",
    ],
)
def test_no_file_of_a_model_that_is_a_folder_is_replaced(folder, capsys, words):
    (folder / "nnp" / "nnp-1").mkdir(parents=True)
    names = ("input.nn", "scaling.data", "optweights.029.out", "nnp-1/weights.029.data")
    for name in names:
        (folder / "nnp" / name).write_text("mine")
    (folder / "link.xyz").symlink_to(Path("nnp", "nnp-1", "weights.029.data"))
    (folder / "link.bpjax").symlink_to(Path("nnp", "optweights.029.out"))
    assert main([*words.split(), "--overwrite"]) == 2
    assert "which is read" in capsys.readouterr().err
    assert all((folder / "nnp" / name).read_text() == "mine" for name in names)


def test_results_may_lie_beside_a_model(folder, monkeypatch, capsys):
    """Whoever works in the folder of a model writes there, and anew with --overwrite."""
    assert main(["convert", "m.bpjax", "nnp", "--units", "ev-angstrom"]) == 0
    monkeypatch.chdir(folder / "nnp")
    for _ in range(2):
        words = "predict . ../in.extxyz -o out.extxyz --overwrite --units ev-angstrom"
        assert main(words.split()) == 0, capsys.readouterr().err


def test_no_output_is_written_twice(folder, capsys):
    words = "md m.bpjax in.extxyz -o o.extxyz --max-extrapolations 5 --extrapolation-file o.extxyz --overwrite"
    assert main(words.split()) == 2
    assert "cannot write o.extxyz: it is the file o.extxyz, which is written as well" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------ one folder


def test_a_folder_is_of_one_run(tmp_path):
    folder = tmp_path / "run"
    with only_run(folder):
        said = json.loads((folder / LOCK).read_text())
        assert said["process"] == os.getpid() and said["host"]
        for resume in (False, True):
            with pytest.raises(OutputExistsError, match=rf"another run \(process {os.getpid()} on .*\) writes to"):
                with only_run(folder, resume):
                    pass
        (folder / "result").write_text("x")
    assert [path.name for path in folder.iterdir()] == ["result"]
    with pytest.raises(OutputExistsError, match="already holds files; it was left as it is"):
        with only_run(folder):
            pass
    with only_run(folder, filled=True):
        pass
    assert [path.name for path in folder.iterdir()] == ["result"]


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def refuses(number):
        def flock(*_):
            raise OSError(number, os.strerror(number))

        return flock

    monkeypatch.setattr(lock.fcntl, "flock", refuses(errno.ENOLCK))
    with (
        pytest.warns(UserWarning, match="run cannot be locked: see to it that no other run writes to it"),
        only_run(tmp_path / "run"),
    ):
        (tmp_path / "run" / "result").write_text("x")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["result"]
    monkeypatch.setattr(lock.fcntl, "flock", refuses(errno.EIO))
    with pytest.raises(BpjaxError, match="cannot write"), only_run(tmp_path / "other"):
        pass


def test_two_processes_do_not_share_a_folder(tmp_path, capsys):
    """Another process, as another terminal starts it: what is tested within one process elsewhere holds between them."""
    code = f"""
import sys
from pathlib import Path
from bpjax.io.lock import only_run
with only_run(Path({str(tmp_path / "run")!r})):
    print("held", flush=True)
    sys.stdin.read()
    Path({str(tmp_path / "run" / "result")!r}).write_text("its")
"""
    (tmp_path / "a.toml").write_text('[data]\ntrain = ["none.extxyz"]\n')
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        for command in (
            ["train", str(tmp_path / "a.toml")],
            ["hop", "tully1", "sample", "--state", "0", "--overwrite"],
        ):
            assert main([*command, "-o", str(tmp_path / "run")]) == 2
            assert f"another run (process {other.pid} on" in capsys.readouterr().err
        other.communicate("")
    assert other.returncode == 0 and [path.name for path in (tmp_path / "run").iterdir()] == ["result"]


def test_the_quickstart_has_its_folder_for_itself(tmp_path, capsys):
    with only_run(tmp_path / "run"):
        assert main(["quickstart", "-o", str(tmp_path / "run"), "--overwrite"]) == 2
    assert "another run (process" in capsys.readouterr().err


def test_errors_of_data_say_which_training_file_names_them(tmp_path, capsys):
    config = tmp_path / "a.toml"
    space, data = '[sweep.space]\n"loss.forces" = [1.0, 2.0]\n', '[data]\ntrain = [\n  "none.extxyz",\n]\n'
    for command, text, line in (("train", data, 3), ("sweep", space + data, 5)):
        config.write_text(text)
        assert main([command, str(config), "-o", str(tmp_path / "run")]) == 2
        assert f"none.extxyz: no such file (named in {config}: line {line})" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        (["# trains on x.extxyz", "[data]", 'train = ["a/x.extxyz"]', 'validation = ["b/x.extxyz"]'], 4),
        (["[data]", 'train = ["a/x.extxyz"]', "validation = ['a/xx.extxyz']", "test = ['x.extxyz'] # 'a'"], 4),
        (["[data]", 'train = ["a/x.extxyz"] # then "c.extxyz"', 'test = [  "a/x.extxyz", "c.extxyz" ]'], 3),
    ],
)
def test_the_line_is_that_of_the_very_name(tmp_path, capsys, lines, named):
    (tmp_path / "a").mkdir()
    for name in ("x", "xx"):
        write_structures(tmp_path / "a" / f"{name}.extxyz", structures(6))
    config = tmp_path / "c.toml"
    config.write_text("\n".join(lines) + "\n")
    assert main(["train", str(config), "-o", str(tmp_path / "run")]) == 2
    assert f"(named in {config}: line {named})" in capsys.readouterr().err


def test_errors_of_options_of_data_name_the_training_file(tmp_path, capsys):
    write_structures(tmp_path / "train.extxyz", structures(6))
    config = tmp_path / "a.toml"
    text = '[data]\ntrain = ["train.extxyz"]\n'
    for more, said in (
        ('outliers = "drop"\nmax_force = 1e-9\n', "data.outliers: leaves no structure with Al"),
        ("isolated = { Cu = -1.0 }\n", "data.isolated: energies of isolated atoms are known of Cu"),
    ):
        config.write_text(text + more)
        assert main(["train", str(config), "-o", str(tmp_path / "run")]) == 2
        assert f"bpjax: error: {config}: {said}" in capsys.readouterr().err


def test_a_run_that_fails_early_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), only_run(tmp_path / "a" / "run"):
        assert 1 / 0
    assert not (tmp_path / "a" / "run").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(BpjaxError, match="it is a file, not a folder"), only_run(tmp_path / "file"):
        pass


def test_what_a_kill_leaves_behind_is_no_lock(tmp_path):
    """The system releases the lock of a process that ends, however it ends; the file stays."""
    code = f"""
import os, signal
from pathlib import Path
from bpjax.io.lock import only_run
with only_run(Path({str(tmp_path / "run")!r})):
    print("held", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "held\n" and (tmp_path / "run" / LOCK).exists()
    with only_run(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / LOCK).read_text())["process"] == os.getpid()
    assert not (tmp_path / "run" / LOCK).exists()


@pytest.mark.parametrize("command", ["train", "sweep"])
def test_the_folder_is_taken_before_anything_is_read(tmp_path, capsys, command):
    """The data, which are not even there, come later; a folder that cannot be written is said at once."""
    (tmp_path / "a.toml").write_text('[data]\ntrain = ["none.extxyz"]\n')
    with only_run(tmp_path / "run"):
        assert main([command, str(tmp_path / "a.toml"), "-o", str(tmp_path / "run")]) == 2
        assert "another run (process" in capsys.readouterr().err
    assert main([command, str(tmp_path / "a.toml"), "-o", str(tmp_path / "a.toml" / "run")]) == 2
    assert "cannot write" in capsys.readouterr().err
    assert main([command, str(tmp_path / "a.toml"), "-o", str(tmp_path / "run")]) == 2
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_model_finds_its_data(tmp_path, monkeypatch, capsys):
    """Where they were, as seen from the model, from whatever folder; or where they are said to be."""
    home = tmp_path / "home"
    home.mkdir()
    write_structures(home / "train.extxyz", structures(12))
    (home / "a.toml").write_text(training_file(10, 10))
    monkeypatch.chdir(tmp_path)
    assert main(["train", "home/a.toml", "-o", "home/out"]) == 0
    os.rename(home, tmp_path / "moved")
    model = Path("moved/out/model.bpjax")
    options, data, place = read_task(model)
    assert place.resolve() == tmp_path / "moved"
    os.rename(tmp_path / "moved" / "train.extxyz", tmp_path / "moved" / "out" / "train.extxyz")
    with pytest.raises(ConfigError) as caught:
        read_task(model)
    looked = f"train.extxyz of its data is not in {tmp_path} and in {tmp_path / 'moved'}; --data-folder says where"
    assert looked in str(caught.value)
    capsys.readouterr()
    assert main(["train", str(model), "-o", "again"]) == 2 and not Path("again").exists()
    assert looked in capsys.readouterr().err
    # What else goes by that name in the current folder does not hide the data, whatever it holds.
    os.rename(tmp_path / "moved" / "out" / "train.extxyz", tmp_path / "moved" / "train.extxyz")
    for write in (
        lambda: write_structures("train.extxyz", structures(11)),
        lambda: Path("train.extxyz").write_text(""),
    ):
        write()
        found = read_task(model)
        assert found[1].fingerprint() == data.fingerprint() and found[2].resolve() == tmp_path / "moved"
    os.rename(tmp_path / "moved" / "train.extxyz", tmp_path / "moved" / "out" / "train.extxyz")
    with pytest.raises(FormatError, match="train.extxyz: is empty"):
        read_task(model)
    write_structures("train.extxyz", structures(11))
    with pytest.raises(ConfigError, match=f"was trained on other data than train.extxyz now hold in {tmp_path} "):
        read_task(model)
    for task in (model, Path("moved/a.toml")):
        found = read_task(task, Path("moved/out"))
        assert found[0] == options and found[1].fingerprint() == data.fingerprint()
    os.rename(tmp_path / "moved" / "out" / "train.extxyz", tmp_path / "train.extxyz")
    assert read_task(model)[1].fingerprint() == data.fingerprint()


# ---------------------------------------------------------------------------------------- surroundings


@pytest.mark.parametrize(
    "closed", [*(pytest.param(one, marks=pytest.mark.slow) for one in (">&-", "2>&-")), ">&- 2>&- <&-"]
)
def test_closed_output_and_error(folder, closed):
    """What is said goes nowhere; results are the same, and no result is written where an error goes."""
    command = f"exec {sys.executable} -m bpjax.cli.main predict m.bpjax in.extxyz -o out.extxyz {closed}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert np.isfinite(ase.io.read("out.extxyz").get_potential_energy())
    assert "Traceback" not in done.stderr and "internal" not in done.stderr


def test_programs_of_each_kind_of_processor_are_kept_apart(folder):
    """Those of this one are taken up, without a word; another kind, of which it is told, gets none of them."""
    surroundings = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    surroundings |= {"JAX_COMPILATION_CACHE_DIR": "kept", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    surroundings |= {"JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0", "JAX_ENABLE_COMPILATION_CACHE": "1"}
    words = "['predict', 'm.bpjax', 'in.extxyz', '-o', 'out.extxyz', '--overwrite']"
    seen = {}
    for kind in (processor(), processor(), "another"):
        code = f"""
import bpjax.machine
bpjax.machine.processor = lambda: {kind!r}
from bpjax.cli.main import main
assert main({words}) == 0
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=surroundings)
        assert done.returncode == 0 and done.stderr.count("\n") == 1 and "structures: 1/1" in done.stderr, done.stderr
        now = {
            place.name: {path.name for path in place.iterdir() if "atime" not in path.name}
            for place in Path("kept").iterdir()
        }
        assert set(now) == {*seen, kind} and now[kind] and (kind not in seen or now[kind] == seen[kind])
        seen = now
    assert len(seen["another"]) == len(seen[processor()])  # all were compiled anew


# ----------------------------------------------------------------------------------------------- options

SEED = "must be a whole number from 0 to 4294967295"


@pytest.mark.parametrize("seed", ["-1", "99999999999999999999", "4294967296"])
@pytest.mark.parametrize(
    "words", ["md m.bpjax in.extxyz -o o.extxyz", "hop tully1 sample --state 0 -o h --momentum 9", "quickstart -o q"]
)
def test_seeds_by_name(folder, capsys, words, seed):
    assert main([*words.split(), "--seed", seed]) == 2
    assert f"seed={seed}: {SEED}" in capsys.readouterr().err


def test_seeds_in_python():
    with pytest.raises(ConfigError, match=f"seed: -1 {SEED}"):
        Settings(seed=-1)
    modes = HarmonicModes(np.zeros(1), np.ones(1), np.ones(1), np.eye(1))
    for make in (
        lambda: OptimizerOptions(seed=-1),
        lambda: OptimizerOptions(start_seed=2**32),
        lambda: wigner_samples(modes, 2, seed=-1),
        lambda: IntersectionOptions(seed=-1),
        lambda: prepare(DataOptions(("none.extxyz",)), Path(), 2**70),
    ):
        with pytest.raises(ValueError, match=f"seed=.*{SEED}"):
            make()
    OptimizerOptions(seed=2**32 - 1)


def test_momenta_that_are_not_used_are_said(folder, capsys):
    words = "md m.bpjax in.extxyz --steps 1 --log-interval 1 --trajectory-interval 1".split()
    assert main([*words, "-o", "a.extxyz"]) == 0
    assert "in.extxyz has momenta, which are not used" in capsys.readouterr().err
    assert main([*words, "-o", "b.extxyz", "--use-momenta"]) == 0
    assert "momenta" not in capsys.readouterr().err


def test_momenta_of_many_systems_that_are_not_used_are_said(folder, capsys):
    frames = [ase.io.read("in.extxyz")] * 3
    del (bare := frames[0].copy()).arrays["momenta"]
    ase.io.write("in.extxyz", [*frames, bare])
    words = "md m.bpjax in.extxyz --steps 1 --log-interval 1 --trajectory-interval 1".split()
    for more, said in (
        (["--all-frames"], "in.extxyz has momenta, in 3 of 4 frames, which are not used: these are drawn at 300 K"),
        (["--replicas", "2", "--frame", "0"], "has momenta, which are not used: these are drawn at 300 K"),
        (["--temperatures", "90", "80", "--frame", "1"], "not used: these are drawn at the temperatures asked for"),
        (["--replicas", "2", "--frame", "0", "--use-momenta"], None),
        (["--replicas", "2"], None),  # of the last frame, which has none
    ):
        assert main([*words, *more, "-o", "a.extxyz", "--overwrite"]) == 0
        error = capsys.readouterr().err
        assert "momenta" not in error if said is None else said in error


def test_seeds_of_many_systems_end_too(folder, capsys):
    words = "md m.bpjax in.extxyz --steps 1 --log-interval 1 --trajectory-interval 1 --replicas 3 -o a.extxyz".split()
    assert main([*words, "--seed", str(2**32 - 2)]) == 2
    assert "seed: 4294967294: the last of 3 systems would get 4294967296" in capsys.readouterr().err
    assert not (folder / "a.extxyz").exists()
    assert main([*words, "--seed", str(2**32 - 3)]) == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(ensemble="nvt", thermostat_time_fs=1.0), "thermostat_time_fs: 1.0 must be at least 2 time steps of 1 fs"),
        (dict(ensemble="npt", thermostat_time_fs=0.1), "thermostat_time_fs: 0.1 must be at least 2 time steps"),
        (dict(ensemble="npt", barostat_time_fs=9.0), "barostat_time_fs: 9.0 must be at least 10 time steps of 1 fs"),
    ],
)
def test_thermostats_that_are_faster_than_the_steps(options, words):
    """They end in energies that are not finite, with any model."""
    with pytest.raises(ConfigError, match=words):
        Settings(**options)
    Settings(ensemble="nvt_langevin", thermostat_time_fs=1.0)
    Settings(ensemble="nvt", thermostat_time_fs=1.0, barostat_time_fs=1.0, timestep_fs=0.5)
