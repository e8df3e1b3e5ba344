import time
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from bpjax import machine


def test_versions_are_those_that_run():
    found = machine.versions()
    assert found["jax"] == jax.__version__ and "unknown" not in {found[name] for name in ("numpy", "flax", "optax")}


def test_compilation_is_not_timed_with_the_runs():
    """The function sleeps for 0.2 s when it is compiled, for 0.02 s when it runs."""

    def wait(x):
        time.sleep(0.02)
        return x

    def slow(x):
        time.sleep(0.2)
        return jax.pure_callback(wait, jax.ShapeDtypeStruct(x.shape, x.dtype), x + 1)

    timing = machine.timed(slow, np.zeros(3), repeats=4)
    assert (timing.result == 1).all()
    assert timing.compile_s >= 0.2 and len(timing.runs) == 4
    assert 0.02 <= timing.shortest <= timing.median < 0.2


def test_median_and_shortest():
    timing = machine.Timing(1.0, (3.0, 1.0, 50.0))
    assert (timing.median, timing.shortest) == (3.0, 1.0)


def test_memory_peak_grows_and_can_begin_anew():
    before = machine.memory_peak_gb()
    held = np.ones(40_000_000)
    peak = machine.memory_peak_gb()
    assert peak > before - 1e-3 and peak > held.nbytes / 1e9
    del held
    assert machine.memory_peak_gb() >= peak - 1e-3  # a peak stays; Linux counts in batches
    machine.reset_memory_peak()
    if (machine._PROCESS / "clear_refs").exists():
        assert machine.memory_peak_gb() < peak - 0.25


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        ({}, 0.5 + 4.096),
        ({"memory.max": "max\n", "memory.current": "900\n"}, 0.5 + 4.096),
        ({"memory.max": "3000000000\n", "memory.current": "1000000000\n"}, 0.5 + 2.0),
        ({"memory/memory.limit_in_bytes": "2000000000", "memory/memory.usage_in_bytes": "1500000000"}, 0.5 + 0.5),
    ],
)
def test_memory_limit(tmp_path, monkeypatch, group, expected):
    """Held 0.5 GB, free in the machine 4.096 GB, and less in a container."""
    meminfo = "MemFree: 1 kB\nMemAvailable: 4000000 kB\n"
    for name, text in {**group, "status": "VmRSS:\t  488281 kB\n", "meminfo": meminfo}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(machine, "_PROCESS", tmp_path)
    monkeypatch.setattr(machine, "_GROUP", tmp_path)
    monkeypatch.setattr(machine, "_MEMORY", tmp_path / "meminfo")
    assert machine.memory_limit_gb(SimpleNamespace(memory_stats=lambda: None)) == pytest.approx(expected, rel=1e-5)


def test_memory_of_an_accelerator():
    device = SimpleNamespace(memory_stats=lambda: {"bytes_limit": 60_000_000_000, "peak_bytes_in_use": 3_000_000_000})
    assert machine.memory_limit_gb(device) == 60.0 and machine.device_memory_peak_gb(device) == 3.0
    assert machine.device_memory_peak_gb(jax.devices("cpu")[0]) is None


def test_no_limit_where_nobody_knows(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_PROCESS", tmp_path)
    assert machine.memory_limit_gb(SimpleNamespace(memory_stats=lambda: None)) is None


def test_cores_are_those_of_the_process(monkeypatch):
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda pid: {0, 3, 5}, raising=False)
    assert machine.cores() == 3
