"""Time per atom of energy and forces of a potential in n2p2's format, and compile time of a very large set of functions.

    python tests/benchmarks/n2p2_folder.py FOLDER DATA --units hartree-bohr [--dtypes float32 float64]
    python tests/benchmarks/n2p2_folder.py --polynomial

The first form takes the first structure of a RuNNer data file; with the water potential of n2p2's examples (1080 atoms, types 2
and 3, 12 bohr), n2p2 itself needs 345 us per atom on one core (float64). The second makes a potential of 1071 compact functions
for three elements, on 300 atoms. Neighbour list given. Prints one JSON line for each precision: compile time, the shortest of
several step times per atom, and the peak memory of the process so far. Run with one core (`taskset -c 0`) or with all.
"""

import argparse
import itertools
import json
import sys
from pathlib import Path

import ase
import jax
import numpy as np

from bpjax.descriptors import SymmetryFunction, SymmetryFunctions
from bpjax.interop.n2p2 import read_potential
from bpjax.io.runner import read_runner
from bpjax.neighbors import neighbor_list
from bpjax.networks import MLP
from bpjax.potential import Potential, init
from bpjax.potential.forces import predict
from bpjax.system import system_from_arrays

sys.path.insert(0, str(Path(__file__).resolve().parent))
from energy_forces import machine, timed


def polynomial(dtype: str):
    """A potential of 357 compact functions for each of three elements, and 300 atoms at the density of an organic liquid."""
    elements = ("H", "C", "O")
    shells = ((-6.0, 6.0), (0.0, 6.0), (0.0, 4.0), (1.0, 5.0), (2.0, 6.0), (1.5, 4.0), (0.5, 3.0))
    windows = ((0, 90), (45, 135), (90, 180), (-60, 60), (120, 240), (30, 100), (60, 120))
    functions = [
        SymmetryFunction(20, r, (e,), r_l=l, core=core)
        for e in elements
        for l, r in shells
        for core in ("p2", "p2a", "p4")
    ]
    for pair in itertools.combinations_with_replacement(elements, 2):
        for (l, r), angles in itertools.product(shells, windows):
            kind = 21 if r < 6 else 22
            functions.append(SymmetryFunction(kind, r, pair, r_l=l, angles=tuple(map(float, angles)), core="p2"))
    model = Potential(SymmetryFunctions(elements, (tuple(functions),) * 3), MLP((20, 20), "tanh"))
    random = np.random.default_rng(0)
    side = (300 / 0.09) ** (1 / 3)
    atoms = ase.Atoms(random.choice(elements, 300), random.uniform(0, side, (300, 3)), cell=np.eye(3) * side, pbc=True)
    return model, init(model, jax.random.key(0), np.dtype(dtype)), atoms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--units", default="hartree-bohr")
    parser.add_argument("--polynomial", action="store_true")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "float64"])
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.polynomial == (arguments.data is not None):
        parser.error("give FOLDER and DATA, or --polynomial")
    jax.config.update("jax_enable_x64", "float64" in arguments.dtypes)
    for dtype in arguments.dtypes:
        if arguments.polynomial:
            model, params, atoms = polynomial(dtype)
        else:
            model, params = read_potential(arguments.folder, arguments.units)
            atoms = read_runner(arguments.data, arguments.units, "0")[0]
        params = jax.tree.map(lambda p, dtype=dtype: np.asarray(p, dtype), params)
        neighbors = neighbor_list(atoms.positions, atoms.cell.array, True, model.cutoff)
        system = system_from_arrays(atoms.numbers, atoms.positions, atoms.cell.array, True, model.elements, dtype=dtype)

        def step(params, system, neighbors, model=model):
            found = predict(model, params, system, neighbors)
            return found.energy, found.forces

        compile_time, step_time = timed(step, params, system, neighbors, repeats=arguments.repeats)
        print(
            json.dumps(
                {
                    "potential": "polynomial" if arguments.polynomial else arguments.folder.name,
                    "functions": sum(map(len, model.descriptor.functions)),
                    "atoms": len(atoms),
                    "neighbours": round(float(np.asarray(neighbors.mask).sum(axis=1).mean()), 1),
                    "dtype": dtype,
                    "compile_s": round(compile_time, 2),
                    "us_per_atom": round(1e6 * step_time / len(atoms), 1),
                }
                | machine()
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
