"""Structures, read by ASE or `bpjax.io.runner` and checked before anything is computed with them."""

from __future__ import annotations

import contextlib
import difflib
import gc
import io
import lzma
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ase
import ase.io.formats
from ase.io.formats import filetype, iread, open_with_compression

from bpjax.errors import ConfigError, FormatError
from bpjax.io.atomic import write_text
from bpjax.io.checks import check_structure
from bpjax.io.database import DATABASES, read_database
from bpjax.io.extxyz import check_extxyz, format_frame
from bpjax.io.frames import chosen, frame_numbers, frame_selection
from bpjax.io.label_keys import LabelKeys, take_labels
from bpjax.io.lammps import DATA, is_lammps_data, reader_options
from bpjax.io.npz import is_npz, read_npz
from bpjax.io.runner import is_runner, read_runner
from bpjax.io.ulm import check_ulm
from bpjax.io.xyz_dialects import rewritten
from bpjax.progress import Progress, ProgressFn, counted, silent
from bpjax.units import unit_system

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
    found, plain = _format(path, file_format)
    selection = frame_selection(index)
    if units is not None:
        unit_system(units, os.fspath(path))
    options = reader_options(path, found, species)
    if found == _RUNNER:
        frames = read_runner(path, units, index, progress)
    elif found == _NPZ:
        frames = chosen(read_npz(path, units, keys), selection)
        keys = None
    else:
        with progress(0, "reading") as bar:
            frames = _read_by_ase(path, found, selection, plain, options, bar)
    if not frames:
        raise FormatError(path, "holds no structures" if selection == slice(None) else f"has no frame {index}")
    if keys is not None:
        take_labels(frames, keys, path)
    with progress(len(frames), "checking") as bar:
        for number, atoms in zip(frame_numbers(selection, len(frames)), counted(frames, bar), strict=True):
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
            return chosen(frames, selection)
        if file_format in DATABASES:
            return chosen(read_database(path, file_format), selection)
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


def _format(path: _Path, given: str | None = None) -> tuple[str, bool]:
    """ASE's name of the format, ``_RUNNER`` or ``_NPZ``, after the checks that need no parsing; whether ASE knows all it says."""
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


# --------------------------------------------------------------------------------------------- writing


def write_structures(path: _Path, frames: Iterable[ase.Atoms] | ase.Atoms) -> None:
    """Writes structures with their arrays, info and calculator results as extended XYZ, whole or not at all.

    Numbers are written so that they read back exactly.

    Raises:
      BpjaxError: the file cannot be written.
    """
    frames = [frames] if isinstance(frames, ase.Atoms) else frames
    write_text(path, "".join(format_frame(atoms) for atoms in frames))
