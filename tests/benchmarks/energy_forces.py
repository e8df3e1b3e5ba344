"""Time per atom of energy and forces of a silicon model, neighbour list given.

    python tests/benchmarks/energy_forces.py [--cells 4 8] [--dtypes float32 float64]

Prints one JSON line for each case: number of atoms, descriptor, form, compile time, the shortest of several
step times per atom, and the peak memory of the process so far. Run with one core (`taskset -c 0`) or with all.
"""

import argparse
import json

import ase.build
import jax
import numpy as np

from bpjax import machine as machine_of
from bpjax.descriptors import ACSF, Angular, DefaultACSF, Radial
from bpjax.geometry import environments, forces_from_pairs
from bpjax.neighbors import neighbor_list
from bpjax.networks import MLP
from bpjax.potential import Potential, init
from bpjax.potential.blocks import lanes_pay
from bpjax.potential.energy import local_energies
from bpjax.system import system_from_arrays


def descriptors() -> dict[str, ACSF]:
    """The default set, and sets of eight radial and 24 angular functions within 6 A."""
    g2 = tuple(Radial(eta=4.0, r_s=r) for r in np.linspace(1.5, 5.5, 8).round(3).tolist())

    def angular(zetas):
        return tuple(Angular(eta=e, zeta=z, lam=lam) for e in (0.01, 0.05, 0.2) for z in zetas for lam in (1.0, -1.0))

    low, high = angular((1.0, 2.0, 3.0, 4.0)), angular((1.0, 2.0, 4.0, 16.0))
    return {
        "default": DefaultACSF().build(("Si",)),
        "8 G2 + 24 G5, zeta to 4, moments": ACSF(("Si",), 6.0, g2=g2, g5=low, wide="moments"),
        "8 G2 + 24 G5, zeta to 4, pairs": ACSF(("Si",), 6.0, g2=g2, g5=low, wide="pairs"),
        "8 G2 + 24 G5, zeta to 16, moments": ACSF(("Si",), 6.0, g2=g2, g5=high, wide="moments"),
        "8 G2 + 24 G5, zeta to 16, pairs": ACSF(("Si",), 6.0, g2=g2, g5=high, wide="pairs"),
        "8 G2 + 24 G4, zeta to 4": ACSF(("Si",), 6.0, g2=g2, g4=low),
    }


def forms(descriptor: ACSF, plain: bool) -> list[bool]:
    """Whether to take the fast form: what is taken by default, and the plain one if asked for."""
    return [True, False] if lanes_pay(descriptor) and plain else [lanes_pay(descriptor)]


def timed(function, *arguments, repeats: int) -> tuple[float, float]:
    """Compile time, and the shortest of several run times, in seconds."""
    timing = machine_of.timed(function, *arguments, repeats=repeats)
    return timing.compile_s, timing.shortest


def machine() -> dict[str, int | str]:
    """What the process has used and runs on, for a line of results."""
    return {
        "peak_mb": round(1e3 * (machine_of.memory_peak_gb() or 0.0)),
        "cores": machine_of.cores(),
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, nargs="+", default=[4, 8], help="repeats of the cubic cell of 8 atoms")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "float64"])
    parser.add_argument("--plain", action="store_true", help="also the plain form of what has a fast one")
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", "float64" in arguments.dtypes)
    for cells in arguments.cells:
        atoms = ase.build.bulk("Si", cubic=True) * (cells, cells, cells)
        atoms.rattle(0.05, seed=0)
        for name, descriptor in descriptors().items():
            model = Potential(descriptor, MLP((32, 32)))
            neighbors = neighbor_list(atoms.positions, atoms.cell.array, True, descriptor.cutoff)
            for dtype in arguments.dtypes:
                params = init(model, jax.random.key(0), np.dtype(dtype))
                system = system_from_arrays(
                    atoms.numbers, atoms.positions, atoms.cell.array, True, ("Si",), dtype=dtype
                )
                for lanes in forms(descriptor, arguments.plain):

                    def step(params, system, neighbors, model=model, lanes=lanes):
                        env = environments(system, neighbors)
                        E_i, g = local_energies(model, params, env, system.species, lanes=lanes)[:2]
                        return E_i.sum(), forces_from_pairs(g, neighbors.idx, neighbors.mask)

                    compile_time, step_time = timed(step, params, system, neighbors, repeats=arguments.repeats)
                    print(
                        json.dumps(
                            {
                                "descriptor": name,
                                "features": descriptor.size,
                                "atoms": len(atoms),
                                "slots": neighbors.idx.shape[1],
                                "dtype": dtype,
                                "form": "fast" if lanes else "plain",
                                "compile_s": round(compile_time, 2),
                                "us_per_atom": round(1e6 * step_time / len(atoms), 2),
                            }
                            | machine()
                        ),
                        flush=True,
                    )


if __name__ == "__main__":
    main()
