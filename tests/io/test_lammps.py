"""LAMMPS files: recognised, and never read without knowing which elements the types are."""

import numpy as np
import pytest
from ase import units

from bpjax.errors import ConfigError, FormatError
from bpjax.io.labels import labels
from bpjax.io.structures import read_structures

DATA = """\
# any text

3 atoms
2 atom types
0.0 9.0 xlo xhi
0.0 8.0 ylo yhi
0.0 7.0 zlo zhi

Masses

1 15.9994
2 1.00794

Atoms # atomic

1 1 0.0 0.0 0.1
2 2 0.76 0.0 6.53
3 2 8.24 0.0 6.53
"""

DUMP = """\
ITEM: TIMESTEP
0
ITEM: NUMBER OF ATOMS
2
ITEM: BOX BOUNDS pp pp pp
0 9
0 9
0 9
ITEM: ATOMS id type x y z
1 2 0 0 0.1
2 1 0.76 0 0.47
"""

NAMED = DUMP.replace("id type", "id element").replace("1 2 0 0", "1 O 0 0").replace("2 1 0.76", "2 H 0.76")

WITHOUT = DATA.replace("Masses\n\n1 15.9994\n2 1.00794\n\n", "")


def read(folder, text, name, **options):
    path = folder / name
    path.write_text(text)
    return read_structures(path, **options)


def test_a_dump_has_no_energy(tmp_path):
    """ASE puts zero beside the forces."""
    text = (
        DUMP.replace("x y z", "element x y z fx fy fz")
        .replace("0 0.1\n", "0 0.1 1 2 3\n")
        .replace("0.47", "0.47 4 5 6")
    )
    (found,) = read(tmp_path, text.replace("1 2 0", "1 2 H 0").replace("2 1 0", "2 1 O 0"), "a.lammpstrj")
    label = labels(found)
    assert label.energy is None and label.forces is not None
    np.testing.assert_allclose(label.forces, [[1, 2, 3], [4, 5, 6]])


@pytest.mark.parametrize("name", ["a.data", "a.lmp", "a.lammps"])
def test_a_data_file_by_its_masses(tmp_path, name):
    (found,) = read(tmp_path, DATA, name)
    assert str(found.symbols) == "OH2"
    np.testing.assert_allclose(found.cell.lengths(), [9, 8, 7])
    np.testing.assert_allclose(found.positions[1], [0.76, 0, 6.53])
    assert found.pbc.all()


def test_hydrogen_of_mass_one(tmp_path):
    """ASE has a placeholder of just this mass before its elements."""
    (found,) = read(tmp_path, DATA.replace("1.00794", "1.0").replace("15.9994", "16"), "a.data")
    assert sorted(found.get_chemical_symbols()) == sorted(read(tmp_path, DATA, "b.data")[0].get_chemical_symbols())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (NAMED[: NAMED.rindex("2 H")], "has 1 lines of atoms where the frame says 2"),
        (NAMED.rstrip() + "\n3 O 0 0 0\n", "has 3 lines of atoms where the frame says 2"),
        (NAMED.replace("2 H 0.76", "2 Xx 0.76"), "line 11: 'Xx' is no chemical symbol"),
        (NAMED.replace("2 H 0.76", "2 H"), "line 11: needs 5 columns, found 4"),
        (NAMED.replace("ATOMS\n2\n", "ATOMS\ntwo\n"), "has 2 lines of atoms where the frame says -1"),
    ],
)
def test_dumps_that_are_cut_or_odd(tmp_path, text, words):
    with pytest.raises(FormatError) as caught:
        read(tmp_path, text, "a.lammpstrj")
    assert words in str(caught.value)


def test_types_that_are_named(tmp_path):
    (found,) = read(tmp_path, WITHOUT, "a.data", species=("Cu", "Al"))
    assert found.get_chemical_formula() == "Al2Cu"
    (found,) = read(
        tmp_path, DATA, "a.data", species=("Cu", "Al", "Si")
    )  # they go before masses; more than needed do no harm
    assert found.get_chemical_formula() == "Al2Cu"
    (found,) = read(tmp_path, DUMP, "a.lammpstrj", species=("H", "O"))
    assert found.get_chemical_formula() == "HO" and found.numbers.tolist() in ([8, 1], [1, 8])
    oxygen = found.positions[found.numbers == 8][0]
    np.testing.assert_allclose(oxygen, [0, 0, 0.1])
    assert read(tmp_path, NAMED, "b.lammpstrj")[0].get_chemical_formula() == "HO"


@pytest.mark.parametrize(
    ("text", "name", "options", "words"),
    [
        (WITHOUT, "a.data", {}, "a.data: has atoms of types 1 to 2 and does not say which elements these are"),
        (DUMP, "a.lammpstrj", {}, "a.lammpstrj: has atoms of types 1 to 2 and does not say which elements these are"),
        (DATA.replace("15.9994", "150.0"), "a.data", {"species": ("Cu",)}, "species: Cu: "),
        (DATA.replace("15.9994", "17.3"), "a.data", {}, "mass 17.3 of type 1 is that of no element"),
        (NAMED, "a.lammpstrj", {"species": ("Cu", "Al")}, "species: is for types without elements"),
        (DATA, "a.data", {"species": ("Cu", "Xx")}, "species: not a chemical symbol: 'Xx'"),
    ],
)
def test_elements_are_never_guessed_from_types(tmp_path, text, name, options, words):
    with pytest.raises((FormatError, ConfigError)) as error:
        read(tmp_path, text, name, **options)
    assert words in str(error.value)


def test_formats_by_name(tmp_path):
    text = "H2O\n1.0\n9 0 0\n0 9 0\n0 0 9\nO H\n1 2\nDirect\n0 0 0\n0.1 0 0\n0 0.1 0\n"
    assert read(tmp_path, text, "odd_name", file_format="vasp")[0].get_chemical_formula() == "H2O"
    with pytest.raises(ConfigError, match="format: 'vaspp' is no format that ASE reads; did you mean vasp"):
        read(tmp_path, text, "odd_name", file_format="vaspp")
    with pytest.raises(ConfigError, match="species: is for LAMMPS files"):
        read(tmp_path, text, "POSCAR", file_format="vasp", species=("O", "H"))


ROWS = DATA[DATA.index("Atoms") :]


def atoms_in(style, *rows):
    """The data file with other lines of atoms."""
    return DATA.replace(ROWS, f"Atoms{style}\n\n" + "\n".join(rows) + "\n")


def test_the_style_of_atoms_is_seen_where_the_file_does_not_say_it(tmp_path):
    """ASE's reader knows two of them without the comment, by their number of columns."""
    charged = ("1 1 -0.8 0.0 0.0 0.1", "2 2 0.4 0.76 0.0 6.53", "3 2 0.4 8.24 0.0 6.53")
    bonded = ("1 5 1 0.0 0.0 0.1", "2 5 2 0.76 0.0 6.53", "3 5 2 8.24 0.0 6.53")
    full = ("1 5 1 -0.8 0.0 0.0 0.1", "2 5 2 0.4 0.76 0.0 6.53", "3 5 2 0.4 8.24 0.0 6.53")
    for n, rows in enumerate((charged, bonded, full)):
        for images in ("", " 0 0 0"):
            (found,) = read(tmp_path, atoms_in("", *(row + images for row in rows)), f"{n}.data")
            assert str(found.symbols) == "OH2"
            np.testing.assert_allclose(found.positions[1], [0.76, 0, 6.53])
            if rows is not bonded:
                np.testing.assert_allclose(found.get_initial_charges(), [-0.8, 0.4, 0.4])


def test_units_that_a_file_says(tmp_path):
    """LAMMPS writes them into the first line of data files, and into dumps where it is asked to."""
    (found,) = read(tmp_path, DATA.replace("any text", "by write_data, units = electron"), "a.data")
    np.testing.assert_allclose(found.cell.lengths(), np.array([9, 8, 7]) * units.Bohr)
    text = "ITEM: UNITS\nreal\n" + DUMP.replace("x y z", "element x y z fx fy fz")
    text = text.replace("0 0.1\n", "0 0.1 1 2 3\n").replace("0.47", "0.47 4 5 6")
    (found,) = read(tmp_path, text.replace("1 2 0", "1 2 H 0").replace("2 1 0", "2 1 O 0"), "a.lammpstrj")
    np.testing.assert_allclose(labels(found).forces[0], np.array([1, 2, 3]) * units.kcal / units.mol, rtol=1e-4)


def test_names_of_types_stay_with_their_atoms(tmp_path):
    """ASE sorts atoms by their numbers, and not the names of their types."""
    text = atoms_in(" # atomic", "3 H 8.24 0.0 6.53", "1 O 0.0 0.0 0.1", "2 H 0.76 0.0 6.53")
    (found,) = read(tmp_path, text.replace("Masses", "Atom Type Labels\n\n1 O\n2 H\n\nMasses"), "a.data")
    np.testing.assert_allclose(found.positions[found.symbols == "O"], [[0, 0, 0.1]])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (DATA.replace("3 2 8.24 0.0 6.53\n", ""), "line 17: has 2 lines of atoms where its head says 3"),
        (DATA + "4 2 1.0 1.0 1.0\n", "line 19: has 4 lines of atoms where its head says 3"),
        (DATA.replace("# atomic", "# sphere"), "line 14: atoms of style 'sphere'; known are atomic, charge"),
        (DATA.replace("# atomic", "# full"), "line 16: an atom needs 7 or 10 numbers; found 5"),
        (DATA.replace("2 2 0.76", "2 0.76"), "line 17: an atom needs as many numbers as the first, 5; found 4"),
        (DATA.replace("15.9994", "heavy"), "line 11: expected the number of a type and its mass"),
        (
            DATA.replace("1 15.9994", "O 15.9994"),
            "line 11: expected the number of a type and its mass, found 'O 15.9994'",
        ),
        (DATA.replace("3 2 8.24", "3 4 8.24"), "line 18: type '4' is none of the 2 types of the file"),
        (DATA.replace("any text", "write_data, units = lj"), "is in units 'lj'; known are metal, real"),
        (
            DATA.replace("Masses", "Atom Type Labels\n\n1 H\n2 O\n\nMasses").replace("15.9994", "16.0"),
            "line 17: type 2 is O and has a mass of 1.00794",
        ),
        (atoms_in("", *(f"{n} 1 1 0 0 {n}" for n in (1, 2, 3))), "line 14: the style of the atoms is not clear"),
    ],
)
def test_what_is_wrong_with_a_data_file_is_said_with_its_line(tmp_path, text, words):
    """ASE takes the first atoms where there are more, and ends with StopIteration where there are fewer."""
    with pytest.raises(FormatError) as error:
        read(tmp_path, text, "a.data")
    assert words in str(error.value)
