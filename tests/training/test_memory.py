"""What a memory plan says is what is taken: arrays to the byte, steps and the whole run to a tenth."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bpjax.descriptors import DefaultACSF
from bpjax.errors import ConfigError
from bpjax.io.structures import read_structures
from bpjax.networks import MLP
from bpjax.potential import Potential, init
from bpjax.training import memory
from bpjax.training.dataset import build_dataset
from bpjax.training.inputs import evaluate_batch, store, store_features, take
from bpjax.training.streaming import InMemory
from tests.training.labelled import structures

ELEMENTS = ("Al", "Cu")
DESCRIPTOR = DefaultACSF(cutoff=4.5, radial=4, angular=2, zeta=(1.0, 2.0)).build(ELEMENTS)


@pytest.fixture(scope="module")
def sets():
    frames = structures(20)
    return tuple(build_dataset(f, ELEMENTS, DESCRIPTOR.cutoff) for f in (frames[:16], frames[16:]))


def planned(sets, **options):
    options = {"needs_derivatives": True, "batch_size": 4, "parameters": 1000, **options}
    return memory.plan(DESCRIPTOR, *sets, **options)


def test_arrays_are_counted_to_the_byte(sets):
    plan = planned(sets)
    stored = [store(DESCRIPTOR, data) for data in sets]
    assert plan.kind == "stored"
    assert plan.features == sum(s.G.nbytes + s.species.nbytes for s in stored)
    assert plan.strain == sum(s.dG_dstrain.nbytes for s in stored)
    assert plan.jacobians == sum(s.dG_dR.nbytes + s.center.nbytes + s.other.nbytes for s in stored)
    assert plan.stored_on_disk == plan.features + plan.strain + plan.jacobians
    names = ("species", "R_ij", "species_j", "neighbor", "mask", "forces", "energy", "stress", "volume", "weight")
    assert plan.data >= sum(getattr(data, name).nbytes for data in sets for name in names)
    features = [store_features(DESCRIPTOR, data) for data in sets]
    only = planned(sets, needs_derivatives=False, choice="features")
    assert only.features == sum(f.G.nbytes + f.species.nbytes for f in features) and only.jacobians == 0
    for f, s in zip(features, stored, strict=True):
        np.testing.assert_allclose(f.G, s.G, rtol=1e-6, atol=1e-6)


def test_choice_follows_memory_and_need(sets):
    totals = planned(sets).alternatives
    assert totals["environments"] < totals["stored"]
    assert planned(sets, memory_gb=1.01 * totals["stored"] / 1e9).kind == "stored"
    assert planned(sets, memory_gb=0.99 * totals["stored"] / 1e9).kind == "environments"
    small = planned(sets, needs_derivatives=False, memory_gb=0.99 * totals["stored"] / 1e9)
    assert small.kind == "features" and small.total < totals["stored"]
    assert planned(sets, needs_derivatives=False, memory_gb=1e-9).kind == "environments"
    on_disk = planned(sets, choice="disk")
    assert on_disk.total < totals["stored"] and on_disk.disk == on_disk.stored_on_disk > 0
    with pytest.raises(ConfigError, match="features.*energies alone"):
        planned(sets, choice="features")
    with pytest.raises(ConfigError, match="'all'; allowed are auto, stored, features, environments, disk"):
        planned(sets, choice="all")


def test_parameters_and_members_count(sets):
    one, many = planned(sets), planned(sets, members=5)
    assert many.parameters == 5 * one.parameters == 5 * 4 * 1000 * memory.COPIES


def test_lines_name_the_kind_its_size_and_the_padding(sets):
    plan = planned(sets)
    first, others, batches = plan.lines()
    assert "derivatives stored" in first and "MB" in first and "jacobians" in first
    assert "environments" in others and "files of" in others and "features " not in others
    assert "4 structures" in batches and f"{100 * plan.waste:.1f} %" in batches


def test_step_holds_what_is_said(sets):
    # What the compiler reserves for a gradient of energies and forces, for batches large enough that it is not all overhead.
    train = sets[0]
    model = Potential(DESCRIPTOR, MLP((16,)))
    params = init(model, jax.random.key(0))
    parameters = sum(a.size for a in jax.tree.leaves(params["networks"]))
    source = InMemory.of(store(DESCRIPTOR, train))
    rows, layout = (plan := source.batches(train, 8)).layout(train, plan.in_order()[0])

    def step(networks, arrays, rows, layout):
        def objective(networks):
            out = evaluate_batch(model, {**params, "networks": networks}, take(arrays, rows), layout)
            return (out.energy**2).sum() + (out.forces**2).sum() + (out.stress**2).sum()

        return jax.value_and_grad(objective)(networks)

    compiled = jax.jit(step).lower(params["networks"], source.arrays, rows, layout).compile()
    said = planned(sets, batch_size=8, parameters=parameters).batch
    assert compiled.memory_analysis().temp_size_in_bytes == pytest.approx(said, rel=0.35)


PROBE = Path(__file__).with_name("memory_probe.py")


@pytest.mark.exhaustive
@pytest.mark.parametrize(("name", "kind"), [("tio2", "stored"), ("water", "stored")])
def test_whole_run_takes_what_is_said(shared, tmp_path, name, kind):
    # The growth of the resident memory of a process, with Python, JAX and the compiled code there already.
    path, count = {
        "tio2": ("tio2/tio2_train.extxyz", 400),
        "water": ("water_pbe0ts/water64_train.extxyz", 24),
    }[name]
    frames = read_structures(shared / "data" / path)
    assert len(frames) > count
    command = [sys.executable, str(PROBE), str(shared / "data" / path), str(count), kind, str(tmp_path / "files")]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    found = json.loads(lines[-1])
    assert found["peak"] == pytest.approx(found["said"], rel=0.1)
    assert jnp.isfinite(found["loss"])
