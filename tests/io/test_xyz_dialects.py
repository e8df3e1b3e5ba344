"""XYZ files of other programs: the cell is read, or the file refused; elements by number and isotopes."""

import ase.io
import numpy as np
import pytest

from bpjax.errors import FormatError
from bpjax.io.structures import read_structures
from bpjax.units import BOHR

ATOMS = "O 0.0 0.0 0.1\nH 0.76 0.0 -0.47\nH -0.76 0.0 -0.47\n"
POSITIONS = np.array([[0.0, 0.0, 0.1], [0.76, 0.0, -0.47], [-0.76, 0.0, -0.47]])
SKEWED = np.array([[7.0, 0.0, 0.0], [1.0, 8.0, 0.0], [-0.5, 0.3, 9.0]])


def written(folder, comment, atoms=ATOMS, name="a.xyz"):
    path = folder / name
    path.write_text(f"3\n{comment}\n{atoms}", encoding="utf-8")
    return path


def numbers(array):
    return " ".join(f"{x:.10f}" for x in np.ravel(array))


def angles_of(cell):
    from ase.geometry import cell_to_cellpar

    return numbers(cell_to_cellpar(cell))


IN_BOHR = np.r_[np.array([7.0, 8.0, 9.0]) / BOHR, 90, 90, 90]

DIALECTS = {
    "i-PI, lengths and angles": f"# CELL(abcABC): {angles_of(SKEWED)}  Step: 3  positions{{angstrom}}  cell{{angstrom}}",
    "i-PI, atomic units": f"# CELL(abcABC): {numbers(IN_BOHR)} Step: 0 positions{{atomic_unit}} cell{{atomic_unit}}",
    "i-PI, columns": f"# CELL(H): {numbers(SKEWED.T)} Traj: positions{{angstrom}} cell{{angstrom}}",
    "i-PI, general": f"# CELL(GENH): {numbers(SKEWED.T)} positions{{angstrom}} cell{{angstrom}}",
    "small letters": f'lattice="{numbers(SKEWED)}" properties=species:S:1:pos:R:3 PBC="T T F"',
    "cell of nine": f'cell="{numbers(SKEWED)}" energy=-1.5',
    "cell of six": f"cell=[{angles_of(SKEWED)}]",
    "cell of three": "energy=-1.5 Cell: {7.0, 8.0, 9.0}",
}


@pytest.mark.parametrize("name", DIALECTS)
def test_the_cell_is_read(tmp_path, name):
    factor = BOHR if "atomic units" in name else 1.0
    atoms = "".join(f"{symbol} {numbers(r / factor)}\n" for symbol, r in zip("OHH", POSITIONS, strict=True))
    (found,) = read_structures(written(tmp_path, DIALECTS[name], atoms))
    cell = np.diag([7.0, 8.0, 9.0]) if name in ("i-PI, atomic units", "cell of three") else SKEWED
    np.testing.assert_allclose(found.cell.cellpar(), ase.cell.Cell(cell).cellpar(), rtol=1e-8)  # ten digits
    if "angles" not in name and "six" not in name:  # which leave the orientation open
        np.testing.assert_allclose(found.cell.array, cell, atol=1e-8)
    np.testing.assert_allclose(found.positions, POSITIONS, atol=1e-8)
    assert found.pbc.tolist() == [True, True, name != "small letters"]
    assert found.get_chemical_formula() == "H2O"
    if "energy" in DIALECTS[name]:
        assert found.get_potential_energy() == -1.5


@pytest.mark.parametrize(
    ("comment", "words"),
    [
        (
            "# CELL(abcABC): 7 8 9 90 90 90 positions{furlong} cell{angstrom}",
            "line 2: unknown unit 'furlong' of positions",
        ),
        ("# CELL(abcABC): 7 8 9 90 90 90 Step: 0", "line 2: no unit of positions"),
        (
            "# CELL(abcABC): 7 8 9 90 90 90 forces{atomic_unit} cell{atomic_unit}",
            "line 2: holds forces of i-PI, not positions",
        ),
        ('cell="7 8"', "line 2: a cell that is not understood: '7 8'; expected Lattice="),
        ('cell="7 8 nine"', "line 2: a cell that is not understood"),
        ("Cell| 7.0 0.0", "line 2: a cell that is not understood"),
        ("abc: 10 10 10 90 90 90", "line 2: a cell that is not understood"),
        ("PBC 10 10 10", "line 2: a cell that is not understood"),
        ('h="9 0 0 0 9 0 0 0 9"', "line 2: a cell that is not understood"),
        ("avec=10,0,0 bvec=0,10,0 cvec=0,0,10", "line 2: a cell that is not understood"),
        ("a=10 b=10 c=10 alpha=90 beta=90 gamma=90", "line 2: a cell that is not understood"),
        ("a=3.6 b=3.6 c=3.6", "line 2: a cell that is not understood"),
        ("cell(A) 3.6 3.6 3.6", "line 2: a cell that is not understood"),
        ('a1="3.6 0 0" a2="0 3.6 0" a3="0 0 3.6"', "line 2: a cell that is not understood"),
        ("xlo=0 xhi=3.6 ylo=0 yhi=3.6", "line 2: a cell that is not understood"),
        ("boxlength=3.6", "line 2: a cell that is not understood"),
        ("water box (Bohr)", "line 2: says 'box (Bohr', and extended XYZ is read in eV and A"),
        ("Lx=10 Ly=10 Lz=10", "line 2: a cell that is not understood"),
        ("dimensions: 10 10 10", "line 2: a cell that is not understood"),
        ("9 0 0 0 9 0 0 0 9", "line 2: a cell that is not understood"),
        ("coordinates in bohr", "line 2: says 'coordinates in bohr', and extended XYZ is read in eV and A"),
        ("positions in a.u. energy=1", "line 2: says 'positions in a.u', and extended XYZ is read in eV and A"),
        ("lengths: nm", "line 2: says 'lengths: nm', and extended XYZ is read in eV and A"),
    ],
)
def test_what_is_not_understood_is_refused(tmp_path, comment, words):
    with pytest.raises(FormatError) as error:
        read_structures(written(tmp_path, comment))
    assert words in str(error.value)


@pytest.mark.parametrize(
    "comment",
    [
        "a unit cell of ice, one molecule",
        "",
        "i = 0, time = 0.0, E = -17.2",
        'Properties=species:S:1:pos:R:3 note="cell 7 of 9"',
        "abc of a vector of dimension 3, alpha=2, PBC off, h=1",
        "bohr radius 0.529177 nm",
        "dipole vector: 0.1 0.2 0.3",
    ],
)
def test_other_comments_stay(tmp_path, comment):
    (found,) = read_structures(written(tmp_path, comment))
    assert not found.pbc.any()
    np.testing.assert_array_equal(found.positions, POSITIONS)


@pytest.mark.parametrize("second", [f"cell=[{angles_of(SKEWED)}]", "unit_cell=conventional"])
def test_a_second_cell_that_does_not_contradict(tmp_path, second):
    (found,) = read_structures(written(tmp_path, f'Lattice="{numbers(SKEWED)}" {second}'))
    np.testing.assert_array_equal(found.cell.array, SKEWED)


def test_some_frames_of_many(tmp_path):
    path = tmp_path / "a.xyz"
    frames = [f'3\nlattice="{numbers(n * SKEWED)}"\n{ATOMS}' for n in (1, 2, 3)]
    path.write_text("".join(frames))
    assert [a.cell.array[0, 0] for a in read_structures(path, "1:")] == [14.0, 21.0]
    assert [a.cell.array[0, 0] for a in read_structures(path, "-1")] == [21.0]


def test_numbers_and_isotopes(tmp_path):
    by_number = ATOMS.replace("O ", "8 ").replace("H ", "1 ")
    assert read_structures(written(tmp_path, "", by_number))[0].get_chemical_formula() == "H2O"
    heavy, usual = read_structures(written(tmp_path, "", ATOMS.replace("H 0", "D 0").replace("H -", "T -")))[0], 15.999
    assert heavy.get_chemical_formula() == "H2O"
    np.testing.assert_allclose(heavy.get_masses(), [usual, 2.01410177812, 3.01604928199], rtol=1e-12)  # AME 2020
    for column in ("species:I:1", "Z:I:1"):
        found = read_structures(written(tmp_path, f"Properties={column}:pos:R:3", by_number))
        assert found[0].get_chemical_formula() == "H2O"
    column = "Properties=pos:R:3:species:S:1"
    turned = "".join(f"{' '.join(row.split()[1:])} {row.split()[0]}\n" for row in by_number.splitlines())
    assert read_structures(written(tmp_path, column, turned))[0].get_chemical_formula() == "H2O"


@pytest.mark.parametrize("word", ["O1", "X", "0", "119", "h"])
def test_what_is_no_element(tmp_path, word):
    with pytest.raises(
        FormatError, match=rf"a\.xyz: line 3: '{word}' is no chemical symbol; expected one, D or T, or an atomic"
    ):
        read_structures(written(tmp_path, "", ATOMS.replace("O ", f"{word} ")))


@pytest.mark.parametrize(
    ("comment", "change", "words"),
    [
        ("Properties=species:S:1:pos:R:3", ("0.1\n", "0.1 7.0\n"), "line 3: frame 0 needs 4 columns, found 5"),
        ("Properties=species:S:1:pos:R:3", (" 0.1\n", "\n"), "line 3: frame 0 needs 4 columns, found 3"),
        ("", ("0.76 0.0", "\uff10.76 0.0"), "line 4: expected a number, found"),
        ("energy=1.0 energy=2.0", ("", ""), "line 2: 'energy' stands twice in the comment line"),
        ('"energy"=1.0 energy=2.0', ("", ""), "line 2: 'energy' stands twice in the comment line"),
        ("energy=\uff11.5", ("", ""), "line 2: digits that are not those of ASCII"),
        ("energy=-1_0.5", ("", ""), "line 2: energy: expected a number, found '-1_0.5'"),
        ('stress="1 2 3 4"', ("", ""), "line 2: stress has 4 numbers; expected 6 or 9"),
        ("virial='1 2 3'", ("", ""), "line 2: virial has 3 numbers; expected 6 or 9"),
        ("properties=species:S:1:pos:R:3:stress:R:1", ("\n", " 0\n"), "'stress' is a column"),
        ("Properties = species:S:1:pos:R:3:dipole:R:1", ("\n", " 0\n"), "'dipole' is a column"),
        ('stress = "1 2 3 4"', ("", ""), "line 2: stress has 4 numbers; expected 6 or 9"),
        ("'stress'=[1,2,3,4,5,6,7,8,9]", ("", ""), "line 2: stress is not symmetric"),
        ("stress={1 2 3 4 5 6 7 8 9}", ("", ""), "line 2: stress is not symmetric"),
        (f'Lattice="{numbers(SKEWED)}" lattice="{numbers(SKEWED)}"', ("", ""), "'Lattice' stands twice in the comment"),
        ('pbc="T T T" PBC="F F F"', ("", ""), "line 2: 'pbc' stands twice in the comment line"),
        ("", ("0.76 0.0", "0.7_6 0.0"), "line 4: expected a number, found '0.7_6'"),
        ("Properties=species:S:1:Z:I:1:pos:R:3", ("O ", "O 7 "), "line 3: says 'O' and the atomic number '7'"),
        ('stress="1 2 3 4 5 6 7 8 9"', ("", ""), "line 2: stress is not symmetric"),
        ('dipole="1 2"', ("", ""), "line 2: dipole has 2 numbers; expected 3"),
        (f'Lattice="{numbers(SKEWED)}" cell="5 5 5"', ("", ""), "line 2: has two cells, Lattice and 'cell=\"5 5 5\"'"),
        ('Lattice="9 9 9"', ("", ""), "line 2: Lattice has 3 numbers; expected 9"),
        ("Properties=species:S:1:pos:R", ("", ""), "line 2: Properties must be name:type:number"),
        ("Properties=species:S:one:pos:R:3", ("", ""), "line 2: Properties must be name:type:number"),
        ("", ("0.1\n", "0.1 7\n"), "line 4: frame 0 needs 5 columns, found 4"),
        (
            "Properties=species:S:1:pos:R:3:forces:R:3 forces=1",
            ("\n", " 0 0 0\n"),
            "'forces' stands in the comment line and is a",
        ),
        ('energy="1.0 2.0" pbc="F F F"', ("", ""), "line 2: energy has 2 numbers; expected 1"),
    ],
)
def test_text_that_says_two_things(tmp_path, comment, change, words):
    with pytest.raises(FormatError) as error:
        read_structures(written(tmp_path, comment, ATOMS.replace(*change, -1 if change[0] == "\n" else 1)))
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("comment", "words"),
    [
        ("# CELL(abcABC): 4 4 4 90 90 Step: 0 positions{angstrom} cell{angstrom}", "a cell that is not understood"),
        ("# CELL(abcABC): nan 4 4 90 90 90 positions{angstrom} cell{angstrom}", "a cell that is not understood"),
        ("# cell(abcABC): 4 4 4 90 90 90 Step: 0", "no unit of positions"),
        ("# Traj: positions{furlong} Step: 0", "unknown unit 'furlong' of positions"),
        ('box="4 4 4"', "a cell that is not understood"),
        ("box: 4.0 4.0 4.0", "a cell that is not understood"),
        ('lattice_vectors="4 0 0 0 4 0 0 0 4"', "a cell that is not understood"),
        ("cell_abc=4,4,4", "a cell that is not understood"),
        ("jmolscript: unitcell {4 4 4 90 90 90}", "a cell that is not understood"),
        ("CRYST1    4.000    4.000    4.000  90.00  90.00  90.00 P 1", "a cell that is not understood"),
        ('Lattice="9 0 0 0 9 0 0 0 9" units=bohr', "says 'units=bohr', and extended XYZ is read in eV and A"),
        ("energy=1.0 energy_unit=hartree", "says 'energy_unit=hartree'"),
        ('pos_unit="nm"', "says 'pos_unit=\"nm'"),
    ],
)
def test_cells_and_units_that_would_be_passed_over(tmp_path, comment, words):
    with pytest.raises(FormatError) as error:
        read_structures(written(tmp_path, comment, ATOMS))
    assert words in str(error.value) and "line 2" in str(error.value)


def test_units_that_are_read(tmp_path):
    (found,) = read_structures(written(tmp_path, "# Traj: positions{atomic_unit} Step: 0", ATOMS))
    np.testing.assert_allclose(found.positions, np.array(POSITIONS) * BOHR, rtol=1e-12)
    assert not found.pbc.any()
    for comment in (
        "supercell=2x2x2",
        "a box of water, 3 atoms",
        "energy=1.0 energy_unit=eV",
        "units=metal",
        'note="volume in \u00c5\u00b3"',
    ):
        np.testing.assert_array_equal(read_structures(written(tmp_path, comment, ATOMS))[0].positions, POSITIONS)


def test_columns_that_nobody_names_may_follow(tmp_path):
    rows = ATOMS.replace("\n", " 0.5 0.5\n")
    np.testing.assert_array_equal(read_structures(written(tmp_path, "plain", rows))[0].positions, POSITIONS)
