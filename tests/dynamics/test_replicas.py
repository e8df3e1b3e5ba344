"""Many systems in one program: each is the run that it would be alone."""

import json
from dataclasses import replace
from functools import partial

import ase
import ase.io
import jax
import numpy as np
import pytest

from bpjax.dynamics import MDDivergedError, run_md, run_replicas, systems_potential
from bpjax.dynamics.body import Body, Coordinates
from bpjax.dynamics.replicas import Replicas
from bpjax.dynamics.settings import Settings
from bpjax.dynamics.together import Layout
from bpjax.errors import ConfigError, StructureError
from bpjax.neighbors import neighbor_list, pair_list
from bpjax.potential import predict
from bpjax.potential.evaluator import Evaluator
from tests.compilations import compilations
from tests.dynamics.model import MODEL, cluster, crystal, params, skewed, slab, system_of

P = params(np.float64)


def triclinic():
    """A cell shorter than the cutoff, and an atom outside of it."""
    atoms = skewed()
    atoms.positions[1] += 2 * atoms.cell.array[0]
    return atoms


def molecule(atoms=3):
    return cluster(atoms=atoms)


UNLIKE = (triclinic, molecule, slab)


SKIN = 0.25
"""In A; no pair of atoms of the perfect crystal is just as far apart as cutoff and skin."""


def potential(systems: list[ase.Atoms]):
    """Coordinates, layout, factories and padded positions of some systems."""
    c = [Coordinates(atoms) for atoms in systems]
    species = [np.where(atoms.numbers == 54, 0, 1) for atoms in systems]
    boxes = np.array([np.eye(3) if one.box is None else one.box for one in c])
    layout = Layout(species)
    made = systems_potential(MODEL, P, species, boxes, np.array([one.pbc for one in c]), skin=SKIN)
    return c, layout, *made, layout.padded([jax.numpy.asarray(one.start) for one in c], 0.0)


def test_lists_and_predictions_are_those_of_each_system():
    systems = [make() for make in UNLIKE]
    c, layout, neighbor_fn, predict_fn, X = potential(systems)
    neighbors = neighbor_fn.allocate(X)
    found = jax.jit(predict_fn)(X, neighbors)
    assert not bool(neighbors.did_buffer_overflow)
    idx, shifts, count = (np.asarray(a) for a in (neighbors.inner.idx, neighbors.inner.shifts, neighbors.inner.count))
    for r, (atoms, one) in enumerate(zip(systems, c, strict=True)):
        n = len(atoms)
        own = np.arange(layout.first[r], layout.first[r] + n)
        real = np.arange(idx.shape[1]) < count[own][:, None]
        i = np.broadcast_to(np.arange(n)[:, None], real.shape)[real]
        listed = np.column_stack([i, idx[own][real] - layout.first[r], shifts[own][real]])
        expected = np.column_stack(pair_list(one.start @ one.cell, one.cell, atoms.pbc, MODEL.cutoff + SKIN))
        assert sorted(map(tuple, listed.tolist())) == sorted(map(tuple, expected.astype(int).tolist()))
        cell = atoms.cell.array if one.periodic else None
        host = neighbor_list(atoms.positions, cell, atoms.pbc, MODEL.cutoff)
        alone = jax.jit(partial(predict, MODEL, P))(system_of(atoms), host)
        np.testing.assert_allclose(found.energy[r], alone.energy, atol=1e-12)
        np.testing.assert_allclose(found.atomic_energies[r, :n], alone.atomic_energies, atol=1e-12)
        np.testing.assert_allclose(one.rotated_back(np.asarray(found.forces[r, :n])), alone.forces, atol=1e-12)
        virial = one.rotation.T @ np.asarray(found.virial[r]) @ one.rotation
        np.testing.assert_allclose(virial, alone.virial, atol=1e-12)
        assert not np.any(found.forces[r, n:]) and np.abs(alone.forces).max() > 0.01


def agreement(starts, ensemble, tolerance=1e-9, capacity=None, **more):
    """Runs systems together and alone; returns how often the list of the former was grown."""
    options = {"steps": 24, "timestep_fs": 2.0, "dtype": "float64", "skin": 0.3, "log_interval": 8, **more}
    options |= {"ensemble": ensemble, "chunk_steps": 16}
    temperatures = [80.0 + 40.0 * r for r in range(len(starts))]
    together = run_replicas(MODEL, P, starts, temperatures=temperatures, seed=4, capacity=capacity, **options)
    assert together[0].rebuilds >= 1
    for r, (atoms, found) in enumerate(zip(starts, together, strict=True)):
        alone = run_md(MODEL, P, atoms, temperature=temperatures[r], seed=4 + r, **options)
        np.testing.assert_allclose(found.atoms.positions, alone.atoms.positions, atol=tolerance)
        np.testing.assert_allclose(found.atoms.get_momenta(), alone.atoms.get_momenta(), atol=tolerance)
        np.testing.assert_allclose(found.atoms.cell.array, alone.atoms.cell.array, atol=tolerance)
        assert set(found.log) == set(alone.log) | {"replica"}
        for name in alone.log:
            np.testing.assert_allclose(found.log[name], alone.log[name], atol=tolerance, err_msg=name)
        assert np.isfinite(alone.drift) == (ensemble != "nvt_langevin")
        np.testing.assert_allclose(found.drift, alone.drift, atol=1e-6)
        assert np.abs(alone.atoms.positions - atoms.positions).max() > 0.02
    return together[0].overflows


@pytest.mark.slow
def test_unlike_systems_under_a_thermostat_are_those_of_single_runs():
    """Different numbers of degrees of freedom, boxes, temperatures and seeds."""
    assert agreement([molecule(), triclinic()], "nvt") == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ensemble", "kinds"),
    [
        ("nve", UNLIKE),
        pytest.param("nvt_langevin", UNLIKE, marks=pytest.mark.exhaustive),
        pytest.param("npt", (triclinic, lambda: crystal(1) * (2, 1, 1)), marks=pytest.mark.exhaustive),
    ],
)
def test_all_ensembles_are_those_of_single_runs(ensemble, kinds):
    grown = agreement([make() for make in kinds], ensemble, pressure=0.5, capacity=3)
    assert grown >= 1


@pytest.fixture(scope="module")
def copies():
    """Eight copies of a crystal after some chunks, and what was compiled meanwhile."""
    settings = Settings(temperature=600.0, timestep_fs=2.0, dtype="float64", skin=0.3)
    bodies = [Body(MODEL, crystal(1, mixed=True), replace(settings, seed=r)) for r in range(8)]
    replicas = Replicas(MODEL, P, bodies, 1, 2**30)
    replicas.advance(1, 1, 0, dt=0.0)
    before = compilations()
    buffers = [replicas.advance(20, 1, 0)[0] for _ in range(3)]
    return replicas, buffers, compilations() - before


def test_nothing_is_compiled_while_atoms_move(copies):
    replicas, _, compiled = copies
    assert compiled == 0 and replicas.rebuilds >= 2


def test_copies_differ_and_each_conserves_its_energy(copies):
    _, buffers, _ = copies
    total = np.concatenate([b.records.potential[:20] + b.records.kinetic[:20] for b in buffers])
    assert total.shape == (60, 8)
    assert len(np.unique(total[0].round(6))) == 8
    assert np.abs(total - total[0]).max() < 0.02 * np.ptp(buffers[0].records.kinetic)


def test_files(tmp_path):
    trajectory, log, seen = tmp_path / "run.extxyz", tmp_path / "run.jsonl", []
    starts = [molecule(3), molecule(2)]
    options = {"steps": 5, "log_interval": 5, "trajectory_interval": 5, "temperature": 50.0}
    results = run_replicas(
        MODEL, params(), starts, trajectory=trajectory, log=log,
        observers=[lambda atoms, record: seen.append((record["replica"], record["step"], len(atoms)))], **options,
    )  # fmt: skip
    frames = ase.io.read(trajectory, ":")
    records = [json.loads(line) for line in log.read_text().splitlines()]
    expected = [(0, 0), (1, 0), (0, 5), (1, 5)]
    assert [(f.info["replica"], f.info["step"]) for f in frames] == expected
    assert [(r["replica"], r["step"]) for r in records] == expected
    assert seen == [(r, step, len(starts[r])) for r, step in expected]
    evaluator = Evaluator(MODEL, P, "float64")
    for frame, record in zip(frames, records, strict=True):
        assert frame.get_potential_energy() == pytest.approx(record["potential_energy"], abs=1e-9)
        assert record["temperature"] > 0 and "pressure_gpa" not in record
        assert frame.get_potential_energy() == pytest.approx(evaluator.evaluate(frame).energy, abs=1e-4)
    np.testing.assert_allclose(results[1].atoms.positions, frames[-1].positions, atol=1e-9)


def test_the_system_that_explodes_is_named(tmp_path):
    starts = [molecule(2), molecule(2)]
    for atoms in starts:
        atoms.set_momenta(np.zeros((2, 3)))
    starts[1].positions[1] = starts[1].positions[0] + [0.4, 0.0, 0.0]
    out = tmp_path / "run.extxyz"
    with pytest.raises(MDDivergedError, match=r"replica 1, step 10: temperature") as caught:
        run_replicas(
            MODEL, P, starts, steps=50, trajectory=out, use_momenta=True, dtype="float64", max_temperature=400.0
        )
    assert caught.value.atoms is not None and caught.value.atoms.info["replica"] == 1
    assert [f.info["step"] for f in ase.io.read(out, ":")] == [0, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"replicas": 0}, "replicas: there must be at least one"),
        ({"replicas": 3, "temperatures": [300.0]}, "temperatures: 1 of them, but there are 3"),
        ({"structures": [molecule()] * 2, "replicas": 3}, "replicas: 3, but there are 2"),
        ({"structures": []}, "at least one"),
        ({"max_extrapolations": 3}, "max_extrapolations: 3, which replicas do not have"),
        ({"devices": 2}, "devices: 2"),
        ({"temperatures": [-1.0]}, "temperature: -1.0"),
        ({"colour": 1}, "colour: unknown option"),
    ],
)
def test_bad_options(options, message):
    options = {"structures": molecule(), **options}
    with pytest.raises(ConfigError, match=message):
        run_replicas(MODEL, P, options.pop("structures"), **options)


def test_bad_structures():
    with pytest.raises(StructureError, match="no two|atom"):
        broken = molecule()
        broken.positions[1] = broken.positions[0]
        run_replicas(MODEL, P, [molecule(), broken])
    with pytest.raises(ConfigError, match="npt needs a cell"):
        run_replicas(MODEL, P, [triclinic(), molecule()], ensemble="npt")
