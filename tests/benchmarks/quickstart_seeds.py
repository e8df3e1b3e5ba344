"""The training of the quickstart with several seeds: errors of the test structures with the parameters that are kept, or others.

    python tests/benchmarks/quickstart_seeds.py [--seeds 5] [--recipes quickstart acsf gp]

Recipes are "quickstart", what `bpjax quickstart` trains, "acsf", what it trained before (42 symmetry functions, 8000 steps,
weight decay 0.03), and "gp", a sparse Gaussian process on the features of "quickstart", which knows no seed. For networks each
line has the errors with the parameters of the lowest validation loss ("best") and of the end ("last").
"""

import argparse
import json
import time
from dataclasses import replace
from typing import Any

import jax

from bpjax import machine
from bpjax.analysis.errors import error_metrics
from bpjax.analysis.quickstart import TRAINING
from bpjax.analysis.silicon import read_silicon
from bpjax.descriptors import DefaultACSF
from bpjax.io.labels import labels
from bpjax.potential.evaluator import Evaluator
from bpjax.training import fit
from bpjax.training.baselines import fit_sparse_gp

ACSF = replace(
    TRAINING,
    descriptor=DefaultACSF(cutoff=5.5, radial=8, angular=5, zeta=(1.0, 2.0, 4.0), smallest=2.0),
    optimizer=replace(
        TRAINING.optimizer, steps=8000, weight_decay=0.03, keep="best", evaluate_every=500, checkpoint_every=4000
    ),
)
RECIPES = {"quickstart": TRAINING, "acsf": ACSF}


def errors(model, params, frames, dtype="float32") -> dict[str, float]:
    """Root mean square errors in meV/atom, eV/A and eV/A^3."""
    predicted = Evaluator(model, params, dtype).evaluate_many(frames)
    found = error_metrics(predicted, [labels(a) for a in frames], [len(a) for a in frames], ["all"] * len(frames))
    return {
        "energy_rmse_mev": round(1e3 * found["energy_rmse"], 3),
        "forces_rmse": round(found["forces_rmse"], 4),
        "stress_rmse": round(found["stress_rmse"], 5),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--recipes", nargs="+", choices=[*RECIPES, "gp"], default=[*RECIPES, "gp"])
    options = parser.parse_args()
    data = read_silicon()
    about = {
        "device": jax.default_backend(),
        "dtype": "float32",
        "cores": machine.cores(),
        "versions": machine.versions(),
    }
    for name in options.recipes:
        if name == "gp":
            began = time.perf_counter()
            descriptor: Any = TRAINING.descriptor
            with jax.enable_x64(True):  # its weights are large and of either sign
                found = fit_sparse_gp(descriptor, data.train.frames, points=1000, loss=TRAINING.loss, dtype="float64")
                line = {"recipe": name, "last": errors(found.model, found.params, data.test.frames, "float64")}
            line["seconds"] = round(time.perf_counter() - began, 1)
            print(json.dumps(line | about | {"dtype": "float64"}), flush=True)
            continue
        for seed in range(options.seeds):
            line = {"recipe": name, "seed": seed}
            for keep in ("best", "last"):
                own = replace(RECIPES[name], optimizer=replace(RECIPES[name].optimizer, seed=seed, keep=keep))
                result = fit(data, own)
                line |= {
                    "steps": result.step,
                    "features": result.model.descriptor.size,
                    "best_step": min(result.history, key=lambda entry: entry["validation_loss"])["step"],
                    "seconds": round(result.history[-1]["seconds"], 1),
                    keep: errors(result.model, result.params, data.test.frames),
                }
            print(json.dumps(line | about), flush=True)


if __name__ == "__main__":
    main()
