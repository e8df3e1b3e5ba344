"""Data files of RuNNer and n2p2 (``input.data``, ``output.data``).

Each structure stands between ``begin`` and ``end``::

    begin set=train
    comment any text
    lattice 10.0 0.0 0.0
    lattice 0.0 10.0 0.0
    lattice 0.0 0.0 10.0
    atom x y z El charge unused fx fy fz
    energy -1.0
    charge 0.0
    end

A structure without ``lattice`` lines is not periodic, one with three of them is so in all directions. The file does not
say its units; whoever reads it must. Layout: https://compphysvienna.github.io/n2p2/topics/cfg_file.html.
"""

from __future__ import annotations

import lzma
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import ase
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import atomic_numbers
from ase.io.formats import open_with_compression

from bpjax.errors import FormatError
from bpjax.io.extxyz import excerpt
from bpjax.io.frames import frame_selection
from bpjax.io.xyz_dialects import element_of, set_masses
from bpjax.progress import ProgressFn, counted, silent
from bpjax.units import unit_system

_Path = str | os.PathLike[str]
_Row = tuple[int, list[bytes]]  # number of a line, and its words

# Array for the unused column, where it is not all zero. RuNNer calls it the energy of the atom, n2p2 passes over it.
UNUSED = "runner_unused"

_KEYWORDS = ("begin", "comment", "lattice", "atom", "energy", "charge", "end")
_BOM = b"\xef\xbb\xbf"  # some editors on Windows start a text with it
BLANKS = " \t\v\f"  # what `bytes.strip` takes off, not all that Unicode has
_FULL, _SHORT = 10, 5  # words of an atom's line with charge, unused column and forces, and without


def is_runner(path: _Path) -> bool:
    """Whether the first line that is neither empty nor a comment (#) starts with ``begin``.

    Raises what `open` and the compressions do.
    """
    with open_with_compression(os.fspath(path), "rb") as file:
        start, in_comment = file.read(len(_BOM)), False
        if start != _BOM:
            file.seek(0)
        # In pieces, because a binary file may be all one line.
        while piece := file.readline(4096):
            in_comment = in_comment or piece.lstrip().startswith(b"#")
            if piece.strip() and not in_comment:
                return piece.split()[0] == b"begin"
            in_comment = in_comment and not piece.endswith(b"\n")
    return False


def read_runner(
    path: _Path, units: str | None, index: str | int | slice = ":", progress: ProgressFn = silent
) -> list[ase.Atoms]:
    """Reads the structures of a RuNNer or n2p2 data file.

    Labels are what the file says, zeros too. But where there is no ``energy`` line, forces that are all zero are no labels:
    n2p2 needs something to stand there. Within a structure, lines may be in any order. Empty lines and lines that start
    with ``#`` are passed over.

    Args:
      path: the file, compressed or not.
      units: a name in `bpjax.units.SYSTEMS`; the file does not say.
      index: which frames, as in ASE; the whole file is checked anyway.
      progress: what shows it; see `bpjax.progress`.

    Returns: structures in eV and A. Energy and forces are results of the calculator, charges of the atoms (unless all
      are zero) initial charges in e. In `info`: ``comment`` (a line for each that the file has), ``set`` (train or test)
      and the total ``charge`` in e, of those the file has. In `arrays`: ``runner_unused``, that column, unless all zero.

    Raises:
      FormatError: with the line that is wrong.
      ConfigError: `units` is None or unknown, or `index` is not understood.
    """
    system = unit_system(units, os.fspath(path))
    selection = frame_selection(index)
    try:
        with open_with_compression(os.fspath(path), "rb") as file, progress(0, "reading") as bar:
            frames = [_atoms(path, rows, system) for rows in counted(_blocks(path, file), bar)]
    except FileNotFoundError as error:
        raise FormatError(path, "no such file") from error
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise FormatError(path, f"cannot be read: {error}") from error
    if not frames:
        raise FormatError(path, "holds no structures")
    try:
        chosen = frames[selection] if isinstance(selection, slice) else [frames[selection]]
    except IndexError:
        chosen = []
    if not chosen:
        raise FormatError(path, f"has no frame {index}")
    return chosen


def _blocks(path: _Path, file: Iterable[bytes]) -> Iterator[list[_Row]]:
    """The lines of one structure after the other, ``begin`` first."""
    rows: list[_Row] = []
    line = 0
    for line, text in enumerate(file, 1):
        words = (text.removeprefix(_BOM) if line == 1 else text).split()
        if not words or words[0].startswith(b"#"):
            continue
        keyword = words[0]
        if not rows and keyword != b"begin":
            raise FormatError(path, f"expected begin, found {excerpt(keyword)}", line)
        if rows and keyword == b"begin":
            raise FormatError(path, f"begin, before the end of the structure that begins in line {rows[0][0]}", line)
        if keyword == b"comment":
            words = [keyword, text.split(None, 1)[1].strip()] if len(words) > 1 else [keyword, b""]
        rows.append((line, words))
        if keyword == b"end":
            if len(words) > 1:
                raise FormatError(path, f"expected nothing after end, found {excerpt(words[1])}", line)
            yield rows
            rows = []
    if rows:
        raise FormatError(path, f"truncated: the structure that begins in line {rows[0][0]} has no end", line)


def _atoms(path: _Path, rows: list[_Row], system: tuple[float, float]) -> ase.Atoms:
    """One structure from its lines."""
    energy_unit, length_unit = system
    groups: dict[bytes, list[_Row]] = {keyword.encode(): [] for keyword in _KEYWORDS}
    for row in rows:
        if row[1][0] not in groups:
            raise FormatError(path, f"unknown keyword {excerpt(row[1][0])}; known are {', '.join(_KEYWORDS)}", row[0])
        groups[row[1][0]].append(row)
    which, end = f"the structure that begins in line {rows[0][0]}", rows[-1][0]
    lattice, atom_rows = groups[b"lattice"], groups[b"atom"]
    if len(lattice) not in (0, 3):
        line = lattice[3][0] if len(lattice) > 3 else end
        raise FormatError(path, f"{which} has {len(lattice)} lattice lines, not 0 or 3", line)
    if not atom_rows:
        raise FormatError(path, f"{which} has no atoms", end)

    full = _has_forces(path, atom_rows)
    factors = [length_unit] * 3 + ([1.0, 1.0] + [energy_unit / length_unit] * 3 if full else [])
    table = _numbers(path, [(line, words[1:4] + words[5:]) for line, words in atom_rows], factors)
    for line, words in lattice:
        if len(words) != 4:
            raise FormatError(path, f"lattice needs 3 numbers, found {len(words) - 1}", line)
    cell = _numbers(path, [(line, words[1:]) for line, words in lattice], [length_unit] * 3)
    numbers, masses = _elements(path, atom_rows)
    atoms = ase.Atoms(numbers, table[:, :3], cell=cell if lattice else None, pbc=bool(lattice))
    set_masses(atoms, masses)
    atoms.info.update(_info(path, groups))

    energy = _single(path, groups[b"energy"], energy_unit)
    results: dict[str, Any] = {} if energy is None else {"energy": energy}
    if full:
        charges, unused, forces = table[:, 3], table[:, 4], table[:, 5:]
        if charges.any():
            atoms.set_initial_charges(charges)
        if unused.any():
            atoms.set_array(UNUSED, unused)
        if energy is not None or forces.any():
            results["forces"] = forces.copy()
    if results:
        atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def _has_forces(path: _Path, rows: list[_Row]) -> bool:
    """Whether the lines of the atoms have all columns, and not only position and element."""
    first = len(rows[0][1])
    for line, words in rows:
        if len(words) not in (_FULL, _SHORT):
            wanted = "9 values (x y z element charge unused fx fy fz) or the first 4 of them"
            raise FormatError(path, f"atom needs {wanted}, found {len(words) - 1}", line)
        if len(words) != first:
            raise FormatError(
                path, f"atom has {len(words) - 1} values, but that of line {rows[0][0]} {first - 1}", line
            )
    return first == _FULL


def _elements(path: _Path, rows: list[_Row]) -> tuple[list[int], dict[int, float]]:
    """Atomic number of each atom, and masses in amu of those that are isotopes."""
    numbers, masses = [], {}
    for n, (line, words) in enumerate(rows):
        symbol, mass = element_of(path, words[4].decode(errors="replace"), line)
        numbers.append(atomic_numbers[symbol])
        if mass is not None:
            masses[n] = mass
    return numbers, masses


def _info(path: _Path, groups: dict[bytes, list[_Row]]) -> dict[str, Any]:
    """Comment, set and total charge of a structure, those that it has."""
    info: dict[str, Any] = {}
    comment = "\n".join(_text(part.strip()) for _, words in groups[b"comment"] for part in words[1].split(b"\r"))
    if comment:
        info["comment"] = comment
    line, words = groups[b"begin"][0]
    if len(words) > 1:
        if len(words) > 2 or words[1] not in (b"set=train", b"set=test"):
            columns = "; columns named here, as by RuNNer 2, are not understood" if b"position" in words[1] else ""
            found = excerpt(b" ".join(words[1:]))
            raise FormatError(
                path, f"expected set=train, set=test or nothing after begin, found {found}{columns}", line
            )
        info["set"] = words[1].removeprefix(b"set=").decode()
    charge = _single(path, groups[b"charge"], 1.0)
    if charge is not None:
        info["charge"] = charge
    return info


def _single(path: _Path, rows: list[_Row], factor: float) -> float | None:
    """The number of a keyword that stands at most once in a structure."""
    if not rows:
        return None
    if len(rows) > 1:
        name = rows[1][1][0].decode()
        raise FormatError(path, f"{name} stands a second time, after line {rows[0][0]}", rows[1][0])
    line, words = rows[0]
    if len(words) != 2:
        raise FormatError(path, f"{words[0].decode()} needs one number, found {len(words) - 1} values", line)
    return float(_numbers(path, [(line, words[1:])], [factor])[0, 0])


def _numbers(path: _Path, rows: list[_Row], factors: Sequence[float]) -> np.ndarray:
    """Numbers of several lines, all with as many words as there are factors, times these, (lines, factors)."""
    words = [word for _, row in rows for word in row]
    try:
        if b"_" in b" ".join(words):  # Python takes 1_000 for a number, nobody else does
            raise ValueError
        values = np.array(list(map(float, words)))
    except ValueError:
        values = np.array([_number(path, line, word) for line, row in rows for word in row])
    with np.errstate(over="ignore"):
        values = values.reshape(len(rows), len(factors)) * np.array(factors)
    if not np.all(np.isfinite(values)):
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise FormatError(path, f"{excerpt(rows[row][1][column])} is not finite", rows[row][0])
    return values


def _number(path: _Path, line: int, word: bytes) -> float:
    """A number, also as Fortran writes it (1.0D-3)."""
    try:
        if b"_" not in word:
            return float(word.lower().replace(b"d", b"e"))
    except ValueError:
        pass
    raise FormatError(path, f"expected a number, found {excerpt(word)}", line)


def _text(comment: bytes) -> str:
    """A comment in UTF-8, or else in Latin-1, which can be any bytes."""
    try:
        return comment.decode()
    except UnicodeDecodeError:
        return comment.decode("latin-1")
