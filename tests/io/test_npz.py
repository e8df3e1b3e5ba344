"""Archives of numpy arrays: the forms that public data sets come in, their units, and what is refused."""

import ase.units
import numpy as np
import pytest

from bpjax import datasets
from bpjax.errors import ConfigError, FormatError, StructureError
from bpjax.io.label_keys import LabelKeys
from bpjax.io.labels import group_of, labels
from bpjax.io.structures import read_structures
from bpjax.units import BOHR, HARTREE

RNG = np.random.default_rng(0)
Z = np.array([8, 1, 1])
R = np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]) + RNG.normal(scale=0.05, size=(4, 3, 3))
E, F = RNG.normal(size=4), RNG.normal(size=(4, 3, 3))
KCAL = ase.units.kcal / ase.units.mol


def save(path, **arrays):
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(
    ("fields", "units"),
    [
        (dict(z=Z.astype(np.uint8), R=R, E=E[:, None], F=F, e_unit="kcal/mol", r_unit="Ang", type="d"), None),
        (dict(z=Z, R=R, E=E, F=F, e_unit=np.bytes_("kcal/mol"), r_unit=np.bytes_("Ang")), "hartree-bohr"),
        (dict(nuclear_charges=Z, coords=R, energies=E, forces=F, old_indices=np.arange(4)), "kcal/mol-angstrom"),
        (dict(numbers=np.tile(Z, (4, 1)), positions=R, energy=E, forces=F), "kcal/mol-angstrom"),
        (dict(species=np.array(["O", "H", "H"]), positions=R, energy=E, forces=F), "kcal/mol-angstrom"),
    ],
)
def test_molecules_of_one_composition(tmp_path, fields, units):
    """sGDML (units in the file go before others), rMD17, and others; against ASE's constants."""
    frames = read_structures(save(tmp_path / "a.npz", **fields), units=units)
    assert len(frames) == 4 and not frames[0].pbc.any()
    for n, atoms in enumerate(frames):
        assert atoms.get_chemical_formula(mode="reduce") == "OH2"
        np.testing.assert_array_equal(atoms.positions, R[n])
        found = labels(atoms)
        np.testing.assert_allclose(found.energy, E[n] * KCAL, rtol=1e-8)
        np.testing.assert_allclose(found.forces, F[n] * KCAL, rtol=1e-8)


def test_names_of_labels(tmp_path):
    file = save(tmp_path / "a.npz", z=Z, R=R, E=E, REF_energy=2 * E, dft_forces=F)
    units = "kcal/mol-angstrom"
    with pytest.warns(UserWarning, match=r"a\.npz: 'REF_energy' is not used \(keys\.energy names it\)"):
        assert labels(read_structures(file, units=units)[0]).forces is None
    found = read_structures(file, units=units, keys=LabelKeys("REF_energy", "dft_forces"))
    assert labels(found[1]).energy == pytest.approx(2 * E[1] * KCAL, rel=1e-12)
    np.testing.assert_allclose(labels(found[1]).forces, F[1] * KCAL, rtol=1e-12)
    with pytest.raises(FormatError, match=r"a\.npz: has no field 'dft_energy' for energy; it has z, R, E, REF_energy"):
        read_structures(file, units=units, keys=LabelKeys("dft_energy"))
    with pytest.raises(ConfigError, match=r"keys\.charges: npz archives hold energy, forces and stress"):
        read_structures(file, units=units, keys=LabelKeys(charges="q"))


def test_atomic_units(tmp_path):
    path = save(tmp_path / "a.npz", z=Z, R=R, E=E, F=F, e_unit="Eh", r_unit="bohr")
    (atoms,) = read_structures(path, "2")
    np.testing.assert_allclose(atoms.positions, R[2] * BOHR)
    np.testing.assert_allclose(labels(atoms).energy, E[2] * HARTREE)
    np.testing.assert_allclose(labels(atoms).forces, F[2] * HARTREE / BOHR)
    assert len(read_structures(path, "::2")) == 2
    with pytest.raises(FormatError, match=r"a\.npz: has no frame -5"):
        read_structures(path, "-5")


def padded():
    numbers = np.array([[6, 1, 0], [8, 0, 0], [1, 1, 8]])
    positions = np.full((3, 3, 3), np.nan)
    positions[0, :2] = [[0, 0, 0], [1, 0, 0]]
    positions[1, 0] = 0
    positions[2] = [[0, 0, 0], [0, 2, 0], [0, 1, 1]]
    forces = np.where(numbers[..., None] > 0, np.arange(27.0).reshape(3, 3, 3), np.nan)
    cell = np.array([np.eye(3) * 5, np.eye(3) * 6, [[7, 0, 0], [1, 7, 0], [0, 2, 7.0]]])
    labels = dict(energy=np.array([1.0, np.nan, 3.0]), forces=forces, stress=np.arange(18.0).reshape(3, 6))
    return dict(numbers=numbers, positions=positions, cell=cell, group=np.array(["a", "b", "a"]), **labels)


@pytest.mark.parametrize("form", ["padded", "n_atoms", "offsets", "minus"])
def test_many_compositions(tmp_path, form):
    fields = padded()
    if form == "minus":
        fields["numbers"][fields["numbers"] == 0] = -1
    elif form != "padded":
        real = fields["numbers"] > 0
        flat = {name: fields[name][real] for name in ("numbers", "positions", "forces")}
        fields = {**fields, **flat, form: np.array({"n_atoms": [2, 1, 3], "offsets": [0, 2, 3, 6]}[form])}
    frames = read_structures(save(tmp_path / "a.npz", **fields), units="ev-angstrom")
    assert [str(a.symbols) for a in frames] == ["CH", "O", "H2O"]
    assert [group_of(a) for a in frames] == ["a", "b", "a"]
    assert all(a.pbc.all() for a in frames)
    np.testing.assert_array_equal(frames[2].cell.array, padded()["cell"][2])
    assert [labels(a).energy for a in frames] == [1.0, None, 3.0]
    np.testing.assert_array_equal(labels(frames[2]).forces, np.arange(18.0, 27).reshape(3, 3))
    np.testing.assert_array_equal(labels(frames[1]).stress, [[6, 11, 10], [11, 7, 9], [10, 9, 8]])  # Voigt


def test_cells_and_boundaries(tmp_path):
    arrays = dict(z=Z, R=R, E=E)
    for cell, pbc, expected in (
        (np.eye(3) * 9, True, (9, [True] * 3)),
        (np.array([9.0, 9, 9]), np.array([True, True, False]), (9, [True, True, False])),
        (np.full((4, 3), 9.0), np.array([True] * 4), (9, [True] * 3)),
    ):
        for atoms in read_structures(save(tmp_path / "a.npz", cell=cell, pbc=pbc, **arrays), units="ev-angstrom"):
            np.testing.assert_array_equal(atoms.cell.array, np.eye(3) * expected[0])
            assert atoms.pbc.tolist() == expected[1]
    skewed = np.array([[9.0, 0, 0], [1, 9, 0], [0, 0, 9]])
    with pytest.raises(FormatError, match=r"a\.npz: field lattice: may hold the vectors as rows or as columns"):
        read_structures(save(tmp_path / "a.npz", lattice=skewed, **arrays), units="ev-angstrom")
    frames = read_structures(save(tmp_path / "a.npz", lattice=np.eye(3) * 9, **arrays), units="ev-angstrom")
    assert frames[0].pbc.all()


BASE = dict(z=Z, R=R, E=E, F=F)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(z=None), "has no field for numbers: one of z, Z, nuclear_charges"),
        (dict(R=None), "has no field for positions: one of R, coords"),
        (dict(energy=E), "fields E and energy: both mean energy; leave one of them out"),
        (dict(E=np.zeros((4, 3))), "field E: has shape (4, 3), not (4,) or (4, 1)"),
        (dict(F=F[:, :2]), "field F: has shape (4, 2, 3), not (4, 3, 3)"),
        (dict(F=F.astype(str)), "field F: holds <U"),
        (dict(R=R[..., :2]), "field R: has shape (4, 3, 2), not (structures, atoms, 3) or (all atoms, 3)"),
        (dict(z=Z[:2]), "field z: has shape (2,), not (3,) or (4, 3) as the positions"),
        (dict(z=Z.astype(float)), "field z: holds float64, not atomic numbers"),
        (dict(z=Z + 200), "field z: 208 is no atomic number"),
        (dict(z=np.array(["O", "H", "Xq"])), "field z: 'Xq' is no chemical symbol"),
        (dict(E=np.array([{"run": "code"}] * 4, dtype=object)), "field E: pickled objects may run any code"),
        (dict(e_unit="kcal/mol"), "has a field e_unit, but not both e_unit and r_unit"),
        (dict(e_unit="stone", r_unit="Ang"), "field e_unit: 'stone' is not known; known are ev,"),
        (dict(n_atoms=np.array([3, 3, 4, 3])), "field n_atoms: structure 2 has 4 atoms, but fewer atomic numbers"),
        (dict(R=R[0], E=E[:1], F=F[0], offsets=np.array([0, 4])), "field offsets: does not cut the 3 atoms"),
        (dict(group=np.array(["a"] * 3)), "field group: has shape (3,), not (4,)"),
    ],
)
def test_broken_archives_name_file_and_field(tmp_path, change, message):
    fields = {name: value for name, value in {**BASE, **change}.items() if value is not None}
    path = save(tmp_path / "a.npz", **fields)
    with pytest.raises(FormatError) as caught:
        read_structures(path, units="ev-angstrom")
    assert str(caught.value).startswith(f"{path}: {message}") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"hello\n", "is not an npz archive"),
        (bytes(range(256)) * 10, "is not an npz archive"),
        (b"PK\x03\x04" + b"\x00" * 100, "the table of contents at its end is missing"),
        (b"", "is empty"),
    ],
)
def test_what_is_no_archive(tmp_path, content, words):
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=rf"a\.npz: .*{words}"):
        read_structures(path, units="ev-angstrom")
    save(path, **BASE)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(FormatError, match=r"a\.npz: "):
        read_structures(path, units="ev-angstrom")


def test_units_must_be_known(tmp_path):
    path = save(tmp_path / "a.npz", **BASE)
    with pytest.raises(
        ConfigError, match=r"a\.npz: units: .*no fields e_unit and r_unit; give hartree-bohr or"
    ) as caught:
        read_structures(path)
    assert caught.value.field == "units"


def test_structures_are_checked(tmp_path):
    forces = F.copy()
    forces[2, 1, 0] = np.nan
    with pytest.raises(StructureError, match=r"a\.npz: frame 2: forces: holds nan"):
        read_structures(save(tmp_path / "a.npz", z=Z, R=R, E=E, F=forces), units="ev-angstrom")


def test_shared_sets(shared):
    path = shared / "data" / "delta_water_ethanol" / "water.npz"
    frames = read_structures(path, units="ev-angstrom")
    assert len(frames) == 80 and str(frames[0].symbols) == "OH2"
    assert labels(frames[0]).energy is None  # its energies have names of their own
    with pytest.raises(FormatError, match=r"field E: has shape \(230, 3\)"):
        read_structures(datasets.path("methaniminium") / "ch2nh2_sa3cas43_631gs.npz", units="hartree-bohr")
