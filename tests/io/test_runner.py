"""Reading RuNNer and n2p2 data files, and every way in which they can be broken."""

import gzip
import re

import numpy as np
import pytest
from ase.build import bulk

from bpjax.errors import ConfigError, FormatError
from bpjax.io.labels import labels
from bpjax.io.runner import is_runner, read_runner
from bpjax.io.runner_writer import write_runner
from bpjax.io.structures import read_structures
from bpjax.units import BOHR, HARTREE, unit_system
from tests.io.runner_text import TEXT, assert_same, read

# ---------------------------------------------------------------------------------------- good files


def test_all_that_a_file_says(tmp_path):
    crystal, pair = read(tmp_path, TEXT)
    assert str(crystal.symbols) == "SiO" and crystal.pbc.all() and not pair.pbc.any()
    np.testing.assert_array_equal(crystal.cell.array, [[5, 0, 0], [1, 5.5, 0], [0, 0, 6]])
    np.testing.assert_array_equal(crystal.positions, [[0, 0, 0.5], [2, 0, 0]])
    np.testing.assert_array_equal(labels(crystal).forces, [[0.1, -0.2, 0.3], [-0.1, 0.2, -0.3]])
    assert labels(crystal).energy == -1.5
    np.testing.assert_array_equal(crystal.get_initial_charges(), [0.25, -0.25])
    assert crystal.info == {"comment": "the first\n\nand the last", "set": "train", "charge": 1.0}
    # Zeros are labels as good as any, but charges that are all zero are no charges.
    assert labels(pair).energy == 0.0 and not labels(pair).forces.any()
    assert pair.info == {} and not pair.has("initial_charges") and not pair.cell.array.any()


def test_units(tmp_path):
    crystal = read(tmp_path, TEXT, "hartree-bohr")[0]
    np.testing.assert_allclose(crystal.positions[1], [2 * BOHR, 0, 0], rtol=1e-15)
    np.testing.assert_allclose(crystal.cell.array[1], [BOHR, 5.5 * BOHR, 0], rtol=1e-15)
    np.testing.assert_allclose(labels(crystal).energy, -1.5 * HARTREE, rtol=1e-15)
    np.testing.assert_allclose(labels(crystal).forces[0], np.array([0.1, -0.2, 0.3]) * HARTREE / BOHR, rtol=1e-15)
    np.testing.assert_array_equal(crystal.get_initial_charges(), [0.25, -0.25])
    assert crystal.info["charge"] == 1.0


@pytest.mark.parametrize("units", [None, "bohr", "Hartree-Bohr", ""])
def test_units_must_be_given(tmp_path, units):
    message = "do not say their units; give hartree-bohr or ev-angstrom" if units is None else f"{units!r} is not known"
    for call in (
        lambda: read(tmp_path, TEXT, units),
        lambda: read_structures(tmp_path / "input.data", units=units),
        lambda: write_runner(tmp_path / "out.data", bulk("Cu"), units),
        lambda: unit_system(units, "input.data"),
    ):
        with pytest.raises(ConfigError, match=rf"\.data: units: .*{message}") as caught:
            call()
        assert caught.value.field == "units"
    assert not (tmp_path / "out.data").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: re.sub(r"^((?!comment).*)$", lambda line: line[0].replace(" ", "\t"), text, flags=re.M),
        lambda text: text.replace(" -", "   -").replace("\n", "  \n").replace("comment", "comment  "),
        lambda text: text.rstrip("\n"),
        lambda text: "\n\n" + text.replace("end\n", "end\n\n\n") + "\n",
        lambda text: "# header\n" + text.replace("energy", "  # energy 7 in between\nenergy"),
        lambda text: text.replace("0.1", "1.0D-1").replace("0.25", "2.5d-01").replace("5.5", "55e-1"),
        lambda text: "\ufeff" + text,
        lambda text: text.replace("begin", " begin").replace("end", " end"),
    ],
)
def test_what_editors_and_fortran_do_is_understood(tmp_path, change):
    frames = read(tmp_path, TEXT)
    for a, b in zip(read(tmp_path, change(TEXT)), frames, strict=False):
        assert_same(a, b)
    assert is_runner(tmp_path / "input.data")


def test_lines_of_one_structure_may_be_in_any_order(tmp_path):
    begin, *rows, end = TEXT.split("\n\n")[0].splitlines()
    shuffled = [*rows[9:], *rows[6:8], rows[8], *rows[:6]]
    (atoms,) = read(tmp_path, "\n".join([begin, *shuffled, end]))
    assert_same(atoms, read(tmp_path, TEXT)[0])


def test_structures_without_labels(tmp_path):
    short = "begin\natom 0 0 0 H\natom 0 0 0.75 H\n{}end\n"
    zeros = "begin\natom 0 0 0 H 0 0 0 0 0\natom 0 0 0.75 H 0 0 0 0 0\n{}end\n"
    (atoms,) = read(tmp_path, short.format(""))
    assert atoms.calc is None
    (atoms,) = read(tmp_path, short.format("energy -2\n"))
    assert labels(atoms).energy == -2.0 and labels(atoms).forces is None
    (atoms,) = read(tmp_path, zeros.format(""))  # as n2p2 wants it for prediction
    assert atoms.calc is None
    (atoms,) = read(tmp_path, zeros.format("").replace("H 0 0 0 0 0", "H 0 0 0 0 1"))
    assert labels(atoms).energy is None and labels(atoms).forces.any()


def test_unused_column_is_kept_if_used(tmp_path):
    (atoms,) = read(tmp_path, "begin\natom 0 0 0 H 0 7.5 0 0 0\nend\n", "hartree-bohr")
    assert atoms.arrays["runner_unused"].tolist() == [7.5]


def test_single_carriage_returns_break_lines_of_comments(tmp_path):
    (atoms,) = read(tmp_path, "begin\natom 0 0 0 H\ncomment a \r b\r\nend\r\n")
    assert atoms.info["comment"] == "a\nb"


def test_comments_in_any_encoding(tmp_path):
    for text in ("5 Å", "end atom begin", "# no comment", "a\x0bb"):
        for encoding in ("utf-8", "latin-1"):
            (atoms,) = read(tmp_path, f"begin\natom 0 0 0 H\ncomment {text}\nend".encode(encoding))
            assert atoms.info["comment"] == text


@pytest.mark.parametrize(
    ("index", "energies"),
    [(":", [0, 1, 2, 3]), (0, [0]), ("-1", [3]), ("1::2", [1, 3]), (slice(2), [0, 1]), ("-2:", [2, 3])],
)
def test_index(tmp_path, index, energies):
    text = "".join(f"begin\natom 0 0 0 H\nenergy {i}\nend\n" for i in range(4))
    assert [labels(atoms).energy for atoms in read(tmp_path, text, index=index)] == energies
    found = read_structures(tmp_path / "input.data", index, "ev-angstrom")
    assert [labels(atoms).energy for atoms in found] == energies


def test_no_such_frame_or_file(tmp_path):
    with pytest.raises(FormatError, match=r"input\.data: has no frame 2$"):
        read(tmp_path, TEXT, index="2")
    with pytest.raises(FormatError, match="has no frame 5:"):
        read(tmp_path, TEXT, index="5:")
    with pytest.raises(ConfigError, match="selects no frames"):
        read(tmp_path, TEXT, index="last")
    with pytest.raises(FormatError, match="no such file"):
        read_runner(tmp_path / "none.data", "ev-angstrom")
    with pytest.raises(FormatError, match="cannot be read"):
        read_runner(tmp_path, "ev-angstrom")
    for text in ("", "\n\n", "# begin\n"):
        with pytest.raises(FormatError, match=r"input\.data: holds no structures"):
            read(tmp_path, text)


# ---------------------------------------------------------------------------------------- broken files


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("end\n\nbegin\n", "\nbegin\n", 13, "begin, before the end of the structure that begins in line 1"),
        ("\n\nbegin", "\nenergy 1\nbegin", 13, "expected begin, found 'energy'"),
        ("\n\nbegin", "\nend\nbegin", 13, "expected begin, found 'end'"),
        ("begin set", "comment a\nbegin set", 1, "expected begin, found 'comment'"),
        ("0.0\nend\n", "0.0\n", 17, "truncated: the structure that begins in line 14 has no end"),
        ("0.0\nend\n", "0.0\nen", 18, "truncated: the structure that begins in line 14 has no end"),
        ("energy -1.5", "enrgy -1.5", 10, "unknown keyword 'enrgy'; known are begin, comment, lattice, atom, energy"),
        ("energy -1.5", "Energy -1.5", 10, "unknown keyword 'Energy'"),
        ("energy -1.5", "-1.5", 10, "unknown keyword '-1.5'"),
        ("energy -1.5", "energy", 10, "energy needs one number, found 0 values"),
        ("energy -1.5", "energy -1.5 eV", 10, "energy needs one number, found 2 values"),
        ("energy -1.5", "energy low", 10, "expected a number, found 'low'"),
        ("energy -1.5", "energy -1_5", 10, "expected a number, found '-1_5'"),
        ("energy -1.5", "energy -1.5-105", 10, "expected a number, found '-1.5-105'"),
        ("energy -1.5", "energy nan", 10, "'nan' is not finite"),
        ("energy -1.5", "energy -1.5\nenergy -1.5", 11, "energy stands a second time, after line 10"),
        ("charge 1.0", "charge ********", 11, "expected a number, found '********'"),
        ("charge 1.0", "charge 1.0\ncharge 1.0", 12, "charge stands a second time, after line 11"),
        (
            "set=train",
            "set=validation",
            1,
            "expected set=train, set=test or nothing after begin, found 'set=validation'",
        ),
        ("set=train", "set = train", 1, "expected set=train, set=test or nothing after begin, found 'set = train'"),
        ("set=train", "set=train set=test", 1, "expected set=train, set=test or nothing after begin"),
        (
            "set=train",
            "position(3) element forces(3)",
            1,
            "expected set=train, set=test or nothing after begin, found 'position(3) element forces(3)'; columns named here",
        ),
        ("lattice 0.0 0.0 6.0\n", "", 11, "the structure that begins in line 1 has 2 lattice lines, not 0 or 3"),
        ("lattice 0.0 0.0", "lattice 1 1 1\nlattice 0.0 0.0", 8, "the structure that begins in line 1 has 4 lattice"),
        ("lattice 0.0 0.0 6.0", "lattice 0.0 0.0", 7, "lattice needs 3 numbers, found 2"),
        ("lattice 0.0 0.0 6.0", "lattice 0.0 0.0 6.0 0.0", 7, "lattice needs 3 numbers, found 4"),
        ("lattice 0.0 0.0 6.0", "lattice 0.0 0.0 x", 7, "expected a number, found 'x'"),
        ("lattice 0.0 0.0 6.0", "lattice 0.0 0.0 1e999", 7, "'1e999' is not finite"),
        ("2.0 0.0 0.0 O", "2.0 0.0 0.0 Q", 9, "'Q' is no chemical symbol; expected one, D or T, or an atomic number"),
        ("2.0 0.0 0.0 O", "2.0 0.0 0.0 o", 9, "'o' is no chemical symbol"),
        ("2.0 0.0 0.0 O", "2.0 0.0 0.0 X", 9, "'X' is no chemical symbol"),
        ("2.0 0.0 0.0 O", "2.0 0.0 0.0 119", 9, "'119' is no chemical symbol"),
        ("2.0 0.0 0.0 O", "2.0 0.0 inf O", 9, "'inf' is not finite"),
        ("2.0 0.0 0.0 O", "2.0 0.0 0,0 O", 9, "expected a number, found '0,0'"),
        ("2.0 0.0 0.0 O", "2.0 0.0 O", 9, "atom needs 9 values (x y z element charge unused fx fy fz) or the first 4"),
        ("0.2 -0.3\n", "0.2 -0.3 1.0\n", 9, "atom needs 9 values"),
        ("O -0.25 0.0 -0.1 0.2 -0.3", "O", 9, "atom has 4 values, but that of line 8 9"),
        ("O -0.25 0.0 -0.1 0.2 -0.3", "O -0.25 0.0 -0.1 0.2 NaN", 9, "'NaN' is not finite"),
        (TEXT[TEXT.index("atom") : TEXT.index("energy")], "", 10, "the structure that begins in line 1 has no atoms"),
        ("end\n\n", "end of it\n\n", 12, "expected nothing after end, found 'of'"),
        ("end\n\n", "end\n\x00\n", 13, "expected begin, found '\\x00'"),
    ],
)
def test_broken_files_name_the_line(tmp_path, old, new, line, message):
    assert old in TEXT
    with pytest.raises(FormatError) as caught:
        read(tmp_path, TEXT.replace(old, new, 1))
    assert caught.value.line == line
    assert str(caught.value).startswith(f"{tmp_path}/input.data: line {line}: {message}")


def test_line_numbers_count_every_line(tmp_path):
    with pytest.raises(FormatError, match="line 19: expected a number, found 'x'"):
        read(tmp_path, "# first\n\n" + TEXT.replace("energy 0.0", "energy x"))


def test_long_words_are_cut(tmp_path):
    with pytest.raises(FormatError) as caught:
        read(tmp_path, "begin\n" + "x" * 100000)
    assert len(str(caught.value)) < 300


def token_deletions(text):
    """Every text that lacks one word of one line that is no comment."""
    lines = text.split("\n")
    for number, line in enumerate(lines):
        words = line.split()
        for index in range(0 if not line.startswith("comment") else len(words), len(words)):
            changed = " ".join(words[:index] + words[index + 1 :])
            yield line, words[index], "\n".join([*lines[:number], changed, *lines[number + 1 :]])


def test_no_word_can_be_missing(tmp_path):
    for line, word, text in token_deletions(TEXT):
        if word == "set=train":
            continue
        with pytest.raises(FormatError):
            read(tmp_path, text)
            pytest.fail(f"{line!r} without {word!r} was read")


def test_compressed(tmp_path):
    path = tmp_path / "input.data.gz"
    path.write_bytes(gzip.compress(TEXT.encode()))
    assert is_runner(path) and len(read_structures(path, units="ev-angstrom")) == 2
    damaged = bytearray(path.read_bytes())
    damaged[40:60] = bytes(20)
    for data in (damaged, path.read_bytes()[:-20]):
        path.write_bytes(data)
        for call in (read_structures, read_runner):
            with pytest.raises(FormatError, match="cannot be read"):
                call(path, units="ev-angstrom")


def test_isotopes_and_atomic_numbers(tmp_path):
    path = tmp_path / "input.data"
    path.write_text("begin\natom 0 0 0 8 0 0 0 0 0\natom 1 0 0 D 0 0 0 0 0\natom 0 1 0 H 0 0 0 0 0\nenergy 1\nend\n")
    (found,) = read_structures(path, units="ev-angstrom")
    assert str(found.symbols) == "OH2"
    np.testing.assert_allclose(found.get_masses(), [15.999, 2.01410177812, 1.008])  # AME 2020, IUPAC
