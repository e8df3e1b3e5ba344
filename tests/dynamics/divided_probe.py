"""Runs on 1, 2 and 4 devices and undivided: `divided_probe.py KIND...` prints one JSON line for each kind.

Not a test itself: how many devices a CPU has is settled when JAX starts, so that this needs a process of its own.
"""

import json
import sys
from dataclasses import replace
from functools import partial

import ase
import jax
import numpy as np

from bpjax.descriptors import SOAP
from bpjax.dynamics import divided_potential, run_md
from bpjax.dynamics.body import Coordinates
from bpjax.dynamics.parallel import choose, replicated
from bpjax.dynamics.settings import Settings
from bpjax.dynamics.simulation import Simulation
from bpjax.neighbors import neighbor_list
from bpjax.networks.elemental import MLP
from bpjax.potential import Potential, init, predict
from bpjax.system import system_from_arrays
from tests.dynamics.model import MODEL, cluster, crystal, params, skewed, slab

COUNTS = (1, 2, 4)
SMOOTH = Potential(SOAP(("Xe", "Ar"), 3.9, n_max=3, l_max=2), MLP((6,)))


def odd() -> ase.Atoms:
    """107 atoms: no number of devices or blocks divides them."""
    atoms = skewed(3)
    del atoms[50]
    return atoms


def with_an_atom_above() -> ase.Atoms:
    """A slab with an atom far above it, in a cell that is shorter than twice the cutoff."""
    atoms = slab((1, 3, 2))
    atoms.positions[7, 2] += 9.0
    return atoms


def with_a_hole() -> ase.Atoms:
    atoms = cluster(2)
    del atoms[3]
    return atoms


def agreement(atoms: ase.Atoms, model: Potential, values: dict, counts=COUNTS, ways=(True, False)) -> dict:
    """Largest differences from `predict` with the host's neighbours, for any number of devices, with and without images."""
    c = Coordinates(atoms)
    cell = atoms.cell.array if c.periodic else None
    system = system_from_arrays(atoms.numbers, atoms.positions, cell, atoms.pbc, model.elements)
    found = neighbor_list(atoms.positions, cell, atoms.pbc, model.cutoff)
    one = jax.jit(partial(predict, model, values, watch=True))(system, found)
    fits = c.box is not None and (1 / np.linalg.norm(np.linalg.inv(c.box), axis=1))[np.array(c.pbc)].min() > 8.5
    worst = {}
    for count in counts:
        for images in ways if fits else (True,):
            neighbor_fn, predict_fn = divided_potential(
                model, values, c.box, species=system.species, skin=0.3, pbc=c.pbc, images=images, watch=True, devices=count
            )  # fmt: skip
            neighbors = neighbor_fn.allocate(c.start)
            several = jax.jit(predict_fn)(c.start, neighbors)
            W = c.rotation.T @ np.asarray(several.virial) @ c.rotation
            pairs = {
                "energy": (several.energy, one.energy),
                "atomic_energies": (several.atomic_energies, one.atomic_energies),
                "forces": (c.rotated_back(several.forces), one.forces),
                "virial": (W, one.virial),
                "outside": (several.outside, one.outside),
            }
            for name, (a, b) in pairs.items():
                worst[name] = max(worst.get(name, 0.0), float(np.abs(np.asarray(a) - np.asarray(b)).max()))
            assert len(neighbors.inner.idx.sharding.device_set) == count and not bool(neighbors.did_buffer_overflow)
    return {**worst, "force": float(np.abs(one.forces).max())}


def trajectories(atoms: ase.Atoms, counts=COUNTS, **options) -> dict:
    """Largest differences from the undivided run, and what there is to say of the others."""
    common = {"dtype": "float64", "timestep_fs": 2.0, "chunk_steps": 20, "skin": 0.3, "seed": 3, **options}
    one = run_md(MODEL, params(np.float64), atoms, devices=None, **common)
    several = [run_md(MODEL, params(np.float64), atoms, devices=count, **common) for count in counts]
    return {
        "devices": [one.devices, *(r.devices for r in several)],
        "positions": max(float(np.abs(r.atoms.positions - one.atoms.positions).max()) for r in several),
        "momenta": max(float(np.abs(r.atoms.get_momenta() - one.atoms.get_momenta()).max()) for r in several),
        "log": max(float(np.abs(r.log[k] - one.log[k]).max()) for r in several for k in one.log),
        "moved": float(np.abs(one.atoms.positions - atoms.positions).max()),
        "rebuilds": [one.rebuilds, *(r.rebuilds for r in several)],
        "overflows": [one.overflows, *(r.overflows for r in several)],
        "drift": max(abs(r.drift) for r in several),
    }


def program() -> dict:
    """A run on four devices and undivided: how far they differ, what is exchanged, and whether anything is compiled meanwhile."""
    atoms, compiled = odd(), []
    settings = Settings(temperature=600.0, timestep_fs=2.0, dtype="float64", chunk_steps=40, skin=0.3)
    one, simulation = (
        Simulation(MODEL, params(np.float64), atoms, replace(settings, devices=devices), 1, 2**30)
        for devices in (None, 4)
    )
    for s in (one, simulation):
        s.advance(1, 1, 0, dt=0.0)
    started = np.asarray(one.state.position)
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.append(event) if "backend_compile" in event else None
    )
    assert one.mesh is None
    for _ in range(3):
        expected, found = (s.advance(20, 1, 0)[0].records for s in (one, simulation))
    compilations = len(compiled)
    jax.jit(lambda x: x + 17)(1.5)  # that compilations would have been heard of
    text = simulation._program.as_text()
    words = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter")
    rows, R = simulation.neighbors.inner, np.asarray(simulation.state.position)
    return {
        "positions": float(np.abs(R - np.asarray(one.state.position)).max()),
        "energies": float(np.abs(found.potential + found.kinetic - expected.potential - expected.kinetic)[:20].max()),
        "moved": float(np.abs((R - started) @ Coordinates(atoms).cell).max()),
        **{word: text.count(f" {word}(") + text.count(f" {word}-start(") for word in words},
        "compilations": compilations,
        "heard": len(compiled) > compilations,
        "rebuilds": simulation.rebuilds,
        "share": [s.data.shape[0] / rows.idx.shape[0] for s in rows.idx.addressable_shards],
        "everywhere": simulation.state.position.sharding.is_fully_replicated,
    }


def flags() -> dict:
    """Lists that cannot hold what they should are flagged on all devices: slots, bins, a box that shrank."""
    atoms = crystal(3, mixed=True)
    c, mesh = Coordinates(atoms), choose(len(atoms), 4)
    assert mesh is not None
    species = np.where(atoms.numbers == 54, 0, 1)
    neighbor_fn, _ = divided_potential(MODEL, params(np.float64), c.box, species=species, skin=0.3, mesh=mesh)
    fine = neighbor_fn.allocate(c.start)
    X = replicated(mesh, c.start)
    squeezed = replicated(mesh, 0.6 * c.start)  # all atoms in fewer bins
    update = jax.jit(lambda n, X, h: n.update(X, box=h))
    return {
        "fine": bool(fine.did_buffer_overflow),
        "moved": bool(update(fine, X + 0.4, c.box).did_buffer_overflow),
        "slots": bool(neighbor_fn.allocate(c.start, capacity=5).did_buffer_overflow),
        "bins": bool(update(fine, squeezed, c.box).did_buffer_overflow),
        "box": bool(update(fine, X, 0.8 * c.box).did_buffer_overflow),
    }


KINDS = {
    "skewed_only_four": lambda: agreement(odd(), MODEL, params(np.float64), (4,), (False,)),
    "skewed": lambda: agreement(odd(), MODEL, params(np.float64)),
    "slab": lambda: agreement(with_an_atom_above(), MODEL, params(np.float64)),
    "cluster": lambda: agreement(with_a_hole(), MODEL, params(np.float64)),
    "soap": lambda: agreement(odd(), SMOOTH, init(SMOOTH, jax.random.key(1), np.float64)),
    "few": lambda: agreement(crystal(1, mixed=True)[:4], MODEL, params(np.float64)),
    "nve": lambda: trajectories(odd(), steps=100, temperature=600.0),
    "nve_slab": lambda: trajectories(with_an_atom_above(), steps=60, temperature=300.0),
    "langevin": lambda: trajectories(odd(), (4,), steps=40, temperature=600.0, ensemble="nvt_langevin"),
    "npt": lambda: trajectories(
        crystal(3, mixed=True), (4,), steps=40, temperature=600.0, ensemble="npt", pressure=1.0
    ),
    "watched": lambda: trajectories(odd(), (4,), steps=20, temperature=600.0, max_extrapolations=10**9),
    "overflow": lambda: trajectories(odd(), (4,), steps=40, temperature=900.0, capacity=5),
    "program": program,
    "flags": flags,
}


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    for kind in sys.argv[1:]:
        print(json.dumps({"kind": kind, **KINDS[kind]()}), flush=True)


if __name__ == "__main__":
    main()
