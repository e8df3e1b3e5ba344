"""The extended Kalman filter beside Adam: epochs and seconds until the forces are as good as asked.

    JAX_PLATFORMS=cpu python tests/benchmarks/kalman.py data/silicon/silicon_train.extxyz OTHER.extxyz --forces 0.2 0.1

One JSON line for each set, method and error: the first epoch after which the root mean square error of the forces of the
validation structures (a tenth, set aside) is below it, and the seconds until then, without descriptors and validation but with
compilation; null where it was not reached. An epoch of Adam is one pass over the structures, one of the filter as many updates
as its options say. An energy is one measurement among many forces for the filter, and gets a smaller width there (`--energy`).
The last line of each method has its best errors and the time of an update.
"""

import argparse
import json
import time
from pathlib import Path

import jax

import bpjax as bp
from bpjax.networks import MLP
from bpjax.training import DataOptions, LikelihoodLoss, OptimizerOptions, TrainingOptions, prepare
from bpjax.training.kalman_options import KalmanFilter
from bpjax.training.kalman_updater import KalmanUpdater
from bpjax.training.problem import pose, validate
from bpjax.training.updaters import Descent, Hyper, start


def follow(name: str, method: str, problem, settings, updater, epochs: int, goals: list[float], updates: int) -> None:
    """Runs and prints; `updates` are those of an epoch."""
    state, seconds, reached, best = start(problem, updater, None), 0.0, {}, None
    per_epoch = updater.per_epoch
    for epoch in range(epochs):
        began = time.perf_counter()
        state = jax.block_until_ready(updater.advance(state, epoch * per_epoch, (epoch + 1) * per_epoch))
        last = time.perf_counter() - began
        seconds += last
        found = validate(problem, settings.loss, state.average, 8)
        if best is None or found["loss"] < best["loss"]:
            best = found
        for goal in goals:
            if goal not in reached and found["forces_rmse"] < goal:
                reached[goal] = (epoch + 1, round(seconds, 2))
    common = {"set": name, "method": method, "device": jax.devices()[0].device_kind}
    for goal in goals:
        epoch, when = reached.get(goal, (None, None))
        print(json.dumps(common | {"forces_rmse_below": goal, "epochs": epoch, "seconds": when}), flush=True)
    result = {
        "weights": sum(leaf.size for leaf in jax.tree.leaves(state.trained)),
        "best_energy_rmse": round(float(best["energy_rmse"]), 5),
        "best_forces_rmse": round(float(best["forces_rmse"]), 5),
        "ms_per_update": round(1e3 * last / updates, 2),
        "seconds": round(seconds, 1),
    }
    print(json.dumps(common | result), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", help="files of structures with energies and forces")
    parser.add_argument("--forces", type=float, nargs="+", default=[0.2, 0.1], help="errors to reach, in eV/A")
    parser.add_argument("--cutoff", type=float, default=5.5)
    parser.add_argument("--every", type=int, default=1, help="take every nth structure")
    parser.add_argument("--hidden", type=int, nargs="+", default=[15, 15])
    parser.add_argument("--epochs", type=int, default=20, help="of the filter")
    parser.add_argument("--adam-epochs", type=int, default=400)
    parser.add_argument("--energy", type=float, default=0.005, help="width of energies in the filter, in eV/atom")
    parser.add_argument("--kind", choices=("standard", "fading"), nargs="+", default=["standard", "fading"])
    options = parser.parse_args()
    for path in map(Path, options.sets):
        data = DataOptions(train=(path.name,))
        structures = prepare(data, path.parent, seed=0)
        chosen = structures.train.pick(range(0, len(structures.train), options.every))
        structures = structures.__class__(**{**vars(structures), "train": chosen})
        descriptor, network = bp.DefaultACSF(cutoff=options.cutoff), MLP(tuple(options.hidden), "tanh")
        batches = -(-len(chosen) // 8)
        adam = OptimizerOptions(steps=options.adam_epochs * batches, average=0.0)
        settings = TrainingOptions(data, descriptor, network, optimizer=adam)
        problem = pose(structures, settings)
        updater = Descent(problem, settings, Hyper.of(settings))
        follow(path.name, "adam", problem, settings, updater, options.adam_epochs, options.forces, updater.per_epoch)
        for kind in options.kind:
            kalman = KalmanFilter(kind=kind, epochs=options.epochs)
            loss = LikelihoodLoss(energy=options.energy)
            settings = TrainingOptions(data, descriptor, network, loss, kalman)
            updater = KalmanUpdater(problem, settings)
            name = f"kalman {kind}"
            follow(path.name, name, problem, settings, updater, options.epochs, options.forces, sum(updater.updates))


if __name__ == "__main__":
    main()
