"""Labels under the names that the field uses: taken when they are named, said when they are not used."""

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

from bpjax.errors import FormatError, StructureError
from bpjax.io.label_keys import LabelKeys, Unused, take_labels, two_energies, unused_labels
from bpjax.io.labels import is_isolated_atom, labels, require_labels, weights_of
from bpjax.io.structures import read_structures, write_structures

STRESS = np.array([0.01, 0.02, 0.03, 0.004, 0.005, 0.006])
TENSOR = np.array([[0.01, 0.006, 0.005], [0.006, 0.02, 0.004], [0.005, 0.004, 0.03]])


def copper(**info) -> Atoms:
    """Four atoms of copper, rattled, with these numbers in the comment line."""
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=1)
    atoms.info.update(info)
    return atoms


@pytest.fixture
def named(tmp_path):
    """A file with labels under names of its own, beside those of ASE."""
    atoms = copper(REF_energy=-3.5, REF_stress=TENSOR.ravel(), w=2.0, REF_dipole=[0.0, 0.1, 0.2])
    atoms.arrays["REF_forces"] = np.arange(12.0).reshape(4, 3)
    atoms.arrays["q"] = np.array([0.1, -0.1, 0.2, -0.2])
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=np.zeros((4, 3)), stress=np.zeros(6))
    write_structures(tmp_path / "a.extxyz", [atoms, atoms])
    return tmp_path / "a.extxyz"


def test_names_that_are_given(named):
    keys = LabelKeys("REF_energy", "REF_forces", "REF_stress", charges="q", dipole="REF_dipole", weight="w")
    for atoms in read_structures(named, keys=keys):
        found = labels(atoms)
        assert found.energy == -3.5
        np.testing.assert_array_equal(found.forces, np.arange(12.0).reshape(4, 3))
        np.testing.assert_allclose(found.stress, TENSOR, rtol=1e-15)
        assert atoms.calc.results["charges"].tolist() == [0.1, -0.1, 0.2, -0.2]
        assert atoms.calc.results["dipole"].tolist() == [0.0, 0.1, 0.2]
        assert weights_of(atoms)[0] == 2.0
        assert not unused_labels([atoms])
    plain = labels(read_structures(named)[0])
    assert plain.energy == -1.0 and not plain.forces.any() and not plain.stress.any()


def test_a_virial_is_minus_the_volume_times_the_stress(tmp_path):
    atoms = copper(virials=-62.5 * TENSOR)
    atoms.set_cell(np.diag([2.5, 5.0, 5.0]), scale_atoms=True)
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, stress=np.ones(6))
    write_structures(tmp_path / "a.extxyz", atoms)
    (found,) = read_structures(tmp_path / "a.extxyz", keys=LabelKeys(virial="virials"))
    np.testing.assert_allclose(labels(found).stress, TENSOR, rtol=1e-14)
    assert labels(found).energy == -1.0  # what is not named stays
    atoms.pbc, atoms.cell = False, None
    write_structures(tmp_path / "b.extxyz", atoms)
    with pytest.raises(StructureError, match=r"b\.extxyz: frame 0: virials: is there, but no cell"):
        read_structures(tmp_path / "b.extxyz", keys=LabelKeys(virial="virials"))


def test_names_that_are_not_there(named):
    with pytest.raises(
        StructureError, match=r"a\.extxyz: forces: no structure has 'dft_force'; the file has .*REF_forces"
    ):
        read_structures(named, keys=LabelKeys(forces="dft_force"))
    with pytest.raises(ValueError, match="virial='b': is for files without a stress"):
        LabelKeys(stress="a", virial="b")
    with pytest.raises(ValueError, match="energy=' ': must be a name"):
        LabelKeys(energy=" ")


def test_names_that_some_structures_have():
    frames = [copper(REF_energy=1.0), copper(), Atoms("H", info={"x": 1})]
    with pytest.warns(UserWarning, match="a.xyz: 1 of 3 structures have no 'REF_energy', and so no energy"):
        take_labels(frames, LabelKeys("REF_energy"), "a.xyz")
    assert labels(frames[0]).energy == 1.0 and labels(frames[1]).energy is None


def test_what_looks_like_a_label_and_is_not_used():
    bare, full = copper(dft_energy=1.0), copper(virials=TENSOR, energy_weight=1.0)
    bare.arrays["force"] = np.zeros((4, 3))
    full.calc = SinglePointCalculator(full, energy=1.0, forces=np.zeros((4, 3)), stress=STRESS, free_energy=1.0)
    found = unused_labels([bare, full, full])
    assert found == [
        Unused("dft_energy", "energy", 1, 1),
        Unused("force", "forces", 1, 1),
        Unused("virials", "virial", 2),
    ]
    assert found[1].sentence(3, "-f") == "'force' in 1 of 3 structures is not used, and 1 of these have no forces (-f)"
    assert found[2].sentence(3, "-v") == "'virials' in 2 of 3 structures is not used (-v)"
    for name in (
        "E",
        "Etot",
        "e_dft",
        "F",
        "frc",
        "f_dft",
        "vir",
        "energy_sigma0",
        "gradient",
        "toten",
        "PE",
        "dEdR",
        "dft_grad",
        "vir_ref",
        "fx_dft",
    ):
        assert [one.name for one in unused_labels([copper(**{name: 1.0})])] == [name]
    assert not unused_labels([copper(element=1.0, file="x", fermi=0.1, force_std=1.0, stress_sigma=2.0, e_field=1.0)])
    assert [one.key for one in unused_labels([copper(sigma=STRESS, pressure=TENSOR)])] == ["stress", "stress"]
    assert not unused_labels([copper(sigma=0.1, pressure=1.0)])
    assert two_energies(full) == (1.0, 1.0) and two_energies(bare) is None


def test_a_stress_is_symmetric_up_to_noise():
    """Nine numbers that are not are something else, or in another order."""
    noisy = TENSOR + np.array([[0, 1e-4, 0], [0, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(labels(copper(stress=noisy)).stress, 0.5 * (noisy + noisy.T))
    with pytest.raises(StructureError, match="stress: is not symmetric"):
        labels(copper(stress=np.arange(9.0)))


def test_stress_and_virial_must_agree():
    atoms = copper(stress=TENSOR)
    atoms.info["virial"] = -atoms.get_volume() * TENSOR.round(5)
    np.testing.assert_allclose(labels(atoms).stress, TENSOR)
    atoms.info["virial"] = atoms.get_volume() * TENSOR
    with pytest.raises(StructureError, match=r"stress: is 0.03 eV/A\^3 along zz, but the virial makes -0.03"):
        labels(atoms)


@pytest.mark.parametrize("name", ["stress", "virial", "energy", "free_energy"])
def test_a_column_is_no_label_of_the_structure(tmp_path, name):
    """Six atoms with a number each are not six components."""
    atoms = bulk("Cu").repeat((6, 1, 1))
    atoms.arrays[name] = np.arange(6.0)
    with pytest.raises(StructureError, match=f"{name}: is a column, with a row for each atom"):
        labels(atoms)
    ase.io.write(tmp_path / "a.extxyz", atoms)
    with pytest.raises(FormatError, match=rf"a\.extxyz: line 2: '{name}' is a column"):
        read_structures(tmp_path / "a.extxyz")


@pytest.mark.parametrize(
    ("cell", "pbc", "group", "isolated"),
    [
        (None, False, None, True),
        ([20, 20, 20], True, None, True),
        ([20, 3, 20], True, None, False),
        ([3.6, 3.6, 3.6], True, None, False),
        ([3.6, 3.6, 3.6], True, "isolated_atom", True),
        ([3.6, 3.6, 3.6], True, "IsolatedAtom", True),
        ([3.6, 3.6, 3.6], True, "isolated", True),
        ([3.6, 3.6, 3.6], True, "free_atom", True),
        ([3.6, 3.6, 3.6], True, "atomic_wire", False),
        # Long vectors of a short lattice: the difference of the first two is 2 A.
        ([[20, 0, 0], [20, 2, 0], [0, 0, 20]], True, None, False),
        ([3, 3, 20], (True, True, False), None, False),
    ],
)
def test_isolated_atoms_by_their_images(cell, pbc, group, isolated):
    atoms = Atoms("Cu", cell=cell, pbc=pbc, info={} if group is None else {"config_type": group})
    assert is_isolated_atom(atoms) == isolated
    assert not is_isolated_atom(Atoms("Cu2", [[0, 0, 0], [0, 0, 2]]))


def test_single_atoms_need_no_forces():
    atom = Atoms("Cu", info={"energy": 1.0})
    assert require_labels([atom], None, without_forces=is_isolated_atom)[0].forces is None
    with pytest.raises(StructureError, match="frame 0: forces: missing"):
        require_labels([copper(energy=1.0)], None, without_forces=is_isolated_atom)


def test_results_hold_for_the_structure_that_they_were_made_for():
    atoms = copper()
    atoms.calc = SinglePointCalculator(atoms, energy=1.0, forces=np.zeros((4, 3)))
    assert labels(atoms).energy == 1.0
    for change in ("positions", "cell", "numbers", "pbc"):
        other = atoms.copy()
        other.calc = atoms.calc
        {
            "positions": lambda a: a.positions.__setitem__((0, 0), np.nextafter(a.positions[0, 0], 9.0)),
            "cell": lambda a: a.set_cell(a.cell * 1.1),
            "numbers": lambda a: a.symbols.__setitem__(0, "Al"),
            "pbc": lambda a: a.set_pbc(not a.pbc[0]),
        }[change](other)
        assert labels(other).energy is None, change


def test_named_labels_of_the_wrong_shape_are_refused(tmp_path):
    """With six or nine atoms a column would pass for a stress."""
    atoms = bulk("Cu").repeat((3, 2, 1))
    atoms.arrays["REF_stress"], atoms.arrays["q"], atoms.info["mu"] = np.full(6, 0.1), np.zeros((6, 3)), np.zeros(2)
    for key, name, message in (
        ("stress", "REF_stress", "is a column"),
        ("virial", "REF_stress", "is a column"),
        ("charges", "q", r"has shape \(6, 3\); expected \(6,\)"),
        ("dipole", "mu", r"has shape \(2,\); expected \(3,\)"),
    ):
        with pytest.raises(StructureError, match=message):
            take_labels([atoms.copy()], LabelKeys(**{key: name}), "a.xyz")
