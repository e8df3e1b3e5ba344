"""LAMMPS files, whose atoms have types and not elements: which element each type is must be known before ASE reads them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from ase.data import atomic_masses
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
        types, masses, names = (_of_data if file_format == DATA else _of_dump)(
            file.read().decode(errors="replace").split("\n")
        )
    if species is not None:
        try:
            numbers = atomic_numbers(species)
        except UnknownSpeciesError as error:
            raise ConfigError(str(error), field="species") from error
        if len(species) < types:
            raise ConfigError(f"{', '.join(species)}: {os.fspath(path)} has types up to {types}", field="species")
        if file_format == DATA:
            return {"Z_of_type": {n: int(Z) for n, Z in enumerate(numbers, start=1)}}
        return {"specorder": list(species)}
    if names:
        return {}
    if not masses:
        raise FormatError(
            path, f"has atoms of types 1 to {types} and does not say which elements these are; name them (species)"
        )
    for kind, mass in masses.items():
        nearest = int(np.argmin(np.abs(atomic_masses - mass)))
        if abs(atomic_masses[nearest] - mass) > _NEAR or nearest == 0:
            raise FormatError(path, f"mass {mass:g} of type {kind} is that of no element; name them (species)")
    return {}


def _of_data(lines: list[str]) -> tuple[int, dict[int, float], bool]:
    """Number of types, masses by type, and whether types have names that ASE reads."""
    plain = [line.split("#")[0].split() for line in lines]
    types = next((int(words[0]) for words in plain if words[1:] == ["atom", "types"] and words[0].isdigit()), 0)
    masses: dict[int, float] = {}
    starts = [n for n, words in enumerate(plain) if words == ["Masses"]]
    for words in plain[starts[0] + 1 :] if starts else []:
        if not words:
            continue
        if len(words) != 2 or not words[0].isdigit():
            break
        masses[int(words[0])] = float(words[1])
    return types, masses, ["Atom", "Type", "Labels"] in plain


def _of_dump(lines: list[str]) -> tuple[int, dict[int, float], bool]:
    """As `_of_data`; columns of elements or masses will do, without them only types count."""
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
