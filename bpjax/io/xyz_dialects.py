"""XYZ files of other programs: cells and units in comment lines that ASE does not know, atomic numbers and isotopes for symbols.

ASE passes over what it does not know in a comment line; a crystal becomes a cluster, and bohr become angstrom. Here such
lines are rewritten in the words of extended XYZ before ASE reads them, or refused.
"""

from __future__ import annotations

import json
import math
import os
import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import ase
import numpy as np
from ase.data import atomic_numbers, chemical_symbols
from ase.geometry import cellpar_to_cell

from bpjax.errors import FormatError
from bpjax.units import LENGTHS

ISOTOPES = {"D": ("H", 2.01410177812), "T": ("H", 3.01604928199)}
"""Names of isotopes, their element, and their mass in amu (AME 2020)."""

_SYMBOLS = {symbol.encode() for symbol, number in atomic_numbers.items() if number > 0}
_KEYS = {"lattice": "Lattice", "properties": "Properties", "pbc": "pbc"}
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_IPI = re.compile(
    rf"(?i:CELL)\s*[\[({{]?\s*(abcABC|H|GENH)\s*[\])}}]?\s*:?\s*((?:{_NUMBER}\s+){{5,8}}{_NUMBER})(?=\s|$)"
)
_LIKE_IPI = re.compile(r"(?i)cell\s*[\[({]\s*(abcABC|H|GENH)\b")
_IPI_UNITS = re.compile(r"([A-Za-z_]+)\{([A-Za-z_]+)\}")
_CELL_KEY = re.compile(
    r"""(?<![A-Za-z_])(?:unit_?)?cell\s*[=:]\s*(?:"([^"]*)"|'([^']*)'|[\[({]([^\])}]*)[\])}]|(\S+))""", re.IGNORECASE
)
_LATTICE = re.compile(r"""Lattice=["']?([^"']*)""")
_OTHER_CELL = re.compile(
    rf"(?i)\b[a-z_]*(?:cell|lattice|box)[a-z_]*\s*[=:]?\s*[\"'(\[{{]*\s*{_NUMBER}[\s,]+{_NUMBER}"
    r"|\b(?:cell|lattice)\s*[=:({\[|]\s*\S*\d|CRYST1\s+\d"
    rf"|\b(?:abc|pbc|[abc]vec|vec[abc]|dimensions?)\s*[=:]?\s*[\"'(\[{{]*\s*(?:{_NUMBER}[\s,]+){{2}}{_NUMBER}"
    rf"|\b(?:h|h_?matrix|vectors?)\s*[=:]?\s*[\"'(\[{{]*\s*(?:{_NUMBER}[\s,]+){{8}}{_NUMBER}"
    rf"|\b(?:cell\s*\([^)]*\)|size|dim|a1|tv_?1)\s*[=:]?\s*[\"'(\[{{]*\s*(?:{_NUMBER}[\s,]+){{2}}{_NUMBER}"
    rf"|\bbasis\s*[=:]?\s*[\"'(\[{{]*\s*(?:{_NUMBER}[\s,]+){{8}}{_NUMBER}|\bxlo\s*[=:]|\bbox_?(?:length|size|edge)?\s*[=:]\s*{_NUMBER}"
    rf"|\blx\s*[=:]\s*{_NUMBER}|\ba\s*[=:]\s*{_NUMBER}[\s,]+b\s*[=:]\s*{_NUMBER}|^\s*(?:{_NUMBER}[\s,]+){{8}}{_NUMBER}\s*$"
)
# Of cells and units in words, without which a comment line need not be looked at any closer.
_SUSPECT = re.compile(
    rb"abc|bohr|a\.u|atomic u|nanomet|vec|lx|h=|alpha| nm|b=|a1|tv_1|xlo|size|dim|basis|unit|cell|positions\{"
)
_LENGTHS_IN_WORDS = re.compile(
    r"(?i)\b(?:coord(?:inate)?s?|positions?|lengths?|distances?|geometry|xyz|box|cell)\b[\s:=(]*(?:(?:are|is|given|in)\s+)*"
    r"[\"'(\[]?(bohr|a\.?u\b|atomic units?|nm\b|nanomet(?:er|re)s?)"
)
_UNIT_KEY = re.compile(r"""(?i)([a-z_]*units?\s*[=:]\s*["']?([a-z./_]+))""")
_OTHER_UNITS = re.compile(
    r"(?i)(bohr|au|a\.u\.?|atomic(_?units?)?|nm|nanomet(er|re)s?|ha|hartrees?|ry|rydbergs?|k(cal|j)(/mol|_per_mol)?|mev)$"
)
_UNDERSTOOD = (
    'expected Lattice="ax ay az bx by bz cx cy cz", cell="..." of 3, 6 or 9 numbers in A, or CELL(abcABC): of i-PI'
)


@dataclass
class Remarks:
    """What is to be done with the frames of a file after ASE has read them: factors of lengths, and masses of atoms."""

    scale: list[float] = field(default_factory=list)
    masses: list[dict[int, float]] = field(default_factory=list)

    def apply(self, atoms: ase.Atoms, frame: int) -> None:
        """Does it with one of them."""
        if self.scale[frame] != 1.0:
            atoms.positions *= self.scale[frame]
        set_masses(atoms, self.masses[frame])


def set_masses(atoms: ase.Atoms, masses: dict[int, float]) -> None:
    """Sets masses in amu of some atoms, those of isotopes."""
    if masses:
        all_masses = atoms.get_masses()
        for index, mass in masses.items():
            all_masses[index] = mass
        atoms.set_masses(all_masses)


def is_plain(comment: bytes) -> bool:
    """Whether a comment line has nothing that ASE would pass over and should not."""
    small = comment.lower()
    if b"lattice" in small and (small.count(b"lattice") > 1 or b"Lattice=" not in comment):
        return False
    if b"properties" in small and (
        small.count(b"properties") > 1 or b"Properties=" not in comment or b"Properties= " in comment
    ):
        return False
    if b"Lattice=" not in comment and (b"box" in small or b"cryst1" in small):
        return False
    if _SUSPECT.search(small) or b"species:i:" in small or (b"=" not in comment and len(comment.split()) == 9):
        return False
    return b"pbc" not in small or (small.count(b"pbc") == 1 and b"pbc=" in comment)


def is_symbol(word: bytes) -> bool:
    """Whether ASE takes it for an element."""
    return word in _SYMBOLS


def rewritten(path: str | os.PathLike[str], file: Any) -> tuple[str, Remarks]:
    """The content of a file in the words of extended XYZ.

    Args:
      path: for messages.
      file: the content, as an open binary file; its layout has been checked.

    Raises:
      FormatError: with the line of a cell, a unit or a symbol that is not understood.
    """
    remarks, out, line = Remarks(), [], 0
    rows = iter(file)
    for head in rows:
        line += 1
        if not head.strip() or head.lstrip().startswith(b"VEC"):
            out.append(head.decode(errors="replace"))
            continue
        atoms = int(head)
        comment, scale = _comment(path, next(rows).decode(errors="replace").rstrip("\r\n"), line + 1)
        out += [f"{atoms}\n", f"{comment}\n"]
        line += 1
        column = first_column(columns(comment.encode()) or (), "species")
        masses: dict[int, float] = {}
        for index in range(atoms):
            line += 1
            words = next(rows).decode(errors="replace").split()
            if column is not None:
                words[column], mass = element_of(path, words[column], line)
                if mass is not None:
                    masses[index] = mass
            out.append(" ".join(words) + "\n")
        remarks.scale.append(scale)
        remarks.masses.append(masses)
    return "".join(out), remarks


class Column(NamedTuple):
    """An array among the columns: its name, a type letter for each of its columns, and the first of them."""

    name: str
    kinds: str
    start: int


def columns(comment: bytes) -> tuple[Column, ...] | None:
    """Arrays that stand in the columns, in their order, by a comment line; None if it does not say that as it should."""
    found = _PROPERTIES.search(comment)
    return _columns(b"species:S:1:pos:R:3" if found is None else found.group(1).strip(b"\"'"))


_PROPERTIES = re.compile(rb"""Properties=("[^"]*"|'[^']*'|\S+)""")


@lru_cache(1000)
def _columns(properties: bytes) -> tuple[Column, ...] | None:
    words, at, found = properties.decode(errors="replace").split(":"), 0, []
    for name, kind, count in zip(words[::3], words[1::3], words[2::3], strict=False):
        if len(kind) != 1 or not (count.isascii() and count.isdigit() and len(count) < 5):
            return None
        found.append(Column(name, kind * int(count), at))
        at += int(count)
    return tuple(found) if len(words) % 3 == 0 else None


def first_column(columns: tuple[Column, ...], *names: str) -> int | None:
    """The first column of the first array with one of these names, None if there is none; the names are in lower case."""
    return next((one.start for one in columns if one.name.lower() in names), None)


def element_of(path: str | os.PathLike[str], word: str, line: int) -> tuple[str, float | None]:
    """Element and mass (None for the usual one) of an entry: a symbol, an isotope of hydrogen, or an atomic number.

    Raises:
      FormatError: it is none of these.
    """
    if word in ISOTOPES:
        return ISOTOPES[word]
    if word.isascii() and word.isdigit() and 0 < int(word) < len(chemical_symbols):
        return chemical_symbols[int(word)], None
    if atomic_numbers.get(word, 0) > 0:
        return word, None
    message = f"{word!r} is no chemical symbol; expected one, D or T, or an atomic number from 1 to {len(chemical_symbols) - 1}"
    raise FormatError(path, message, line)


def _comment(path: str | os.PathLike[str], text: str, line: int) -> tuple[str, float]:
    """A comment line as ASE reads it, and the factor of the positions."""
    if is_plain(text.encode()):
        return text, 1.0
    found = _IPI.search(text)
    if found is None and _LIKE_IPI.search(text):
        raise _not_understood(path, text, line)
    if found or "positions{" in text:
        return _of_ipi(path, text, found, line)
    if found := _LENGTHS_IN_WORDS.search(text):
        message = (
            f"says {found.group()!r}, and extended XYZ is read in eV and A; convert its numbers and take the words out"
        )
        raise FormatError(path, message, line)
    for entry, unit in _UNIT_KEY.findall(text):
        if _OTHER_UNITS.match(unit):
            message = (
                f"says {entry!r}, and extended XYZ is read in eV and A; convert its numbers and take the entry out"
            )
            raise FormatError(path, message, line)
    text = re.sub(
        r"(?i)(?<![A-Za-z_])(lattice|properties|pbc)\s*=\s*", lambda key: f"{_KEYS[key.group(1).lower()]}=", text
    )
    text = re.sub(r"(?i)\bspecies:I:", "species:S:", text)
    found = _CELL_KEY.search(text)
    if lattice := _LATTICE.search(text):
        _check_same(path, lattice.group(1), found, line)
        return text, 1.0
    if found:
        cell = _cell(path, _value(found), line)
        rest = (text[: found.start()] + text[found.end() :]).strip()
        pbc = "" if "pbc=" in rest else ' pbc="T T T"'
        return f"{_lattice(cell)}{pbc} {rest}", 1.0
    if _OTHER_CELL.search(text):
        raise _not_understood(path, text, line)
    return text, 1.0


def _check_same(path: str | os.PathLike[str], lattice: str, other: re.Match | None, line: int) -> None:
    """Raises where a second cell of the comment line is not that of ``Lattice``; names are no cells."""
    numbers = [] if other is None else re.findall(_NUMBER, _value(other))
    if other is None or len(numbers) not in (3, 6, 9):
        return
    one, two = _cell(path, lattice, line), _cell(path, _value(other), line)
    # Lengths and angles say nothing of the direction.
    metrics = [cell @ cell.T for cell in (one, two)]
    if not np.allclose(*metrics, rtol=1e-3, atol=1e-3 * np.abs(metrics[0]).max()):
        raise FormatError(
            path, f"has two cells, Lattice and {other.group().strip()[:60]!r}; take the wrong one out", line
        )


def _value(found: re.Match) -> str:
    return next(part for part in found.groups() if part is not None)


def _of_ipi(path: str | os.PathLike[str], text: str, found: re.Match | None, line: int) -> tuple[str, float]:
    """``# CELL(abcABC): a b c alpha beta gamma  Step: 0 Bead: 0 positions{angstrom} cell{angstrom}``, or without a cell."""
    units = {quantity.lower(): unit.lower() for quantity, unit in _IPI_UNITS.findall(text)}
    length = {name: units.get(name, "") for name in ("positions", "cell")}
    other = set(units) - set(length)
    if not length["positions"] and other:
        raise FormatError(path, f"holds {', '.join(sorted(other))} of i-PI, not positions", line)
    if found is None:
        del length["cell"]
    names = {"atomic_unit": "bohr", "nanometer": "nm"}
    factors = {}
    for quantity, unit in length.items():
        factor = LENGTHS.get(names.get(unit, unit))
        if factor is None:
            allowed = "angstrom, atomic_unit, nanometer"
            shown = f"unknown unit {unit!r}" if unit else "no unit"
            raise FormatError(path, f"{shown} of {quantity}; i-PI says {quantity}{{UNIT}}, known are {allowed}", line)
        factors[quantity] = factor
    note = json.dumps(text.lstrip("# ").strip())
    if found is None:
        return f"Properties=species:S:1:pos:R:3 comment={note}", factors["positions"]
    cell = _cell(path, found.group(2), line)
    if found.group(1) != "abcABC":
        cell = cell.T  # there vectors are columns
    return f'{_lattice(cell * factors["cell"])} Properties=species:S:1:pos:R:3 pbc="T T T" comment={note}', factors[
        "positions"
    ]


def _cell(path: str | os.PathLike[str], text: str, line: int) -> np.ndarray:
    """Cell vectors as rows, from 3 lengths, 3 lengths and 3 angles, or 9 numbers."""
    words = re.findall(_NUMBER, text)
    left = re.sub(_NUMBER, "", text)
    if len(words) not in (3, 6, 9) or re.search(r"[^\s,;\[\](){}]", left):
        raise _not_understood(path, text, line)
    numbers = np.array([float(word) for word in words])
    if not all(math.isfinite(number) for number in numbers):
        raise FormatError(path, f"a cell that is not finite: {text.strip()[:60]!r}", line)
    return (
        np.diag(numbers) if len(words) == 3 else cellpar_to_cell(numbers) if len(words) == 6 else numbers.reshape(3, 3)
    )


def _not_understood(path: str | os.PathLike[str], text: str, line: int) -> FormatError:
    return FormatError(path, f"a cell that is not understood: {text.strip()[:60]!r}; {_UNDERSTOOD}", line)


def _lattice(cell: np.ndarray) -> str:
    return 'Lattice="' + " ".join(repr(float(x)) for x in cell.ravel()) + '"'
