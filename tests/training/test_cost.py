import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from bpjax.descriptors import ACSF, Radial
from bpjax.potential.energy import Potential
from bpjax.training import Fit
from bpjax.training.cost import Watch
from bpjax.training.prepare import Split, Structures
from tests.training.labelled import structures

FRAMES = tuple(structures(6))
ATOMS = sum(map(len, FRAMES))


def watched(steps, start, history):
    """Cost of a run from step `start` to `steps` that sleeps for a tenth of a second and compiles one function."""
    split = Split(FRAMES, tuple(("a.xyz", n) for n in range(6)))
    data = Structures(split, split, Split((), ()), ("Al", "Cu"), {})
    began = time.monotonic()
    with Watch() as watch:
        with watch(12, "descriptors") as bar:
            bar.update(12)
        with watch(40, "training", start):
            jax.jit(lambda x: jnp.sin(x) * steps)(jnp.ones(3)).block_until_ready()
            time.sleep(0.1)
    elapsed = time.monotonic() - began
    jax.jit(lambda x: jnp.cos(x) * steps)(jnp.ones(3))  # outside of the block: does not count
    model = Potential(ACSF(("Al", "Cu"), 4.0, g2=(Radial(0.5),)))
    return watch, watch.cost(Fit(model, {}, steps, True, history), data), elapsed


def test_times_and_throughput_of_a_resumed_run():
    """Steps 10 to 40 at five steps per pass through the data are six passes."""
    watch, cost, elapsed = watched(40, 10, ({"step": 35, "epoch": 7.0},))
    assert watch.total == 40 and cost["steps"] == 30
    assert 0 < cost["compile_seconds"] and 0.1 <= cost["training_seconds"] <= cost["seconds"] <= elapsed + 1e-3
    working = 30 * cost["seconds_per_step"]
    assert working == pytest.approx(cost["training_seconds"] - cost["compile_seconds"], abs=1e-3) and working > 0.09
    assert cost["structures_per_second"] * working == pytest.approx(6 * 6)
    assert cost["atoms_per_second"] * working == pytest.approx(6 * ATOMS)


@pytest.mark.parametrize(("steps", "start"), [(3, 0), (40, 40)])
def test_runs_without_metrics_or_steps(steps, start):
    _, cost, _ = watched(steps, start, () if start == 0 else ({"step": 40, "epoch": 8.0},))
    assert cost["structures_per_second"] is None and cost["atoms_per_second"] is None
    assert (cost["seconds_per_step"] is None) == (steps == start)


def test_memory_and_device(monkeypatch):
    # An accelerator says what its arrays take; a CPU does not.
    gpu = SimpleNamespace(device_kind="Some GPU", memory_stats=lambda: {"peak_bytes_in_use": 3_000_000_000})
    before = watched(3, 0, ())[1]
    held = bytearray(100_000_000)
    monkeypatch.setattr(jax, "local_devices", lambda: [gpu])
    cost = watched(3, 0, ())[1]
    assert cost["device"] == "Some GPU" and cost["device_memory_peak_gb"] == 3.0
    assert cost["memory_peak_gb"] >= before["memory_peak_gb"] and cost["memory_peak_gb"] > len(held) / 1e9
