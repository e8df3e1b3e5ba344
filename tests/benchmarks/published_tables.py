"""Test errors of the default options on the silicon and molybdenum sets of Zuo et al. (2020), beside the published network.

    python tests/benchmarks/published_tables.py DATA [ELEMENT ...] > results/published_tables.jsonl
    python tests/benchmarks/published_tables.py DATA Si Mo Cu --descriptors acsf soap --steps 3000 > results/soap_accuracy.jsonl

DATA is a folder with `ELEMENT_train.extxyz` and `ELEMENT_test.extxyz` (the mlearn sets). Trains with nothing but defaults, or
with SOAP (n_max 6, l_max 4, the cutoff of the default set) and all else the same, and prints one JSON line for each element:
errors over all test structures and by group, training time, the published errors.
"""

import argparse
import json
import platform
import time
from pathlib import Path

import jax

from bpjax.analysis.errors import error_metrics
from bpjax.descriptors import SOAP, DefaultACSF
from bpjax.io.structures import group_of, labels
from bpjax.potential.evaluator import Evaluator
from bpjax.progress import progress
from bpjax.training import DataOptions, OptimizerOptions, TrainingOptions, fit, prepare

PUBLISHED = {
    "Ni": (2.25, 0.067),
    "Cu": (1.68, 0.063),
    "Li": (0.98, 0.023),
    "Mo": (5.43, 0.203),
    "Si": (6.93, 0.170),
    "Ge": (7.63, 0.125),
}
"""Test RMSE of the published neural networks: meV/atom, eV/A (Zuo et al., J. Phys. Chem. A 124, 731, 2020)."""


def measure(folder: Path, element: str, seed: int, name: str, steps: int) -> dict:
    """Trains on one element and measures on its test set."""
    data = DataOptions((f"{element}_train.extxyz",), test=(f"{element}_test.extxyz",))
    descriptor = DefaultACSF() if name == "acsf" else SOAP((element,), DefaultACSF().cutoff, 6, 4, 0.5)
    options = TrainingOptions(data, descriptor, optimizer=OptimizerOptions(steps=steps))
    began = time.perf_counter()
    structures = prepare(data, folder, options.optimizer.seed + seed)
    result = fit(structures, options, progress=progress)
    seconds = time.perf_counter() - began
    frames = structures.test.frames
    predicted = Evaluator(result.model, result.params).evaluate_many(frames)
    errors = error_metrics(
        predicted, [labels(a) for a in frames], [len(a) for a in frames], [group_of(a) for a in frames]
    )
    return {
        "element": element,
        "descriptor": name,
        "seconds": round(seconds, 1),
        "steps": result.step,
        "features": result.model.descriptor.size,
        "energy_rmse_mev": 1e3 * errors["energy_rmse"],
        "energy_mae_mev": 1e3 * errors["energy_mae"],
        "forces_rmse": errors["forces_rmse"],
        "forces_mae": errors["forces_mae"],
        "published_energy_rmse_mev": PUBLISHED[element][0],
        "published_forces_rmse": PUBLISHED[element][1],
        "groups": errors["groups"],
        "device": str(jax.devices()[0].device_kind),
        "machine": platform.machine(),
        "jax": jax.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("elements", nargs="*", default=["Si", "Mo"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--descriptors", nargs="+", default=["acsf"], choices=["acsf", "soap"])
    parser.add_argument("--steps", type=int, default=OptimizerOptions().steps)
    arguments = parser.parse_args()
    for element in arguments.elements:
        for name in arguments.descriptors:
            line = measure(arguments.data, element, arguments.seed, name, arguments.steps)
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
