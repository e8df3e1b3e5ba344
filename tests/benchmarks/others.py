"""bpjax beside other programs on the same work, in one run: DScribe, featomic, TorchANI, jax-md.

    python tests/benchmarks/others.py [--programs bpjax dscribe ...] [--interpreter dscribe=PATH torchani=PATH ...] [--small]

Each program runs in a process of its own, in the environment of `--interpreter` or else in this one; one that is not installed
there is skipped, with a line on standard error. The work:

soap      n_max 8, l_max 6, 6 A, sigma 0.5 in silicon and water: values, and energy with forces. DScribe and featomic build the
          Jacobian instead, without which they cannot give forces.
acsf      8 radial and 22 narrow angular functions, 6 A, silicon: energy and forces of a network (jax-md: of the sum of the
          functions, from its own list)
ani       one network of the shape of ANI-2x in water, random weights: energy and forces

Prints JSON lines: program, work, structure, atoms, microseconds per atom. Run with one core (`taskset -c 0`,
RAYON_NUM_THREADS=1, OMP_NUM_THREADS=1) or with all.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from ase import Atoms

sys.path.insert(0, str(Path(__file__).resolve().parent))
from structures import G2, HYPERS, L_MAX, N_MAX, NARROW, RADIUS, SIGMA, silicon, water


def shortest(function: Callable, repeats: int) -> float:
    """The shortest of several run times, after one that does not count if there are several."""
    times = []
    for _ in range(repeats + (repeats > 1)):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return min(times)


def of_dscribe(atoms: Atoms, elements: list[str], repeats: int) -> dict:
    """Run times of DScribe, neighbour search included. It has analytical derivatives for open boundaries only: those of sixteen
    atoms in the middle are taken, each in a cluster of its own, the atom and the neighbours that it sees.
    """
    from dscribe import descriptors

    options = {"species": elements, "r_cut": RADIUS, "n_max": N_MAX, "l_max": L_MAX, "sigma": SIGMA}
    values = shortest(lambda: descriptors.SOAP(periodic=True, **options).create(atoms), repeats)
    middle = np.argsort(np.linalg.norm(atoms.positions - atoms.cell.array.sum(axis=0) / 2, axis=1))[:16]
    free, clusters = Atoms(atoms.symbols, atoms.positions), []
    for i in middle:
        near = np.argsort(distance := np.linalg.norm(atoms.positions - atoms.positions[i], axis=1))
        clusters.append(free[near[: np.sum(distance < RADIUS)]])  # the atom itself is the first

    def derivatives():
        soap = descriptors.SOAP(**options)
        for cluster in clusters:
            soap.derivatives(cluster, centers=[0], attach=True, method="analytical")

    return {
        "values_us": 1e6 * values / len(atoms),
        "values_derivatives_us": 1e6 * shortest(derivatives, 1) / len(middle),
    }


def of_featomic(atoms: Atoms, repeats: int) -> dict:
    """Run times of featomic, neighbour search included."""
    from featomic import SoapPowerSpectrum

    soap = SoapPowerSpectrum(**HYPERS)
    values = shortest(lambda: soap.compute(atoms), repeats)
    gradients = shortest(lambda: soap.compute(atoms, gradients=["positions"]), 1)
    return {"values_us": 1e6 * values / len(atoms), "values_derivatives_us": 1e6 * gradients / len(atoms)}


def of_torchani(atoms: Atoms, repeats: int) -> dict:
    """Run time of energy and forces of one network of ANI-2x, neighbour search included; its cell list needs no weights."""
    import torch
    import torchani

    assembler = torchani.arch.Assembler(periodic_table_index=True)
    assembler.set_symbols(("H", "C", "N", "O", "S", "F", "Cl"))
    assembler.set_global_cutoff_fn("cosine")
    assembler.set_aev_computer(radial="ani2x", angular="ani2x", strategy="pyaev")
    assembler.set_atomic_networks(ctor="ani2x")
    assembler.set_zeros_as_self_energies()
    assembler.set_neighborlist("cell_list" if len(atoms) > 500 else "all_pairs")
    model = assembler.assemble(1)
    numbers = torch.tensor(atoms.numbers)[None]
    cell = torch.tensor(atoms.cell.array, dtype=torch.float32)
    R = torch.tensor(atoms.positions, dtype=torch.float32)[None].requires_grad_(True)

    def step():
        energy = model((numbers, R), cell=cell, pbc=torch.tensor([True] * 3)).energies.sum()
        return torch.autograd.grad(energy, R)

    return {"energy_forces_us": 1e6 * shortest(step, repeats) / len(atoms)}


def of_jax_md(atoms: Atoms, repeats: int) -> dict:
    """Run time of jax-md's symmetry functions and their gradient on its Dense list, neighbour list given."""
    import jax
    import jax.numpy as jnp
    from jax_md import partition, space
    from jax_md.nn import behler_parrinello

    box = float(atoms.cell.lengths()[0])
    displacement, _ = space.periodic(box)
    R = jnp.asarray(atoms.get_positions(wrap=True), jnp.float32)
    search = partition.neighbor_list(displacement, box, RADIUS, 0.0, format=partition.Dense, disable_cell_list=True)
    neighbors = search.allocate(R)
    eta, zeta, lam = (jnp.asarray(column, jnp.float32) for column in zip(*NARROW, strict=True))
    features = behler_parrinello.symmetry_functions_neighbor_list(
        displacement,
        jnp.zeros(len(atoms), jnp.int32),
        radial_etas=jnp.asarray([eta for eta, _ in G2], jnp.float32),
        angular_etas=eta,
        lambdas=lam,
        zetas=zeta,
        cutoff_distance=RADIUS,
    )
    step = jax.jit(jax.value_and_grad(lambda R, neighbors: jnp.sum(features(R, neighbors))))
    return {"energy_forces_us": 1e6 * shortest(lambda: jax.block_until_ready(step(R, neighbors)), repeats) / len(atoms)}


def of_bpjax(atoms: Atoms, descriptor, hidden, repeats: int, dtype: str = "float32") -> dict:
    """Run time of energy and forces of a network on some features, neighbour list given."""
    import jax

    from bpjax.analysis.speed import evaluation_timing
    from bpjax.networks import MLP
    from bpjax.potential import Potential, init

    model = Potential(descriptor, MLP(hidden))
    params = init(model, jax.random.key(0), np.dtype(dtype))
    timing, _, neighbors = evaluation_timing(model, params, atoms, repeats=repeats, dtype=dtype)
    seconds = timing.shortest / len(atoms)
    return {"neighbours": round(neighbors, 1), "compile_s": timing.compile_s, "energy_forces_us": 1e6 * seconds}


def bpjax_descriptors() -> Iterator[tuple[str, str, object, tuple[int, ...]]]:
    """Work, structure, descriptor and hidden layers."""
    from bpjax.descriptors import ACSF, ANI, SOAP, Angular, Radial

    for name, elements in (("silicon", ("Si",)), ("water", ("H", "O"))):
        yield "soap", name, SOAP(elements, RADIUS, n_max=N_MAX, l_max=L_MAX, sigma=SIGMA), (32, 32)
    radial = tuple(Radial(*p) for p in G2)
    yield "acsf", "silicon", ACSF(("Si",), RADIUS, g2=radial, g4=tuple(Angular(*p) for p in NARROW)), (32, 32)
    yield "ani", "water", ANI.ani2x(), (256, 192, 160)


def measure(program: str, small: bool, repeats: int) -> Iterator[dict]:
    """Lines of one program."""
    structures = {"silicon": silicon(3 if small else 5), "water": water(4 if small else 7)}
    if program == "bpjax":
        for work, name, descriptor, hidden in bpjax_descriptors():
            yield {"work": work, "structure": name} | of_bpjax(structures[name], descriptor, hidden, repeats)
    elif program in ("dscribe", "featomic"):
        for name, atoms in structures.items():
            elements = sorted(set(atoms.get_chemical_symbols()))
            found = of_dscribe(atoms, elements, repeats) if program == "dscribe" else of_featomic(atoms, repeats)
            yield {"work": "soap", "structure": name} | found
    elif program == "torchani":
        yield {"work": "ani", "structure": "water"} | of_torchani(structures["water"], repeats)
    else:
        yield {"work": "acsf", "structure": "silicon"} | of_jax_md(structures["silicon"], repeats)


MODULES = {
    "bpjax": "bpjax.potential",
    "dscribe": "dscribe",
    "featomic": "featomic",
    "torchani": "torchani",
    "jax-md": "jax_md",
}


def child(program: str, small: bool, repeats: int) -> None:
    """Measures one program in this process."""
    from importlib import import_module, metadata

    try:
        import_module(MODULES[program])
    except ImportError as error:
        print(f"{program}: skipped, it cannot be imported here ({error})", file=sys.stderr)
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    sizes = {"silicon": len(silicon(3 if small else 5)), "water": len(water(4 if small else 7))}
    for line in measure(program, small, repeats):
        line = {name: round(value, 2) if isinstance(value, float) else value for name, value in line.items()}
        about = {"program": program, "version": metadata.version(program), "atoms": sizes[line["structure"]]}
        print(json.dumps(about | line | {"cores": cores, "threads": os.environ.get("OMP_NUM_THREADS")}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", nargs="+", choices=MODULES, default=list(MODULES))
    parser.add_argument("--interpreter", nargs="+", default=[], metavar="PROGRAM=PATH", help="of its environment")
    parser.add_argument("--small", action="store_true", help="216 and 192 atoms instead of 1000 and 1029")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--here", choices=MODULES, help="measure one program in this process")
    options = parser.parse_args()
    if options.here:
        child(options.here, options.small, options.repeats)
        return
    interpreters = dict(entry.split("=", 1) for entry in options.interpreter)
    if set(interpreters) - set(MODULES):
        parser.error(f"--interpreter: unknown program; allowed are {', '.join(MODULES)}")
    for program in options.programs:
        command = [interpreters.get(program, sys.executable), __file__, "--here", program]
        command += ["--repeats", str(options.repeats), *["--small"] * options.small]
        if subprocess.run(command).returncode:
            print(f"{program}: failed", file=sys.stderr)


if __name__ == "__main__":
    main()
