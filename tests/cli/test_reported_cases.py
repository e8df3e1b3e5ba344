"""Public files and bug reports on which programs of this field go wrong without a word, by the commands that users typed.

Signs and units, sets that are sound, and a folder of RuNNer from the same collection are tested in
`tests/training/test_prepare.py` and `tests/interop/n2p2/test_runner_folders.py`, the memory of many structures in
`tests/training/test_sanity.py`.
"""

import json
import re
import shutil
from pathlib import Path

import ase.io
import jax
import numpy as np
import pytest

from bpjax.cli.main import main
from bpjax.descriptors import ACSF
from bpjax.descriptors.acsf import Radial
from bpjax.io.structures import read_structures
from bpjax.networks.elemental import MLP
from bpjax.potential import Potential, init, save
from bpjax.training import DataOptions, prepare
from bpjax.training.prepare import read_run

SMALL = '[descriptor]\ntype="ACSF"\ncutoff=4.0\ng2=[{eta=0.5}]\n[network]\nhidden=[4]\n[optimizer]\nsteps=2\n'


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A potential of random parameters for copper and water."""
    path = tmp_path_factory.mktemp("model") / "model.bpjax"
    potential = Potential(ACSF(("H", "O", "Cu"), 4.0, g2=(Radial(0.1), Radial(1.0, 2.0))), MLP((4,)))
    save(path, potential, init(potential, jax.random.key(0), np.dtype("float64")))
    return path


@pytest.fixture
def case(shared, tmp_path, monkeypatch):
    """Goes to a copy of a case."""

    def there(name):
        shutil.copytree(shared / "cases" / name, tmp_path / name, copy_function=shutil.copyfile)
        (tmp_path / name).chmod(0o755)
        monkeypatch.chdir(tmp_path / name)

    return there


@pytest.fixture
def run(capsys):
    """Runs a command; its status and all that it prints."""

    def command(*words):
        status = main([str(word) for word in words])
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    return command


def energy(path) -> float:
    return ase.io.read(path).get_potential_energy()


def test_cells_in_comment_lines(case, run, model):
    """The same crystal in four ways of writing its cell; of angstrom with eight digits and of bohr with five."""
    case("cell_in_comment")
    energies = {}
    for name in ("ok", "lower_case", "ipi", "ipi_atomic_unit"):
        assert run("predict", model, f"{name}.xyz", "-o", f"{name}.extxyz", "--dtype", "float64")[0] == 0
        energies[name] = energy(f"{name}.extxyz")
    assert energies["lower_case"] == energies["ok"]
    assert energies["ipi"] == pytest.approx(energies["ok"], abs=1e-6)
    assert energies["ipi_atomic_unit"] == pytest.approx(energies["ok"], abs=1e-4)
    # A cluster would be told from it.
    cluster = ase.io.read("ok.xyz")
    cluster.pbc = False
    ase.io.write("cluster.extxyz", cluster)
    assert run("predict", model, "cluster.extxyz", "-o", "c.extxyz", "--dtype", "float64")[0] == 0
    assert abs(energy("c.extxyz") - energies["ok"]) > 0.1


def test_symbols(case, run, model):
    case("symbols")
    energies = []
    for name in ("numbers", "deut"):
        assert run("predict", model, f"{name}.xyz", "-o", f"{name}.extxyz", "--dtype", "float64")[0] == 0
        energies.append(energy(f"{name}.extxyz"))
    assert energies[0] == energies[1]
    assert np.round(ase.io.read("deut.extxyz").get_masses(), 3).tolist() == [15.999, 2.014, 2.014]
    status, text = run("predict", model, "labels.xyz", "-o", "out.extxyz")
    assert status == 2 and "labels.xyz: line 3: 'O1' is no chemical symbol" in text


def test_lammps_files(case, run, model):
    case("lammps_data")
    assert run("predict", model, "cu.data", "-o", "out.extxyz")[0] == 0
    assert set(ase.io.read("out.extxyz").get_chemical_symbols()) == {"Cu"}
    status, text = run("convert", "cu.lammpstrj", "dump.extxyz")
    assert status == 2 and "does not say which elements" in text and "species" in text
    assert run("convert", "cu.lammpstrj", "dump.extxyz", "--species", "H,O")[0] == 0
    assert ase.io.read("dump.extxyz").get_chemical_symbols() == ["O", "H"]  # of types 2 and 1


def test_forces_that_are_missing_are_no_zeros(case, run):
    case("convert_zero_forces")
    status, text = run("convert", "nep.extxyz", "out.data", "--units", "ev-angstrom")
    assert status == 2 and "forces: missing" in text and "is it force?" in text
    assert run("convert", "nep.extxyz", "out.data", "--units", "ev-angstrom", "--forces-key", "force")[0] == 0
    for written, given in zip(
        read_structures("out.data", units="ev-angstrom"), ase.io.iread("nep.extxyz"), strict=True
    ):
        np.testing.assert_allclose(written.get_forces(), given.arrays["force"], rtol=0, atol=1e-12)


@pytest.mark.slow
def test_names_of_labels(case, run, model):
    case("label_names")
    status, text = run("evaluate", model, "ref.extxyz")
    assert status == 2 and all(name in text for name in ("REF_energy", "REF_forces", "--energy-key"))
    keys = ("--energy-key", "REF_energy", "--forces-key", "REF_forces")
    assert run("evaluate", model, "ref.extxyz", *keys, "--json", "e.json")[0] == 0
    found = json.loads(Path("e.json").read_text())
    assert found["structures"] == len(ase.io.read("ref.extxyz", ":"))
    for atoms in (frames := ase.io.read("ref.extxyz", ":")):
        atoms.calc = None
    own = [atoms.info["REF_energy"] for atoms in frames]
    ase.io.write("bare.extxyz", frames)
    assert run("predict", model, "bare.extxyz", "-o", "p.extxyz")[0] == 0
    off = [(a.get_potential_energy() - e) / len(a) for a, e in zip(ase.io.read("p.extxyz", ":"), own, strict=True)]
    assert found["energy_mae"] == pytest.approx(np.abs(off).mean(), rel=1e-5) and found["forces_rmse"] > 0
    status, text = run("evaluate", model, "nep.extxyz")
    assert status == 0 and "'force' in" in text and "is not used" in text and "--forces-key force" in text
    status, text = run("train", "train.toml", "-o", "r")
    assert status == 2 and "data.keys.energy names it" in text
    status, text = run("train", "train_nep.toml", "-o", "r_nep")
    assert status == 0 and "data.keys.forces names it" in text
    for name, key in (("refstress", "stress"), ("virials", "virial")):
        _, structures = read_run(Path(f"train_{name}.toml"))
        assert any(f"data.keys.{key} names it" in finding.message for finding in structures.report.findings), name
    Path("drop.toml").write_text(Path("train_nep.toml").read_text().replace("keep", "drop"))
    status, text = run("train", "drop.toml", "-o", "r_drop")
    assert status == 2 and "is it 'force'? data.keys.forces names it" in text


@pytest.mark.slow
def test_energy_or_free_energy(case, run):
    case("energy_or_free_energy")
    frames = ase.io.read("smeared.extxyz", ":")
    Path("train.toml").write_text('[data]\ntrain=["smeared.extxyz"]\n' + SMALL)
    status, text = run("train", "train.toml", "-o", "r")
    assert status == 0 and "energy and free_energy differ by" in text and 'data.keys.energy = "free_energy"' in text
    apart = [abs(a.calc.results["energy"] - a.calc.results["free_energy"]) / len(a) for a in frames]
    low, high = map(float, re.search(r"differ by ([-\d.]+) to ([-\d.]+) eV/atom", text).groups())
    assert (min(abs(low), abs(high)), max(abs(low), abs(high))) == pytest.approx((min(apart), max(apart)), rel=5e-3)


@pytest.mark.slow
def test_isolated_atoms(case, run):
    """Their energy is that of the model exactly; what contradicts is refused; single atoms in wide boxes are recognised."""
    case("isolated_atoms")
    known, texts = {}, {}
    for name in ("cu", "twice", "absurd", "box20", "no_forces"):
        Path(f"{name}.toml").write_text(f'[data]\ntrain=["{name}.extxyz"]\n{SMALL}')
        alone = [atoms for atoms in ase.io.iread(f"{name}.extxyz") if len(atoms) == 1]
        known[name] = {str(atoms.symbols): atoms.get_potential_energy() for atoms in alone}
    for name, wanted in (("cu", 0), ("twice", 2), ("absurd", 2)):
        status, texts[name] = run("train", f"{name}.toml", "-o", f"r_{name}")
        assert status == wanted, texts[name]
    assert re.search(r"energy: of the isolated Cu atom is .* eV, but .* in twice.extxyz", texts["twice"])
    assert "energies of isolated atoms (Cu -45000 eV)" in texts["absurd"]
    for name in ("box20", "no_forces"):
        found = prepare(DataOptions((f"{name}.extxyz",)), Path(), 0)
        assert found.isolated == known[name], name
    words = ("r_cu/model.bpjax", "cu.extxyz", "--dtype", "float64", "--json", "e.json")
    status, text = run("evaluate", *words)
    assert status == 0
    by_model = dict(re.findall(r"isolated (\w+) is not counted: \S+ eV, by the model (\S+) eV", text))
    assert {element: float(energy) for element, energy in by_model.items()} == pytest.approx(known["cu"], abs=1e-5)
    assert json.loads(Path("e.json").read_text())["structures"] == 16
