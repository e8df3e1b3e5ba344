import json
import os
import re
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator

from bpjax import progress
from bpjax.cli import COMMANDS, common
from bpjax.cli.main import main
from bpjax.errors import BpjaxError
from bpjax.io.structures import write_structures
from bpjax.machine import processor
from bpjax.potential.evaluator import Evaluator
from bpjax.potential.store import save
from tests.small_model import MODEL, STRUCTURES, crystal, small_params

PARAMS = small_params()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model and structures; tests must not write here."""
    folder = tmp_path_factory.mktemp("inputs")
    save(folder / "m.bpjax", MODEL, PARAMS)
    write_structures(folder / "in.extxyz", [f() for f in STRUCTURES.values()])
    labelled = [f() for f in STRUCTURES.values()]
    for atoms, result, kind in zip(
        labelled, Evaluator(MODEL, PARAMS, "float64").evaluate_many(labelled), "abbcc", strict=True
    ):
        results = {"energy": result.energy + 0.1 * len(atoms), "forces": result.forces + 0.2}
        if result.stress is not None:
            results["stress"] = result.stress - 0.01
        atoms.info["config_type"] = kind
        atoms.calc = SinglePointCalculator(atoms, **results)
    write_structures(folder / "labelled.extxyz", labelled)
    return folder


def run(*arguments):
    return main([str(argument) for argument in arguments])


def program(*arguments, **options):
    """The program in a process of its own, in single precision unless asked otherwise."""
    environment = {name: value for name, value in os.environ.items() if name != "JAX_ENABLE_X64"}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    command = [sys.executable, "-m", "bpjax", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, **options)


# --------------------------------------------------------------------------------------------------------------- the shell


def test_help_lists_the_commands(capsys):
    for arguments in ([], ["--help"], ["-h"]):
        assert main(arguments) == 0
        out = capsys.readouterr().out
        assert all(re.search(rf"^  {name} +\w", out, re.MULTILINE) for name in COMMANDS)


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_help_of_a_command(command, capsys):
    assert run(command, "--help") == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: bpjax {command}") and f"Example: bpjax {command} model.bpjax" in out
    assert "--dtype {float32,float64}" in out


def test_help_is_quick():
    """Nothing slow may be imported for help and version; a time limit would depend on the machine."""
    code = (
        "import sys; from bpjax.cli.main import main\n"
        "for command in ([], ['predict'], ['evaluate'], ['md'], ['convert'], ['describe']):\n"
        "    assert main([*command, '--help']) == 0\n"
        "assert main(['--version']) == 0\n"
        "slow = {'jax', 'flax', 'ase', 'numpy', 'scipy', 'matplotlib', 'jax_md', 'optax'} & set(sys.modules)\n"
        "assert not slow, slow"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


def test_programs_of_each_processor_are_kept_apart(monkeypatch, tmp_path):
    monkeypatch.setitem(os.environ, "JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    keep_apart = sys.modules["bpjax.cli.main"]._keep_programs_apart
    keep_apart()  # JAX is there and has read them
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == str(tmp_path) and "TF_CPP_MIN_LOG_LEVEL" not in os.environ
    monkeypatch.delitem(sys.modules, "jax")
    for _ in range(2):  # a program that bpjax starts finds what its parent has set
        keep_apart()
        assert os.environ["JAX_COMPILATION_CACHE_DIR"] == str(tmp_path / processor())
        assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "3"
    monkeypatch.setitem(os.environ, "JAX_COMPILATION_CACHE_DIR", "gs://bucket/programs")
    monkeypatch.setitem(os.environ, "TF_CPP_MIN_LOG_LEVEL", "0")
    keep_apart()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == f"gs://bucket/programs/{processor()}"
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "0"
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL")
    keep_apart()
    assert "TF_CPP_MIN_LOG_LEVEL" not in os.environ and "JAX_COMPILATION_CACHE_DIR" not in os.environ


@pytest.mark.slow
def test_kept_programs_are_used_in_silence(folder, tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "TF_CPP"))}
    environment |= {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "programs")}
    environment |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    command = [sys.executable, "-m", "bpjax", "predict", str(folder / "m.bpjax"), str(folder / "in.extxyz"), "-o"]
    kept = []
    for name in ("one.extxyz", "two.extxyz"):
        done = subprocess.run([*command, tmp_path / name], capture_output=True, text=True, env=environment)
        assert done.returncode == 0
        assert [line for line in done.stderr.splitlines() if not line.startswith("structures: ")] == []
        kept.append({path.name for path in (tmp_path / "programs" / processor()).iterdir() if "-cache" in path.name})
    assert kept[0] and kept[0] == kept[1]
    assert [path.name for path in (tmp_path / "programs").iterdir()] == [processor()]
    assert (tmp_path / "one.extxyz").read_bytes() == (tmp_path / "two.extxyz").read_bytes()


def test_version(capsys):
    assert run("--version") == 0
    assert re.fullmatch(r"bpjax \S.*\n", capsys.readouterr().out)


def error_line(capsys, status, *arguments):
    """The one line on standard error, after a check that it is one."""
    capsys.readouterr()
    assert run(*arguments) == status
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("structures: ")]
    assert len(lines) == 1 and lines[0].startswith("bpjax: error: "), lines
    return lines[0].removeprefix("bpjax: error: ")


def test_wrong_words(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "unknown command 'predit'; did you mean 'predict'?" in error_line(capsys, 2, "predit")
    assert "the commands are quickstart, train" in error_line(capsys, 2, "fly")
    missing = error_line(capsys, 2, "predict", "m")
    assert "IN" in missing and "-o OUT.extxyz" in missing and "bpjax predict --help" in missing
    assert "float16" in error_line(capsys, 2, "predict", "m", "a", "-o", "b", "--dtype", "float16")
    assert "--overwrite" in error_line(capsys, 2, "predict", "m", "a", "-o", "b", "--overwrit")
    assert "must end in .extxyz" in error_line(capsys, 2, "predict", "m", "a", "-o", "b.traj")
    assert not list(tmp_path.iterdir())


def raising(error):
    def run(options):
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (BpjaxError("two\nlines"), 2, "bpjax: error: two lines"),
        (ValueError("temperature=-1: must be positive"), 2, "bpjax: error: temperature=-1: must be positive"),
        (
            FileNotFoundError(2, "No such file or directory", "a.xyz"),
            2,
            "bpjax: error: a.xyz: No such file or directory",
        ),
        (OSError("odd"), 2, "bpjax: error: odd"),
        (KeyError("x"), 1, "bpjax: error: internal: KeyError: 'x' (set BPJAX_DEBUG=1 to see where)"),
        (KeyboardInterrupt(), 130, "bpjax: interrupted"),
        (KeyboardInterrupt("continue with --resume"), 130, "bpjax: interrupted: continue with --resume"),
    ],
)
def test_exit_status_of_errors(monkeypatch, capsys, error, status, line):
    monkeypatch.setattr("bpjax.cli.evaluate.run", raising(error))
    monkeypatch.delenv("BPJAX_DEBUG", raising=False)
    assert run("evaluate", "m", "a") == status
    assert capsys.readouterr().err == line + "\n"
    if status != 130:
        monkeypatch.setenv("BPJAX_DEBUG", "1")
        assert run("evaluate", "m", "a") == status
        err = capsys.readouterr().err
        assert "Traceback" in err and err.splitlines()[-1] == line.removesuffix(" (set BPJAX_DEBUG=1 to see where)")


def test_reader_that_leaves_early(folder):
    """`bpjax --help | head -0` ends without a traceback."""
    read, write = os.pipe()
    os.close(read)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-m", "bpjax", "--help"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, env=environment)
    os.close(write)
    assert done.stderr == "" and done.returncode == 1


def test_warnings_are_one_line(monkeypatch, capsys):
    def warn(options):
        import warnings

        warnings.warn("two\nlines", stacklevel=1)

    monkeypatch.setattr("bpjax.cli.evaluate.run", warn)
    assert run("evaluate", "m", "a") == 0
    assert capsys.readouterr().err == "bpjax: warning: two lines\n"


def test_tables_on_a_terminal_and_elsewhere(capsys, monkeypatch):
    common.print_table("title", ["kind", "n"], [["[a]", 1.23456], ["b", None]])
    assert capsys.readouterr().out == "title\nkind      n\n[a]   1.235\nb         -\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    common.print_table("title", ["kind", "n"], [["[a]", 1.23456]])
    out = capsys.readouterr().out
    assert "[a]" in out and "1.235" in out and "─" in out


# ---------------------------------------------------------------------------------------------------------------- commands


def test_predict_writes_what_ase_reads_back(folder, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out.extxyz"
    monkeypatch.setattr(progress, "PATIENCE", 0.0)  # as if reading and writing took long
    assert run("predict", folder / "m.bpjax", folder / "in.extxyz", "-o", out, "--dtype", "float64") == 0
    frames = [f() for f in STRUCTURES.values()]
    results = Evaluator(MODEL, PARAMS, "float64").evaluate_many(frames)
    for atoms, frame, result in zip(ase.io.read(out, ":"), frames, results, strict=True):
        np.testing.assert_array_equal(atoms.positions, frame.positions)
        assert atoms.get_potential_energy() == pytest.approx(result.energy, abs=1e-9)
        np.testing.assert_allclose(atoms.get_potential_energies(), result.atomic_energies, atol=1e-10)
        np.testing.assert_allclose(atoms.get_forces(), result.forces, atol=1e-12)
        assert ("stress" in atoms.calc.results) == bool(atoms.pbc.all())
        if atoms.pbc.all():
            np.testing.assert_allclose(atoms.get_stress(voigt=False), result.stress, atol=1e-12)
    shown, N = capsys.readouterr().err, len(frames)
    assert [line.split(" (")[0] for line in shown.splitlines() if line.startswith(("read", "check", "struct", "writ"))] == [
        f"reading: {N}", f"checking: {N}/{N}", f"structures: {N}/{N}", f"writing: {N}/{N}",
    ]  # fmt: skip


def test_predict_replaces_labels_and_keeps_the_rest(folder, tmp_path):
    out = tmp_path / "out.extxyz"
    assert run("predict", folder / "m.bpjax", folder / "labelled.extxyz", "-o", out, "--dtype", "float64") == 0
    before, after = ase.io.read(folder / "labelled.extxyz", ":"), ase.io.read(out, ":")
    for a, b in zip(before, after, strict=True):
        assert a.info["config_type"] == b.info["config_type"]
        assert a.get_potential_energy() - b.get_potential_energy() == pytest.approx(0.1 * len(a), abs=1e-9)


def test_evaluate(folder, tmp_path, capsys):
    out = tmp_path / "e.json"
    arguments = ("evaluate", folder / "m.bpjax", folder / "labelled.extxyz", "--dtype", "float64")
    assert run(*arguments, "--json", out) == 0
    metrics = json.loads(out.read_text())
    for values in (metrics, *metrics["groups"].values()):
        assert values["energy_mae"] == pytest.approx(0.1) and values["energy_rmse"] == pytest.approx(0.1)
        assert values["forces_mae"] == pytest.approx(0.2) and values["forces_rmse"] == pytest.approx(0.2)
    assert metrics["stress_mae"] == pytest.approx(0.01) and metrics["stress_count"] == 18
    assert metrics["groups"]["a"]["stress_count"] == 6
    assert {name: values["structures"] for name, values in metrics["groups"].items()} == {"a": 1, "b": 2, "c": 2}
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in table[2:6]] == ["a", "b", "c", "all"]
    assert table[5].split()[1:4] == ["5", "100", "100"]
    assert run(*arguments) == 0  # without a file


@pytest.mark.slow
def test_fresh_process_gives_bitwise_the_same_numbers(folder, tmp_path):
    arguments = ("predict", folder / "m.bpjax", folder / "in.extxyz", "-o")
    assert run(*arguments, tmp_path / "here.extxyz") == 0
    done = program(*arguments, tmp_path / "there.extxyz")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "here.extxyz").read_bytes() == (tmp_path / "there.extxyz").read_bytes()


# --------------------------------------------------------------------------------------------------------------- bad input


def truncated(path, data):
    path.write_bytes(data[: len(data) * 2 // 3])


def future(path, data):
    path.write_bytes(data)
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    content["model.json"] = json.dumps({**json.loads(content["model.json"]), "version": 1000}).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, member in content.items():
            archive.writestr(name, member)


MODELS = {
    "no such file": lambda path, data: None,
    "truncated": truncated,
    "not a bpjax model file": lambda path, data: path.write_text("hello"),
    "is empty": lambda path, data: path.touch(),
    "is a folder": lambda path, data: path.mkdir(),
    "has format version 1000": future,
}


@pytest.mark.parametrize("command", ["predict", "evaluate"])
@pytest.mark.parametrize("message", MODELS)
def test_bad_models(folder, tmp_path, capsys, command, message):
    model, out = tmp_path / "bad.bpjax", tmp_path / "out.extxyz"
    MODELS[message](model, (folder / "m.bpjax").read_bytes())
    option = "-o" if command == "predict" else "--json"
    line = error_line(capsys, 2, command, model, folder / "labelled.extxyz", option, out)
    assert line.startswith(f"{model}: ") and message in line
    assert not out.exists()


def edited(change):
    frames = [crystal(), crystal()]
    change(frames[1])
    return frames


def coincident(atoms):
    atoms.positions[5] = atoms.positions[2]


FRAMES = {
    "atom 2 is C, but the model knows only O, Si": lambda atoms: atoms.numbers.__setitem__(2, 6),
    "positions: holds nan": lambda atoms: atoms.positions.__setitem__((3, 1), np.nan),
    "has zero atoms": lambda atoms: atoms.__delitem__(slice(None)),
    "atoms 2 and 5 are at one place": coincident,
    "zero volume": lambda atoms: atoms.cell.__setitem__(2, atoms.cell[1]),
}


@pytest.mark.parametrize("command", ["predict", "evaluate"])
@pytest.mark.parametrize("message", FRAMES)
def test_bad_structures(folder, tmp_path, capsys, command, message):
    bad, out = tmp_path / "bad.extxyz", tmp_path / "out.extxyz"
    for atoms in (frames := edited(FRAMES[message])):
        atoms.calc = SinglePointCalculator(atoms, energy=1.0)
    ase.io.write(bad, frames)
    option = "-o" if command == "predict" else "--json"
    line = error_line(capsys, 2, command, folder / "m.bpjax", bad, option, out)
    assert line.startswith(f"{bad}: frame 1: ") and message in line
    assert not out.exists()


def test_bad_files_of_structures(folder, tmp_path, capsys):
    out = tmp_path / "out.extxyz"
    good = (folder / "in.extxyz").read_text()
    for text, message in [
        (None, "no such file"),
        ("", "is empty"),
        (good[: len(good) // 2], "line"),
        ("\0\1\2", "expected the number of atoms"),
    ]:
        bad = tmp_path / "bad.extxyz"
        bad.unlink(missing_ok=True)
        if text is not None:
            bad.write_text(text)
        line = error_line(capsys, 2, "predict", folder / "m.bpjax", bad, "-o", out)
        assert line.startswith(f"{bad}: ") and message in line
        assert not out.exists()
    line = error_line(capsys, 2, "evaluate", folder / "m.bpjax", folder / "in.extxyz")
    assert "no structure has an energy, forces or stress" in line


def test_outputs_are_not_overwritten_by_accident(folder, tmp_path, capsys):
    for command, option in (("predict", "-o"), ("evaluate", "--json")):
        out = tmp_path / "out.extxyz"
        out.write_text("precious")
        arguments = (command, folder / "m.bpjax", folder / "labelled.extxyz", option, out)
        assert "already exists" in error_line(capsys, 2, *arguments) and out.read_text() == "precious"
        assert run(*arguments, "--overwrite") == 0 and out.read_text() != "precious"
    line = error_line(capsys, 2, *arguments[:-1], tmp_path / "no" / "out.extxyz")
    assert "does not exist" in line
    (tmp_path / "folder").mkdir()
    assert "is a folder" in error_line(capsys, 2, *arguments[:-1], tmp_path / "folder", "--overwrite")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "out.extxyz"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_full_disk(folder, capsys):
    arguments = ("predict", folder / "m.bpjax", folder / "labelled.extxyz", "-o", "/dev/full", "--overwrite")
    assert error_line(capsys, 2, *arguments) == "cannot write /dev/full: the disk is full"


def test_disk_that_fills_up_while_writing(folder, tmp_path, capsys, monkeypatch):
    """What was there before is still there, and there is no debris."""
    resource = pytest.importorskip("resource")
    out = tmp_path / "out.extxyz"
    out.write_text("precious")
    arguments = ("predict", folder / "m.bpjax", folder / "labelled.extxyz", "-o", out, "--overwrite")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    from bpjax.io import structures

    def write(path, text):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        try:
            write_text(path, text)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    write_text = structures.write_text
    monkeypatch.setattr(structures, "write_text", write)
    assert f"cannot write {out}: " in error_line(capsys, 2, *arguments)
    assert out.read_text() == "precious" and [path.name for path in tmp_path.iterdir()] == ["out.extxyz"]


def test_outputs_that_may_not_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(common.os, "access", lambda path, mode: False)
    with pytest.raises(BpjaxError, match="permission denied"):
        common.check_outputs([Path(tmp_path / "a")])


def test_every_command_follows_the_protocol():
    import dataclasses
    import importlib.util

    for name in COMMANDS:
        if importlib.util.find_spec(f"bpjax.cli.{name}") is None:
            continue
        module = importlib.import_module(f"bpjax.cli.{name}")
        assert dataclasses.is_dataclass(module.Options) and isinstance(module.run, types.FunctionType)
        assert "Example: bpjax" in module.Options.__doc__
