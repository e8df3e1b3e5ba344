"""Structures, read by ASE or `bpjax.io.runner` and checked before anything is computed with them."""

from __future__ import annotations

import contextlib
import difflib
import functools
import gc
import io
import lzma
import math
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ase
import ase.io.formats
import numpy as np
from ase.data import chemical_symbols
from ase.io.formats import filetype, iread, open_with_compression

from bpjax.errors import ConfigError, FormatError, StructureError
from bpjax.io.atomic import write_text
from bpjax.io.database import DATABASES, read_database
from bpjax.io.extxyz import check_extxyz, format_frame
from bpjax.io.label_keys import LabelKeys, take_labels
from bpjax.io.labels import labels
from bpjax.io.lammps import DATA, is_lammps_data, reader_options
from bpjax.io.npz import is_npz, read_npz
from bpjax.io.ulm import check_ulm
from bpjax.io.xyz_dialects import rewritten
from bpjax.pair_search import complete_cell, search
from bpjax.progress import Progress, ProgressFn, counted, silent
from bpjax.units import unit_system

# Closer than any bond, even under extreme pressure: two copies of one atom, or positions in the wrong unit.
CLOSEST = 0.1
# A micrometre; beyond are atoms that flew away and numbers that are no lengths.
LARGEST = 1e4

_Path = str | os.PathLike[str]
_RUNNER = "runnerdata"  # ASE's name; its own reader, which takes all such files to be in hartree and bohr, is not used
_NPZ = "npz"


# --------------------------------------------------------------------------------------------- reading


@contextlib.contextmanager
def no_collections() -> Iterator[None]:
    """Holds back the search for cyclic garbage, for what makes many objects that stay: it would go through all of them, often.

    A context, or a decorator.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@no_collections()
def read_structures(
    path: _Path,
    index: str | int | slice = ":",
    units: str | None = None,
    keys: LabelKeys | None = None,
    file_format: str | None = None,
    species: Sequence[str] | None = None,
    progress: ProgressFn = silent,
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
      progress: what shows it; see `bpjax.progress`.

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
        frames = read_runner(path, units, index, progress)
    elif found == _NPZ:
        frames = _chosen(read_npz(path, units, keys), selection)
        keys = None
    else:
        with progress(0, "reading") as bar:
            frames = _read_by_ase(path, found, selection, plain, options, bar)
    if not frames:
        raise FormatError(path, "holds no structures" if selection == slice(None) else f"has no frame {index}")
    if keys is not None:
        take_labels(frames, keys, path)
    with progress(len(frames), "checking") as bar:
        for number, atoms in zip(_frame_numbers(selection, len(frames)), counted(frames, bar), strict=True):
            check_structure(atoms, path, number)
    return frames


def _read_by_ase(
    path: _Path, file_format: str, selection: int | slice, plain: bool, options: dict[str, Any], bar: Progress
) -> list[ase.Atoms]:
    frames: list[ase.Atoms] = []
    try:
        if not plain:
            with open_with_compression(os.fspath(path), "rb") as file:
                text, remarks = rewritten(path, file)
            check_extxyz(path, io.BytesIO(text.encode()))  # what stands there now may say something twice
            read = iread(io.StringIO(text), slice(None), format=file_format, parallel=False)
            for number, atoms in enumerate(counted(read, bar)):
                remarks.apply(atoms, number)
                frames.append(atoms)
            return _chosen(frames, selection)
        if file_format in DATABASES:
            return _chosen(read_database(path, file_format), selection)
        if file_format == "traj":
            check_ulm(path)
        # A format is given, so an "@" in the name is not taken for a selection of frames.
        read = iread(
            os.fspath(path), selection, format=file_format, parallel=False, do_not_split_by_at_sign=True, **options
        )
        for atoms in counted(read, bar):
            if file_format.startswith("lammps-dump") and atoms.calc is not None:
                atoms.calc.results.pop("energy", None)  # dumps hold none; ASE puts zero there beside forces
            frames.append(atoms)
    except (MemoryError, FormatError):
        raise
    except Exception as error:  # ASE's sixty readers raise whatever comes up: this is the one place that catches all
        if file_format == "extxyz":
            with open_with_compression(os.fspath(path), "rb") as file:
                check_extxyz(path, file, numbers=True)
        reason = (
            f"unknown {error}" if isinstance(error, KeyError) else f"{error}" if str(error) else type(error).__name__
        )
        raise FormatError(path, f"cannot be read as {file_format} (frame {len(frames)}): {reason}") from error
    return frames


def _chosen(frames: list[ase.Atoms], selection: int | slice) -> list[ase.Atoms]:
    if isinstance(selection, slice):
        return frames[selection]
    return [frames[selection]] if -len(frames) <= selection < len(frames) else []


def _format(path: _Path, given: str | None = None) -> tuple[str, bool]:
    """ASE's name of the format, ``_RUNNER`` or ``_NPZ``, after the checks that need no parsing; whether ASE knows all it says."""
    from bpjax.io.runner import is_runner

    try:
        if not Path(path).exists():
            raise FormatError(path, "no such file")
    except (OSError, ValueError) as error:  # a name that is too long, or has a null character
        raise FormatError(path, f"cannot be read: {error}") from None
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
    known = {field: np.asarray(value) for field, value in quantities.items() if value is not None}
    # One sum tells of all numbers, nearly always: it is not finite where one of them is not.
    with np.errstate(over="ignore", invalid="ignore"):
        all_finite = math.isfinite(sum(float(value.sum()) for value in known.values()))
    for field, value in () if all_finite else known.items():
        if not np.isfinite(value).all():
            raise StructureError(f"holds {_first_bad(value)}", path, frame, field)
    if found.forces is not None and found.forces.shape != atoms.positions.shape:
        raise StructureError(f"has shape {found.forces.shape}, not {atoms.positions.shape}", path, frame, "forces")
    unknown = (atoms.numbers < 1) | (atoms.numbers >= len(chemical_symbols))
    if np.any(unknown):
        at = int(np.argmax(unknown))
        raise StructureError(f"atom {at} is of no element (atomic number {atoms.numbers[at]})", path, frame, "species")
    _check_distances(atoms, _checked_cell(atoms, path, frame), path, frame)


def _first_bad(value: np.ndarray) -> str:
    """The first entry that is not finite, and whose it is."""
    index = tuple(int(i) for i in np.argwhere(~np.isfinite(value))[0])
    place = "" if value.ndim == 0 else f" (entry {', '.join(map(str, index))})"
    return f"{value[index]}{place}"


def _checked_cell(atoms: ase.Atoms, path: _Path | None, frame: int | None) -> np.ndarray:
    """The completed cell. Its periodic vectors must span a volume (or, for fewer than three, an area or a length).

    Vectors along which nothing repeats may be anything, dependent on the others too.
    """
    vectors = atoms.cell.array[atoms.pbc]
    if len(vectors) == 0:
        return np.eye(3)
    with np.errstate(over="ignore"):
        lengths = np.sqrt((vectors * vectors).sum(axis=1))
    if lengths.max() > LARGEST:
        axis = "abc"[int(np.flatnonzero(atoms.pbc)[np.argmax(lengths)])]
        message = f"is periodic along {axis} with {lengths.max():.3g} A, which is more than {LARGEST:g} A"
        raise StructureError(message, path, frame, "cell")
    if lengths.min() < CLOSEST:
        axis = "abc"[int(np.flatnonzero(atoms.pbc)[np.argmin(lengths)])]
        raise StructureError(f"is periodic along {axis}, but this vector has no length", path, frame, "cell")
    try:
        return complete_cell(atoms.cell.array, atoms.pbc)
    except StructureError as error:
        message = "has zero volume: its periodic vectors are linearly dependent"
        raise StructureError(message, path, frame, "cell") from error


def _check_distances(atoms: ase.Atoms, cell: np.ndarray, path: _Path | None, frame: int | None) -> None:
    """No two atoms at one place, and none out of all proportion; `cell` is completed."""
    if not atoms.pbc.all():
        with np.errstate(over="ignore", invalid="ignore"):
            extent = np.ptp(atoms.positions @ cell[~atoms.pbc].T, axis=0).max(initial=0.0)
        if not extent <= LARGEST:
            message = f"atoms are {extent:.3g} A apart where nothing repeats, which is more than {LARGEST:g} A"
            raise StructureError(message, path, frame, "positions")
    i, j, r_ij = _close_pairs(atoms, cell)
    if len(i) and r_ij.min() < CLOSEST:
        nearest = int(np.argmin(r_ij))
        raise StructureError(
            f"atoms {i[nearest]} and {j[nearest]} are at one place ({r_ij[nearest]:.3g} A apart)",
            path,
            frame,
            "positions",
        )


SMALL = 64
"""Atoms up to which all pairs are looked at: the search for neighbours takes longer to begin."""


def _close_pairs(atoms: ase.Atoms, cell: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs i, j and their distances, among them all that are closer than `CLOSEST`."""
    inverse = np.linalg.inv(cell)
    # The distance of the planes of a cell: where it is more than twice `CLOSEST`, rounding gives the image that is close, if any
    # is, and no atom is close to its own.
    if len(atoms) <= SMALL and ((inverse * inverse).sum(axis=0)[atoms.pbc] < (0.4 / CLOSEST) ** 2).all():
        i, j = _all_pairs(len(atoms))
        with np.errstate(over="ignore", invalid="ignore"):  # of positions beyond all sense, which are close to nothing
            x = (atoms.positions[j] - atoms.positions[i]) @ inverse
            x -= np.where(atoms.pbc, np.round(x), 0.0)
            return i, j, np.sqrt(((x @ cell) ** 2).sum(axis=1))
    # The search radius sets the size of its bins: with 0.1 A there would be far more bins than atoms, and 1 A or more
    # is hundreds of times faster.
    return search(atoms.positions, cell, atoms.pbc, 2.0, "ijd")


@functools.lru_cache(SMALL)
def _all_pairs(count: int) -> tuple[np.ndarray, np.ndarray]:
    return np.triu_indices(count, 1)


# --------------------------------------------------------------------------------------------- writing


def write_structures(path: _Path, frames: Iterable[ase.Atoms] | ase.Atoms) -> None:
    """Writes structures with their arrays, info and calculator results as extended XYZ, whole or not at all.

    Numbers are written so that they read back exactly.

    Raises:
      BpjaxError: the file cannot be written.
    """
    frames = [frames] if isinstance(frames, ase.Atoms) else frames
    write_text(path, "".join(format_frame(atoms) for atoms in frames))
