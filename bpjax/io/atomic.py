"""Files that appear whole or not at all.

A result is written under a temporary name beside its target, flushed to disk and renamed. A crash, ctrl-C or a full
disk leaves what was there before, and no debris.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bpjax.errors import BpjaxError

_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file is too large for this file system",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.ENOENT: "the folder does not exist",
    errno.ENOTDIR: "a part of the path is not a folder",
    errno.EISDIR: "it is a folder",
    errno.ENAMETOOLONG: "the name is too long",
}


def write_error(path: str | os.PathLike[str], error: OSError) -> BpjaxError:
    """The error to show when writing `path` failed."""
    reason = _REASONS.get(error.errno or 0) or error.strerror or str(error)
    return BpjaxError(f"cannot write {os.fspath(path)}: {reason}")


def one_file(one: str | os.PathLike[str], other: str | os.PathLike[str]) -> bool:
    """Whether two names are those of one file, there or still to be written, through links of either kind."""
    try:
        return os.path.samefile(one, other)
    except (OSError, ValueError):  # one of them is not there
        return os.path.realpath(one) == os.path.realpath(other)


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a temporary path that becomes `path` when the block ends without an exception.

    The temporary name keeps the suffix, which many writers look at. Links are followed. Devices and pipes, which
    cannot be replaced by a file, are written directly.

    Args:
      path: the file to write; its folder must exist.

    Raises:
      BpjaxError: the file cannot be written, for example because the disk is full.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".tmp-{secrets.token_hex(4)}-{target.name}")
    try:
        mode = _mode(target)
        if mode is not None and not stat.S_ISREG(mode):
            if stat.S_ISDIR(mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            yield target
            return
        # Created here, and not by the writer, to claim the name; the umask applies as for any new file.
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        if mode is not None:
            temporary.chmod(stat.S_IMODE(mode))
        yield temporary
        _sync(temporary)
        os.replace(temporary, target)
    except OSError as error:
        # An error about some other file, say an input that the block reads, is not about writing.
        if error.filename is not None and Path(os.fsdecode(error.filename)) not in (target, temporary, Path(path)):
            raise
        raise write_error(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    _sync(target.parent)


def _mode(path: Path) -> int | None:
    """File type and permissions, None where there is no file."""
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return None


def _sync(path: Path) -> None:
    """Flushes a file or folder to disk, where the system can."""
    flags = os.O_RDONLY if path.is_dir() else os.O_RDWR
    try:
        handle = os.open(path, flags)
    except OSError:
        if path.is_dir():  # not every system opens folders; the rename has happened
            return
        raise
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network and virtual file systems cannot
            raise
    finally:
        os.close(handle)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes a file whole or not at all."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a text file (UTF-8, line feeds) whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes strict, indented JSON whole or not at all.

    Raises:
      ValueError: the value holds NaN or infinity, which JSON does not have.
      TypeError: the value holds something else that JSON does not have.
    """
    write_text(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def write_npz(path: str | os.PathLike[str], arrays: Mapping[str, Any]) -> None:
    """Writes an archive of NumPy arrays whole or not at all; without pickle, hence for numbers and text only.

    Raises:
      ValueError: an array that holds objects.
    """
    import numpy as np

    plain = {name: np.asarray(array) for name, array in arrays.items()}
    for name, array in plain.items():
        if array.dtype.hasobject:
            raise ValueError(f"array {name!r} holds objects, which would be written as code")
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **plain)  # pyright: ignore[reportArgumentType]
