"""Batches from the host and from files are those from memory, bit for bit; files are whole and belong to their data."""

import jax
import numpy as np
import pytest

from bpjax.descriptors import DefaultACSF
from bpjax.errors import ConfigError, FormatError
from bpjax.networks import MLP
from bpjax.potential import Potential, init
from bpjax.training import streaming
from bpjax.training.dataset import BatchPlan, build_dataset
from bpjax.training.inputs import as_environments, evaluate_batch, gather, store, take
from tests.training.labelled import structures

ELEMENTS = ("Al", "Cu")
DESCRIPTOR = DefaultACSF(cutoff=4.5, radial=4, angular=2, zeta=(1.0, 2.0)).build(ELEMENTS)
MODEL = Potential(DESCRIPTOR, MLP((8,), "silu"))


@pytest.fixture(scope="module")
def data():
    return build_dataset(structures(8), ELEMENTS, DESCRIPTOR.cutoff)


@pytest.fixture(scope="module")
def stored(data):
    return store(DESCRIPTOR, data)


@jax.jit
def gradient(networks, params, arrays, rows, layout):
    def objective(networks):
        out = evaluate_batch(MODEL, {**params, "networks": networks}, take(arrays, rows), layout)
        return (out.energy**2).sum() + (out.forces**2).sum() + (out.stress**2).sum()

    return jax.value_and_grad(objective)(networks)


def steps(source, data):
    """Networks after a few steps, so that any difference would be carried on."""
    params = init(MODEL, jax.random.key(0))
    plan, networks, values = source.batches(data, 3), params["networks"], []
    for chosen in plan.epoch(0, 0):
        rows, layout = plan.layout(data, chosen)
        inputs = (source.arrays, rows) if source.on_device else (source.batch(rows), None)
        value, slope = gradient(networks, params, *inputs, layout)
        networks = jax.tree.map(lambda p, g: p - 1e-3 * g, networks, slope)
        values.append(np.asarray(value))
    return values, jax.device_get(networks)


def same(one, two):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_array_equal(a, b)


def test_files_give_the_same_numbers_as_memory(data, stored, tmp_path):
    done = []
    on_disk = streaming.build(DESCRIPTOR, data, tmp_path / "files", done.append)
    assert sum(done) == len(data.species)
    same(on_disk.arrays, stored)
    assert not list(tmp_path.glob("files/*.part"))
    same(steps(on_disk, data), steps(streaming.InMemory.of(stored), data))


def test_host_gives_the_same_numbers_as_device(data):
    environments = as_environments(data)
    same(steps(streaming.OnHost(environments), data), steps(streaming.InMemory.of(environments), data))


def test_files_are_taken_up_again_and_refused_for_others(data, stored, tmp_path):
    folder = tmp_path / "files"
    streaming.build(DESCRIPTOR, data, folder)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    again = streaming.build(DESCRIPTOR, data, folder)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    same(again.arrays, stored)
    other = build_dataset(structures(8, seed=1), ELEMENTS, DESCRIPTOR.cutoff)
    with pytest.raises(ConfigError, match="other structures or another descriptor"):
        streaming.build(DESCRIPTOR, other, folder)
    (folder / "G.npy").write_bytes(b"")
    with pytest.raises(FormatError, match=r"G\.npy"):
        streaming.build(DESCRIPTOR, data, folder)


def test_interrupted_build_is_made_anew(data, stored, tmp_path):
    folder = tmp_path / "files"

    def interrupt(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        streaming.build(DESCRIPTOR, data, folder, interrupt)
    assert not (folder / streaming.ABOUT).exists()
    same(streaming.build(DESCRIPTOR, data, folder).arrays, stored)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda b: b[:60], "G.npy: cannot be read"),
        (lambda b: b[:-8], "G.npy: its header says .* which is not its size"),
        (lambda b: b.replace(b"(", b"((((", 1), "G.npy: cannot be read"),
        (lambda b: b.replace(b"'shape': (", b"'shape': (9"), "G.npy: its header says .* which is not its size"),
        (lambda b: b.replace(b"<f", b"<i"), "G.npy: holds int"),
        (lambda b: b.replace(b"<f4", b"|O "), "G.npy: "),
        (lambda b: b"", "G.npy: cannot be read"),
    ],
)
def test_damaged_files_are_refused_by_name(data, tmp_path, damage, message):
    streaming.build(DESCRIPTOR, data, tmp_path)
    path = tmp_path / "G.npy"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(FormatError, match=message):
        streaming.build(DESCRIPTOR, data, tmp_path)


def test_stored_derivatives_need_blocks(data, stored):
    plan = BatchPlan.of(data.sizes, 3)
    rows, _ = plan.layout(data, plan.in_order()[0])
    with pytest.raises(ValueError, match="rows without blocks"):
        gather(stored, rows)
