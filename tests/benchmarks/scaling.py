"""Time per atom against the number of atoms, and against the number of cores.

    python tests/benchmarks/scaling.py [--sizes 64 512 4096 32768 262144 1000000] [--descriptors default soap] [--dtypes float32]
    python tests/benchmarks/scaling.py --cores 1 2 4 --sizes 4096

Silicon with random networks on several descriptors, started from the perfect crystal with momenta of 10 K, because random
networks hold no crystal together: energy and forces with the list given, and steps of NVE dynamics with list updates, as
`bpjax bench` measures them. With `--cores` each number of cores is a process of its own that may use only so many (Linux), each a
device that dynamics shares its atoms with. Sizes that do not fit into memory are left out, with a line on standard error. Prints
one JSON line for each case.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import ase.build
import jax
import numpy as np

from bpjax.analysis.speed import measure_sizes, surroundings
from bpjax.descriptors import SOAP
from bpjax.networks import MLP
from bpjax.potential import Potential, init

sys.path.insert(0, str(Path(__file__).resolve().parent))
from energy_forces import descriptors
from structures import L_MAX, N_MAX, RADIUS, SIGMA

NAMES = {
    "default": "default",
    "wide": "8 G2 + 24 G5, zeta to 4, moments",
    "narrow": "8 G2 + 24 G4, zeta to 4",
    "soap": "SOAP n_max 8, l_max 6",
}


def descriptor(name: str):
    """One of `NAMES`."""
    if name == "soap":
        return SOAP(("Si",), RADIUS, n_max=N_MAX, l_max=L_MAX, sigma=SIGMA)
    return descriptors()[NAMES[name]]


def quiet(params, factor: float = 1e-3):
    """Parameters of a random potential whose forces are so small that nothing happens."""
    return params | {"energy_scale": factor * params["energy_scale"]}


def measure(options: argparse.Namespace) -> None:
    """Prints the lines of this process."""
    jax.config.update("jax_enable_x64", "float64" in options.dtypes)
    unit = ase.build.bulk("Si", cubic=True)
    for name in options.descriptors:
        model = Potential(descriptor(name), MLP((32, 32)))
        for dtype in options.dtypes:
            params = quiet(init(model, jax.random.key(0), np.dtype(dtype)))
            found, left_out = measure_sizes(
                model, params, unit, options.sizes, steps=options.steps, repeats=options.repeats, temperature=10.0, dtype=dtype
            )  # fmt: skip
            about = {"descriptor": NAMES[name], "features": model.descriptor.size, **surroundings(dtype)}
            for speed in found:
                print(json.dumps(about | speed.line()), flush=True)
            if left_out:
                print(f"{NAMES[name]}, {dtype}: left out: {left_out}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 512, 4096, 32768, 262144, 1000000])
    parser.add_argument("--descriptors", nargs="+", choices=NAMES, default=["default"])
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "float64"), default=["float32"])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cores", type=int, nargs="+", default=[], help="numbers of cores, one process for each")
    options = parser.parse_args()
    if not options.cores:
        measure(options)
        return
    usable = sorted(os.sched_getaffinity(0))
    if max(options.cores) > len(usable):
        parser.error(f"--cores: there are {len(usable)}")
    rest = []
    for name in ("sizes", "descriptors", "dtypes"):
        rest += [f"--{name}", *map(str, getattr(options, name))]
    rest += ["--steps", str(options.steps), "--repeats", str(options.repeats)]
    for count in options.cores:
        subprocess.run(
            [sys.executable, __file__, *rest],
            env={**os.environ, "JAX_NUM_CPU_DEVICES": str(count)},
            preexec_fn=lambda count=count: os.sched_setaffinity(0, usable[:count]),
            check=True,
        )


if __name__ == "__main__":
    main()
