"""Distance of the kernels to the limit of the machine.

    python tests/benchmarks/roofline.py [--cells 8] [--kernels radial narrow moments soap] [--dtypes float32 float64]

Operations, functions (exp, cos, sqrt) and bytes of energy and pair gradients are counted from the formulas
(`bpjax.analysis.roofline`) with the true neighbours of a silicon crystal; peaks of the device are measured in the same run: a
product of matrices, a chain of exp, a triad. The network is linear: only the descriptor counts. Prints one JSON line for each
case: what is counted per atom, what binds, the least time, the measured one, and their ratio, the fraction of the roofline;
beside it the operations that the compiled program of one environment has, as XLA counts them. Run with one core
(`taskset -c 0`) or with all; peaks and kernels then use the same.
"""

import argparse
import json
import sys
from pathlib import Path

import jax
import numpy as np

from bpjax.analysis.roofline import measured_peaks, work_of
from bpjax.analysis.speed import surroundings
from bpjax.descriptors import ACSF, SOAP, Angular, Radial
from bpjax.geometry import environments
from bpjax.machine import timed
from bpjax.neighbors import neighbor_list
from bpjax.networks import MLP
from bpjax.potential import Potential, init
from bpjax.potential.energy import local_energies
from bpjax.system import Environment, system_from_arrays

sys.path.insert(0, str(Path(__file__).resolve().parent))
from structures import G2, L_MAX, N_MAX, NARROW, RADIUS, SIGMA, silicon


def kernels() -> dict:
    """Descriptors of one kind of function each."""
    wide = tuple(Angular(e, z, s) for e in (0.01, 0.05, 0.2) for z in (1.0, 2.0, 3.0, 4.0) for s in (1.0, -1.0))
    return {
        "radial": ACSF(("Si",), RADIUS, g2=tuple(Radial(*p) for p in G2)),
        "narrow": ACSF(("Si",), RADIUS, g4=tuple(Angular(*p) for p in NARROW)),
        "moments": ACSF(("Si",), RADIUS, g5=wide, wide="moments"),
        "soap": SOAP(("Si",), RADIUS, n_max=N_MAX, l_max=L_MAX, sigma=SIGMA),
    }


def pairs_within(env, cutoff: float) -> np.ndarray:
    """Of each environment, unordered pairs of neighbours that are no further apart than the cutoff."""
    counts = []
    for R_ij, mask in zip(np.asarray(env.R_ij, np.float64), np.asarray(env.mask), strict=True):
        R = R_ij[mask]
        r_jk = np.linalg.norm(R[:, None] - R[None], axis=-1)
        counts.append(np.sum(np.triu(r_jk < cutoff, 1)))
    return np.array(counts)


def compiled_operations(descriptor, K: int) -> float:
    """Operations of one environment of K neighbours with gradient, as XLA counts them."""
    R = np.random.default_rng(0).normal(size=(K, 3)).astype(np.float32)
    R *= (RADIUS * 0.8 / np.linalg.norm(R, axis=1))[:, None]

    def energy(R):
        return descriptor(Environment(R, np.zeros(K, np.int32), np.ones(K, bool)), 0).sum()

    return jax.jit(jax.value_and_grad(energy)).lower(R).compile().cost_analysis()["flops"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=8, help="repeats of the cubic cell of 8 atoms")
    parser.add_argument("--kernels", nargs="+", choices=kernels(), default=list(kernels()))
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "float64"), default=["float32"])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--peak-size", type=int, default=0, help="rows of the matrices of the peak; 0 chooses")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", "float64" in options.dtypes)
    atoms = silicon(options.cells)
    neighbors = neighbor_list(atoms.positions, atoms.cell.array, True, RADIUS)
    for dtype in options.dtypes:
        system = system_from_arrays(atoms.numbers, atoms.positions, atoms.cell.array, True, ("Si",), dtype=dtype)
        env = jax.jit(environments)(system, neighbors)
        degrees = np.asarray(neighbors.mask).sum(axis=1)
        within = pairs_within(env, RADIUS)
        peaks = measured_peaks(dtype, size=options.peak_size, repeats=options.repeats)
        for name in options.kernels:
            descriptor = kernels()[name]
            model = Potential(descriptor, MLP(()))

            def step(params, env, species, model=model):
                return local_energies(model, params, env, species)[:2]

            params = init(model, jax.random.key(0), np.dtype(dtype))
            timing = timed(step, params, env, system.species, repeats=options.repeats)
            work = work_of(descriptor, degrees, within, np.dtype(dtype).itemsize)
            seconds, least = timing.shortest / len(atoms), peaks.seconds(work)
            line = {
                "kernel": name,
                "features": descriptor.size,
                "atoms": len(atoms),
                "neighbours": float(degrees.mean()),
                "operations": work.operations,
                "functions": work.functions,
                "bytes": work.bytes,
                "compiled_operations": compiled_operations(descriptor, round(float(degrees.mean()))),
                "peak_gflops": 1e-9 * peaks.flops,
                "peak_gfunctions": 1e-9 * peaks.functions,
                "bandwidth_gb_s": 1e-9 * peaks.bandwidth,
                "binds": "memory" if least == work.bytes / peaks.bandwidth else "arithmetic",
                "least_us": 1e6 * least,
                "measured_us": 1e6 * seconds,
                "gflops": 1e-9 * work.operations / seconds,
                "fraction": least / seconds,
            }
            line = {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in line.items()}
            print(json.dumps(line | surroundings(dtype)), flush=True)


if __name__ == "__main__":
    main()
