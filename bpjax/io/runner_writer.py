"""Writing data files of RuNNer and n2p2; their layout is in `bpjax.io.runner`."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from typing import Any

import ase
import numpy as np

from bpjax.errors import ConfigError, StructureError
from bpjax.io.atomic import write_text
from bpjax.io.checks import check_structure
from bpjax.io.label_keys import results_of, unused_labels
from bpjax.io.labels import labels
from bpjax.io.runner import BLANKS, UNUSED
from bpjax.units import unit_system

_Path = str | os.PathLike[str]


def write_runner(
    path: _Path, frames: Iterable[ase.Atoms] | ase.Atoms, units: str | None, missing_forces: str = "refuse"
) -> list[str]:
    """Writes structures as a RuNNer or n2p2 data file, whole or not at all.

    Numbers have 17 significant digits: what is written in eV and angstrom reads back exactly, in hartree and bohr up to
    the rounding of the conversion. Charges of the atoms are those of the calculator, else the initial charges. In `info`,
    ``comment``, ``set`` and ``charge`` are written as `read_runner` finds them; a total charge that is not known is 0.

    The format has forces in any case, and who reads them takes them for labels. Zeros stand for those that are not known
    where there is no energy either: without an ``energy`` line `read_runner` knows that they are no labels. Single atoms
    have no forces. Other structures with an energy alone are refused unless asked for.

    Args:
      path: the file.
      frames: the structures, in eV and A.
      units: a name in `bpjax.units.SYSTEMS`, those of the file.
      missing_forces: "refuse" structures with an energy and no forces, or write "zeros", which n2p2, RuNNer and bpjax
        would train on.

    Returns: one remark for each quantity that the format cannot hold or that had to be made up.

    Raises:
      StructureError: a structure that is periodic in one or two directions, that has an energy and no forces, or that makes
        no sense; see `check_structure`.
      ConfigError: `units` is None or unknown, or `missing_forces` is.
      BpjaxError: the file cannot be written.
    """
    system = unit_system(units, os.fspath(path))
    if missing_forces not in ("refuse", "zeros"):
        raise ConfigError(f"{missing_forces!r} is neither 'refuse' nor 'zeros'", field="missing_forces")
    lost: dict[str, list[int]] = {}
    texts = []
    for frame, atoms in enumerate([frames] if isinstance(frames, ase.Atoms) else frames):
        check_structure(atoms, frame=frame)
        if atoms.pbc.any() and not atoms.pbc.all():
            along = " and ".join(axis for axis, periodic in zip("abc", atoms.pbc, strict=True) if periodic)
            message = f"is periodic along {along} only; RuNNer files have structures that are so along all axes or none"
            raise StructureError(message, frame=frame, field="pbc")
        found = labels(atoms)
        if missing_forces == "refuse" and found.energy is not None and found.forces is None and len(atoms) > 1:
            message = "missing beside an energy; the zeros that would be written are labels to n2p2 and RuNNer"
            names = ", ".join(one.name for one in unused_labels([atoms]) if one.key == "forces")
            raise StructureError(message + (f" (is it {names}?)" if names else ""), frame=frame, field="forces")
        for remark in _losses(atoms):
            lost.setdefault(remark, []).append(frame)
        texts.append(_format(atoms, system, frame))
    if not texts:
        raise StructureError("there are no structures to write", path)
    write_text(path, "".join(texts))
    return [
        f"{remark} ({len(where)} of {len(texts)} structures, the first is frame {where[0]})"
        for remark, where in sorted(lost.items())
    ]


def _format(atoms: ase.Atoms, system: tuple[float, float], frame: int) -> str:
    """One structure as text."""
    energy_unit, length_unit = system
    found = labels(atoms)
    lines = ["begin" + (f" set={atoms.info['set']}" if _set_is_known(atoms) else "")]
    if "comment" in atoms.info:
        comment = str(atoms.info["comment"]).replace("\r\n", "\n").replace("\r", "\n")
        lines += [f"comment {line.strip(BLANKS)}" for line in comment.split("\n")]
    if atoms.pbc.all():
        lines += ["lattice" + "%25.16E" * 3 % tuple(row) for row in (atoms.cell.array / length_unit).tolist()]
    charges = _column(results_of(atoms).get("charges", atoms.arrays.get("initial_charges")), "charges", atoms, frame)
    unused = _column(atoms.arrays.get(UNUSED), UNUSED, atoms, frame)
    forces = np.zeros((len(atoms), 3)) if found.forces is None else found.forces / (energy_unit / length_unit)
    numbers = np.column_stack([charges, unused, forces])
    row_format = "atom" + "%25.16E" * 3 + "  %-2s" + "%25.16E" * 5
    positions = (atoms.positions / length_unit).tolist()
    for position, symbol, row in zip(positions, atoms.symbols, numbers.tolist(), strict=True):
        lines.append(row_format % (*position, symbol, *row))
    if found.energy is not None:
        lines.append(f"energy{found.energy / energy_unit:25.16E}")
    return "\n".join([*lines, f"charge{_total_charge(atoms, frame):25.16E}", "end", ""])


def _set_is_known(atoms: ase.Atoms) -> bool:
    return isinstance(atoms.info.get("set"), str) and atoms.info["set"] in ("train", "test")


def _total_charge(atoms: ase.Atoms, frame: int) -> float:
    """Total charge in e, 0 where none is given."""
    try:
        charge = float(atoms.info.get("charge", 0.0))
    except (TypeError, ValueError):
        charge = math.nan
    if not math.isfinite(charge):
        raise StructureError(f"{str(atoms.info['charge'])[:40]!r} is no finite number", frame=frame, field="charge")
    return charge


def _column(values: Any, field: str, atoms: ase.Atoms, frame: int) -> np.ndarray:
    """One number for each atom, zeros where none are given."""
    column = np.zeros(len(atoms)) if values is None else np.asarray(values)
    if column.shape != (len(atoms),) or column.dtype.kind not in "iuf" or not np.all(np.isfinite(column)):
        raise StructureError("must be one finite number for each atom", frame=frame, field=field)
    return column


def _losses(atoms: ase.Atoms) -> list[str]:
    """A remark for everything of a structure that its text does not hold."""
    written = {"numbers", "positions", "energy", "forces", "initial_charges", "comment", "charge", UNUSED}
    found, results = labels(atoms), results_of(atoms)
    known = {**atoms.info, **atoms.arrays, **results}
    also = {
        "set": _set_is_known(atoms),
        "charges": "charges" in results,
        "free_energy": np.array_equal(known.get("free_energy"), found.energy),
    }
    written |= {name for name, is_so in also.items() if is_so}
    dropped = {name for name in known if name not in written}
    if atoms.constraints:
        dropped.add("constraints")
    if not atoms.pbc.any() and atoms.cell.array.any():
        dropped.add("cell that is not periodic")
    charges, initial = results.get("charges"), atoms.arrays.get("initial_charges")
    if charges is not None and initial is not None and not np.array_equal(charges, initial):
        dropped.add("initial_charges")
    remarks = [f"{name}: not written, RuNNer files cannot hold it" for name in dropped]
    if found.forces is None and found.energy is not None and len(atoms) > 1:
        remarks.append("forces: zeros written for structures that have an energy but no forces")
    return remarks
