"""Measures what training takes of memory: `memory_probe.py FILE COUNT KIND FOLDER` prints one JSON line.

Everything is done twice: what Python, JAX and compiled code take is there when the second count begins.
"""

import ctypes
import gc
import json
import sys
from functools import partial
from pathlib import Path

import jax
import numpy as np

from bpjax.descriptors import DefaultACSF
from bpjax.io.structures import read_structures
from bpjax.networks import MLP
from bpjax.networks.scaling import fit_scaling
from bpjax.potential import Potential, init
from bpjax.training import memory, streaming
from bpjax.training.dataset import build_dataset, targets
from bpjax.training.inputs import as_environments, evaluate_batch, store, store_features, take
from bpjax.training.losses import LikelihoodLoss, likelihood_loss

BATCH = 8


def resident(field: str) -> int:
    """VmRSS (now) or VmHWM (at most) of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024


def settle() -> int:
    """Gives back what is free, forgets the peak so far, and returns the resident memory."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def make(kind, descriptor, data, folder):
    if kind == "disk":
        return streaming.build(descriptor, data, folder)
    return streaming.InMemory.of(as_environments(data) if kind == "environments" else store(descriptor, data))


@partial(jax.jit, static_argnums=0)
def step(model, networks, params, arrays, rows, layout, wanted):
    """Loss, and networks after a small step."""

    def objective(networks):
        outputs = evaluate_batch(model, {**params, "networks": networks}, take(arrays, rows), layout)
        return likelihood_loss(LikelihoodLoss(), outputs, wanted, layout)

    value, gradient = jax.value_and_grad(objective)(networks)
    return value, jax.tree.map(lambda p, g: p - 1e-9 * g, networks, gradient)


def train(model, params, data, source, steps):
    """Loss after so many batches."""
    plan, networks, value = source.batches(data, BATCH), params["networks"], None
    for chosen in plan.in_order()[:steps]:
        rows, layout = plan.layout(data, chosen)
        wanted = targets(data, np.zeros(len(model.elements)), chosen, rows, layout)
        inputs = (source.arrays, rows) if source.on_device else (source.batch(rows), None)
        value, networks = step(model, networks, params, *inputs, layout, wanted)
    return float(value)


def main() -> None:
    path, count, kind, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
    frames = read_structures(path)[:count]
    elements = tuple(sorted({s for atoms in frames for s in atoms.get_chemical_symbols()}))
    descriptor = DefaultACSF().build(elements)
    model = Potential(descriptor, MLP((32, 32)))
    params = init(model, jax.random.key(0))
    few = build_dataset(frames[:5], elements, descriptor.cutoff)
    params["scaling"] = fit_scaling(store_features(descriptor, few).G, few.species, elements)
    line = {}
    for turn in ("first", "second"):  # in the first, everything is compiled
        before = settle()
        data = build_dataset(frames, elements, descriptor.cutoff)
        one = build_dataset(frames[:1], elements, descriptor.cutoff)
        parameters = sum(a.size for a in jax.tree.leaves(params["networks"]))
        plan = memory.plan(
            descriptor, data, one, needs_derivatives=True, batch_size=BATCH, parameters=parameters, choice=kind
        )
        source = make(kind, descriptor, data, folder / turn)
        loss = train(model, params, data, source, 5)
        peak = resident("VmHWM") - before
        line[turn] = {"said": plan.total, "peak": peak, "before": before, "loss": loss}
        del data, one, source
    print(json.dumps({**line.pop("second"), "compiling": line, "lines": plan.lines()}))


if __name__ == "__main__":
    main()
