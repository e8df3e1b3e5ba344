"""Trajectories that can be read at any moment, also while they grow and after the run was killed."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Any

import ase

from bpjax.errors import BpjaxError, OutputExistsError
from bpjax.io.atomic import write_error
from bpjax.io.extxyz import complete_length, frame_pieces


class TrajectoryWriter:
    """Writes an extended XYZ trajectory frame by frame.

    Each frame goes to the operating system at once, in pieces if it is large. What a crash or a full disk left of an incomplete
    frame is cut off: on the spot if the writer is alive, else when the file is opened for appending.

    >>> with TrajectoryWriter("run.extxyz") as trajectory:  # doctest: +SKIP
    ...     trajectory.write(atoms, step=0, time=0.0)

    Args:
      path: the file; its folder must exist.
      append: continue an existing file, or start a new one.
      overwrite: replace an existing file.
      digits: significant digits of positions, momenta and forces.

    Raises:
      OutputExistsError: the file is there, and neither `append` nor `overwrite` was asked for.
      FormatError: the file to continue is not extended XYZ.
      BpjaxError: the file cannot be written.
    """

    def __init__(
        self, path: str | os.PathLike[str], append: bool = False, overwrite: bool = False, digits: int = 12
    ) -> None:
        if append and overwrite:
            raise ValueError("append and overwrite exclude each other")
        self.path = path
        self._digits = digits
        self._handle: int | None = None
        try:
            length = complete_length(path) if append and os.path.exists(path) else 0
            flags = os.O_WRONLY | os.O_CREAT | (0 if append or overwrite else os.O_EXCL)
            self._handle = os.open(path, flags, 0o666)
            self._cut(length)
        except FileExistsError as error:
            raise OutputExistsError(f"{os.fspath(path)} already exists; it was left as it is") from error
        except OSError as error:
            self.close()
            raise write_error(path, error) from error

    def write(self, atoms: ase.Atoms, **info: Any) -> None:
        """Appends one frame.

        Args:
          atoms: the structure; its momenta, other arrays, info and calculator results are written too.
          info: more entries for the comment line, such as step and time.

        Raises:
          BpjaxError: the writer is closed, or the file cannot be written; the frames before are safe.
        """
        if self._handle is None:
            raise BpjaxError(f"{os.fspath(self.path)}: the trajectory is closed")
        if info:
            calc, atoms = atoms.calc, atoms.copy()
            atoms.calc = calc
            atoms.info.update(info)
        start = os.lseek(self._handle, 0, os.SEEK_CUR)
        try:
            for piece in frame_pieces(atoms, self._digits):
                data = memoryview(piece.encode())
                while data:
                    data = data[os.write(self._handle, data) :]
        except BaseException as error:  # ctrl-C between two pieces must not leave half a frame either
            self._cut(start)
            if isinstance(error, OSError):
                raise write_error(self.path, error) from error
            raise

    def close(self) -> None:
        """Closes the file; may be called twice."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _cut(self, length: int) -> None:
        """Drops everything after `length` and writes on from there."""
        assert self._handle is not None
        if os.path.isfile(self.path):  # devices and pipes have no length
            os.ftruncate(self._handle, length)
            os.lseek(self._handle, length, os.SEEK_SET)

    def __enter__(self) -> TrajectoryWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
