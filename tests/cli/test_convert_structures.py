"""``bpjax convert`` for structures: RuNNer data files, extended XYZ and what else ASE reads."""

import ase.io
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator

from bpjax.cli.main import main
from bpjax.io.extxyz import keep_texts
from bpjax.io.labels import labels
from bpjax.io.runner import read_runner
from bpjax.io.structures import write_structures
from bpjax.units import SYSTEMS
from tests.io.runner_text import TEXT, assert_same
from tests.small_model import crystal

UNITS = ("--units", "hartree-bohr")


def run(*arguments):
    return main([str(argument) for argument in arguments])


COMMENTS = [
    "plain",
    "two words",
    "1",
    "1.0",
    "T",
    "1 2 3",
    "a\nb",
    'say "x"',
    "C:\\new",
    "a=b",
    "",
    "001",
    "µ",
    "end\\",
    "_JSON x",
]
COMMENTS += ["#c", '"q"', "1,2", "{x}", "x'y", "tab\tx", "Lattice=1 pbc=F"]


@pytest.mark.parametrize("units", SYSTEMS)
def test_structures_to_extended_xyz_and_back(tmp_path, units):
    source, middle, back = tmp_path / "a.data", tmp_path / "b.extxyz", tmp_path / "c.data"
    second = TEXT.split("\n\n")[1]
    more = [second.replace("begin", f"begin set=test\ncomment {c}") for c in COMMENTS if "\n" not in c]
    source.write_text("\n".join([TEXT, *more]))
    for words in ((source, middle), (middle, back)):
        assert run("convert", *words, "--units", units) == 0
    for a, b in zip(read_runner(source, units), read_runner(back, units), strict=True):
        a.info.setdefault("charge", 0.0)  # which is what is written for none
        assert_same(a, b, rtol=1e-15)
    frames = ase.io.read(middle, ":")
    assert frames[0].info["comment"] == "the first\n\nand the last" and frames[0].info["set"] == "train"
    assert frames[0].get_potential_energy() == -1.5 * SYSTEMS[units][0]
    assert frames[0].get_initial_charges().tolist() == [0.25, -0.25]


@pytest.mark.parametrize("comment", COMMENTS)
def test_texts_are_read_back_as_they_are(tmp_path, comment):
    atoms = crystal()
    atoms.info = {"comment": comment, "number": 1.5, "other": comment}
    keep_texts(atoms)
    write_structures(tmp_path / "a.extxyz", atoms)
    assert ase.io.read(tmp_path / "a.extxyz").info == {"comment": comment, "number": 1.5, "other": comment}


def test_stress_and_other_formats(tmp_path, capsys):
    """RuNNer files cannot hold a stress; other files that ASE reads are converted too."""
    atoms = crystal()
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=atoms.positions, stress=np.arange(6.0))
    ase.io.write(tmp_path / "a.traj", [crystal(), atoms])
    for name in ("b.extxyz", "b.data"):
        assert run("convert", tmp_path / "a.traj", tmp_path / name, *UNITS) == 0
    captured = capsys.readouterr()
    assert "stress: not written" in captured.err and "(1 of 2 structures, the first is frame 1)" in captured.err
    assert f"wrote {tmp_path / 'b.data'}: 2 structures" in captured.out
    np.testing.assert_array_equal(ase.io.read(tmp_path / "b.extxyz", 1).get_stress(), np.arange(6.0))
    found = read_runner(tmp_path / "b.data", "hartree-bohr", 1)[0]
    np.testing.assert_allclose(labels(found).forces, atoms.positions, rtol=1e-14)


def test_structures_that_runner_cannot_hold(tmp_path, capsys):
    atoms = crystal()
    atoms.pbc = (True, True, False)
    ase.io.write(tmp_path / "slab.extxyz", [crystal(), atoms])
    assert run("convert", tmp_path / "slab.extxyz", tmp_path / "a.data", *UNITS) == 2
    where = f"{tmp_path / 'slab.extxyz'}: frame 1: pbc"
    assert capsys.readouterr().err.startswith(f"bpjax: error: {where}: is periodic along a and b only")
    assert run("convert", "x", tmp_path / "slab.extxyz", *UNITS) == 2
    assert "already exists" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["slab.extxyz"]
