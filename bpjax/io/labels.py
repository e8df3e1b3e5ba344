"""Labels of structures: energies, forces, stresses, weights and kinds under ASE's names, and single atoms without neighbours."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import ase
import numpy as np
from ase.geometry import minkowski_reduce
from ase.stress import voigt_6_to_full_3x3_stress

from bpjax.errors import StructureError
from bpjax.io.label_keys import A_COLUMN, NAMES, results_of, unused_labels

_Path = str | os.PathLike[str]


@dataclass(frozen=True, eq=False)
class Labels:
    """What a calculation says about one structure; None for what is not known.

    Args:
      energy: total energy in eV.
      forces: (atoms, 3) in eV/Å.
      stress: (3, 3) in eV/Å^3, dE/d strain / V, positive in tension (the sign of ASE).
    """

    energy: float | None = None
    forces: np.ndarray | None = None
    stress: np.ndarray | None = None


def labels(atoms: ase.Atoms, path: _Path | None = None, frame: int | None = None) -> Labels:
    """Energy, forces and stress that came with a structure.

    Looked up in the results of the calculator (where ASE puts what a file says), then in `atoms.info` and
    `atoms.arrays`, under ASE's names: ``energy`` (or ``free_energy``), ``forces``, ``stress`` (or ``virial`` in eV,
    which is -V times the stress). Nothing is calculated. Results for other positions than the present ones are void.
    For other names see `bpjax.io.label_keys`.

    Args:
      atoms: the structure.
      path: the file, for messages.
      frame: 0-based number of the structure, for messages.

    Raises:
      StructureError: a label that is no number or has a wrong shape, one of the structure that stands in a column, or a
        stress and a virial that contradict each other.
    """
    results = results_of(atoms)
    known = {**atoms.info, **atoms.arrays, **results}
    for name in (*NAMES["energy"], *NAMES["stress"]):
        if name in atoms.arrays and results.get(name) is None:
            raise StructureError(A_COLUMN, path, frame, name)
    energy = _first(known, NAMES["energy"], path, frame)
    forces = _first(known, NAMES["forces"], path, frame)
    stress = _first(known, ("stress",), path, frame)
    virial = _first(known, ("virial",), path, frame)
    if energy is not None and energy.size != 1:
        raise StructureError(f"must be one number, not {energy.size}", path, frame, "energy")
    if stress is not None:
        stress = _tensor(stress, "stress", path, frame)
    if virial is not None and atoms.cell.rank == 3:
        other = -_tensor(virial, "virial", path, frame) / atoms.get_volume()
        stress = other if stress is None else _agreed(stress, other, path, frame)
    return Labels(None if energy is None else float(energy.item()), forces, stress)


def _first(known: dict[str, Any], names: Sequence[str], path: _Path | None, frame: int | None) -> np.ndarray | None:
    """The first of several quantities that is there, in float64."""
    for name in names:
        if known.get(name) is not None:
            value = np.asarray(known[name])
            if value.dtype.kind not in "iuf":
                raise StructureError(f"is not numeric: {str(known[name])[:40]!r}", path, frame, name)
            return value.astype(np.float64)
    return None


def _tensor(value: np.ndarray, field: str, path: _Path | None, frame: int | None) -> np.ndarray:
    """A symmetric 3 x 3 tensor from 6 (Voigt order xx yy zz yz xz xy) or 9 entries."""
    if value.shape == (6,):
        return voigt_6_to_full_3x3_stress(value)
    if value.size != 9:
        raise StructureError(f"must have 6 or 9 entries, not {value.size}", path, frame, field)
    value = value.reshape(3, 3)
    if not is_symmetric(value.ravel().tolist()):
        raise StructureError(NOT_SYMMETRIC, path, frame, field)
    return 0.5 * (value + value.T)


NOT_SYMMETRIC = "is not symmetric, as a stress is; are its nine numbers those of another quantity, or in another order?"


def is_symmetric(value: Sequence[float]) -> bool:
    """Whether nine numbers are a symmetric tensor, up to the noise that calculations have."""
    off = max(abs(value[1] - value[3]), abs(value[2] - value[6]), abs(value[5] - value[7]))
    return not (off > 1e-3 and off > 0.1 * max(map(abs, value)))


def _agreed(stress: np.ndarray, other: np.ndarray, path: _Path | None, frame: int | None) -> np.ndarray:
    """The stress, after a check that the virial says the same, to the digits that files have."""
    if np.isfinite(stress).all() and not np.allclose(stress, other, rtol=1e-2, atol=1e-2 * np.abs(stress).max() + 1e-5):
        place = np.unravel_index(np.argmax(np.abs(stress - other)), (3, 3))
        axes = "".join("xyz"[n] for n in place)
        message = f"is {stress[place]:.4g} eV/A^3 along {axes}, but the virial makes {other[place]:.4g} (-virial / V)"
        raise StructureError(f"{message}; name the one that is right, by the keys of the labels", path, frame, "stress")
    return stress


def group_of(atoms: ase.Atoms) -> str:
    """Kind of structure, for weights and statistics: ``config_type`` or ``group`` of the file, else ``default``."""
    for name in ("config_type", "group"):
        if name in atoms.info:
            return str(atoms.info[name])
    return "default"


ALONE = 10.0
"""Smallest distance in A to its own images at which a single atom is taken for isolated: no crystal of one atom is so wide."""


def is_isolated_atom(atoms: ase.Atoms) -> bool:
    """Whether a structure is a single atom without neighbours: not periodic, in a wide box, or called so by its group."""
    if len(atoms) != 1:
        return False
    group = group_of(atoms).lower().replace("_", "").replace("-", "")
    if not atoms.pbc.any() or group.startswith("isolated") or group in ("atom", "singleatom", "freeatom"):
        return True
    return nearest_image(atoms) >= ALONE


def nearest_image(atoms: ase.Atoms) -> float:
    """Distance in A of an atom to the nearest of its own images; infinite where nothing repeats."""
    periods = int(atoms.pbc.sum())
    if not periods:
        return float("inf")
    near = np.array([n for n in itertools.product((-1, 0, 1), repeat=periods) if any(n)])
    reduced = np.asarray(minkowski_reduce(atoms.cell, atoms.pbc)[0])[atoms.pbc]
    return float(np.linalg.norm(near @ reduced, axis=1).min())


def weights_of(atoms: ase.Atoms, path: _Path | None = None, frame: int | None = None) -> tuple[float, np.ndarray]:
    """Weight of a structure, `info["weight"]`, and of the force on each of its atoms, `arrays["forces_weight"]`; 1 if not given.

    Raises:
      StructureError: a weight that is negative or not finite, or not one number for the structure and one for each atom.
    """
    given = atoms.info.get("weight", 1.0), atoms.arrays.get("forces_weight", np.ones(len(atoms)))
    for name, value, shape in zip(("weight", "forces_weight"), given, ((), (len(atoms),)), strict=True):
        value = np.asarray(value)
        if value.shape != shape or value.dtype.kind not in "fiu":
            message = "must be one number" if not shape else f"must be a number for each of {len(atoms)} atoms"
            raise StructureError(f"{value.dtype} {value.shape}: {message}", path, frame, name)
        if not (np.isfinite(value).all() and (value >= 0).all()):
            raise StructureError(f"{value.min()}: must be finite and at least 0", path, frame, name)
    return float(given[0]), np.asarray(given[1], np.float64)


def require_labels(
    frames: Iterable[ase.Atoms],
    path: _Path | None,
    energy: bool = True,
    forces: bool = True,
    stress: bool = False,
    without_forces: Callable[[ase.Atoms], bool] = lambda atoms: False,
) -> list[Labels]:
    """Labels of all structures, after a check that none of those asked for is missing.

    Args:
      frames: the structures.
      path: the file, for messages.
      energy: whether every structure must have an energy.
      forces: whether every structure must have forces.
      stress: whether every periodic structure must have a stress.
      without_forces: which structures need none, such as isolated atoms.

    Raises:
      StructureError: naming the file, the first frame that lacks something, and what it lacks.
    """
    found = []
    for frame, atoms in enumerate(frames):
        label = labels(atoms, path, frame)
        wanted = {
            "energy": energy,
            "forces": forces and not without_forces(atoms),
            "stress": stress and bool(atoms.pbc.all()),
        }
        for field, needed in wanted.items():
            if needed and getattr(label, field) is None:
                message = f"missing; the file has {_available(atoms)}{name_hint(atoms, field)}"
                raise StructureError(message, path, frame, field)
        found.append(label)
    return found


def name_hint(atoms: ase.Atoms, field: str) -> str:
    """What to add to a message where a label is missing: the names that look like it, and the option that takes them."""
    like = ", ".join(repr(one.name) for one in unused_labels([atoms]) if one.key == field)
    return f"; is it {like}? data.keys.{field} names it" if like else ""


def _available(atoms: ase.Atoms) -> str:
    """Names of everything that came with a structure, to spot a label under another name."""
    results = {} if atoms.calc is None else atoms.calc.results
    return ", ".join(sorted({*atoms.info, *atoms.arrays, *results} - {"numbers"}))
