"""LAMMPS files, whose atoms have types and not elements: which element each type is must be known before ASE reads them."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from ase.data import atomic_masses
from ase.data import atomic_numbers as ase_numbers
from ase.io.formats import open_with_compression

from bpjax.elements import atomic_numbers
from bpjax.errors import ConfigError, FormatError, UnknownSpeciesError

_Path = str | os.PathLike[str]

DATA, DUMP = "lammps-data", "lammps-dump-text"
"""ASE's names of the formats."""

_HEAD = 4096
"""Bytes within which a data file says how many atoms it has."""

_NEAR = 0.7
"""Largest difference in amu between the mass of a type and that of its element; isotopes of hydrogen need a map of types."""


def is_lammps_data(path: _Path) -> bool:
    """Whether a file begins as a data file does: any first line, and soon ``N atoms``.

    Raises what `open` and the compressions do.
    """
    with open_with_compression(os.fspath(path), "rb") as file:
        head = file.read(_HEAD)  # not by lines: a binary file may be all one
    lines = [line.split(b"#")[0] for line in head.split(b"\n")]
    return any(re.fullmatch(rb"\s*\d+\s+atoms\s*", line) for line in lines[1:])


def reader_options(path: _Path, file_format: str, species: Sequence[str] | None) -> dict[str, Any]:
    """What ASE's reader must be told of the elements.

    Args:
      path: the file.
      file_format: `DATA`, `DUMP`, or any other, which has elements of its own.
      species: elements of the types 1, 2, ...; None to go by the masses in the file.

    Raises:
      FormatError: the file does not say which elements its types are.
      ConfigError: `species` are given where there are no types, are too few, or are no elements.
    """
    if file_format not in (DATA, DUMP):
        if species is not None:
            raise ConfigError(f"is for LAMMPS files, {os.fspath(path)} has elements", field="species")
        return {}
    with open_with_compression(os.fspath(path), "rb") as file:
        lines = file.read().decode(errors="replace").split("\n")
    options: dict[str, Any] = _units(path, lines)
    if file_format == DATA:
        types, masses, names = _types_of_data(path, lines)
        options["atom_style"] = _style(path, lines, types)
        if names:
            options["sort_by_id"] = False  # ASE sorts all but the names of the types
    else:
        _check_dump(path, lines)
        types, masses, names = _types_of_dump(lines)
        if species is not None and names:
            raise ConfigError(f"is for types without elements, {os.fspath(path)} says them", field="species")
    if species is not None:
        try:
            numbers = atomic_numbers(species)
        except UnknownSpeciesError as error:
            raise ConfigError(str(error), field="species") from error
        if len(species) < types:
            raise ConfigError(f"{', '.join(species)}: {os.fspath(path)} has types up to {types}", field="species")
        if file_format == DATA:
            return {**options, "Z_of_type": {n: int(Z) for n, Z in enumerate(numbers, start=1)}}
        return {**options, "specorder": list(species)}
    if names:
        return options
    if not masses:
        raise FormatError(
            path, f"has atoms of types 1 to {types} and does not say which elements these are; name them (species)"
        )
    elements = {}
    for kind, mass in masses.items():
        elements[kind] = 1 + int(np.argmin(np.abs(atomic_masses[1:] - mass)))
        if abs(atomic_masses[elements[kind]] - mass) > _NEAR:
            raise FormatError(path, f"mass {mass:g} of type {kind} is that of no element; name them (species)")
    return {**options, "Z_of_type": elements}


_UNITS = ("metal", "real", "electron", "si", "cgs", "micro", "nano")
_SAYS_UNITS = re.compile(r"\bunits\s*=\s*(\w+)")


def _units(path: _Path, lines: list[str]) -> dict[str, Any]:
    """The style of units, where a file says it: in the first line of data files, after ``ITEM: UNITS`` of dumps; else metal."""
    found = _SAYS_UNITS.search(lines[0])
    unit = found.group(1) if found else None
    for line, following in itertools.pairwise(lines[:10]):
        if line.strip() == "ITEM: UNITS":
            unit = following.strip()
    if unit is not None and unit not in _UNITS:
        raise FormatError(path, f"is in units {unit!r}; known are {', '.join(_UNITS)}")
    return {} if unit is None else {"units": unit}


_ENDS = (
    *("Atoms", "Masses", "Velocities", "Charges", "Labels", "Coeffs", "Bonds", "Angles", "Dihedrals", "Impropers"),
    *("Ellipsoids", "Lines", "Triangles", "Bodies"),
)
"""Last words of the names of sections."""


def _section(lines: list[str], name: str) -> list[tuple[int, list[str]]]:
    """Number and words of each line of a section of a data file; its own line, with the comment, first."""
    start = next((n for n, line in enumerate(lines) if line.split("#")[0].split() == name.split()), None)
    if start is None:
        return []
    found = [(start + 1, lines[start].replace("#", " # ").split())]
    for number, line in enumerate(lines[start + 1 :], start + 2):
        words = line.split("#")[0].split()
        if words and words[-1] in _ENDS and words[0][0].isupper():
            break
        if words:
            found.append((number, words))
    return found


def _types_of_data(path: _Path, lines: list[str]) -> tuple[int, dict[int, float], bool]:
    """Number of types, masses by type, and whether types have names that are elements."""
    types = _count(lines, "atom types")
    names: dict[int, str] = {}
    for number, words in _section(lines, "Atom Type Labels")[1:]:
        if len(words) != 2 or not words[0].isdigit():
            raise FormatError(path, f"expected a type and its name, found {' '.join(words)[:40]!r}", number)
        names[int(words[0])] = words[1]
    masses: dict[int, float] = {}
    for number, words in _section(lines, "Masses")[1:]:
        try:
            kind, masses[kind] = int(words[0]), float(words[1])
        except (ValueError, IndexError):
            message = f"expected the number of a type and its mass, found {' '.join(words)[:40]!r}"
            raise FormatError(path, message, number) from None
        Z = ase_numbers.get(names.get(kind, ""), 0)
        if Z and abs(atomic_masses[Z] - masses[kind]) > _NEAR and names[kind] != "H":
            raise FormatError(path, f"type {kind} is {names[kind]} and has a mass of {masses[kind]:g}", number)
    return types, masses, bool(names) and all(name in ase_numbers for name in names.values())


def _count(lines: list[str], of: str) -> int:
    """The number that stands before some words in the head of a data file; 0 if none does."""
    plain = (line.split("#")[0].split() for line in lines[1:])
    return next((int(words[0]) for words in plain if words[1:] == of.split() and words[0].isdigit()), 0)


_STYLES = {
    "atomic": 5,
    "charge": 6,
    "bond": 6,
    "angle": 6,
    "molecular": 6,
    "full": 7,
}
"""Styles of atoms that ASE reads, and numbers on the line of an atom; three more where images are counted."""


def _style(path: _Path, lines: list[str], types: int) -> str:
    """The style of the atoms, by the comment of their section, or else by what stands there.

    Raises:
      FormatError: too few or too many atoms, a style that ASE does not read, or one that cannot be told.
    """
    head, *rows = _section(lines, "Atoms") or [(0, [])]
    atoms = _count(lines, "atoms")
    if len(rows) != atoms:
        line = rows[-1][0] if rows else head[0] or None
        raise FormatError(path, f"has {len(rows)} lines of atoms where its head says {atoms}", line)
    given = "".join(head[1][2:3])
    if given and given not in _STYLES:
        raise FormatError(path, f"atoms of style {given!r}; known are {', '.join(_STYLES)}", head[0])
    first = len(rows[0][1]) if rows else _STYLES["atomic"]
    known = {*map(str, range(1, types + 1)), *(words[-1] for _, words in _section(lines, "Atom Type Labels")[1:])}
    likely = [style for style, count in _STYLES.items() if first in (count, count + 3) and given in ("", style)]
    for number, words in rows:
        if len(words) != first or not likely:
            wanted = f"as many numbers as the first, {first}" if likely else f"{_numbers_of(given)} numbers"
            raise FormatError(path, f"an atom needs {wanted}; found {len(words)}", number)
    if len(likely) == 1:
        return _checked(path, likely[0], rows, known)
    # Both have six: id type q x y z, and id molecule type x y z.
    charge, molecule = ({words[place] for _, words in rows} <= known for place in (1, 2))
    if charge and molecule:
        message = 'the style of the atoms is not clear; say it as LAMMPS does, "Atoms # charge" or "Atoms # molecular"'
        raise FormatError(path, message, head[0])
    return _checked(path, "molecular" if molecule else "charge", rows, known)


def _checked(path: _Path, style: str, rows: list[tuple[int, list[str]]], known: set[str]) -> str:
    """The style, after a check of the types."""
    place = 1 if style in ("atomic", "charge") else 2
    for number, words in rows:
        if words[place] not in known:
            raise FormatError(path, f"type {words[place]!r} is none of the {len(known)} types of the file", number)
    return style


def _numbers_of(style: str) -> str:
    counts = [_STYLES[style]] if style else sorted(set(_STYLES.values()))
    return " or ".join(str(n) for n in sorted({*counts, *(n + 3 for n in counts)}))


def _check_dump(path: _Path, lines: list[str]) -> None:
    """Raises where a frame has more or fewer atoms than it says, a row other columns, or an atom no element."""
    said, rows, columns, begun = 0, 0, [], 0
    for number, line in enumerate([*lines, "ITEM:"], 1):
        if line.startswith("ITEM:"):
            if begun and rows != said:
                raise FormatError(path, f"has {rows} lines of atoms where the frame says {said}", number - 1)
            begun = number if line.startswith("ITEM: ATOMS") else 0
            columns, rows = line.split()[2:], 0
        elif begun and line.strip():
            words, rows = line.split(), rows + 1
            if len(words) != len(columns):
                raise FormatError(path, f"needs {len(columns)} columns, found {len(words)}", number)
            if "element" in columns and ase_numbers.get(element := words[columns.index("element")], 0) < 1:
                raise FormatError(path, f"{element!r} is no chemical symbol", number)
        elif lines[number - 2].startswith("ITEM: NUMBER OF ATOMS"):
            said = int(line) if line.strip().isdigit() else -1


def _types_of_dump(lines: list[str]) -> tuple[int, dict[int, float], bool]:
    """As `_types_of_data`; columns of elements or masses will do, without them only types count."""
    header = next((line.split()[2:] for line in lines if line.startswith("ITEM: ATOMS")), [])
    if "element" in header or "mass" in header or "type" not in header:
        return 0, {}, True
    at, types, inside = header.index("type"), 0, False
    for line in lines:
        if line.startswith("ITEM:"):
            inside = line.startswith("ITEM: ATOMS")
        elif inside and len(words := line.split()) > at and words[at].isdigit():
            types = max(types, int(words[at]))
    return types, {}, False
