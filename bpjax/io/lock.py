"""Folders that one run at a time writes to.

The lock is on a file in the folder that says who holds it. The system releases it when the process ends, however it ends: what a
kill leaves behind is a file, not a lock, and the next run takes it over.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from bpjax.errors import BpjaxError, OutputExistsError
from bpjax.io.atomic import write_error

try:
    import fcntl
except ImportError:  # a system without locks of this kind: runs are not kept apart
    fcntl = None

LOCK = ".run.lock"
"""Name of the file."""


@contextlib.contextmanager
def only_run(folder: Path, resume: bool = False) -> Iterator[None]:
    """Makes a folder, or takes one that nobody else writes to, for the time of the block; removes it if nothing came into it.

    Args:
      folder: the folder.
      resume: whether it may hold files already.

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
        if not resume and any(found.name != LOCK for found in folder.iterdir()):
            raise OutputExistsError(f"{folder} already holds files; it was left as it is (--resume goes on with a run)")
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
            if fcntl is not None:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
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


def _said(held: int) -> str:
    """Who holds a lock."""
    try:
        owner = json.loads(os.pread(held, 1000, 0))
        return f" (process {owner['process']} on {owner['host']})"
    except (ValueError, TypeError, KeyError):
        return ""
