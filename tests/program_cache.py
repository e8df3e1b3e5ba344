"""Where compiled programs are kept between the runs of the tests: in the user's cache folder, found again by JAX's own key.

The processes of a run, and the programs that tests start, share them too: what one has compiled the others only read.
`BPJAX_TEST_CACHE=0` is to be without, `BPJAX_TEST_CACHE=FOLDER` to have them elsewhere.
"""

import os
from pathlib import Path

import jax

from bpjax.machine import processor

LIMIT = 4 << 30
"""Bytes beyond which the oldest half is removed when a run begins."""


def folder() -> Path | None:
    """Where programs are kept, None where they are not."""
    asked = os.environ.get("BPJAX_TEST_CACHE", "")
    if asked == "0":
        return None
    if asked:
        return Path(asked).expanduser().absolute() / processor()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bpjax-tests" / processor()


def choose() -> None:
    """For this process, and for those that it starts."""
    kept = folder()
    settings = {
        "jax_enable_compilation_cache": kept is not None,
        "jax_compilation_cache_dir": str(kept or ""),
        # Most programs of the tests compile in hundredths of a second, and there are thousands of them.
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    for name, value in settings.items():
        # Plugins of pytest may have imported JAX, which reads its variables then.
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value).lower() if isinstance(value, bool) else str(value)
    # Pages about preferences of the compiler, as `bpjax.cli.main` says; heeded by the processes that this one starts.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def prune(limit: int = LIMIT) -> None:
    """Removes the programs that were compiled first, where all together are larger than the limit."""
    kept = folder()
    if kept is None or not kept.is_dir():
        return
    files = []
    for file in kept.iterdir():
        try:  # another run may prune too
            found = file.stat()
        except FileNotFoundError:
            continue
        files.append((found.st_mtime, found.st_size, file))
    files.sort(key=lambda f: f[0])
    size = sum(f[1] for f in files)
    if size <= limit:
        return
    for _, bytes_of_file, file in files:
        file.unlink(missing_ok=True)
        size -= bytes_of_file
        if size <= limit / 2:
            return
