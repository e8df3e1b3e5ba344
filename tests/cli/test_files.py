"""Files that do not say everything in ASE's words, on the command line: names of labels, lost cells, formats, types."""

import json

import ase.io
import jax
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

from bpjax.cli.main import main
from bpjax.cli.train import readers
from bpjax.descriptors import ACSF, Radial
from bpjax.io.labels import labels
from bpjax.io.runner import read_runner
from bpjax.io.structures import write_structures
from bpjax.networks.elemental import MLP
from bpjax.potential import Potential, init, save
from bpjax.training import DataOptions, prepare
from bpjax.training.prepare import read_run
from bpjax.training.repeat import periodicity
from tests.io.test_lammps import DUMP
from tests.training.labelled import structures, training_file

MODEL = Potential(ACSF(("H", "O", "Cu"), 4.0, g2=(Radial(0.5), Radial(0.1))), MLP(()))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    save(tmp_path / "m.bpjax", MODEL, init(MODEL, jax.random.key(0)), {"periodic": "all"})
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=1)
    atoms.info["REF_energy"] = -3.5
    atoms.arrays["force"] = np.arange(12.0).reshape(4, 3)
    write_structures(tmp_path / "named.extxyz", [atoms] * 2)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys, *arguments):
    """Exit status, output and remarks of a command."""
    capsys.readouterr()
    status = main([str(argument) for argument in arguments])
    return status, *capsys.readouterr()


def test_evaluate_takes_names_and_says_what_it_does_not_use(folder, capsys):
    status, _, err = run(capsys, "evaluate", "m.bpjax", "named.extxyz")
    assert status == 2
    assert (
        "no structure has an energy, forces or stress to compare with; it has 'REF_energy', 'force', see --energy-key"
        in err
    )
    status, _, err = run(
        capsys, "evaluate", "m.bpjax", "named.extxyz", "--energy-key", "REF_energy", "--json", "a.json"
    )
    assert status == 0
    assert "'force' in 2 of 2 structures is not used, and 2 of these have no forces (--forces-key force)" in err
    assert json.loads((folder / "a.json").read_text())["forces_rmse"] is None
    keys = ("--energy-key", "REF_energy", "--forces-key", "force")
    assert run(capsys, "evaluate", "m.bpjax", "named.extxyz", *keys, "--json", "b.json")[0] == 0
    assert json.loads((folder / "b.json").read_text())["forces_rmse"] > 1


def test_isolated_atoms_are_named_and_do_not_count(folder, capsys):
    frames = [bulk("Cu", cubic=True), Atoms("Cu", cell=[20, 20, 20], pbc=True)]
    for energy, atoms in zip((-14.0, 1e6), frames, strict=True):
        atoms.calc = SinglePointCalculator(atoms, energy=energy)
    write_structures("a.extxyz", frames)
    status, _, err = run(capsys, "evaluate", "m.bpjax", "a.extxyz", "--json", "a.json")
    assert status == 0 and "isolated Cu is not counted: 1000000.0 eV, by the model" in err
    found = json.loads((folder / "a.json").read_text())
    assert found["structures"] == 1 and found["energy_rmse"] < 1e4


def test_convert_never_makes_labels_of_zeros(folder, capsys):
    command = ("convert", "named.extxyz", "out.data", "--units", "ev-angstrom", "--energy-key", "REF_energy")
    status, _, err = run(capsys, *command)
    assert status == 2 and not (folder / "out.data").exists()
    assert "named.extxyz: frame 0: forces: missing beside an energy" in err and "(is it force?)" in err
    assert run(capsys, *command, "--forces-key", "force")[0] == 0
    found = read_runner("out.data", "ev-angstrom")[0]
    assert labels(found).energy == -3.5
    np.testing.assert_allclose(found.get_forces(), np.arange(12.0).reshape(4, 3))
    status, _, err = run(capsys, *command, "--missing-forces", "zeros", "--overwrite")
    assert status == 0 and "forces: zeros written" in err


def test_predict_asks_where_the_cells_are(folder, capsys):
    ase.io.write("plain.xyz", Atoms("Cu2", [[0, 0, 0], [0, 0, 2.5]]), format="xyz")
    said = "no structure has a cell, and the model was trained on periodic ones alone: was the cell lost?"
    assert said in run(capsys, "predict", "m.bpjax", "plain.xyz", "-o", "a.extxyz")[2]
    assert said not in run(capsys, "predict", "m.bpjax", "named.extxyz", "-o", "b.extxyz")[2]
    save("some.bpjax", MODEL, init(MODEL, jax.random.key(0)), {"periodic": "some"})
    assert said not in run(capsys, "predict", "some.bpjax", "plain.xyz", "-o", "c.extxyz")[2]


@pytest.mark.parametrize(
    ("section", "line"),
    [
        ("", "can be written for no other program (bpjax convert): activation silu of the networks"),
        ('[network]\nactivation = "tanh"\n', "can be written for n2p2, LAMMPS (bpjax convert)"),
    ],
)
def test_train_says_for_whom_the_model_can_be_written(tmp_path, section, line):
    (tmp_path / "train.toml").write_text(training_file(10, 10).split("[network]")[0] + section)
    ase.io.write(tmp_path / "train.extxyz", structures(12))
    assert line in readers(*read_run(tmp_path / "train.toml"))


def test_what_a_model_was_trained_on_is_kept(tmp_path):
    frames = structures(12)
    crystals, molecules = ([a for a in frames if a.pbc.any() == periodic] for periodic in (True, False))
    for chosen, word in ((crystals, "all"), (molecules, "none"), (frames, "some")):
        ase.io.write(tmp_path / "train.extxyz", chosen)
        assert periodicity(prepare(DataOptions(("train.extxyz",)), tmp_path, 0)) == word


def test_types_and_formats_by_name(folder, capsys):
    (folder / "a.lammpstrj").write_text(DUMP)
    status, _, err = run(capsys, "convert", "a.lammpstrj", "a.extxyz")
    assert status == 2 and "does not say which elements these are" in err
    assert run(capsys, "convert", "a.lammpstrj", "a.extxyz", "--species", "H,O")[0] == 0
    assert ase.io.read("a.extxyz").get_chemical_formula() == "HO"
    ase.io.write("odd", bulk("Cu"), format="vasp")
    assert run(capsys, "predict", "m.bpjax", "odd", "-o", "b.extxyz", "--format", "vasp")[0] == 0
    status, _, err = run(capsys, "predict", "m.bpjax", "odd", "-o", "c.extxyz", "--format", "vaspp")
    assert status == 2 and "--format: 'vaspp' is no format that ASE reads; did you mean vasp" in err
