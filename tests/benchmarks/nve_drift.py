"""Energy conservation of a trained model in float32: 512 silicon atoms, 300 K, 1 fs, 10 ps; NVE and Nose-Hoover NVT.

    python tests/benchmarks/nve_drift.py MODEL.bpjax [--steps 10000]

Starts from 3 ps of Langevin dynamics: a perfect crystal given momenta has all its phonons in phase, and in 10 ps a nearly
harmonic crystal does not forget that (the temperature then fluctuates by half as much again). Prints one JSON line for each
ensemble: drift of the conserved quantity in eV/atom/ps (linear fit), its spread, mean and spread of the temperature beside
the canonical ones, time per step.
"""

import argparse
import json
from pathlib import Path

import ase.build
import jax
import numpy as np

from bpjax.dynamics import run_md
from bpjax.potential import load
from bpjax.progress import progress


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--steps", type=int, default=10000)
    parser.add_argument("--lattice-constant", type=float, default=5.47)
    arguments = parser.parse_args()
    model, params = load(arguments.model)
    crystal = ase.build.bulk("Si", cubic=True, a=arguments.lattice_constant) * (4, 4, 4)
    start = run_md(
        model, params, crystal, ensemble="nvt_langevin", temperature=300.0, steps=3000, progress=progress
    ).atoms
    for ensemble in ("nve", "nvt"):
        run = run_md(
            model,
            params,
            start,
            ensemble=ensemble,
            temperature=300.0,
            steps=arguments.steps,
            use_momenta=True,
            progress=progress,
        )
        T = run.log["temperature"][len(run.log["temperature"]) // 10 :]
        freedom = 3 * len(crystal) - 3
        conserved = run.log["conserved"] if "conserved" in run.log else run.log["total_energy"]
        print(
            json.dumps(
                {
                    "ensemble": ensemble,
                    "atoms": len(crystal),
                    "steps": arguments.steps,
                    "drift_ev_per_atom_ps": run.drift,
                    "conserved_spread_ev_per_atom": float(np.std(conserved)) / len(crystal),
                    "temperature": float(T.mean()),
                    "temperature_std": float(T.std()),
                    "canonical_std": 300.0 * float(np.sqrt(2 / freedom)),
                    "rebuilds": run.rebuilds,
                    "overflows": run.overflows,
                    **run.timings,
                    "device": jax.devices()[0].device_kind,
                    "jax": jax.__version__,
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
