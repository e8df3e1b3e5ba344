"""Time per atom of SOAP, values and energy with forces, beside DScribe and featomic; memory of a large system.

    pip install dscribe featomic metatensor-operations
    python tests/benchmarks/soap.py [--structures silicon water] [--dtypes float32 float64] [--others]
    python tests/benchmarks/soap.py --memory

n_max 8, l_max 6, 6 A, sigma 0.5, the same structures and parameters for all. Of the other programs, which build the whole
Jacobian, values and values with derivatives are timed (`--others`); of bpjax values, and energy and forces of a network on the
features, neighbour list given. DScribe sees neighbours up to 7.86 A (see `SOAP.cutoff`), and so does its convention here. Run
with one core (`taskset -c 0`, RAYON_NUM_THREADS=1) or with all.

`--memory` evaluates 10 000 atoms of five elements, n_max 8, l_max 6, once for all features' networks, and prints the peak memory
of the process.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import ase.build
import jax
import numpy as np
from ase import Atoms

from bpjax.descriptors import SOAP
from bpjax.interop.soap import soap_from_dscribe, soap_from_featomic
from bpjax.neighbors import neighbor_list
from bpjax.networks import MLP
from bpjax.potential import Potential, init
from bpjax.potential.describe import all_features
from bpjax.potential.forces import predict
from bpjax.system import system_from_arrays

sys.path.insert(0, str(Path(__file__).resolve().parent))
from energy_forces import machine, timed
from others import of_dscribe, of_featomic
from structures import HYPERS, L_MAX, N_MAX, RADIUS, SIGMA, silicon, water


def mixture(count: int) -> Atoms:
    """Atoms of five elements at 0.05 atoms per cubic angstrom on a rattled lattice."""
    cells = round((count / 2) ** (1 / 3) + 0.49)
    atoms = ase.build.bulk("Fe", "bcc", a=3.42, cubic=True) * (cells, cells, cells)
    atoms = atoms[:count]
    random = np.random.default_rng(0)
    atoms.symbols = random.choice(["Fe", "Ni", "Cr", "Co", "Mn"], len(atoms))
    atoms.positions += random.normal(0, 0.1, (len(atoms), 3))
    return atoms


def of_bpjax(atoms: Atoms, descriptor: SOAP, dtype: str, repeats: int) -> dict:
    """Compile and run times of values and of energy with forces."""
    model = Potential(descriptor, MLP((32, 32)))
    params = init(model, jax.random.key(0), np.dtype(dtype))
    neighbors = neighbor_list(atoms.positions, atoms.cell.array, True, descriptor.cutoff)
    system = system_from_arrays(
        atoms.numbers, atoms.positions, atoms.cell.array, True, descriptor.elements, dtype=dtype
    )

    def values(system, neighbors):
        return all_features(descriptor, system, neighbors)

    def step(params, system, neighbors):
        found = predict(model, params, system, neighbors)
        return found.energy, found.forces

    compile_values, time_values = timed(values, system, neighbors, repeats=repeats)
    compile_step, time_step = timed(step, params, system, neighbors, repeats=repeats)
    return {
        "features": descriptor.size,
        "neighbours": round(float(np.asarray(neighbors.mask).sum(axis=1).mean()), 1),
        "compile_s": [round(compile_values, 2), round(compile_step, 2)],
        "values_us": round(1e6 * time_values / len(atoms), 1),
        "energy_forces_us": round(1e6 * time_step / len(atoms), 1),
    }


def report(**line) -> None:
    """Prints one line of results."""
    line = {name: round(v, 1) if isinstance(v, float) else v for name, v in line.items()}
    print(json.dumps(line | machine() | {"rayon_threads": os.environ.get("RAYON_NUM_THREADS")}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--structures", nargs="+", default=["silicon", "water"], choices=["silicon", "water"])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "float64"])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--others", action="store_true", help="time DScribe and featomic too")
    parser.add_argument(
        "--memory", action="store_true", help="measure the memory of 10 000 atoms of five elements instead"
    )
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", "float64" in arguments.dtypes)
    if arguments.memory:
        atoms = mixture(10_000)
        elements = tuple(sorted(set(atoms.get_chemical_symbols())))
        for dtype in arguments.dtypes:
            found = of_bpjax(atoms, SOAP(elements, RADIUS, N_MAX, L_MAX, SIGMA), dtype, 1)
            report(program="bpjax", structure="five elements", atoms=len(atoms), dtype=dtype, **found)
        return
    for name in arguments.structures:
        atoms = {"silicon": silicon, "water": water}[name]()
        elements = sorted(set(atoms.get_chemical_symbols()))
        common = {"structure": name, "atoms": len(atoms)}
        if arguments.others:
            report(program="dscribe", **common, **of_dscribe(atoms, elements, arguments.repeats))
            report(program="featomic", **common, **of_featomic(atoms, arguments.repeats))
        for convention, descriptor in {
            "dscribe": soap_from_dscribe(elements, RADIUS, N_MAX, L_MAX, SIGMA),
            "featomic": soap_from_featomic(elements, HYPERS),
            "bpjax": SOAP(tuple(elements), RADIUS, N_MAX, L_MAX, SIGMA),
        }.items():
            for dtype in arguments.dtypes:
                found = of_bpjax(atoms, descriptor, dtype, arguments.repeats)
                report(program="bpjax", convention=convention, dtype=dtype, **common, **found)


if __name__ == "__main__":
    main()
