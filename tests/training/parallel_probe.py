"""Trains on all devices and on one: `parallel_probe.py FOLDER KIND...` prints one JSON line for each kind.

Not a test itself: how many devices a CPU has is settled when JAX starts, so that this needs a process of its own.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from unittest import mock

import jax
import numpy as np

from bpjax.descriptors import DefaultACSF
from bpjax.networks import MLP
from bpjax.networks.noise import NoiseModel
from bpjax.training import LBFGS, DataOptions, Ensemble, LikelihoodLoss, OptimizerOptions, TrainingOptions, fit, prepare
from bpjax.training.hyper import Hyper
from bpjax.training.kalman_options import KalmanFilter
from bpjax.training.problem import pose, ready
from bpjax.training.updaters import Descent, _descend, start

STEPS = 20
DESCENT = OptimizerOptions(
    steps=STEPS, batch_size=4, learning_rate=1e-2, warmup=5, evaluate_every=10, checkpoint_every=10, average=0.9
)
OPTIONS = TrainingOptions(
    data=DataOptions(train=("train.extxyz",), validation_fraction=0.25),
    descriptor=DefaultACSF(cutoff=4.0, radial=4, angular=1, zeta=(1.0,)),
    network=MLP((8,), "silu"),
    optimizer=DESCENT,
)
KINDS = {
    "stored": OPTIONS,
    "disk": replace(OPTIONS, optimizer=replace(DESCENT, inputs="disk")),
    "environments": replace(OPTIONS, optimizer=replace(DESCENT, inputs="environments")),
    "features": replace(OPTIONS, loss=LikelihoodLoss(energy=0.02, forces=None, stress=None)),
    # Three shards of two, one of them with an empty place; batches of the last epoch too.
    "uneven": replace(OPTIONS, optimizer=replace(DESCENT, batch_size=5)),
    "few": replace(OPTIONS, optimizer=replace(DESCENT, batch_size=2)),
    "members": replace(OPTIONS, ensemble=Ensemble(8, "bootstrap")),
    "some": replace(OPTIONS, ensemble=Ensemble(3, "subset")),
    "noise": replace(OPTIONS, noise=NoiseModel(forces=0.1, network=MLP((8,)))),
    "learned": replace(OPTIONS, loss=LikelihoodLoss(learned=True)),
    "lbfgs": replace(OPTIONS, optimizer=LBFGS(steps=8, batch_size=4, evaluate_every=4, checkpoint_every=4)),
    "kalman": replace(OPTIONS, optimizer=KalmanFilter(epochs=2)),
}


def on(count: int, structures, options, folder: Path):
    """The run on so many devices, and what it said of them."""
    said: list[str] = []
    some = jax.devices()[:count]
    with mock.patch("jax.devices", lambda: some):
        found = fit(structures, options, folder, announce=said.append)
    return found, [line for line in said if "devices" in line]


def largest(one, other) -> float:
    """Largest difference of any array, relative to its largest number."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return max(float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-30)) for a, b in map(jax.device_get, pairs))


def compare(structures, options, folder: Path) -> dict:
    """How far runs on one device and on all differ, in parameters and in metrics."""
    one, _ = on(1, structures, options, folder / "one")
    programs = _descend._cache_size()
    several, said = on(jax.device_count(), structures, options, folder / "several")
    lines = zip(one.history, several.history, strict=True)
    metrics = [(a[k], b[k]) for a, b in lines for k in a if k not in ("seconds", "members")]
    return {
        "parameters": largest(one.params, several.params),
        "metrics": max(abs(a - b) / max(abs(a), 1e-30) for a, b in metrics),
        "said": said,
        "programs": _descend._cache_size() - programs,
    }


def program(structures) -> dict:
    """What the devices exchange in a step, and where its results are."""
    problem = pose(structures, OPTIONS, several=True)
    assert problem.devices is not None
    updater = Descent(problem, OPTIONS, Hyper.of(OPTIONS))
    state = problem.devices.replicate(start(problem, updater, None))
    batch = ready(problem, problem.train, problem.inputs, updater.plan, updater._chosen(0))
    fixed = (problem.model, updater.loss, updater.options, None)
    text = _descend.lower(*fixed, updater.params, updater.hyper, state, *batch).compile().as_text()
    after = jax.tree.leaves(updater.advance(state, 0, 1))
    words = ("all-reduce(", "all-gather(", "all-to-all(", "collective-permute(")
    held = {str(tuple(a.sharding.spec)) for a in jax.tree.leaves(batch[1])}
    return {
        **{word[:-1]: text.count(f" {word}") for word in words},
        "batch": sorted(held),
        "everywhere": all(a.sharding.is_fully_replicated and len(a.devices()) == jax.device_count() for a in after),
    }


def main() -> None:
    folder = Path(sys.argv[1])
    structures = prepare(OPTIONS.data, folder, seed=0)
    for kind in sys.argv[2:]:
        (folder / kind / "one").mkdir(parents=True)
        (folder / kind / "several").mkdir()
        found = program(structures) if kind == "program" else compare(structures, KINDS[kind], folder / kind)
        print(json.dumps({"kind": kind, **found}))


if __name__ == "__main__":
    main()
