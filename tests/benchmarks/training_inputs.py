"""Time of an epoch with each way to keep what networks are trained on, and the padding of the batches.

    python tests/benchmarks/training_inputs.py STRUCTURES [--count 200] [--batch 8] [--kinds stored environments disk]

Prints one JSON line for each kind: seconds to make the inputs, the shortest of several epochs with the default options, what the
memory plan says, padding of atoms and of blocks of partners.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from bpjax.elements import sorted_elements
from bpjax.io.structures import read_structures
from bpjax.training import DataOptions, OptimizerOptions, TrainingOptions
from bpjax.training.hyper import Hyper
from bpjax.training.prepare import Structures
from bpjax.training.problem import pose
from bpjax.training.splits import Split
from bpjax.training.updaters import Descent, start


def measure(structures: Structures, options: TrainingOptions, repeats: int) -> dict:
    """Seconds of the preparation and of the shortest epoch, and the plan."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        problem = pose(structures, options, folder=Path(folder))
        making = time.perf_counter() - began
        updater = Descent(problem, options, Hyper.of(options))
        state, seconds = start(problem, updater, None), []
        for epoch in range(repeats + 1):  # the first one compiles and is left out
            began = time.perf_counter()
            state = updater.advance(state, epoch * updater.per_epoch, (epoch + 1) * updater.per_epoch)
            jax.block_until_ready(state)
            seconds.append(time.perf_counter() - began)
    plan = problem.memory
    return {
        "structures": len(structures.train),
        "features": problem.model.descriptor.size,
        "kind": plan.kind,
        "making_s": round(making, 2),
        "compiling_s": round(seconds[0] - min(seconds[1:]), 2),
        "epoch_s": round(min(seconds[1:]), 3),
        "memory": plan.lines(),
        "padding": round(plan.waste, 4),
        "block_padding": round(plan.batches.block_waste, 4),
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("structures", type=Path)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--kinds", nargs="+", default=["stored", "environments", "disk"])
    arguments = parser.parse_args()
    frames = read_structures(arguments.structures)
    chosen = np.random.default_rng(0).permutation(len(frames))[: arguments.count]
    split = Split(tuple(frames[n] for n in chosen), tuple((str(arguments.structures), int(n)) for n in chosen))
    elements = sorted_elements([s for atoms in frames for s in set(atoms.get_chemical_symbols())])
    structures = Structures(split, split.pick([0]), split.pick([]), elements, {})
    for kind in arguments.kinds:
        optimizer = OptimizerOptions(batch_size=arguments.batch, inputs=kind)
        options = TrainingOptions(DataOptions((str(arguments.structures),)), optimizer=optimizer)
        line = {"file": arguments.structures.name, **measure(structures, options, arguments.repeats)}
        print(json.dumps({"device": jax.devices()[0].device_kind, "dtype": "float32", **line}), flush=True)


if __name__ == "__main__":
    main()
