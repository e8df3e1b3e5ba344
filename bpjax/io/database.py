"""Databases of ASE (sqlite ``.db`` and ``.json``), also as SchNetPack fills them.

Key-value pairs of a row go to `info`, so ``config_type`` or ``group`` among them names its group. Energy, forces and stress
are results of the calculator; where a row has none of a name, that of its ``data`` counts, in the units that the metadata
state (SchNetPack: ``_property_unit_dict`` and ``_distance_unit``), else in those of ASE, eV and A.
"""

from __future__ import annotations

import os
from typing import Any

import ase
import ase.db
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator

from bpjax.errors import FormatError
from bpjax.units import ENERGIES, LENGTHS

_Path = str | os.PathLike[str]

DATABASES = ("db", "json")
"""ASE's names of the formats that are read here."""


def read_database(path: _Path, file_format: str) -> list[ase.Atoms]:
    """Reads all rows of a database, in the order of their ids.

    Args:
      path: the file.
      file_format: one of `DATABASES`.

    Raises:
      FormatError: metadata with a unit that is not known. What ASE raises on broken files is passed on.
    """
    frames = []
    connected: Any = ase.db.connect(os.fspath(path), type=file_format, serial=True)
    with connected as database:
        metadata = database.metadata or {}
        length = _factor(path, "_distance_unit", metadata.get("_distance_unit", "Ang"), LENGTHS)
        units = metadata.get("_property_unit_dict") or {}
        for row in database.select():
            atoms = row.toatoms()
            results = {} if atoms.calc is None else dict(atoms.calc.results)
            results |= {name: v for name, v in _labels(path, row.data, units).items() if name not in results}
            atoms.info.update(row.key_value_pairs)
            if length != 1:
                atoms.set_cell(atoms.cell * length)
                atoms.positions *= length
            atoms.calc = SinglePointCalculator(atoms, **results) if results else None
            frames.append(atoms)
    return frames


def _labels(path: _Path, data: dict[str, Any], units: dict[str, str]) -> dict[str, Any]:
    """Energy, forces and stress among the data of a row, in eV and A."""
    found = {}
    for name, power in (("energy", 0), ("forces", 1), ("stress", 3)):
        value = data.get(name)
        if value is None or np.asarray(value).dtype.kind not in "iuf":
            continue
        value = np.asarray(value, dtype=np.float64)
        value = float(value.item()) if name == "energy" and value.size == 1 else value
        found[name] = value * _unit(path, name, units[name], power) if name in units else value
    return found


def _unit(path: _Path, name: str, unit: str, power: int) -> float:
    """Value of a unit such as ``kcal/mol/Ang`` (or ``eV/Ang^3``, ``eV/Ang/Ang/Ang``): an energy over lengths."""
    energy, lengths = str(unit).strip(), []
    if power and energy.rpartition("/")[2].endswith(("^3", "**3")):
        energy, _, last = energy.rpartition("/")
        lengths = [last.removesuffix("^3").removesuffix("**3")] * 3
    while len(lengths) < power and "/" in energy:
        energy, _, last = energy.rpartition("/")
        lengths.append(last)
    if len(lengths) != power:
        raise FormatError(path, f"metadata: {name} has the unit {unit!r}, which is no energy over {power} lengths")
    value = _factor(path, name, energy, ENERGIES)
    for length in lengths:
        value /= _factor(path, name, length, LENGTHS)
    return value


def _factor(path: _Path, name: str, unit: Any, table: dict[str, float]) -> float:
    if not isinstance(unit, str) or unit.strip().lower() not in table:
        raise FormatError(path, f"metadata: {name} has the unit {unit!r}; known are {', '.join(table)}")
    return table[unit.strip().lower()]
