"""Test errors on the six sets of Zuo et al. (2020) beside the published models.

    python tests/benchmarks/published_tables.py DATA [ELEMENT ...] > results/published_tables.jsonl
    python tests/benchmarks/published_tables.py DATA Si Mo --models acsf soap --steps 3000 > results/soap_accuracy.jsonl

DATA is a folder with `ELEMENT_train.extxyz` and, where there is one, `ELEMENT_test.extxyz` (the mlearn sets). One JSON line for
each element and model: seconds, errors over all test structures and by kind (those of the training structures where there are
no others), and those that were published. A table of them all goes to the standard error. Models:

gp      sparse Gaussian process on SOAP, one recipe for all elements, chosen by cross-validation on training structures alone: a
        cutoff that holds 77 neighbours at the median density of the training structures; n_max 12, l_max 6, Gaussians of 0.3 A;
        1500 sparse points, zeta 4; widths of 0.01 eV/atom and 0.1 eV/A
acsf    network on the default symmetry functions, all options at their defaults
soap    network on SOAP (n_max 6, l_max 4, the cutoff of the default set), all else the same
"""

import argparse
import json
import math
import platform
import sys
import time
from pathlib import Path

import ase
import ase.io
import jax
import numpy as np

from bpjax.analysis.errors import error_metrics
from bpjax.descriptors import SOAP, DefaultACSF
from bpjax.io.labels import group_of, labels
from bpjax.potential.energy import Params, Potential
from bpjax.potential.evaluator import Evaluator
from bpjax.progress import progress
from bpjax.training import DataOptions, LikelihoodLoss, OptimizerOptions, TrainingOptions, fit, fit_sparse_gp, prepare

MODELS = ("NNP", "SNAP", "qSNAP", "GAP", "MTP")
PUBLISHED_MAE = {
    "Ni": ((1.52, 0.030), (0.78, 0.038), (0.78, 0.031), (0.42, 0.02), (0.48, 0.01)),
    "Cu": ((1.15, 0.026), (0.53, 0.037), (0.56, 0.024), (0.46, 0.01), (0.41, 0.01)),
    "Li": ((0.75, 0.017), (1.03, 0.028), (0.73, 0.033), (0.49, 0.01), (0.49, 0.01)),
    "Mo": ((3.65, 0.125), (5.48, 0.207), (2.77, 0.184), (2.24, 0.09), (2.83, 0.09)),
    "Si": ((5.63, 0.109), (6.44, 0.133), (3.81, 0.116), (2.91, 0.07), (2.21, 0.06)),
    "Ge": ((4.89, 0.085), (6.59, 0.188), (6.45, 0.133), (2.06, 0.05), (1.79, 0.05)),
}
"""Mean absolute test errors of the published `MODELS`, meV/atom and eV/A: of NNP, SNAP and qSNAP computed with the published
parameters, of GAP and MTP as printed in the paper (Zuo et al., J. Phys. Chem. A 124, 731, 2020)."""

NEIGHBORS = 77
POINTS = 1500


def gaussian_process(folder: Path, element: str, options: argparse.Namespace) -> tuple[Potential, Params, dict]:
    """The sparse Gaussian process of the docstring."""
    frames = ase.io.read(folder / f"{element}_train.extxyz", ":")
    volume = np.median([a.get_volume() / len(a) for a in frames if group_of(a) != "Surface"])
    cutoff = round((3 * NEIGHBORS * volume / (4 * math.pi)) ** (1 / 3), 1)
    descriptor = SOAP((element,), cutoff, n_max=12, l_max=6, sigma=0.3)
    loss = LikelihoodLoss(energy=0.01, forces=0.1, stress=None)
    result = fit_sparse_gp(descriptor, frames, points=options.points, loss=loss, progress=progress)
    return result.model, result.params, {"cutoff": cutoff, "points": options.points}


def network(folder: Path, element: str, options: argparse.Namespace, name: str) -> tuple[Potential, Params, dict]:
    """A network with default options; the test structures are not looked at."""
    data = DataOptions((f"{element}_train.extxyz",))
    descriptor = DefaultACSF() if name == "acsf" else SOAP((element,), DefaultACSF().cutoff, 6, 4, 0.5)
    settings = TrainingOptions(data, descriptor, optimizer=OptimizerOptions(steps=options.steps))
    result = fit(prepare(data, folder, settings.optimizer.seed + options.seed), settings, progress=progress)
    return result.model, result.params, {"steps": result.step}


def measure(folder: Path, element: str, name: str, options: argparse.Namespace) -> dict:
    """Trains on one element and measures on its test structures, or those of the training."""
    began, cpu = time.perf_counter(), time.process_time()
    if name == "gp":
        model, params, found = gaussian_process(folder, element, options)
    else:
        model, params, found = network(folder, element, options, name)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    test = folder / f"{element}_test.extxyz"
    measured = "test" if test.exists() else "train"
    frames: list[ase.Atoms] = ase.io.read(folder / f"{element}_{measured}.extxyz", ":")
    with jax.enable_x64(True):  # sums of large weights of either sign
        predicted = Evaluator(model, params, "float64").evaluate_many(frames)
    groups = [group_of(a) for a in frames]
    errors = error_metrics(predicted, [labels(a) for a in frames], [len(a) for a in frames], groups)
    return {
        "element": element,
        "model": name,
        **found,
        "features": model.descriptor.size,
        "training_s": round(seconds, 1),
        "training_cpu_s": round(cpu, 1),
        "measured_on": measured,
        **_rounded(errors),
        "groups": {group: _rounded(own) | {"structures": own["structures"]} for group, own in errors["groups"].items()},
        "published_mae": dict(zip(MODELS, PUBLISHED_MAE[element], strict=True)),
        "device": str(jax.devices()[0].device_kind),
        "machine": platform.machine(),
        "jax": jax.__version__,
    }


def _rounded(errors: dict) -> dict:
    """Errors in meV/atom and eV/A."""
    return {
        "energy_mae_mev": round(1e3 * errors["energy_mae"], 3),
        "forces_mae": round(errors["forces_mae"], 4),
        "energy_rmse_mev": round(1e3 * errors["energy_rmse"], 3),
        "forces_rmse": round(errors["forces_rmse"], 4),
    }


def table(lines: list[dict]) -> str:
    """Mean absolute errors, meV/atom and eV/A."""
    rows = [("element", "model", "s", "here", *MODELS)]
    for line in lines:
        here = f"{line['energy_mae_mev']:.2f}/{line['forces_mae']:.4f}" + "*" * (line["measured_on"] == "train")
        published = (f"{energy:.2f}/{forces:.3f}" for energy, forces in line["published_mae"].values())
        rows.append((line["element"], line["model"], f"{line['training_s']:.0f}", here, *published))
    text = "\n".join("  ".join(f"{cell:>13}" for cell in row) for row in rows)
    return text + "\n* of the training structures\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("elements", nargs="*", default=list(PUBLISHED_MAE))
    parser.add_argument("--models", nargs="+", default=["gp"], choices=["gp", "acsf", "soap"])
    parser.add_argument("--points", type=int, default=POINTS, help="sparse points of gp")
    parser.add_argument("--steps", type=int, default=OptimizerOptions().steps, help="of the networks")
    parser.add_argument("--seed", type=int, default=0, help="of the networks")
    options = parser.parse_args()
    lines = []
    for element in options.elements:
        for name in options.models:
            lines.append(measure(options.data, element, name, options))
            print(json.dumps(lines[-1]), flush=True)
    sys.stderr.write(table(lines))


if __name__ == "__main__":
    main()
