"""Surface hopping: trajectories per second of a model and of a molecule, all at once and one by one; beside mudslide.

    JAX_PLATFORMS=cpu python tests/benchmarks/hopping.py --mudslide OTHER/bin/python

One JSON line for each question. Wall times after a first call that compiles; `cpu_s` is the time of the process on all cores,
which tells more on a machine that does other work as well.

tully      trajectories of Tully's first model at k = 20 in one call, until all have left
molecule   6 atoms, 18 coordinates, 3 states: a vibronic model as stand-in, or a trained one (`--model`, with a Hessian to sample
           from, `--start`); all trajectories in one call, then some of them one by one in calls of the same length
mudslide   Tully's first model at k = 20 by mudslide (`pip install mudslide`, an environment of its own), with the same time step
"""

import argparse
import json
import subprocess
import time
from pathlib import Path

import jax
import numpy as np

from bpjax.cli.common import use_all_cores

jax.config.update("jax_enable_x64", True)
use_all_cores()

from bpjax.excited.hopping_options import HoppingOptions  # noqa: E402
from bpjax.excited.hopping_run import Hopping  # noqa: E402
from bpjax.excited.library import MovingModel, find_model, read_hessian  # noqa: E402
from bpjax.excited.lvc import LinearVibronic  # noqa: E402
from bpjax.excited.wigner import normal_modes, wigner_samples  # noqa: E402
from bpjax.units import ATOMIC_TIME_FS, HARTREE  # noqa: E402

MUDSLIDE = """
import json, sys, time
import mudslide
import numpy as np
from mudslide.models import TullySimpleAvoidedCrossing as Model
number, dt, k = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
model = Model()
generator = mudslide.TrajGenConst(-10.0, k / 2000.0, 0, seed=1)
batch = mudslide.BatchedTraj(
    model, generator, mudslide.SurfaceHoppingMD, samples=number, dt=dt, bounds=[-10, 10], trace_every=10000,
    strict_option_check=False,
)
wall, cpu = time.perf_counter(), time.process_time()
results = batch.compute()
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
print(json.dumps({"wall_s": wall, "cpu_s": cpu, "outcomes": np.asarray(results.outcomes).tolist()}))
"""


def timed(f):
    """Result, wall seconds and seconds of the process of the second of two calls, and wall seconds of the first."""
    first = time.perf_counter()
    f()
    first = time.perf_counter() - first
    wall, cpu = time.perf_counter(), time.process_time()
    result = f()
    return result, time.perf_counter() - wall, time.process_time() - cpu, first


def show(question: str, number: int, wall: float, cpu: float, **more) -> dict:
    line = {"question": question, "device": jax.devices()[0].device_kind, "devices": len(jax.devices())}
    line |= {"trajectories": number, "dtype": "float64"}
    line |= {"wall_s": round(wall, 3), "cpu_s": round(cpu, 3), "ms_per_trajectory": round(1e3 * wall / number, 5)}
    line |= {"cpu_ms_per_trajectory": round(1e3 * cpu / number, 5)} | more
    print(json.dumps(line), flush=True)
    return line


def tully(number: int, dt: float) -> dict:
    model = find_model("tully1")
    options = HoppingOptions(timestep_fs=dt * ATOMIC_TIME_FS, decoherence="none", region=(-10.0, 10.0))
    hopping = Hopping(model.model, model.masses, options)
    one = np.ones((number, 1))
    start = hopping.start(-10 * one, 20 / 2000 * one, 0)
    run, wall, cpu, first = timed(lambda: hopping.run(start, 4000, 4000))
    steps = int(np.asarray(run.state.step).sum())
    shares = run.outcomes().transmitted.round(4).tolist()
    more = {
        "transmitted": shares,
        "us_per_step": round(1e6 * wall / steps, 4),
        "dt": dt,
        "first_call_s": round(first, 2),
    }
    return show("tully", number, wall, cpu, **more)


def stand_in() -> MovingModel:
    """18 modes of 300 to 3500 1/cm, 3 states within 1.5 eV, couplings of some tenths of an eV."""
    rng = np.random.default_rng(0)
    w = np.linspace(300, 3500, 18) / 8065.54 / HARTREE
    linear = 0.06 * rng.normal(size=(18, 3, 3)) / HARTREE
    model = LinearVibronic.build(w, np.diag([0.0, 0.8, 1.5]) / HARTREE, 0.5 * (linear + linear.swapaxes(1, 2)))
    modes = normal_modes(np.zeros(18), np.diag(w), 1 / w)
    return MovingModel("stand-in", model, 1 / w, "atomic", modes=modes)


def molecule(model: MovingModel, modes, number: int, steps: int, alone: int) -> None:
    options = HoppingOptions(timestep_fs=0.1, units=model.units)
    hopping = Hopping(model.model, model.masses, options)
    R, v = wigner_samples(modes, number, units=model.units)
    states = jax.eval_shape(model.model, jax.ShapeDtypeStruct(R.shape[1:], R.dtype)).shape[0]
    start = hopping.start(R, v, states - 1)
    run, wall, cpu, first = timed(lambda: hopping.run(start, steps, 10))
    common = {"model": model.name, "steps": steps}
    hops = {"hops": int(run.hops["accepted"].sum()), "median_drift": float(np.median(run.drift))}
    together = show("molecule", number, wall, cpu, **common, **hops, first_call_s=round(first, 2))
    ones = [jax.tree.map(lambda x, n=n: x[n : n + 1], start) for n in range(alone)]
    _, wall, cpu, _ = timed(lambda: [hopping.run(one, steps, 10) for one in ones])
    ratio = cpu / alone / (together["cpu_ms_per_trajectory"] / 1e3)
    show("molecule, one by one", alone, wall, cpu, **common, times_slower_cpu=round(ratio, 2))


def mudslide(python: str, number: int, dt: float, ours: dict) -> None:
    command = [python, "-c", MUDSLIDE, str(number), str(dt), "20"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    wall, cpu = found["wall_s"], found["cpu_s"]
    ratios = {
        "times_slower": round(1e3 * wall / number / ours["ms_per_trajectory"]),
        "times_slower_cpu": round(1e3 * cpu / number / ours["cpu_ms_per_trajectory"]),
    }
    show("mudslide", number, wall, cpu, dt=dt, **ratios)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tully", type=int, default=10000, help="trajectories of Tully's model; 0 for none")
    parser.add_argument("--dt", type=float, default=4.0, help="its time step in atomic units")
    parser.add_argument("--trajectories", type=int, default=1000, help="of the molecule; 0 for none")
    parser.add_argument("--steps", type=int, default=1000, help="of the molecule")
    parser.add_argument("--alone", type=int, default=20, help="trajectories run one by one")
    parser.add_argument("--model", help="a .bpjax file of diabatic states in place of the stand-in")
    parser.add_argument("--start", type=Path, help="its Hessian (.npz), see `bpjax hop --help`")
    parser.add_argument("--mudslide", help="an interpreter that has mudslide")
    parser.add_argument("--samples", type=int, default=10, help="trajectories of mudslide")
    options = parser.parse_args()
    ours = tully(options.tully, options.dt) if options.tully else None
    if options.mudslide and ours:
        mudslide(options.mudslide, options.samples, options.dt, ours)
    if options.trajectories:
        model = find_model(options.model) if options.model else stand_in()
        modes = model.modes if options.start is None else read_hessian(options.start, model)
        molecule(model, modes, options.trajectories, options.steps, options.alone)


if __name__ == "__main__":
    main()
