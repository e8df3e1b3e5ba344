"""Labels under other names than ASE's: those that the user gives, and those that are there and nobody uses."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import ase
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator

from bpjax.errors import StructureError
from bpjax.spec import check, register

_Path = str | os.PathLike[str]

NAMES = {
    "energy": ("energy", "free_energy"),
    "forces": ("forces",),
    "stress": ("stress", "virial"),
}
"""Labels, and the names under which they are looked for unless others are given, the first one first."""

A_COLUMN = "is a column, with a row for each atom; that of the structure stands in the comment line"
"""What is wrong with a label of the structure among the columns."""

_OF_ATOMS = ("forces", "charges")

_LIKE = {
    "energy": r"energ|^e(_?(0|tot|total|dft|pot|ref))?$|^(dft|ref)_e$|^(u|pe|toten|epot|etotal)$|^pot_?en",
    "forces": r"force|gradients?$|(^|_)grad$|^f(_?(dft|ref))?$|^frc$|^(dft|ref)_f$|^-?de_?d[rx]$|^f[xyz](_|$)",
    "stress": r"stress|virial|(^|_)vir(_|$)|^press.*tensor",
}
_TENSORS = ("pressure", "sigma")  # which are other things as well, and then one number
# Of each atom, of ours, and what says how far a label can be trusted.
_NO_LABELS = re.compile(r"energies|stresses|weight|spread|noise|error|std|uncertainty|sigma(?!0)|mask", re.IGNORECASE)


@register
@dataclass(frozen=True)
class LabelKeys:
    """Names of the labels in a file, where they are not those of ASE.

    A name is looked up in the comment line (`atoms.info`), among the columns (`atoms.arrays`), and in the results of the
    calculator. None stands for ASE's name.

    Attributes:
      energy: total energy in eV, such as "REF_energy" or "dft_energy"; "free_energy" for the one to which forces of a smeared
        calculation belong. By default "energy", else "free_energy".
      forces: such as "REF_forces", "force".
      stress: in eV/A^3, positive in tension.
      virial: in eV, -V times the stress; in place of `stress`. By default "virial" where there is no "stress".
      charges: of the atoms, in e.
      dipole: in e A.
      weight: of the structure in the loss.
    """

    energy: str | None = None
    forces: str | None = None
    stress: str | None = None
    virial: str | None = None
    charges: str | None = None
    dipole: str | None = None
    weight: str | None = None

    def __post_init__(self):
        check(
            not (self.stress and self.virial),
            "virial",
            repr(self.virial),
            "is for files without a stress; name one of them",
        )
        for label, name in self.given().items():
            check(bool(name.strip()), label, repr(name), "must be a name in the file")

    def given(self) -> dict[str, str]:
        """Labels whose names are given."""
        return {label: name for label, name in vars(self).items() if name is not None}


def take_labels(frames: Sequence[ase.Atoms], keys: LabelKeys, path: _Path | None = None) -> None:
    """Moves labels under the names that are given to ASE's names, in place; nothing else is a label then.

    Raises:
      StructureError: no structure has a label of this name (single atoms need none), or a virial without a cell.
    """
    for label, name in keys.given().items():
        found = [n for n, atoms in enumerate(frames) if _take(atoms, label, name, path, n)]
        if not found and any(len(atoms) > 1 for atoms in frames):
            there = ", ".join(
                sorted({name for atoms in frames for name in everything(atoms)} - {"numbers", "positions"})
            )
            raise StructureError(f"no structure has {name!r}; the file has {there}", path, field=label)
        lacking = sum(len(atoms) > 1 for atoms in frames) - sum(len(frames[n]) > 1 for n in found)
        if found and lacking:
            place = "" if path is None else f"{os.fspath(path)}: "
            text = f"{place}{lacking} of {len(frames)} structures have no {name!r}, and so no {label}"
            warnings.warn(text, stacklevel=3)


def _take(atoms: ase.Atoms, label: str, name: str, path: _Path | None, frame: int) -> bool:
    """Moves one label; whether it was there."""
    value = everything(atoms).get(name)
    results = results_of(atoms)
    target = _target(label)
    if name in atoms.arrays and name not in atoms.info and label not in _OF_ATOMS:
        raise StructureError(A_COLUMN, path, frame, name)
    for other in {name, *NAMES.get(target, (target,))}:
        results.pop(other, None)
        atoms.info.pop(other, None)
        if other in atoms.arrays:
            del atoms.arrays[other]
    if value is not None:
        value = np.asarray(value)
        shape = {"forces": (len(atoms), 3), "charges": (len(atoms),), "dipole": (3,)}.get(label, value.shape)
        if value.shape != shape:
            raise StructureError(f"has shape {value.shape}; expected {shape}", path, frame, name)
        if label == "virial":
            if atoms.cell.rank < 3:
                raise StructureError("is there, but no cell that makes a stress of it", path, frame, name)
            value = -value / atoms.get_volume()
        if label == "weight":
            atoms.info["weight"] = value.item() if value.size == 1 else value
        else:
            results[target] = value
    atoms.calc = None
    if results:
        atoms.calc = SinglePointCalculator(atoms)
        atoms.calc.results.update(results)
    return value is not None


@dataclass
class Unused:
    """A name that looks like a label and is not used.

    Attributes:
      name: as it stands in the file.
      key: the field of `LabelKeys` that would take it.
      count: structures that have it.
      lacking: those of them without this label under another name.
    """

    name: str
    key: str
    count: int = 0
    lacking: int = 0

    def sentence(self, total: int, remedy: str) -> str:
        """A remark for the user, of `total` structures, with the option that takes the name."""
        label = _target(self.key)
        instead = f", and {self.lacking} of these have no {label}" if self.lacking else ""
        return f"{self.name!r} in {self.count} of {total} structures is not used{instead} ({remedy})"


def unused_labels(frames: Iterable[ase.Atoms]) -> list[Unused]:
    """Names that look like labels and are not used, in the order in which they are found."""
    found: dict[str, Unused] = {}
    for atoms in frames:
        there = everything(atoms)
        used = {label: next((name for name in names if name in there), None) for label, names in NAMES.items()}
        for name, value in there.items():
            key = looks_like(name)
            if key is None and name.lower() in _TENSORS and np.size(value) in (6, 9):
                key = "stress"
            if key is None or name in used.values():
                continue
            one = found.setdefault(name, Unused(name, key))
            one.count += 1
            one.lacking += used[_target(key)] is None
    return list(found.values())


@lru_cache(1000)
def looks_like(name: str) -> str | None:
    """The field of `LabelKeys` that a name, other than those of ASE, looks like."""
    if _NO_LABELS.search(name):
        return None
    for label, pattern in _LIKE.items():
        if re.search(pattern, name, re.IGNORECASE):
            return None if name in NAMES[label] else ("virial" if "virial" in name.lower() else label)
    return None


def _target(key: str) -> str:
    """The label that a field of `LabelKeys` names: a virial is another form of the stress."""
    return "stress" if key == "virial" else key


def free_energy_alone(atoms: ase.Atoms) -> bool:
    """Whether a structure has no other energy than a ``free_energy``, which is taken for want of one."""
    there = everything(atoms)
    return "free_energy" in there and "energy" not in there


def two_energies(atoms: ase.Atoms) -> tuple[float, float] | None:
    """`energy` and `free_energy` in eV, where a structure has both and only the first is used."""
    results = results_of(atoms)
    found = [results.get(name, atoms.info.get(name)) for name in NAMES["energy"]]
    both = [np.asarray(value) for value in found if value is not None]
    if len(both) < 2 or any(value.size != 1 or value.dtype.kind not in "iuf" for value in both):
        return None
    return float(both[0].item()), float(both[1].item())


def everything(atoms: ase.Atoms) -> dict[str, Any]:
    """All that came with a structure, by name: results that hold for its positions before columns and the comment line."""
    known = {**atoms.info, **atoms.arrays, **results_of(atoms)}
    return {str(name): value for name, value in known.items() if value is not None}


def results_of(atoms: ase.Atoms) -> dict[str, Any]:
    """Results that came with a structure and hold for its present positions."""
    calc = atoms.calc
    if calc is None or (isinstance(calc, SinglePointCalculator) and not _same(calc.atoms, atoms)):
        return {}
    return {name: value for name, value in calc.results.items() if value is not None}


def _same(one: ase.Atoms, other: ase.Atoms) -> bool:
    """Whether structures are equal to the last bit; much faster than ASE's comparison, which would be half of reading."""
    a, b = ((x.numbers, x.positions, x.cell.array, x.pbc) for x in (one, other))
    return all(mine.tobytes() == theirs.tobytes() for mine, theirs in zip(a, b, strict=True))
