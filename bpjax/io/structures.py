"""Structures and their labels, read by ASE or `bpjax.io.runner` and checked before anything is computed with them."""

from __future__ import annotations

import difflib
import io
import itertools
import lzma
import os
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase
import ase.io.formats
import numpy as np
import vesin
from ase.geometry import complete_cell, minkowski_reduce
from ase.io.formats import filetype, iread, open_with_compression
from ase.stress import voigt_6_to_full_3x3_stress

from bpjax.errors import ConfigError, FormatError, StructureError
from bpjax.io.atomic import write_text
from bpjax.io.database import DATABASES, read_database
from bpjax.io.extxyz import check_extxyz, format_frame
from bpjax.io.label_keys import NAMES, LabelKeys, results_of, take_labels
from bpjax.io.lammps import DATA, is_lammps_data, reader_options
from bpjax.io.npz import is_npz, read_npz
from bpjax.io.xyz_dialects import rewritten
from bpjax.units import unit_system

# Closer than any bond, even under extreme pressure: two copies of one atom, or positions in the wrong unit.
CLOSEST = 0.1
# A micrometre; beyond are atoms that flew away and numbers that are no lengths. The search for near atoms slows down with
# the square of the extent, and ends the process at some 10^6 A.
LARGEST = 1e4

_Path = str | os.PathLike[str]
_RUNNER = "runnerdata"  # ASE's name; its own reader, which takes all such files to be in hartree and bohr, is not used
_NPZ = "npz"


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


# --------------------------------------------------------------------------------------------- reading


def read_structures(
    path: _Path,
    index: str | int | slice = ":",
    units: str | None = None,
    keys: LabelKeys | None = None,
    file_format: str | None = None,
    species: Sequence[str] | None = None,
) -> list[ase.Atoms]:
    """Reads structures from any file that ASE reads, a data file of RuNNer or n2p2, or npz, and checks each of them.

    Args:
      path: the file.
      index: which frames, as in ASE: ``":"`` all, ``"-1"`` the last, ``"::10"`` every tenth.
      units: one of `bpjax.units.SYSTEMS`, the units of a RuNNer or n2p2 data file, which does not say, or of npz that does
        not. Not used for files whose units are known: on the command line it may concern another file.
      keys: names of the labels, where they are not those of ASE.
      file_format: ASE's name of the format, where the file does not show it.
      species: elements of the types 1, 2, ... of a LAMMPS file that has no masses.

    Raises:
      FormatError: the file is missing, empty, truncated or in no known format.
      StructureError: a structure that makes no sense; see `check_structure`.
      ConfigError: `index` is not understood, `units` or `file_format` is not known, `units` is None where it is needed, or
        `species` do not fit.
    """
    from bpjax.io.runner import read_runner  # here, because it needs this file

    found, plain = _format(path, file_format)
    selection = frame_selection(index)
    if units is not None:
        unit_system(units, os.fspath(path))
    options = reader_options(path, found, species)
    if found == _RUNNER:
        frames = read_runner(path, units, index)
    elif found == _NPZ:
        frames = _chosen(read_npz(path, units), selection)
    else:
        frames = _read_by_ase(path, found, selection, plain, options)
    if not frames:
        raise FormatError(path, "holds no structures" if selection == slice(None) else f"has no frame {index}")
    if keys is not None:
        take_labels(frames, keys, path)
    for number, atoms in zip(_frame_numbers(selection, len(frames)), frames, strict=True):
        check_structure(atoms, path, number)
    return frames


def _read_by_ase(
    path: _Path, file_format: str, selection: int | slice, plain: bool, options: dict[str, Any]
) -> list[ase.Atoms]:
    frames: list[ase.Atoms] = []
    try:
        if not plain:
            with open_with_compression(os.fspath(path), "rb") as file:
                text, remarks = rewritten(path, file)
            for number, atoms in enumerate(iread(io.StringIO(text), slice(None), format=file_format, parallel=False)):
                remarks.apply(atoms, number)
                frames.append(atoms)
            return _chosen(frames, selection)
        if file_format in DATABASES:
            return _chosen(read_database(path, file_format), selection)
        # A format is given, so an "@" in the name is not taken for a selection of frames.
        for atoms in iread(
            os.fspath(path), selection, format=file_format, parallel=False, do_not_split_by_at_sign=True, **options
        ):
            frames.append(atoms)
    except (MemoryError, FormatError):
        raise
    except Exception as error:  # ASE's sixty readers raise whatever comes up: this is the one place that catches all
        if file_format == "extxyz":
            with open_with_compression(os.fspath(path), "rb") as file:
                check_extxyz(path, file, numbers=True)
        reason = f"{error}" if str(error) else type(error).__name__
        raise FormatError(path, f"cannot be read as {file_format} (frame {len(frames)}): {reason}") from error
    return frames


def _chosen(frames: list[ase.Atoms], selection: int | slice) -> list[ase.Atoms]:
    if isinstance(selection, slice):
        return frames[selection]
    return [frames[selection]] if -len(frames) <= selection < len(frames) else []


def _format(path: _Path, given: str | None = None) -> tuple[str, bool]:
    """ASE's name of the format, ``_RUNNER`` or ``_NPZ``, after the checks that need no parsing; whether ASE knows all it says."""
    from bpjax.io.runner import is_runner

    if not Path(path).exists():
        raise FormatError(path, "no such file")
    if Path(path).is_dir():
        raise FormatError(path, "is a folder, not a file of structures")
    unknown = "is in no format that ASE recognises, nor does it start with begin as RuNNer and n2p2 data files do"
    try:
        if Path(path).stat().st_size == 0:
            raise FormatError(path, "is empty")
        if given is None and is_npz(path):
            return _NPZ, True
        if given is None and is_runner(path):
            return _RUNNER, True
        if given is None and is_lammps_data(path):
            return DATA, True
        plain, file_format = True, _known_format(given) or filetype(os.fspath(path))
        if file_format == "extxyz":
            with open_with_compression(os.fspath(path), "rb") as file:
                plain = check_extxyz(path, file)
    except ase.io.formats.UnknownFileTypeError as error:
        raise FormatError(path, unknown) from error
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:  # permissions, damaged compression
        raise FormatError(path, f"cannot be read: {error}") from error
    # ASE takes any ".data" for one of RuNNer, and would convert it from hartree and bohr unasked.
    if file_format not in ase.io.formats.ioformats or file_format == _RUNNER:
        raise FormatError(path, unknown)
    return file_format, plain


def _known_format(name: str | None) -> str | None:
    """The name of a format, if one is given.

    Raises:
      ConfigError: ASE has none of this name.
    """
    known = ase.io.formats.ioformats
    if name is not None and (name not in known or not known[name].can_read):
        close = difflib.get_close_matches(name, known, n=3)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise ConfigError(f"{name!r} is no format that ASE reads{hint}", field="format")
    return name


def frame_selection(index: str | int | slice) -> int | slice:
    """ASE's notation of frames ("3", "-1", ":", "::10") as a number or slice.

    Raises:
      ConfigError: it is no such notation.
    """
    if not isinstance(index, str):
        return index
    try:
        numbers = [int(part) if part else None for part in index.split(":")]
        if len(numbers) == 1 and numbers[0] is not None:
            return numbers[0]
        if 2 <= len(numbers) <= 3:
            return slice(*numbers)
    except ValueError:
        pass
    raise ConfigError(f"{index!r} selects no frames; use a number or START:STOP:STEP, as in '0', '-1', ':', '::10'")


def _frame_numbers(selection: int | slice, count: int) -> list[int]:
    """Number of each frame in the file, or in the selection where it is counted from the end."""
    if isinstance(selection, int):
        return [max(selection, 0)]
    start, step = selection.start or 0, selection.step or 1
    if start < 0 or step < 0:
        return list(range(count))
    return [start + step * i for i in range(count)]


def check_structure(atoms: ase.Atoms, path: _Path | None = None, frame: int | None = None) -> None:
    """Checks that a structure makes sense: some atoms, finite numbers, a real cell, no two atoms at one place.

    Args:
      atoms: the structure, with its labels.
      path: the file, for messages.
      frame: 0-based number of the structure, for messages.

    Raises:
      StructureError: naming file, frame and field.
    """
    if len(atoms) == 0:
        raise StructureError("has zero atoms", path, frame)
    quantities = {"positions": atoms.positions, "cell": atoms.cell.array, "momenta": atoms.arrays.get("momenta")}
    found = labels(atoms, path, frame)
    quantities |= {"energy": found.energy, "forces": found.forces, "stress": found.stress}
    for field, value in quantities.items():
        if value is not None and not np.all(np.isfinite(value)):
            raise StructureError(f"holds {_first_bad(np.asarray(value))}", path, frame, field)
    if found.forces is not None and found.forces.shape != atoms.positions.shape:
        raise StructureError(f"has shape {found.forces.shape}, not {atoms.positions.shape}", path, frame, "forces")
    if np.any(atoms.numbers < 1):
        raise StructureError(f"atom {int(np.argmax(atoms.numbers < 1))} is of no element", path, frame, "species")
    _check_cell(atoms, path, frame)
    _check_distances(atoms, path, frame)


def _first_bad(value: np.ndarray) -> str:
    """The first entry that is not finite, and whose it is."""
    index = tuple(int(i) for i in np.argwhere(~np.isfinite(value))[0])
    place = "" if value.ndim == 0 else f" (entry {', '.join(map(str, index))})"
    return f"{value[index]}{place}"


def _check_cell(atoms: ase.Atoms, path: _Path | None, frame: int | None) -> None:
    """Periodic cell vectors must span a volume (or, for fewer than three, an area or a length)."""
    vectors = atoms.cell.array[atoms.pbc]
    with np.errstate(over="ignore"):
        lengths = np.linalg.norm(vectors, axis=1)
    if np.any(lengths > LARGEST):
        axis = "abc"[int(np.flatnonzero(atoms.pbc)[np.argmax(lengths)])]
        message = f"is periodic along {axis} with {lengths.max():.3g} A, which is more than {LARGEST:g} A"
        raise StructureError(message, path, frame, "cell")
    if np.any(lengths < CLOSEST):
        axis = "abc"[int(np.flatnonzero(atoms.pbc)[np.argmin(lengths)])]
        raise StructureError(f"is periodic along {axis}, but this vector has no length", path, frame, "cell")
    if len(vectors) == 0:
        return
    unit = vectors / lengths[:, None]
    # Squared volume of the unit vectors; cells that mean something, however skewed, are far above this.
    if np.linalg.det(unit @ unit.T) < 1e-12:
        raise StructureError("has zero volume: its periodic vectors are linearly dependent", path, frame, "cell")


def _check_distances(atoms: ase.Atoms, path: _Path | None, frame: int | None) -> None:
    # The search radius sets the size of its bins: with 0.1 A there would be far more bins than atoms, and 1 A or more
    # is hundreds of times faster.
    search = vesin.NeighborList(cutoff=2.0, full_list=False)
    # Vectors along which nothing repeats may be anything, dependent on the others too.
    cell = complete_cell(np.where(atoms.pbc[:, None], atoms.cell.array, 0.0))
    with np.errstate(over="ignore", invalid="ignore"):
        extent = np.ptp(atoms.positions @ cell[~atoms.pbc].T, axis=0).max(initial=0.0)
    if not extent <= LARGEST:
        message = f"atoms are {extent:.3g} A apart where nothing repeats, which is more than {LARGEST:g} A"
        raise StructureError(message, path, frame, "positions")
    i, j, r_ij = search.compute(atoms.positions, cell, atoms.pbc, "ijd")
    if len(i) and r_ij.min() < CLOSEST:
        nearest = int(np.argmin(r_ij))
        raise StructureError(
            f"atoms {i[nearest]} and {j[nearest]} are at one place ({r_ij[nearest]:.3g} A apart)",
            path,
            frame,
            "positions",
        )


# ---------------------------------------------------------------------------------------------- labels


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
            message = "is a column, with a row for each atom; that of the structure stands in the comment line"
            raise StructureError(message, path, frame, name)
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
    """A 3 x 3 tensor from 6 (Voigt order xx yy zz yz xz xy) or 9 entries."""
    if value.shape == (6,):
        return voigt_6_to_full_3x3_stress(value)
    if value.size == 9:
        return value.reshape(3, 3)
    raise StructureError(f"must have 6 or 9 entries, not {value.size}", path, frame, field)


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
    if not atoms.pbc.any() or group_of(atoms).lower().replace("_", "").startswith("isolated"):
        return True
    vectors = atoms.cell.array[atoms.pbc]
    near = np.array(list(itertools.product((-1, 0, 1), repeat=len(vectors))))
    lengths = np.linalg.norm(
        near[np.any(near != 0, axis=1)] @ np.asarray(minkowski_reduce(atoms.cell, atoms.pbc)[0])[atoms.pbc], axis=1
    )
    return bool(lengths.min() >= ALONE)


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
                raise StructureError(f"missing; the file has {_available(atoms)}", path, frame, field)
        found.append(label)
    return found


def _available(atoms: ase.Atoms) -> str:
    """Names of everything that came with a structure, to spot a label under another name."""
    results = {} if atoms.calc is None else atoms.calc.results
    return ", ".join(sorted({*atoms.info, *atoms.arrays, *results} - {"numbers"}))


# --------------------------------------------------------------------------------------------- writing


def write_structures(path: _Path, frames: Iterable[ase.Atoms] | ase.Atoms) -> None:
    """Writes structures with their arrays, info and calculator results as extended XYZ, whole or not at all.

    Numbers are written so that they read back exactly.

    Raises:
      BpjaxError: the file cannot be written.
    """
    frames = [frames] if isinstance(frames, ase.Atoms) else frames
    write_text(path, "".join(format_frame(atoms) for atoms in frames))
