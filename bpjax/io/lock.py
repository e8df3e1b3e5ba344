"""Folders that one run at a time writes to.

The lock is on a file in the folder that says who holds it. The system releases it when the process ends, however it ends: what a
kill leaves behind is a file, not a lock, and the next run takes it over.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import warnings
from collections.abc import Iterator
from pathlib import Path

from bpjax.errors import BpjaxError, OutputExistsError
from bpjax.io.atomic import write_error

try:
    import fcntl
except ImportError:  # a system without locks of this kind
    fcntl = None

LOCK = ".run.lock"
"""Name of the file."""

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
"""What file systems say that have none, as some over the network."""


@contextlib.contextmanager
def only_run(folder: Path, filled: bool = False, hint: str = "--resume goes on with a run") -> Iterator[None]:
    """Makes a folder, or takes one that nobody else writes to, for the time of the block; removes it if nothing came into it.

    Where the system or the file system has no locks a warning says so, and runs are not kept apart.

    Args:
      folder: the folder.
      filled: whether it may hold files already.
      hint: what to tell whoever names a folder that holds files and may not.

    Raises:
      OutputExistsError: another process, here or elsewhere, writes to it; or it holds files already.
      BpjaxError: it cannot be made or written.
    """
    path, made = folder / LOCK, not folder.exists()
    if not made and not folder.is_dir():
        raise BpjaxError(f"cannot write to {folder}: it is a file, not a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = _hold(path)
    except OSError as error:
        raise write_error(folder, error) from error
    try:
        if not filled and any(found.name != LOCK for found in folder.iterdir()):
            raise OutputExistsError(f"{folder} already holds files; it was left as it is ({hint})")
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(held)
        if made:
            with contextlib.suppress(OSError):  # not empty
                folder.rmdir()


def _hold(path: Path) -> int:
    """The locked file, which now names this process."""
    while True:
        held = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(held, path)
            # Whoever held it has removed the file between the two lines above: lock the one that is there now.
            if path.exists() and os.fstat(held).st_ino == path.stat().st_ino:
                os.ftruncate(held, 0)
                os.write(held, (json.dumps({"host": socket.gethostname(), "process": os.getpid()}) + "\n").encode())
                return held
        except BlockingIOError:
            said = _said(held)
            os.close(held)
            message = f"another run{said} writes to {path.parent}; it was left as it is"
            raise OutputExistsError(message) from None
        except BaseException:
            os.close(held)
            raise
        os.close(held)


def _lock(held: int, path: Path) -> None:
    """Locks a file, where that can be done.

    Raises:
      BlockingIOError: another process has locked it.
    """
    try:
        if fcntl is not None:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    warnings.warn(f"{path.parent} cannot be locked: see to it that no other run writes to it", stacklevel=2)


def _said(held: int) -> str:
    """Who holds a lock."""
    try:
        owner = json.loads(os.pread(held, 1000, 0))
        return f" (process {owner['process']} on {owner['host']})"
    except (ValueError, TypeError, KeyError):
        return ""
