import gzip

import ase.db
import ase.io
import ase.units
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms

from bpjax.errors import BpjaxError, ConfigError, FormatError, StructureError
from bpjax.io.checks import check_structure
from bpjax.io.labels import group_of, labels, require_labels
from bpjax.io.structures import read_structures, write_structures
from bpjax.units import BOHR, HARTREE

TEXT = """2
Lattice="5 0 0 0 5 0 0 0 5" Properties=species:S:1:pos:R:3:forces:R:3 energy=-1.5 config_type=pair pbc="T T T"
Si 0.0 0.0 0.0 0.1 0.0 0.0
Si 2.0 0.0 0.0 -0.1 0.0 0.0
"""


def labelled(seed=0) -> Atoms:
    random = np.random.default_rng(seed)
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=seed)
    stress, forces = random.normal(size=6), random.normal(size=(4, 3))
    atoms.calc = SinglePointCalculator(atoms, energy=random.normal(), forces=forces, stress=stress)
    return atoms


def write(path, text):
    path.write_text(text)
    return path


# ---------------------------------------------------------------------------------------- good input


@pytest.mark.parametrize("suffix", ["extxyz", "xyz", "traj", "json", "db", "extxyz.gz"])
def test_reads_what_ase_writes(tmp_path, suffix):
    frames = [labelled(seed) for seed in range(3)]
    path = tmp_path / f"a.{suffix}"
    ase.io.write(path, frames)
    found = read_structures(path)
    assert len(found) == 3
    for a, b in zip(found, frames, strict=True):
        np.testing.assert_allclose(a.positions, b.positions, atol=1e-7)
        np.testing.assert_allclose(labels(a).energy, labels(b).energy)
        np.testing.assert_allclose(labels(a).stress, labels(b).stress)


@pytest.mark.parametrize("suffix", ["db", "json"])
def test_databases(tmp_path, suffix):
    """Key-value pairs name the group, data may hold labels, and any selection of rows is read."""
    path = tmp_path / f"a.{suffix}"
    frames = [labelled(seed) for seed in range(4)]
    with ase.db.connect(path) as database:
        for n, atoms in enumerate(frames):
            database.write(atoms, config_type=f"kind{n % 2}", weight=2.0)
        bare = labelled(4)
        bare.calc = None
        database.write(bare, data={"energy": np.array([-1.5]), "forces": np.ones((4, 3)), "note": "x"})
    found = read_structures(path)
    assert [group_of(atoms) for atoms in found] == ["kind0", "kind1", "kind0", "kind1", "default"]
    assert found[0].info["weight"] == 2.0
    for a, b in zip(found[:4], frames, strict=True):
        np.testing.assert_array_equal(labels(a).forces, b.calc.results["forces"])
    assert labels(found[4]).energy == -1.5 and labels(found[4]).forces.tolist() == [[1.0] * 3] * 4
    assert [labels(a).energy for a in read_structures(path, "1::2")] == [labels(found[n]).energy for n in (1, 3)]
    assert labels(read_structures(path, "-2")[0]).energy == labels(found[3]).energy
    with pytest.raises(FormatError, match="has no frame 7"):
        read_structures(path, "7")


def test_databases_that_state_their_units(tmp_path):
    """As SchNetPack writes them; ASE's constants."""
    path = tmp_path / "a.db"
    water = molecule("H2O")
    with ase.db.connect(path) as database:
        units = {"energy": "kcal/mol", "forces": "Hartree/Bohr", "stress": "eV/Ang/Ang/Ang", "dipole": "Debye"}
        database.metadata = {"_distance_unit": "nm", "_property_unit_dict": units}
        database.write(water, data={"energy": np.array([2.0]), "forces": np.ones((3, 3)), "stress": np.ones((3, 3))})
    (found,) = read_structures(path)
    np.testing.assert_allclose(found.positions, water.positions * 10)
    np.testing.assert_allclose(labels(found).energy, 2 * ase.units.kcal / ase.units.mol, rtol=1e-8)
    np.testing.assert_allclose(labels(found).forces, HARTREE / BOHR)
    np.testing.assert_array_equal(labels(found).stress, np.ones((3, 3)))
    for name, unit in (("energy", "stone"), ("forces", "eV"), ("forces", "eV/stone")):
        with ase.db.connect(path) as database:
            database.metadata = {"_property_unit_dict": {name: unit}}
        with pytest.raises(FormatError, match=rf"a\.db: metadata: {name} has the unit '.*'"):
            read_structures(path)


@pytest.mark.parametrize("name", ["POSCAR", "a.cif", "a@2.xyz"])
def test_reads_crystals_and_odd_names(tmp_path, name):
    ase.io.write(tmp_path / name, bulk("Si"), format=None if "@" not in name else "extxyz")
    (atoms,) = read_structures(tmp_path / name)
    assert str(atoms.symbols) == "Si2"


@pytest.mark.parametrize(("index", "energies"), [(":", [0, 1, 2, 3]), ("1", [1]), (-1, [3]), ("::2", [0, 2])])
def test_index(tmp_path, index, energies):
    frames = []
    for energy in range(4):
        frames.append(Atoms("H"))
        frames[-1].info["energy"] = float(energy)
    write_structures(tmp_path / "a.xyz", frames)
    assert [labels(atoms).energy for atoms in read_structures(tmp_path / "a.xyz", index)] == energies


def test_written_structures_return_exactly(tmp_path):
    atoms = labelled()
    atoms.info.update(config_type="two words", step=3, flag=True, vector=np.array([0.1, 0.2]), table={"a": [1]})
    atoms.set_momenta(np.random.default_rng(1).normal(size=(4, 3)))
    atoms.set_tags([0, 1, 2, 3])
    atoms.arrays["chosen"] = np.array([True, False, True, True])
    atoms.set_constraint(FixAtoms([1]))
    atoms.set_pbc([True, True, False])
    atoms.calc = SinglePointCalculator(atoms, **atoms.calc.results, energies=np.arange(4.0))
    write_structures(tmp_path / "a.extxyz", atoms)
    (found,) = read_structures(tmp_path / "a.extxyz")
    for name in ("positions", "numbers", "momenta", "tags", "chosen"):
        np.testing.assert_array_equal(found.arrays[name], atoms.arrays[name])
    np.testing.assert_array_equal(found.cell.array, atoms.cell.array)
    np.testing.assert_array_equal(found.pbc, atoms.pbc)
    np.testing.assert_array_equal(found.constraints[0].index, [1])
    for name in ("energy", "forces", "stress", "energies"):
        np.testing.assert_array_equal(found.calc.results[name], atoms.calc.results[name])
    assert found.info["config_type"] == "two words" and found.info["table"] == {"a": [1]}
    assert found.info["step"] == 3 and found.info["flag"] is True
    np.testing.assert_array_equal(found.info["vector"], [0.1, 0.2])


def test_line_breaks_in_info_do_not_break_the_file(tmp_path):
    atoms = Atoms("H", info={"note": "a\nb"})
    write_structures(tmp_path / "a.xyz", [atoms, atoms])
    assert len(read_structures(tmp_path / "a.xyz")) == 2


def test_own_images_may_be_near_but_not_at_one_place():
    check_structure(Atoms("H", cell=[1, 1, 1], pbc=True))
    check_structure(Atoms("H2", positions=[[0, 0, 0], [0, 0, 4.95]], cell=[5, 5, 5]))
    with pytest.raises(StructureError, match="atoms 0 and 1 are at one place"):
        check_structure(Atoms("H2", positions=[[0, 0, 0], [0, 0, 4.95]], cell=[5, 5, 5], pbc=True))


@pytest.mark.parametrize("pbc", [(True, True, False), (True, False, False), (False, False, False)])
def test_partly_periodic_cells_need_only_their_own_vectors(pbc):
    cell = np.where(np.array(pbc)[:, None], np.diag([4.0, 4.0, 4.0]), 0)
    check_structure(Atoms("H", cell=cell, pbc=pbc))
    check_structure(Atoms("H", cell=np.where(np.array(pbc)[:, None], cell, [4.0, 0, 0]), pbc=pbc))


@pytest.mark.parametrize("size", [1e5, 1e6, 1e20, 1e100, 1e308])
@pytest.mark.parametrize("pbc", [(True, True, True), (True, True, False), (True, False, False), (False, False, False)])
def test_absurd_sizes_are_refused(size, pbc):
    """With the first of them the search for near atoms takes minutes, with the others it ends the process."""
    cell = np.diag([5.0, 5.0, 5.0])
    flown = Atoms("H2", positions=[[0, 0, 0], [1, 1, size]], cell=cell, pbc=pbc)
    if not all(pbc):
        with pytest.raises(StructureError, match=r"positions: atoms are .* A apart where nothing repeats"):
            check_structure(flown)
    cell[0, 0] = size
    if pbc[0]:
        with pytest.raises(StructureError, match=r"cell: is periodic along a with .* A, which is more than 10000 A"):
            check_structure(Atoms("H2", positions=[[0, 0, 0], [1, 1, 0]], cell=cell, pbc=pbc))


def test_atoms_that_left_a_periodic_cell_are_where_they_come_back():
    check_structure(Atoms("H2", positions=[[0, 0, 0], [1e6 + 1, 0, 0]], cell=[5, 5, 5], pbc=True))
    check_structure(Atoms("H2", positions=[[0, 0, 9.9e3], [1, 0, 9.9e3]], cell=[9.9e3, 5, 5], pbc=[True, True, False]))


# ---------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a.xyz: is empty"),
        ("hello\n", "a.xyz: line 1: expected the number of atoms, found 'hello'"),
        (TEXT + TEXT[:20], "a.xyz: line 6: truncated: frame 1 ends in its comment line"),
        (TEXT + TEXT[:132], "a.xyz: line 7: truncated: frame 1 needs 7 columns, found 5"),
        (TEXT + "\n".join(TEXT.split("\n")[:3]) + "\n", "a.xyz: line 7: truncated: frame 1 has 1 of 2 atoms"),
        (TEXT + "\n" + TEXT, "a.xyz: line 5: empty line where the number of atoms should stand"),
        (TEXT.replace("2.0 0.0", "2.0 abc"), "a.xyz: line 4: expected a number, found 'abc'"),
        (TEXT.replace("Si 2.0", "2.0"), "a.xyz: line 4: frame 0 needs 7 columns, found 6"),
        (
            TEXT + TEXT.replace("Si 2", "Xq 2"),
            "a.xyz: line 8: 'Xq' is no chemical symbol; expected one, D or T, or an atomic",
        ),
        (TEXT.replace("2\n", "3\n", 1) + TEXT, "a.xyz: line 5: frame 0 needs 7 columns, found 1"),
        (TEXT + "9" * 40, "a.xyz: line 5: expected the number of atoms"),
    ],
)
def test_broken_extxyz_names_the_line(tmp_path, text, message):
    path = write(tmp_path / "a.xyz", text)
    with pytest.raises(FormatError) as caught:
        read_structures(path)
    assert str(caught.value).startswith(f"{tmp_path}/{message}") and "\n" not in str(caught.value)


def test_last_line_without_line_feed_and_blank_lines_at_the_end_are_fine(tmp_path):
    assert len(read_structures(write(tmp_path / "a.xyz", (TEXT + TEXT).rstrip("\n")))) == 2
    assert len(read_structures(write(tmp_path / "a.xyz", TEXT + TEXT + "\n\n"))) == 2


@pytest.mark.parametrize("suffix", ["cif", "traj", "json", "db", "vasp", "xyz.gz", "weird", "nc", "pdb"])
@pytest.mark.parametrize("content", [b"hello\n", bytes(range(256)) * 10, b"\x00" * 100])
def test_any_broken_file_is_one_line_naming_it(tmp_path, suffix, content):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content)
    with pytest.raises((FormatError, StructureError)) as caught:  # some readers find zero atoms in anything
        read_structures(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["traj", "extxyz", "json", "extxyz.gz"])
def test_truncated_files_are_noticed(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    ase.io.write(path, [labelled(seed) for seed in range(3)])
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(FormatError, match=f"a.{suffix}"):
        read_structures(path)


def test_missing_file_folder_and_frame(tmp_path):
    with pytest.raises(FormatError, match=r"none\.xyz: no such file"):
        read_structures(tmp_path / "none.xyz")
    with pytest.raises(FormatError, match="is a folder"):
        read_structures(tmp_path)
    path = write(tmp_path / "a.xyz", TEXT)
    with pytest.raises(FormatError, match=r"a\.xyz"):
        read_structures(path, "5")
    with pytest.raises(FormatError, match=r"a\.xyz: has no frame 5:"):
        read_structures(path, "5:")
    with pytest.raises(ConfigError, match=r"'last' selects no frames; use"):
        read_structures(path, "last")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("Si 2.0", "Si nan"), "frame 1: positions: holds nan (entry 1, 0)"),
        (("energy=-1.5", "energy=nan"), "frame 1: energy: holds nan"),
        (("energy=-1.5", "energy=low"), "frame 1: energy: is not numeric: 'low'"),
        (("-0.1", "inf"), "frame 1: forces: holds inf (entry 1, 0)"),
        (("5 0 0 0 5", "5 0 0 0 nan"), "frame 1: cell: holds nan (entry 1, 1)"),
        (("0 0 5\"", "0 0 0\""), "frame 1: cell: is periodic along c, but this vector has no length"),
        (("0 0 5\"", "0 5 0\""), "frame 1: cell: has zero volume"),
        (("Si 2.0", "Si 5.01"), "frame 1: positions: atoms 0 and 1 are at one place (0.01 A apart)"),
        (("energy=-1.5", 'stress="1 2 3 4 5 6 7 8 inf"'), "frame 1: "),
    ],
)  # fmt: skip
def test_nonsense_names_file_frame_and_field(tmp_path, change, message):
    path = write(tmp_path / "a.xyz", TEXT + TEXT.replace(*change) + TEXT)
    with pytest.raises(BpjaxError) as caught:
        read_structures(path)
    if message != "frame 1: ":
        assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value) and "frame 1" in str(caught.value)


def test_zero_atoms(tmp_path):
    ase.io.write(tmp_path / "a.xyz", [Atoms("H"), Atoms()], format="extxyz")
    with pytest.raises(StructureError, match=r"a\.xyz: frame 1: has zero atoms"):
        read_structures(tmp_path / "a.xyz")


def test_frame_number_is_that_of_the_file(tmp_path):
    path = write(tmp_path / "a.xyz", TEXT * 3 + TEXT.replace("Si 2.0", "Si 0.0"))
    with pytest.raises(StructureError, match=r"frame 3: positions"):
        read_structures(path, "1::2")


# ---------------------------------------------------------------------------------------- labels


def test_labels_from_calculator_info_and_arrays():
    atoms = labelled()
    found = labels(atoms)
    assert found.energy == atoms.calc.results["energy"]
    xx, yy, zz, yz, xz, xy = atoms.calc.results["stress"]
    np.testing.assert_array_equal(found.stress, [[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    atoms.calc = None
    assert labels(atoms).energy is labels(atoms).forces is labels(atoms).stress is None
    atoms.info.update(energy=1.0, stress=np.array([1, 2, 3, 2, 4, 5, 3, 5, 6]))
    atoms.arrays["forces"] = np.ones((4, 3), np.float32)
    found = labels(atoms)
    assert (
        found.energy == 1.0
        and found.forces.dtype == np.float64
        and found.stress.tolist() == [[1, 2, 3], [2, 4, 5], [3, 5, 6]]
    )


def test_energy_goes_before_free_energy_and_stress_before_virial():
    atoms = Atoms("H", cell=[2, 2, 2], pbc=True, info={"free_energy": 2.0, "virial": np.diag([8.0, 16.0, 24.0])})
    assert labels(atoms).energy == 2.0
    np.testing.assert_allclose(labels(atoms).stress, -np.diag([1.0, 2.0, 3.0]), rtol=1e-14)
    stress = -np.diag([1.0, 2.0, 3.001])  # as the virial says, but for digits
    atoms.info.update(energy=1.0, stress=stress)
    assert labels(atoms).energy == 1.0
    np.testing.assert_array_equal(labels(atoms).stress, stress)


def test_virial_has_the_sign_of_the_strain_derivative():
    """Virial = -dE/d strain, stress = dE/d strain / V: with a calculator that knows its stress."""
    atoms = bulk("Cu", a=3.4)
    atoms.calc = EMT()
    stress = atoms.get_stress(voigt=False)
    bare = Atoms("Cu", cell=atoms.cell, pbc=True, info={"virial": -stress * atoms.get_volume()})
    np.testing.assert_allclose(labels(bare).stress, stress)


def test_nothing_is_calculated_and_stale_results_are_void():
    atoms = bulk("Cu")
    atoms.calc = EMT()
    assert labels(atoms).energy is None
    atoms = labelled()
    atoms.positions[0, 0] += 0.1
    assert labels(atoms).energy is None


@pytest.mark.parametrize(
    ("name", "value"), [("energy", "low"), ("energy", [1.0, 2.0]), ("stress", [1.0]), ("energy", True)]
)
def test_labels_of_wrong_type_are_named(name, value):
    with pytest.raises(StructureError, match=f"a.xyz: frame 4: {name}: "):
        labels(Atoms("H", info={name: value}), "a.xyz", 4)


def test_forces_of_wrong_shape():
    atoms = Atoms("H")
    atoms.calc = SinglePointCalculator(atoms, forces=np.zeros((2, 3)))
    with pytest.raises(StructureError, match=r"forces: has shape \(2, 3\), not \(1, 3\)"):
        check_structure(atoms)


def test_group():
    assert group_of(Atoms("H", info={"config_type": "a", "group": "b"})) == "a"
    assert group_of(Atoms("H", info={"group": "b"})) == "b"
    assert group_of(Atoms("H")) == "default"


def test_missing_labels_name_file_frame_and_what_there_is():
    frames = [labelled(), bulk("Cu")]
    frames[1].info["dft_energy"] = 1.0
    assert len(require_labels(frames[:1], "a.xyz", stress=True)) == 1
    there = r"missing; the file has dft_energy, positions; is it 'dft_energy'\? data.keys.energy names it$"
    with pytest.raises(StructureError, match=rf"^a\.xyz: frame 1: energy: {there}"):
        require_labels(frames, "a.xyz")
    frames[1].info["energy"] = 1.0
    with pytest.raises(StructureError, match=r"a\.xyz: frame 1: forces: missing"):
        require_labels(frames, "a.xyz")
    require_labels(frames, "a.xyz", forces=False)
    with pytest.raises(StructureError, match=r"a\.xyz: frame 1: stress: missing"):
        require_labels(frames, "a.xyz", forces=False, stress=True)
    water = molecule("H2O")
    water.info["energy"] = 0.0
    require_labels([water], None, forces=False, stress=True)  # a molecule has no stress


def test_shared_sets_are_read(shared):
    paths = sorted((shared / "data" / "mlearn").glob("Si_*.extxyz"))
    for path in paths:
        frames = read_structures(path)
        require_labels(frames, path)
        assert group_of(frames[0]) == "Vacancy"


def test_compressed_text(tmp_path):
    (tmp_path / "a.xyz.gz").write_bytes(gzip.compress(TEXT.encode()))
    assert len(read_structures(tmp_path / "a.xyz.gz")) == 1


# ---------------------------------------------------------------------------------------- RuNNer data files

RUNNER = """begin
lattice 5 0 0
lattice 0 5 0
lattice 0 0 5
atom 0 0 0 Si 0 0 0.1 0 0
atom 2 0 0 Si 0 0 -0.1 0 0
energy -1.5
charge 0
end
"""


@pytest.mark.parametrize("name", ["input.data", "output.data", "frames", "a.xyz", "POSCAR", "a.cif", "a@2.data"])
def test_runner_files_are_known_by_their_content(tmp_path, name):
    path = write(tmp_path / name, "\n# made by hand\n" + RUNNER * 2)
    frames = read_structures(path, units="ev-angstrom")
    assert [labels(atoms).energy for atoms in frames] == [-1.5, -1.5] and frames[1].cell.lengths()[0] == 5.0
    (atoms,) = read_structures(path, "-1", "hartree-bohr")
    np.testing.assert_allclose(atoms.cell.lengths(), 5.0 * BOHR)
    np.testing.assert_allclose(labels(atoms).energy, -1.5 * HARTREE)


def test_runner_files_need_units(tmp_path):
    path = write(tmp_path / "input.data", RUNNER)
    with pytest.raises(
        ConfigError, match=r"input\.data: units: .* give hartree-bohr or ev-angstrom or kcal/mol-angstrom$"
    ) as caught:
        read_structures(path)
    assert caught.value.field == "units"


def test_units_are_for_files_that_do_not_say_theirs(tmp_path):
    path = write(tmp_path / "a.xyz", TEXT)
    (atoms,) = read_structures(path, units="hartree-bohr")
    assert atoms.cell.lengths()[0] == 5.0 and labels(atoms).energy == -1.5
    with pytest.raises(ConfigError, match="units: 'kcal' is not known"):
        read_structures(path, units="kcal")


def test_runner_structures_are_checked(tmp_path):
    path = write(tmp_path / "input.data", RUNNER + RUNNER.replace("lattice 0 5 0", "lattice 5 0 0"))
    with pytest.raises(StructureError, match=r"input\.data: frame 1: cell: has zero volume"):
        read_structures(path, units="ev-angstrom")
    path = write(tmp_path / "input.data", RUNNER * 2 + RUNNER.replace("atom 2 0", "atom 0 0"))
    with pytest.raises(StructureError, match=r"input\.data: frame 2: positions: atoms 0 and 1 are at one place"):
        read_structures(path, "::2", "ev-angstrom")


def test_other_data_files_are_not_taken_for_runner_files(tmp_path):
    """ASE does so with LAMMPS data files, and converts what follows any "begin"."""
    ase.io.write(tmp_path / "lammps.data", bulk("Si"), format="lammps-data", masses=True)
    assert read_structures(tmp_path / "lammps.data", units="hartree-bohr")[0].get_chemical_formula() == "Si2"
    write(tmp_path / "a.data", "hello\n" + RUNNER)
    with pytest.raises(FormatError, match=r"a\.data: is in no format that ASE recognises, nor does it start with"):
        read_structures(tmp_path / "a.data", units="hartree-bohr")


def test_damaged_compression(tmp_path):
    data = bytearray(gzip.compress(TEXT.encode() * 50))
    data[60:90] = bytes(30)
    (tmp_path / "a.xyz.gz").write_bytes(data)
    with pytest.raises(FormatError, match=r"a\.xyz\.gz: cannot be read"):
        read_structures(tmp_path / "a.xyz.gz")


def test_small_structures_are_searched_by_all_pairs_alike(monkeypatch):
    """Random cells, skewed and open ones too, some with an atom at the image of another; against the search of vesin."""
    rng = np.random.default_rng(1)
    refused, compared = 0, 0
    for _ in range(500):
        cell, pbc, count = (
            rng.normal(size=(3, 3)) * rng.choice([0.7, 1.5, 4.0]),
            rng.random(3) < 0.7,
            rng.integers(1, 6),
        )
        if np.linalg.norm(np.linalg.inv(cell), axis=0).max() > 2.5:
            continue
        R = rng.random((count, 3)) @ cell * 2
        if count > 1 and rng.random() < 0.6:
            R[1] = R[0] + (rng.integers(-2, 3, size=3) * pbc) @ cell + rng.normal(size=3) * 0.06
        found = []
        for small in (0, 64):
            monkeypatch.setattr("bpjax.io.checks.SMALL", small)
            try:
                found.append(check_structure(Atoms(f"H{count}", R, cell=cell, pbc=pbc)))
            except StructureError as error:
                found.append(str(error))
        assert found[0] == found[1]
        refused, compared = refused + (found[0] is not None), compared + 1
    assert compared > 200 and 50 < refused < compared - 50


def test_atomic_numbers_beyond_the_table(tmp_path):
    (tmp_path / "a.extxyz").write_text("2\nProperties=Z:I:1:pos:R:3\n129 0 0 0\n79 0 0 2\n")
    with pytest.raises(StructureError, match=r"frame 0: species: atom 0 is of no element \(atomic number 129\)"):
        read_structures(tmp_path / "a.extxyz")


def test_names_of_files_that_cannot_be(tmp_path):
    for name in ("a" * 3000, "a\0b.xyz"):
        with pytest.raises(FormatError, match="cannot be read|no such file"):
            read_structures(tmp_path / name)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, b"x", "begin"),
        (36, b"\xdd", "damaged: it cannot have 949187772417 frames in"),
        (47, b"\xff", "damaged: it cannot have 1 frames"),
        ("[4, 3]", b"[9, 9]", "damaged: an array of frame 0 cannot end at"),
        ("{", b"(", "damaged: frame 0 is described by no JSON"),
    ],
)
def test_damaged_trajectories_of_ase(tmp_path, place, value, message):
    """They claim more than they hold, up to any memory, and are refused before it is asked for."""
    path = tmp_path / "a.traj"
    ase.io.write(path, bulk("Cu", cubic=True))
    content = bytearray(path.read_bytes())
    at = place if isinstance(place, int) else content.index(place.encode())
    content[at : at + len(value)] = value
    path.write_bytes(content)
    with pytest.raises(FormatError, match=f"a.traj: .*{message or ''}"):
        read_structures(path)


@pytest.mark.parametrize("comment", ["{", '"', ""])
def test_comments_without_names_are_written_as_they_can_be_read(tmp_path, comment):
    (tmp_path / "a.xyz").write_text(f"1\n{comment}\nCu 0 0 0\n")
    frames = read_structures(tmp_path / "a.xyz")
    write_structures(tmp_path / "b.extxyz", frames)
    assert read_structures(tmp_path / "b.extxyz")[0].positions.tolist() == [[0, 0, 0]]
