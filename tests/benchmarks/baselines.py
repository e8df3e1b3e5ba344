"""What the network buys: ridge regression, sparse Gaussian process and network on the same features, data and loss.

    JAX_PLATFORMS=cpu python tests/benchmarks/baselines.py            # on data/silicon, default symmetry functions
    JAX_PLATFORMS=cpu python tests/benchmarks/baselines.py --soap     # the power spectrum too

One JSON line for each model: root mean square errors of the test structures (energy in meV/atom, forces in eV/A, stress in GPa)
and seconds for the fit, compilation included. Regularisation and scale are chosen by the validation structures, the step of the
network as well; all three have the default loss.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import ase.io

import bpjax as bp
from bpjax import datasets
from bpjax.analysis.errors import error_metrics
from bpjax.io.labels import labels
from bpjax.potential.evaluator import Evaluator
from bpjax.training import DataOptions, OptimizerOptions, TrainingOptions, fit, prepare
from bpjax.training.baselines import fit_ridge, fit_sparse_gp
from bpjax.units import GPA

FOLDER = Path(datasets.path("silicon"))
NAMES = ("silicon_train.extxyz", "silicon_val.extxyz", "silicon_test.extxyz")


def line(name: str, descriptor, fitted, seconds: float, test: list) -> dict:
    """Errors of a fitted model."""
    predicted = Evaluator(fitted.model, fitted.params).evaluate_many(test)
    sizes = [len(a) for a in test]
    errors = error_metrics(predicted, [labels(a) for a in test], sizes)
    return {
        "model": name,
        "descriptor": type(descriptor).__name__,
        "features": descriptor.size,
        "energy_mev_per_atom": round(1e3 * errors["energy_rmse"], 2),
        "forces_ev_per_a": round(errors["forces_rmse"], 4),
        "stress_gpa": round(errors["stress_rmse"] / GPA, 3),
        "fit_s": round(seconds, 1),
    }


def timed(function, *arguments, **options):
    """A result and the seconds that it took."""
    began = time.perf_counter()
    found = function(*arguments, **options)
    return found, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="take every nth training structure")
    parser.add_argument("--points", type=int, default=300, help="sparse points")
    parser.add_argument("--steps", type=int, default=8000, help="of the network's training")
    parser.add_argument("--soap", action="store_true", help="ridge and process on the power spectrum too")
    options = parser.parse_args()
    train, validation, test = (ase.io.read(FOLDER / name, ":") for name in NAMES)
    train = train[:: options.every]
    descriptors = [bp.DefaultACSF(cutoff=5.5).build(("Si",))]
    if options.soap:
        from bpjax.descriptors import SOAP

        descriptors.append(SOAP(("Si",), 5.5, n_max=6, l_max=5, sigma=0.5))
    for descriptor in descriptors:
        ridge, seconds = timed(
            fit_ridge, descriptor, train, regularization=[10.0**n for n in range(-9, 1)], validation=validation
        )
        chosen = {"regularization": ridge.regularization}
        print(json.dumps(line("ridge", descriptor, ridge, seconds, test) | chosen), flush=True)
        process, seconds = timed(
            fit_sparse_gp,
            descriptor,
            train,
            points=options.points,
            scale=[1.0, 10.0, 100.0, 1000.0],
            validation=validation,
        )
        chosen = {"scale": process.scale, "points": process.model.network.points}
        print(json.dumps(line("sparse GP", descriptor, process, seconds, test) | chosen), flush=True)
    data = DataOptions(train=NAMES[:1], validation=NAMES[1:2])
    structures = prepare(data, FOLDER, seed=0)
    structures = replace(structures, train=structures.train.pick(range(0, len(structures.train), options.every)))
    settings = TrainingOptions(data, descriptors[0], optimizer=OptimizerOptions(steps=options.steps))
    network, seconds = timed(fit, structures, settings)
    print(json.dumps(line("network", descriptors[0], network, seconds, test)), flush=True)


if __name__ == "__main__":
    main()
