"""What a step of training costs for many members of a sweep at once, against one.

    JAX_PLATFORMS=cpu python tests/benchmarks/sweep.py TRAIN.extxyz [--members 1 4 16 64] [--hidden 32 32]

Trains with the default symmetry functions and stored features. One JSON line for each number of members: the shortest time of a
step, the same relative to one member, compile time, and the peak memory of the process so far. Members differ in learning rate
and first parameters.
"""

import argparse
import json
import os
import resource
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from bpjax.networks import MLP
from bpjax.training import DataOptions, OptimizerOptions, TrainingOptions, prepare
from bpjax.training.hyper import Hyper
from bpjax.training.problem import pose
from bpjax.training.updaters import Descent, start


def steps(problem, options: TrainingOptions, members: int, repeats: int) -> tuple[float, float]:
    """Seconds of the first step, which compiles, and of the shortest step after it."""
    hyper = jax.tree.map(lambda a: jnp.broadcast_to(a, (members,)), Hyper.of(options))
    rates = np.geomspace(1e-4, 1e-2, members).astype(np.float32)
    updater = Descent(problem, options, hyper._replace(learning_rate=jnp.asarray(rates)), members)
    state = start(problem, updater, np.arange(members))
    times = []
    for step in range(repeats + 1):
        began = time.perf_counter()
        state = jax.block_until_ready(updater.advance(state, step, step + 1))
        times.append(time.perf_counter() - began)
    return times[0], min(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("--members", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--hidden", type=int, nargs="+", default=[32, 32])
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=10)
    given = parser.parse_args()
    options = TrainingOptions(
        data=DataOptions(train=(given.train.name,)),
        network=MLP(tuple(given.hidden)),
        optimizer=OptimizerOptions(batch_size=given.batch_size, inputs="stored"),
    )
    structures = prepare(options.data, given.train.parent, seed=0)
    problem = pose(structures, options)
    single = None
    for members in given.members:
        first, step = steps(problem, options, members, given.repeats)
        single = single or step / members
        line = {
            "members": members,
            "features": problem.model.descriptor.size,
            "atoms_per_step": int(problem.train.sizes.mean() * given.batch_size),
            "compile_s": round(first - step, 2),
            "step_ms": round(1e3 * step, 2),
            "relative_to_the_first": round(step / single, 2),
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            "cores": len(os.sched_getaffinity(0)),
            "device": jax.devices()[0].device_kind,
            "jax": jax.__version__,
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
