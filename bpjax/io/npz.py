"""Structures in numpy archives (``.npz``), in the forms that data sets of molecules and liquids are found in.

One composition, as in sGDML and (r)MD17, n structures of N atoms; names in one line mean the same::

    z, nuclear_charges, numbers, atomic_numbers, species    (N,)       atomic numbers or chemical symbols
    R, coords, coordinates, positions                       (n, N, 3)
    E, energies, energy                                     (n,)
    F, forces                                               (n, N, 3)

Many compositions: numbers (n, N) filled up with 0 (or anything below 1), or all atoms of all structures in one axis A,
numbers (A,) and positions (A, 3), with ``n_atoms`` (n,) or ``offsets`` (n + 1,). Besides ``cell`` (rows; (3, 3) or
(n, 3, 3), or lengths (3,) or (n, 3)), ``pbc``, ``stress`` ((n, 6) or (n, 3, 3), positive in tension), ``config_type`` or
``group`` (n,). A label that is NaN throughout a structure is missing. Units stand in ``e_unit`` and ``r_unit``, else whoever
reads the file must know them. Fields: http://www.sgdml.org, doi:10.6084/m9.figshare.12672038 (rMD17).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import ase
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import atomic_numbers, chemical_symbols

from bpjax.errors import ConfigError, FormatError
from bpjax.io.archive import NUMBERS, TEXT, Archive, Entry
from bpjax.io.label_keys import LabelKeys, looks_like
from bpjax.units import ENERGIES, LENGTHS, SYSTEMS, unit_system

_Path = str | os.PathLike[str]

_NAMES = {
    "numbers": ("z", "Z", "nuclear_charges", "numbers", "atomic_numbers", "species"),
    "positions": ("R", "coords", "coordinates", "positions"),
    "energy": ("E", "energies", "energy"),
    "forces": ("F", "forces"),
    "stress": ("stress",),
    "cell": ("cell", "cells", "lattice"),
    "pbc": ("pbc",),
    "n_atoms": ("n_atoms", "natoms", "N"),
    "offsets": ("offsets",),
    "group": ("config_type", "group"),
    "e_unit": ("e_unit", "energy_unit"),
    "r_unit": ("r_unit", "length_unit"),
}


def is_npz(path: _Path) -> bool:
    """Whether the name says that this is a numpy archive."""
    return os.fspath(path).endswith(".npz")


def read_npz(path: _Path, units: str | None = None, keys: LabelKeys | None = None) -> list[ase.Atoms]:
    """Reads all structures of a numpy archive; pickled objects in it are refused.

    Args:
      path: the file.
      units: one of `bpjax.units.SYSTEMS`, where the file does not say its units itself.
      keys: names of energy, forces and stress, where they are others.

    Returns: structures in eV and A with the labels as results of the calculator.

    Raises:
      FormatError: no such archive, or a field that is missing, twice there or of a wrong shape; names it.
      ConfigError: the units are not known, or keys are given for what archives do not hold.
    """
    given = {} if keys is None else keys.given()
    if other := sorted(set(given) - {"energy", "forces", "stress"}):
        raise ConfigError(
            f"npz archives hold energy, forces and stress; {os.fspath(path)} is one", field=f"keys.{other[0]}"
        )
    fields = _Fields(path, _load(path, given), given)
    energy, length = _units(fields, units)
    numbers, atoms = _numbers(fields)
    n = len(atoms)
    cells, pbc = _cells(fields, n)
    positions, forces = fields.per_atom("positions", atoms), fields.per_atom("forces", atoms)
    energies, stress = fields.get("energy", float, [(n,), (n, 1)]), _stress(fields, n)
    groups = fields.text("group", n)
    frames = []
    for k, Z in enumerate(numbers):
        results = {
            "energy": None if energies is None else energies.reshape(n)[k] * energy,
            "forces": None if forces is None else forces[k] * (energy / length),
            "stress": None if stress is None else stress[k] * (energy / length**3),
        }
        info = {} if groups is None else {"config_type": groups[k]}
        frame = ase.Atoms(Z, positions[k] * length, cell=cells[k] * length, pbc=pbc[k], info=info)
        known = {name: value for name, value in results.items() if value is not None and not np.isnan(value).all()}
        frame.calc = SinglePointCalculator(frame, **known)
        frames.append(frame)
    return frames


def _load(path: _Path, given: Mapping[str, str]) -> dict[str, np.ndarray]:
    """The fields that are known; others are not even unpacked.

    Warns of those that look like labels.
    """
    known = {*(name for names in _NAMES.values() for name in names), *given.values()}
    with Archive(path, "an npz archive") as archive:
        there = archive.arrays
        found = {name: archive.array(name, Entry(NUMBERS + TEXT)) for name in there if name in known}
    for label, name in given.items():
        if name not in there:
            raise FormatError(path, f"has no field {name!r} for {label}; it has {', '.join(there)}")
    for name in sorted(set(there) - known):
        if (key := looks_like(name)) is not None:
            warnings.warn(f"{os.fspath(path)}: {name!r} is not used (keys.{key} names it)", stacklevel=3)
    return found


class _Fields:
    """Fields of one archive by what they mean, with errors that name the file and the field."""

    def __init__(self, path: _Path, arrays: Mapping[str, np.ndarray], given: Mapping[str, str]):
        self.path, self.arrays, self.names = path, arrays, {}
        for meaning, names in {**_NAMES, **{label: (name,) for label, name in given.items()}}.items():
            there = [name for name in names if name in arrays]
            if len(there) > 1:
                raise FormatError(path, f"fields {' and '.join(there)}: both mean {meaning}; leave one of them out")
            if there:
                self.names[meaning] = there[0]

    def require(self, meaning: str) -> np.ndarray:
        if meaning not in self.names:
            raise FormatError(self.path, f"has no field for {meaning}: one of {', '.join(_NAMES[meaning])}")
        return self.arrays[self.names[meaning]]

    def error(self, meaning: str, message: str) -> FormatError:
        return FormatError(self.path, f"field {self.names[meaning]}: {message}")

    def get(self, meaning: str, kind: type, shapes: list[tuple[int, ...]]) -> np.ndarray | None:
        """The field as numbers of one of some shapes; None where it is not there."""
        if meaning not in self.names:
            return None
        value = self.require(meaning)
        allowed = {float: "iuf", int: "iu", bool: "biu"}[kind]
        if value.dtype.kind not in allowed:
            raise self.error(meaning, f"holds {value.dtype}, not numbers" if kind is float else f"holds {value.dtype}")
        if value.shape not in shapes:
            raise self.error(meaning, f"has shape {value.shape}, not {' or '.join(map(str, dict.fromkeys(shapes)))}")
        return value.astype({float: np.float64, int: np.int64, bool: bool}[kind])

    def integers(self, meaning: str) -> np.ndarray:
        """A list of whole numbers of any length."""
        value = self.get(meaning, int, [(self.require(meaning).size,)])
        return np.zeros(0, np.int64) if value is None else value

    def per_atom(self, meaning: str, atoms: list[np.ndarray]) -> Any:
        """A vector for each atom, by structure; `atoms` are the rows of each in the array laid flat."""
        shape = self.require("positions").shape
        value = self.get(meaning, float, [shape])
        return None if value is None else [value.reshape(-1, 3)[rows] for rows in atoms]

    def text(self, meaning: str, n: int) -> list[str] | None:
        """Text for each structure; None where the field is not there."""
        if meaning not in self.names:
            return None
        value = self.require(meaning)
        if value.shape not in [(n,), ()]:
            raise self.error(meaning, f"has shape {value.shape}, not ({n},)")
        texts = np.broadcast_to(value, n).tolist()
        return [t.decode(errors="replace") if isinstance(t, bytes) else str(t) for t in texts]


def _units(fields: _Fields, units: str | None) -> tuple[float, float]:
    """Energy in eV and length in A: what the file says, else `units`."""
    stated = [name for name in ("e_unit", "r_unit") if name in fields.names]
    if not stated and units is None:
        message = f"the file has no fields e_unit and r_unit; give {' or '.join(SYSTEMS)}"
        raise ConfigError(message, os.fspath(fields.path), "units")
    if not stated:
        return unit_system(units, os.fspath(fields.path))
    if len(stated) == 1:
        raise FormatError(fields.path, f"has a field {fields.names[stated[0]]}, but not both e_unit and r_unit")
    found = []
    for name, table in (("e_unit", ENERGIES), ("r_unit", LENGTHS)):
        unit = "".join(fields.text(name, 1) or []).strip()
        if unit.lower() not in table:
            raise fields.error(name, f"{unit!r} is not known; known are {', '.join(table)}")
        found.append(table[unit.lower()])
    return found[0], found[1]


def _numbers(fields: _Fields) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Atomic numbers of each structure, and the rows of its atoms in arrays laid flat."""
    Z, R = fields.require("numbers"), fields.require("positions")
    if R.ndim not in (2, 3) or R.shape[-1] != 3:
        raise fields.error("positions", f"has shape {R.shape}, not (structures, atoms, 3) or (all atoms, 3)")
    if Z.dtype.kind in "US":
        Z = Z.astype(np.str_)
        unknown = sorted({str(s) for s in Z.ravel().tolist()} - set(atomic_numbers) - {""})
        if unknown:
            raise fields.error("numbers", f"{unknown[0]!r} is no chemical symbol")
        Z = np.vectorize(lambda symbol: atomic_numbers.get(symbol, 0), otypes=[np.int64])(Z)
    elif Z.dtype.kind not in "iu":
        raise fields.error("numbers", f"holds {Z.dtype}, not atomic numbers")
    if Z.size and Z.max() >= len(chemical_symbols):
        raise fields.error("numbers", f"{Z.max()} is no atomic number")
    if R.ndim == 2:
        return _flat(fields, Z, len(R))
    n, N = R.shape[:2]
    if Z.shape not in [(N,), (n, N)]:
        raise fields.error("numbers", f"has shape {Z.shape}, not ({N},) or ({n}, {N}) as the positions")
    real = np.broadcast_to(Z > 0, (n, N)).copy()
    counts = fields.get("n_atoms", int, [(n,)])
    if counts is not None:
        inside = np.arange(N) < counts[:, None]
        if (inside & ~real).any() or (counts > N).any():
            k = int(np.argmax((inside & ~real).any(axis=1) | (counts > N)))
            raise fields.error("n_atoms", f"structure {k} has {counts[k]} atoms, but fewer atomic numbers")
        real &= inside
    Z = np.broadcast_to(Z, (n, N))
    return [Z[k, real[k]] for k in range(n)], [k * N + np.flatnonzero(real[k]) for k in range(n)]


def _flat(fields: _Fields, Z: np.ndarray, total: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """As `_numbers`, where all atoms stand in one axis. Without a field that cuts it, they are one structure."""
    if Z.shape != (total,):
        raise fields.error("numbers", f"has shape {Z.shape}, not ({total},) as the positions")
    if "n_atoms" in fields.names and "offsets" in fields.names:
        raise fields.error("offsets", f"says the same as {fields.names['n_atoms']}; leave one of them out")
    edges = np.array([0, total])
    for name in ("n_atoms", "offsets"):
        if name in fields.names:
            value = fields.integers(name)
            edges = np.append(0, np.cumsum(value)) if name == "n_atoms" else value
            if len(edges) < 2 or edges[0] != 0 or edges[-1] != total or (np.diff(edges) < 0).any():
                raise fields.error(name, f"does not cut the {total} atoms into structures, from 0 to {total}")
    rows = [np.arange(a, b) for a, b in pairwise(edges)]
    return [Z[r] for r in rows], rows


def _cells(fields: _Fields, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Cell (n, 3, 3) in the units of the file, rows, and where it repeats (n, 3): where it has a vector, if not said."""
    cell = fields.get("cell", float, [(3, 3), (n, 3, 3), (3,), (n, 3)])
    if cell is None:
        cell = np.zeros((3, 3))
    elif (
        fields.names["cell"] == "lattice" and cell.shape[-2:] == (3, 3) and not np.allclose(cell, cell.swapaxes(-1, -2))
    ):
        raise fields.error("cell", "may hold the vectors as rows or as columns; rename it to cell, and store rows")
    # n = 3 structures with (3, 3) are one cell: lengths for each of them would be an odd thing to store.
    if cell.shape == (3,) or (cell.shape == (n, 3) and n != 3):
        cell = cell[..., None] * np.eye(3)
    cell = np.broadcast_to(cell, (n, 3, 3))
    pbc: Any = fields.get("pbc", bool, [(), (3,), (n, 3), (n,)])
    if pbc is None:
        return cell, np.asarray(cell.any(axis=2))
    columns = pbc.reshape(n, 1) if pbc.shape == (n,) and n != 3 else pbc
    return cell, np.broadcast_to(columns, (n, 3))


def _stress(fields: _Fields, n: int) -> np.ndarray | None:
    return fields.get("stress", float, [(n, 6), (n, 3, 3)])
