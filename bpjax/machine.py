"""What a program runs on and what it takes: versions, device, cores, time and memory."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

PACKAGES = ("bpjax", "jax", "jaxlib", "flax", "optax", "numpy")
"""Packages whose versions may change the numbers of a run."""

_PROCESS = Path("/proc/self")
_GROUP = Path("/sys/fs/cgroup")
_MEMORY = Path("/proc/meminfo")
_PROCESSOR = Path("/proc/cpuinfo")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that may change the numbers of a run; "unknown" where not installed as such."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "unknown"
    return found


def processor() -> str:
    """A name of the kind of processor, with the instructions that it has: compiled programs hold those, and JAX's key does not.

    It can be had before JAX is loaded.
    """
    described = {platform.machine(), platform.processor()}
    lines = _text(_PROCESSOR).splitlines()
    described |= {line for line in lines if line.startswith(("flags", "model name", "Features"))}
    return hashlib.sha256("\n".join(sorted(described)).encode()).hexdigest()[:12]


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Timing(NamedTuple):
    """Seconds for the compilation, and for each of several runs after one that does not count; and what that one returned."""

    compile_s: float
    runs: tuple[float, ...]
    result: Any = None

    @property
    def median(self) -> float:
        """Of the runs, in seconds."""
        return statistics.median(self.runs)

    @property
    def shortest(self) -> float:
        """Of the runs, in seconds."""
        return min(self.runs)


def timed(function: Callable[..., Any], *arguments: Any, repeats: int = 5) -> Timing:
    """Compiles a function for its arguments and times it; what it returns has arrived when the clock is stopped.

    Args:
      function: to be compiled.
      arguments: arrays, or trees of arrays; those that are not on the device yet are brought there first.
      repeats: how many runs are timed.
    """
    import jax

    arguments = jax.device_put(arguments)
    began = time.perf_counter()
    compiled = jax.jit(function).lower(*arguments).compile()
    compile_s = time.perf_counter() - began
    result = jax.block_until_ready(compiled(*arguments))
    runs = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        runs.append(time.perf_counter() - began)
    return Timing(compile_s, tuple(runs), result)


def memory_peak_gb() -> float | None:
    """Largest memory that this process has held so far, or since `reset_memory_peak`, in 10^9 bytes."""
    held = _status("VmHWM")
    if held is not None:
        return held / 1e9
    try:
        import resource
    except ImportError:  # not on every system
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def reset_memory_peak() -> None:
    """Lets `memory_peak_gb` begin anew from what is held now; where the system cannot (only Linux can), it goes on."""
    try:
        (_PROCESS / "clear_refs").write_text("5")
    except OSError:
        pass


def device_memory_peak_gb(device: Any) -> float | None:
    """Largest memory of the accelerator that arrays have held so far, in 10^9 bytes; None for a CPU."""
    found = device.memory_stats() or {}
    return found["peak_bytes_in_use"] / 1e9 if "peak_bytes_in_use" in found else None


def memory_limit_gb(device: Any) -> float | None:
    """How much this process could hold at most, with what it holds now, in 10^9 bytes; None where not known.

    On an accelerator that is what JAX may take of its memory. On a CPU it is what the process holds and what is free, in the
    machine or in the control group (container) of the process.
    """
    limit = (device.memory_stats() or {}).get("bytes_limit")
    if limit:
        return limit / 1e9
    held = _status("VmRSS")
    if held is None:
        return None
    free = [int(kb) * 1024 for kb in re.findall(r"^MemAvailable:\s+(\d+) kB", _text(_MEMORY), re.MULTILINE)]
    for most, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        numbers = [_text(_GROUP / name).strip() for name in (most, used)]
        if all(map(str.isdecimal, numbers)):
            free.append(max(0, int(numbers[0]) - int(numbers[1])))
    return (held + min(free)) / 1e9 if free else None


def _status(field: str) -> int | None:
    """A number of bytes that Linux tells of this process."""
    found = re.search(rf"^{field}:\s+(\d+) kB", _text(_PROCESS / "status"), re.MULTILINE)
    return None if found is None else int(found[1]) * 1024


def _text(path: Path) -> str:
    """Content of a file, empty where there is none."""
    try:
        return path.read_text()
    except OSError:
        return ""
