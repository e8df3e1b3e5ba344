"""n2p2 and RuNNer on the command line: convert for potentials, and folders and data files as
input of the other commands."""

import dataclasses
import json
import re
import shlex
import shutil
import sys
import typing
from pathlib import Path

import ase.io
import jax
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator

from bpjax.cli import common, convert
from bpjax.cli.main import main
from bpjax.errors import ConfigError
from bpjax.interop.n2p2 import read_folder, read_potential, write_potential
from bpjax.io.labels import labels
from bpjax.io.runner import read_runner
from bpjax.io.runner_writer import write_runner
from bpjax.io.structures import write_structures
from bpjax.networks.elemental import MLP
from bpjax.potential import init, load, save
from bpjax.potential.evaluator import Evaluator
from bpjax.potential.store import provenance
from bpjax.training import DataOptions, prepare
from bpjax.units import HARTREE, SYSTEMS
from tests.small_model import MODEL, crystal, liquid, molecule

TANH = dataclasses.replace(MODEL, network=MLP((8,), "tanh"))
COMMITTEE = dataclasses.replace(TANH, members=3)
STRUCTURES = (crystal, liquid, molecule)
UNITS = ("--units", "hartree-bohr")
WITHOUT_UNITS = "--units: RuNNer and n2p2 files do not say their units; give hartree-bohr or ev-angstrom"


def arrays(model, width=np.inf):
    """Parameters in float64; features may be as large as `width`."""
    params = jax.tree.map(np.asarray, init(model, jax.random.key(0), np.float64))
    for element in model.elements:
        zeros = np.zeros_like(params["scaling"][element]["mean"])
        params["scaling"][element] |= {"min": zeros - width, "max": zeros + width}
    return params


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Models and structures in every form; tests must not write here."""
    folder = tmp_path_factory.mktemp("n2p2")
    save(folder / "silu.bpjax", MODEL, arrays(MODEL))
    save(folder / "m.bpjax", TANH, arrays(TANH))
    write_potential(folder / "nnp", TANH, arrays(TANH, 1e3), "hartree-bohr")
    write_potential(folder / "narrow", TANH, arrays(TANH, 0.1), "hartree-bohr")
    write_potential(folder / "committee", COMMITTEE, arrays(COMMITTEE, 1e3), "ev-angstrom")
    frames = [f() for f in STRUCTURES]
    for number, atoms in enumerate(frames):
        forces = np.random.default_rng(number).normal(size=(len(atoms), 3))
        atoms.calc = SinglePointCalculator(atoms, energy=-100.0 - number, forces=forces)
    write_structures(folder / "in.extxyz", frames)
    write_runner(folder / "in.data", frames, "hartree-bohr")
    return folder


def run(*arguments):
    return main([str(argument) for argument in arguments])


def error_line(capsys, *arguments):
    """The one line on standard error, after a check that it is one."""
    capsys.readouterr()
    assert run(*arguments) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("structures: ")]
    assert len(lines) == 1 and lines[0].startswith("bpjax: error: "), lines
    return lines[0].removeprefix("bpjax: error: ")


def assert_same_potential(a, b, rtol=1e-12):
    """Two models say the same of the structures, up to the rounding of units."""
    frames = [f() for f in STRUCTURES]
    found = [Evaluator(*model, "float64").evaluate_many(frames) for model in (a, b)]
    for one, other in zip(*found, strict=True):
        assert one.energy == pytest.approx(other.energy, rel=rtol)
        np.testing.assert_allclose(one.forces, other.forces, atol=1e-10)


def test_names_of_the_units():
    (names,) = (found for found in typing.get_args(typing.get_args(common.Units)[0]) if found is not type(None))
    assert typing.get_args(names) == tuple(SYSTEMS)


# -------------------------------------------------------------------------------------------------------------- potentials


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "members"), [("nnp", None), pytest.param("committee", 3, marks=pytest.mark.exhaustive)]
)
def test_folder_to_model_and_back(folder, tmp_path, capsys, name, members):
    units = "hartree-bohr" if members is None else "ev-angstrom"
    model, back = tmp_path / "m.bpjax", tmp_path / "back"
    assert run("convert", folder / name, model, "--units", units) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"wrote {model}: O, Si; cutoff 4 A") and out.count("committee of 3") == (members is not None)
    found = provenance(model)
    assert found["converted_from"] == str(folder / name) and found["units"] == units and found["versions"]["bpjax"]
    potential, params = load(model)
    assert potential.members == members
    same = jax.tree.map(np.array_equal, params, read_potential(folder / name, units)[1])
    assert all(jax.tree.leaves(same)) and all(leaf.dtype == np.float64 for leaf in jax.tree.leaves(params))

    assert run("convert", model, back, "--units", "hartree-bohr") == 0
    out = capsys.readouterr().out
    assert "(units hartree-bohr)" in out and "cflength 1.889726" in out and "maxew 1000" in out
    assert f"{back}{'' if members is None else '/nnp-1'}" in out
    assert sorted(p.name for p in back.iterdir())[-1].startswith("weights" if members is None else "nnp-3")
    assert_same_potential(read_potential(back, "hartree-bohr"), (potential, params))


@pytest.mark.slow
def test_model_to_folder_without_units(folder, tmp_path, capsys):
    out = tmp_path / "nnp_v1.2"
    assert run("convert", folder / "m.bpjax", out) == 0
    text = capsys.readouterr().out
    assert "cflength 1.0 cfenergy 1.0" in text and "(units ev-angstrom)" in text and "pair_coeff * * O Si" in text
    assert "no extrapolation warnings" in text  # the ranges are not known
    assert {f.cutoff for functions in read_folder(out).settings.functions for f in functions} == {4.0}
    assert_same_potential(read_potential(out, "ev-angstrom"), load(folder / "m.bpjax"))


def test_model_that_n2p2_cannot_express(folder, tmp_path, capsys):
    line = error_line(capsys, "convert", folder / "silu.bpjax", tmp_path / "nnp")
    assert "activation silu" in line and not list(tmp_path.iterdir())


def test_ani_potentials(tmp_path, monkeypatch, capsys):
    """With the random potential of this module in place of TorchANI, which the tests do not install."""
    from bpjax.interop import torchani

    assert convert._TORCHANI == tuple(torchani.MODELS)
    asked = []

    def load_torchani(name, member):
        asked.append((name, member))
        model = COMMITTEE if member is None else TANH
        return model, arrays(model)

    monkeypatch.setattr(torchani, "load_torchani", load_torchani)
    monkeypatch.setattr("importlib.metadata.version", lambda name: f"{name} 2.0")
    out = tmp_path / "ani.bpjax"
    assert run("convert", "ani1ccx", out) == 0
    assert capsys.readouterr().out == f"wrote {out}: O, Si; cutoff 4 A, a committee of 3\n"
    assert run("convert", "ani2x", out, "--member", 5, "--overwrite") == 0
    assert asked == [("ani1ccx", None), ("ani2x", 5)] and load(out)[0] == TANH
    found = provenance(out)
    assert (found["converted_from"], found["member"]) == ("ani2x", 5) and found["versions"][
        "torchani"
    ] == "torchani 2.0"


def test_ani_potentials_that_cannot_be(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torchani", None)
    assert error_line(capsys, "convert", "ani1x", tmp_path / "m.bpjax").startswith(
        "ani1x: needs TorchANI, which cannot"
    )
    assert "becomes a file NAME.bpjax" in error_line(capsys, "convert", "ani1x", tmp_path / "nnp")
    line = error_line(capsys, "convert", folder / "m.bpjax", tmp_path / "nnp", "--member", 1)
    assert line == "--member: is for ani1x, ani1ccx, ani2x only"
    assert "no such file or folder" in error_line(capsys, "convert", "ani3x", tmp_path / "m.bpjax")
    assert not list(tmp_path.iterdir())


def test_outputs_that_are_there_already(folder, tmp_path, capsys):
    out, model = tmp_path / "nnp", tmp_path / "m.bpjax"
    assert run("convert", folder / "m.bpjax", out) == 0
    before = (out / "input.nn").read_text()
    assert "already exists" in error_line(capsys, "convert", folder / "m.bpjax", out, *UNITS)
    assert (out / "input.nn").read_text() == before
    assert run("convert", folder / "m.bpjax", out, *UNITS, "--overwrite") == 0
    assert (out / "input.nn").read_text() != before
    (out / "thesis.tex").write_text("precious")
    assert "thesis.tex" in error_line(capsys, "convert", folder / "m.bpjax", out, "--overwrite")
    assert (out / "thesis.tex").read_text() == "precious"

    model.write_text("precious")
    assert "already exists" in error_line(capsys, "convert", folder / "nnp", model, *UNITS)
    assert model.read_text() == "precious"
    assert run("convert", folder / "nnp", model, *UNITS, "--overwrite") == 0


def test_outputs_that_do_not_fit(folder, tmp_path, capsys, monkeypatch):
    wrong = [
        ("m.bpjax", "a.extxyz", "a model becomes a folder"),
        ("m.bpjax", "a.data", "a model becomes a folder"),
        ("m.bpjax", "b.bpjax", "a model becomes a folder"),
        ("nnp", "a.extxyz", "becomes a file NAME.bpjax"),
        ("nnp", "nnp2", "becomes a file NAME.bpjax"),
        ("in.data", "a.bpjax", "NAME.data or NAME.extxyz"),
        ("in.extxyz", "a.vasp", "NAME.data or NAME.extxyz"),
        ("nothing", "a.bpjax", "nothing: no such file or folder"),
        ("nothing.bpjax", "nnp", "nothing.bpjax: no such file"),
        ("nothing.xyz", "a.data", "nothing.xyz: no such file"),
    ]
    for source, out, message in wrong:
        assert message in error_line(capsys, "convert", folder / source, tmp_path / out, *UNITS)
    for source, out in (("m.bpjax", "nnp"), ("nnp", "m.bpjax"), ("in.data", "a.extxyz")):
        line = error_line(capsys, "convert", folder / source, tmp_path / "no" / out, *UNITS)
        assert f"the folder {tmp_path / 'no'} does not exist" in line
    (tmp_path / "file").touch()
    assert "it is a file, not a folder" in error_line(capsys, "convert", folder / "m.bpjax", tmp_path / "file")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    monkeypatch.setattr(common.os, "access", lambda path, mode: False)
    assert "permission denied" in error_line(capsys, "convert", folder / "m.bpjax", tmp_path / "nnp")


@pytest.mark.parametrize("command", ["predict", "evaluate", "md", "convert"])
def test_units_must_be_given(folder, tmp_path, capsys, command):
    """For folders and RuNNer files, and for them alone."""

    def arguments(model, structures, *more):
        out = ("--json" if command == "evaluate" else "-o", tmp_path / "out.extxyz")
        return (command, folder / model, folder / structures, *out, *more)

    if command == "convert":
        wrong = [("nnp", "m.bpjax"), ("in.data", "a.extxyz"), ("in.extxyz", "a.data")]
        wrong = [(command, folder / a, tmp_path / b) for a, b in wrong]
    else:
        wrong = [arguments("nnp", "in.extxyz"), arguments("m.bpjax", "in.data")]
    for words in wrong:
        assert WITHOUT_UNITS in error_line(capsys, *words)
        assert "invalid choice 'bohr'" in error_line(capsys, *words, "--units", "bohr")
    assert not list(tmp_path.iterdir())
    if command == "evaluate":  # units that are not needed do no harm
        assert run(*arguments("m.bpjax", "in.extxyz", *UNITS)) == 0


def test_folders_without_a_usable_potential(folder, tmp_path, capsys):
    bad, out = tmp_path / "bad", tmp_path / "out.extxyz"
    bad.mkdir()
    words = ("predict", bad, folder / "in.extxyz", "-o", out, *UNITS)
    assert error_line(capsys, *words).startswith(f"{bad}: is a folder without input.nn")
    (bad / "input.nn").write_text("number_of_elements 1\nelements Si\nnnp_generation 4\n")
    line = error_line(capsys, *words)
    assert str(bad / "input.nn") in line and "generation 4" in line
    (bad / "nnp-1").mkdir()
    assert "give one of them" in error_line(capsys, *words)
    assert not out.exists()


# -------------------------------------------------------------------------------------------- folders in the other commands


@pytest.mark.slow
def test_predict_with_a_folder(folder, tmp_path, capsys):
    """Folder and data file, or the converted ones: the same results."""
    a, b = tmp_path / "a.extxyz", tmp_path / "b.extxyz"
    assert run("predict", folder / "nnp", folder / "in.data", "-o", a, "--dtype", "float64", *UNITS) == 0
    assert run("predict", folder / "m.bpjax", folder / "in.extxyz", "-o", b, "--dtype", "float64") == 0
    assert "EXTRAPOLATION" not in capsys.readouterr().err
    for one, other, atoms in zip(ase.io.read(a, ":"), ase.io.read(b, ":"), map(lambda f: f(), STRUCTURES), strict=True):
        np.testing.assert_allclose(one.positions, atoms.positions, rtol=1e-14)
        assert one.get_potential_energy() == pytest.approx(other.get_potential_energy(), rel=1e-13)
        np.testing.assert_allclose(one.get_forces(), other.get_forces(), atol=1e-11)
        assert not one.arrays["outside"].any() and "outside" not in other.arrays


@pytest.mark.exhaustive
def test_predict_with_a_committee(folder, tmp_path):
    out, again = tmp_path / "out.extxyz", tmp_path / "again.extxyz"
    words = ("predict", folder / "committee", folder / "in.extxyz", "-o", out, "--dtype", "float64")
    assert run(*words, "--units", "ev-angstrom") == 0
    model, params = read_potential(folder / "committee", "ev-angstrom")
    frames = ase.io.read(folder / "in.extxyz", ":")
    results = Evaluator(model, params, "float64").evaluate_many(frames)
    for atoms, result in zip(ase.io.read(out, ":"), results, strict=True):
        assert atoms.info["energy_spread"] == pytest.approx(result.energy_spread) and result.energy_spread > 1e-3
        np.testing.assert_allclose(atoms.arrays["forces_spread"], result.forces_spread)
    # A single model says nothing of a spread: that of the file would not be its own.
    assert run("predict", folder / "m.bpjax", out, "-o", again) == 0
    for atoms in ase.io.read(again, ":"):
        assert not {"energy_spread", "forces_spread", "outside"} & ({*atoms.info} | {*atoms.arrays})


@pytest.mark.slow
def test_predict_warns_of_extrapolation(folder, tmp_path, capsys):
    out, bad = tmp_path / "out.extxyz", tmp_path / "bad.extxyz"
    frames = [crystal() for _ in range(3)]
    frames[1] = ase.Atoms("Si2", [[0, 0, 0], [0, 0, 9.0]])  # atoms that see nothing: all features are zero
    frames[2].info["comment"] = "1.0"
    write_runner(tmp_path / "in.data", frames, "hartree-bohr")
    words = ("predict", folder / "narrow", tmp_path / "in.data", "-o", out, *UNITS, "--overwrite")
    assert run(*words, "--extrapolation-file", bad, "--dtype", "float64") == 0
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if not line.startswith("structures: ")]
    read = ase.io.read(out, ":")
    total = sum(int(atoms.arrays["outside"].sum()) for atoms in read)
    assert total > 10 and not read[1].arrays["outside"].any()
    assert len(lines) == 11 and all("### NNP EXTRAPOLATION WARNING ### STRUCTURE: 0 ATOM: 0" in x for x in lines[:1])
    assert f"extrapolation: {total} warnings in 2 of 3 structures" in lines[-1]
    assert f"wrote {bad}: 2 structures" in captured.out
    found = ase.io.read(bad, ":")
    assert [atoms.info["frame"] for atoms in found] == [0, 2] and found[1].info["comment"] == "1.0"
    assert all(labels(atoms).energy is None for atoms in found)  # as in the input, and not what the model says
    np.testing.assert_array_equal(found[0].arrays["outside"], read[0].arrays["outside"])

    assert run(*words, "--extrapolation", "off") == 0
    assert "EXTRAPOLATION" not in capsys.readouterr().err
    assert all("outside" not in atoms.arrays for atoms in ase.io.read(out, ":"))


def test_options_of_extrapolation(folder, tmp_path, capsys):
    out = tmp_path / "out.extxyz"
    words = ("predict", folder / "m.bpjax", folder / "in.extxyz", "-o", out, "--extrapolation-file")
    assert "--extrapolation warn" in error_line(capsys, *words, tmp_path / "b.extxyz", "--extrapolation", "off")
    assert "must not be the output" in error_line(capsys, *words, out)
    assert "must end in .extxyz" in error_line(capsys, *words, tmp_path / "b.data")
    assert "does not exist" in error_line(capsys, *words, tmp_path / "no" / "b.extxyz")
    assert not list(tmp_path.iterdir())


@pytest.mark.exhaustive
def test_evaluate_counts_structures_outside(folder, tmp_path, capsys):
    for model, more, outside in (("narrow", UNITS, 3), ("nnp", UNITS, 0), ("m.bpjax", UNITS, None)):
        out = tmp_path / f"{model}.json"
        assert run("evaluate", folder / model, folder / "in.data", "--json", out, *more) == 0
        metrics, text = json.loads(out.read_text()), capsys.readouterr().out
        assert metrics["structures_outside"] == outside and metrics["energy_count"] == 3
        assert ("warnings in" in text) == (outside is not None)
        if outside is not None:
            assert f"in {outside} of 3 structures" in text


@pytest.mark.exhaustive
def test_md_with_a_folder(folder, tmp_path):
    out = tmp_path / "run.extxyz"
    words = ("md", folder / "nnp", folder / "in.data", "--frame", 0, "-o", out, "--steps", 4, "--log-interval", 2)
    assert run(*words, *UNITS, "--dtype", "float64", "--temperature", 10) == 0
    record = json.loads(out.with_suffix(".jsonl").read_text().splitlines()[0])
    expected = Evaluator(TANH, arrays(TANH), "float64").evaluate(crystal()).energy
    assert record["potential_energy"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.exhaustive
def test_md_stops_outside_of_the_range_of_training(folder, tmp_path, capsys):
    out, bad = tmp_path / "run.extxyz", tmp_path / "bad.extxyz"
    more = ("--steps", 4, "--log-interval", 2, *UNITS, "--max-extrapolations")
    words = ("md", folder / "narrow", folder / "in.extxyz", "--frame", 0, "-o", out, "--extrapolation-file", bad, *more)
    capsys.readouterr()
    assert run(*words, 10) == 2
    assert "extrapolation" in capsys.readouterr().err
    first = ase.io.read(bad, 0)
    assert first.arrays["outside"].any() and labels(first).energy is None
    assert json.loads(bad.with_suffix(".jsonl").read_text().splitlines()[0])["element"] in TANH.elements

    assert "already exists" in error_line(capsys, *words, 10**6)
    assert run(*words, 10**6, "--overwrite") == 0
    count = sum(json.loads(line)["extrapolations"] for line in out.with_suffix(".jsonl").read_text().splitlines())
    assert f"extrapolation: {count} warnings; frames are in {bad}" in capsys.readouterr().out and count > 100


def test_options_of_extrapolation_in_md(folder, tmp_path, capsys):
    words = ("md", folder / "nnp", folder / "in.extxyz", "-o", tmp_path / "a.extxyz", *UNITS, "--extrapolation-file")
    assert "needs --max-extrapolations" in error_line(capsys, *words, tmp_path / "b.extxyz")
    words = (*words[:-1], "--max-extrapolations")
    assert "must be at least 0" in error_line(capsys, *words, -1)
    words = (*words, 5, "--extrapolation-file")
    assert "must end in .extxyz" in error_line(capsys, *words, tmp_path / "b.data")
    assert "does not exist" in error_line(capsys, *words, tmp_path / "no" / "b.extxyz")
    assert "which is written as well" in error_line(capsys, *words, tmp_path / "a.extxyz")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.reference
def test_water_of_n2p2(shared, tmp_path):
    """1080 atoms; the energy is that of n2p2's own tests."""
    source, out = shared / "data" / "n2p2" / "H2O_RPBE-D3", tmp_path / "out.extxyz"
    assert run("predict", source, source / "input.data", *UNITS, "-o", out, "--dtype", "float64") == 0
    atoms = ase.io.read(out)
    assert len(atoms) == 1080
    assert atoms.get_potential_energy() == pytest.approx(-27564.547347815904 * HARTREE, rel=1e-10)


def test_training_reads_runner_files(folder):
    files = ("in.data",)
    found = prepare(DataOptions(files, units="hartree-bohr"), folder, 0)
    expected = prepare(DataOptions(("in.extxyz",)), folder, 0)
    for a, b in zip(found.train.frames, expected.train.frames, strict=True):
        assert labels(a).energy == pytest.approx(labels(b).energy, rel=1e-15)
    with pytest.raises(ConfigError, match="do not say their units"):
        prepare(DataOptions(files), folder, 0)
    with pytest.raises(ValueError, match="units=bohr: must be hartree-bohr or ev-angstrom"):
        DataOptions(files, units="bohr")


@pytest.mark.slow
def test_commands_and_code_of_the_readme(folder, tmp_path, monkeypatch):
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    text = text[text.index("## n2p2 and RuNNer potentials") : text.index("## SOAP")]
    commands = re.findall("^bpjax .*", text, flags=re.MULTILINE)
    assert {line.split()[1] for line in commands} == {"predict", "md", "convert"}
    shutil.copytree(folder / "nnp", tmp_path / "nnp")
    write_runner(tmp_path / "input.data", read_runner(folder / "in.data", "hartree-bohr", 0), "hartree-bohr")
    monkeypatch.chdir(tmp_path)
    for line in commands:
        assert main(shlex.split(line.replace("--steps 10000", "--steps 10"), comments=True)[1:]) == 0

    atoms = crystal().repeat(2)
    (code,) = re.findall("^```py\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    write_structures("structure.extxyz", atoms)
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    energy = names["energy_fn"](names["R"], names["neighbors"])
    expected = Evaluator(TANH, arrays(TANH), "float64").evaluate(atoms).energy + 16 * 400.0 + 48 * 106.5
    assert np.isfinite(names["state"].force).all() and float(energy) == pytest.approx(expected, rel=1e-9)
    assert (tmp_path / "other" / "input.nn").exists() and names["step"](names["state"], neighbor=names["neighbors"])
