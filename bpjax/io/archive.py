"""Arrays in zip archives, the ``.npz`` of numpy and model files, and ``.npy`` files, from sources that nobody answers for.

What a file says of itself is compared with what it holds before anything is read: no file takes more memory than is in it, none
runs code (there are no pickled objects), and whatever is wrong becomes one error that names the file, the member and the reason.
"""

from __future__ import annotations

import math
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from bpjax.errors import BpjaxError, FormatError

_Path = str | os.PathLike[str]

# What zipfile and numpy raise on damaged input. The list was completed by fuzzing, see `tests/toolchain/fuzz.py`.
_DAMAGE = (
    zipfile.BadZipFile,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    OverflowError,
    RecursionError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    tokenize.TokenError,
    zlib.error,
)
_METHODS = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: 1032}
"""Ways of compression, and by how many times a member can be larger than what is stored of it."""

_PIECE = 2**20
_LONGEST = 10**8
"""Of an array without elements: no other axis may be longer, though it costs nothing to say so."""

NUMBERS, REALS, WHOLE, TEXT = "biufc", "iuf", "iu", "US"
"""Letters of numpy's types."""


@dataclass(frozen=True)
class Entry:
    """What an array must be.

    Attributes:
      kinds: letters of the allowed types, as in ``numpy.dtype.kind``; ignored where `dtype` is given.
      shape: lengths of the axes, None for any length; None for any shape.
      finite: whether NaN and infinity are refused.
      dtype: the exact type, for records.
    """

    kinds: str = NUMBERS
    shape: tuple[int | None, ...] | None = None
    finite: bool = False
    dtype: np.dtype | None = None

    def wrong(self, array: np.ndarray) -> str | None:
        """What is wrong with an array; None if nothing."""
        if self.dtype is not None and array.dtype != self.dtype:
            return f"holds {array.dtype}, not {self.dtype}"
        if self.dtype is None and array.dtype.kind not in self.kinds:
            return f"holds {array.dtype}, not {_WORDS.get(self.kinds, self.kinds)}"
        if self.shape is not None and not _fits(array.shape, self.shape):
            return f"has shape {array.shape}, not ({', '.join('any' if n is None else str(n) for n in self.shape)})"
        if self.finite and array.dtype.kind in "fc" and not np.isfinite(array).all():
            place = np.argwhere(~np.isfinite(array))[0].tolist()
            return f"is not finite at {place}" if place else "is not finite"
        return None


_WORDS = {NUMBERS: "numbers", REALS: "real numbers", WHOLE: "whole numbers", TEXT: "text"}


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(shape) == len(wanted) and all(n is None or n == m for m, n in zip(shape, wanted, strict=True))


class _RefusedError(ValueError):
    """An array that is not read, and why."""


class Archive:
    """Members of a zip archive; nothing is read before it is asked for. To be used in a ``with`` block.

    Args:
      path: the file.
      what: what it should be, for messages, such as "an npz archive".
      error: makes an error of the file and a message.

    Raises:
      the error: no such file, no zip archive, one that is damaged, encrypted, or says of itself what cannot be.
    """

    def __init__(self, path: _Path, what: str, error: Callable[[_Path, str], BpjaxError] = FormatError):
        self.path, self.what, self._error = path, what, error
        try:
            self._file: BinaryIO = open(path, "rb")
        except FileNotFoundError:
            raise error(path, "no such file") from None
        except IsADirectoryError:
            raise error(path, f"is a folder, not {what}") from None
        except (OSError, ValueError) as fault:  # ValueError: a null character in the name
            raise error(path, f"cannot be read: {fault}") from None
        try:
            self._open()
        except BaseException:
            self._file.close()
            raise

    def _open(self) -> None:
        start = self._file.read(4)
        size = self._file.seek(0, os.SEEK_END)
        if not start:
            raise self._error(self.path, "is empty")
        if start != b"PK\x03\x04" and start != b"PK\x05\x06":
            raise self._error(self.path, f"is not {self.what}")
        try:
            if not zipfile.is_zipfile(self._file):
                raise self._error(self.path, "truncated or damaged: the table of contents at its end is missing")
            self._zip = zipfile.ZipFile(self._file)
        except _DAMAGE as fault:
            raise self._error(self.path, f"damaged: {_said(fault)}") from None
        self._infos = {info.filename: info for info in self._zip.infolist()}
        if len(self._infos) != len(self._zip.infolist()):
            raise self._error(self.path, "damaged: it holds a member twice")
        for info in self._infos.values():
            if info.flag_bits & 1:
                raise self._error(self.path, f"{info.filename}: is encrypted")
            if info.compress_type not in _METHODS:
                raise self._error(self.path, f"{info.filename}: is compressed in a way that is not known")
            largest = _METHODS[info.compress_type] * min(info.compress_size, size) + 64
            if not (0 <= info.header_offset < size and 0 <= info.compress_size <= size and info.file_size <= largest):
                message = f"damaged: {info.filename} cannot have {info.file_size} bytes in a file of {size}"
                raise self._error(self.path, message)

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_) -> None:
        self._zip.close()
        self._file.close()

    @property
    def members(self) -> tuple[str, ...]:
        """Names of the members, in their order."""
        return tuple(self._infos)

    @property
    def arrays(self) -> tuple[str, ...]:
        """Names of the arrays, those of the members without ``.npy``."""
        return tuple(name.removesuffix(".npy") for name in self._infos if name.endswith(".npy"))

    @property
    def compressed(self) -> bool:
        """Whether any member is."""
        return any(info.compress_type != zipfile.ZIP_STORED for info in self._infos.values())

    def bytes(self, member: str) -> bytes:
        """The content of a member.

        Raises:
          the error: it is not there, or damaged.
        """
        try:
            with self._zip.open(self._infos[member]) as stream:
                return stream.read()
        except _DAMAGE as fault:
            raise self.fault(member, f"damaged: {_said(fault)}") from None

    def array(self, name: str, wanted: Entry) -> np.ndarray:
        """An array, which owns its memory.

        Raises:
          the error: it is not there, or damaged, or not what is wanted; naming it.
        """
        member = f"{name}.npy"
        if member not in self._infos:
            there = ", ".join(self.arrays) or "none"
            raise self._error(self.path, f"has no field {name!r}; there are {there}")
        try:
            found = self._read(self._infos[member])
        except _RefusedError as fault:
            raise self.fault(name, str(fault)) from None
        except _DAMAGE as fault:
            raise self.fault(name, f"damaged: {_said(fault)}") from None
        if (wrong := wanted.wrong(found)) is not None:
            raise self.fault(name, wrong)
        return found

    def fault(self, name: str, message: str) -> BpjaxError:
        """An error about one field."""
        return self._error(self.path, f"field {name}: {message}")

    def _read(self, info: zipfile.ZipInfo) -> np.ndarray:
        """An array, after its header has been compared with the size of the member."""
        with self._zip.open(info) as stream:
            shape, fortran_order, dtype = _header(stream)
            count = math.prod(shape)
            if count * dtype.itemsize != info.file_size - stream.tell():
                raise _RefusedError(f"its header says {dtype} {shape}, which is not its size")
            found = np.empty(count, dtype)
            place, view = 0, found.view(np.uint8)
            # To the end, where the checksum is compared.
            while piece := stream.read(_PIECE):
                view[place : place + len(piece)] = np.frombuffer(piece, np.uint8)
                place += len(piece)
            if place != view.nbytes:
                raise _RefusedError(f"ends after {place} of {view.nbytes} bytes")
        if (
            dtype.kind == "U"
            and count
            and found.view(np.dtype(np.uint32).newbyteorder(dtype.byteorder)).max() > 0x10FFFF
        ):
            raise _RefusedError("holds text that is none")
        found = found.reshape(shape, order="F" if fortran_order else "C")
        # JAX takes the byte order of the machine alone.
        return found if dtype.isnative or dtype.kind == "V" else found.astype(dtype.newbyteorder("="))


def map_array(path: _Path, wanted: Entry, error: Callable[[_Path, str], BpjaxError] = FormatError) -> np.ndarray:
    """An array of an ``.npy`` file, mapped into memory read-only: the system reads what is used of it.

    Args:
      path: the file.
      wanted: what must be there.
      error: as in `Archive`.

    Raises:
      the error: naming the file and what is wrong.
    """
    try:
        with open(path, "rb") as file:
            shape, fortran_order, dtype = _header(file)
            size = math.prod(shape) * dtype.itemsize
            start, there = file.tell(), os.fstat(file.fileno()).st_size
            if size != there - start:
                raise _RefusedError(f"its header says {dtype} {shape}, which is not its size")
            found = np.memmap(file, dtype, "r", start, shape, order="F" if fortran_order else "C")
    except _RefusedError as fault:
        raise error(path, str(fault)) from None
    except _DAMAGE as fault:
        raise error(path, f"cannot be read ({_said(fault)})") from None
    if (wrong := wanted.wrong(found)) is not None:
        raise error(path, wrong)
    return found


def _header(stream) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, order and type that stand before the numbers of an array."""
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise _RefusedError(f"unknown version {version} of the npy format")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = read(stream)
    if dtype.hasobject:
        raise _RefusedError("pickled objects may run any code; store plain arrays")
    wide = dtype.itemsize > {"f": 8, "c": 16}.get(
        dtype.kind, np.inf
    )  # long doubles, which every machine has in another form
    if dtype.itemsize == 0 or dtype.subdtype is not None or dtype.kind not in NUMBERS + TEXT + "V" or wide:
        raise _RefusedError(f"type {dtype} is not known here")
    if any(isinstance(n, bool) or n < 0 for n in shape) or len(shape) > 32:
        raise _RefusedError(f"shape {shape} cannot be")
    if 0 in shape and max(shape) > _LONGEST:
        raise _RefusedError(f"shape {shape} of nothing")
    return shape, fortran_order, dtype


def _said(fault: BaseException) -> str:
    text = " ".join(str(fault).split())[:200]
    return text or type(fault).__name__


def read_arrays(
    path: _Path,
    wanted: dict[str, Entry],
    optional: dict[str, Entry] | None = None,
    error: Callable[[_Path, str], BpjaxError] = FormatError,
) -> dict[str, np.ndarray]:
    """Reads arrays of an ``.npz`` archive, after a check of each.

    Args:
      path: the file.
      wanted: what must be there, by name.
      optional: what may be there; anything else is passed over.
      error: as in `Archive`.

    Raises:
      the error: naming the file, the field and what is wrong.
    """
    with Archive(path, "an npz archive", error) as archive:
        there = {name: entry for name, entry in (optional or {}).items() if name in archive.arrays}
        return {name: archive.array(name, entry) for name, entry in {**wanted, **there}.items()}
