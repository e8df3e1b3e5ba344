"""Trajectories that go where their model knows nothing: seen, counted apart, or ended."""

import json
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from ase.data import covalent_radii

from bpjax import datasets
from bpjax.cli.main import main
from bpjax.errors import DivergedError
from bpjax.excited import library
from bpjax.excited.hopping_files import load_run, population_table, save_run, write_populations
from bpjax.excited.hopping_options import HoppingOptions
from bpjax.excited.hopping_run import Hopping
from bpjax.excited.hopping_watch import NEVER, Watch
from bpjax.excited.library import MovingModel
from bpjax.excited.states_store import load_states
from bpjax.units import BOHR, TIME_UNIT_FS
from tests.excited.cases import VERLET

OPTIONS = HoppingOptions(timestep_fs=1.0, method="born_oppenheimer", units="ev-angstrom", closest=0.5, **VERLET)
MASSES = np.array([12.0, 1.0, 1.0])[:, None]
# Nothing acts on the atoms: each goes straight on.
R = np.array([[0.0, 0, 0], [2.0, 0, 0], [0, 9.0, 0]])
SPEED = 0.1 * TIME_UNIT_FS  # 0.1 A in each fs


def free(R):
    return jnp.diag(jnp.array([0.0, 1.0])) + 0.0 * jnp.sum(R)


def beyond(R):
    """How many coordinates are larger than 9.05 A."""
    return jnp.sum(jnp.abs(R) > 9.05, dtype=jnp.int32)


WATCH = Watch(("C", "H", "H"), 1.0, beyond, 9)


@pytest.fixture(scope="module")
def hopping():
    return Hopping(free, MASSES, OPTIONS, watch=WATCH)


@pytest.fixture(scope="module")
def state(hopping):
    """The hydrogen of the first comes towards the carbon and passes it; that of the second leaves; the third stands still."""
    v = np.zeros((3, 3, 3))
    v[0, 1, 0], v[1, 2, 1] = -SPEED, SPEED
    return hopping.start(np.stack([R] * 3), v, 0)


def test_contacts_are_those_of_the_geometries(hopping, state):
    run = hopping.run(state, 30, 1, keep=True)
    assert WATCH.pairs == ("C-H", "H-H")
    np.testing.assert_allclose(WATCH.radii, [covalent_radii[6] + covalent_radii[1], 2 * covalent_radii[1]])
    at = run.records.R
    pairs = {"C-H": [(0, 1), (0, 2)], "H-H": [(1, 2)]}
    for p, pair in enumerate(WATCH.pairs):
        r = np.min([np.linalg.norm(at[:, :, i] - at[:, :, j], axis=-1) for i, j in pairs[pair]], axis=0)
        np.testing.assert_allclose(run.state.watched.closest[:, p], r.min(axis=0), rtol=1e-12)
    # 2 - 0.1 n < 0.5 * 1.07 first holds for n = 15; 9 + 0.1 n > 9.05 for n = 1, from there on once in each step.
    np.testing.assert_array_equal(run.state.watched.outside, [0, 30, 0])
    assert [(one.trajectory, one.steps) for one in run.astray] == [(0, 15)]
    assert run.astray[0].reason.startswith("C-H at 0.00 A, 0.00 of the sum of covalent radii")
    assert run.lost == [] and run.going.all()
    np.testing.assert_array_equal(run.sound[:, 0], np.arange(31) < 15)
    assert run.sound[:, 1:].all()


def test_populations_with_and_without(hopping, state, tmp_path):
    run = hopping.run(state, 30, 1)
    run.records.active[:, 0] = 1  # as if it had begun on the other state
    table = population_table(run)
    np.testing.assert_array_equal(table["population_1"], np.full(31, 1 / 3))
    np.testing.assert_array_equal(table["sound_population_1"], np.where(np.arange(31) < 15, 1 / 3, 0.0))
    np.testing.assert_array_equal(table["sound"], np.where(np.arange(31) < 15, 3, 2))
    run.state = run.state._replace(watched=run.state.watched._replace(astray=jnp.array([15, 20, 20])))
    write_populations(tmp_path / "p.json", run)
    write_populations(tmp_path / "p.csv", run)
    written = json.loads((tmp_path / "p.json").read_text())
    assert written["sound"][20:] == [0] * 11 and written["sound_population_0"][19:21] == [1.0, None]
    assert np.isnan(np.genfromtxt(tmp_path / "p.csv", delimiter=",", names=True)["sound_population_0"][20:]).all()


def test_limits(hopping, state):
    assert WATCH.most_outside(OPTIONS) == 90  # a tenth of 9 features in 100 steps of 1 fs
    assert WATCH.most_outside(replace(OPTIONS, timestep_fs=0.25)) == 360
    assert WATCH.most_outside(replace(OPTIONS, max_extrapolations=-1)) == NEVER
    few = Hopping(free, MASSES, replace(OPTIONS, max_extrapolations=10, closest=0.0), watch=WATCH).run(state, 30, 10)
    assert [(one.trajectory, one.steps) for one in few.astray] == [(1, 11)]
    assert few.astray[0].reason == "30 extrapolation warnings, more than 10"
    # The unit of length is that of the model.
    bohr = Watch(WATCH.symbols, BOHR)
    np.testing.assert_allclose(bohr.radii * BOHR, WATCH.radii)
    for name, wrong in (("closest", -1.0), ("max_extrapolations", -2), ("astray", "stop")):
        with pytest.raises(ValueError, match=f"hopping {name}={wrong}: must be"):
            replace(OPTIONS, **{name: wrong})


def test_those_gone_astray_may_be_lost(hopping, state):
    options = replace(OPTIONS, astray="lose")
    words = r"trajectory 0, step 15: it went where the model knows nothing: C-H at 0.50 A, 0.47 of the sum of covalent radii"
    with pytest.raises(DivergedError, match=words):
        Hopping(free, MASSES, options, watch=WATCH).run(state, 30, 30)
    run = Hopping(free, MASSES, replace(options, lost="leave_out"), watch=WATCH).run(state, 30, 1)
    assert [(one.trajectory, one.steps) for one in run.lost] == [(0, 14)]
    np.testing.assert_array_equal(run.going, run.sound)


def test_restart_knows_what_was_seen(hopping, state, tmp_path):
    whole = hopping.run(state, 30, 5)
    save_run(tmp_path / "run.npz", hopping.run(state, 20, 5))
    joined = hopping.run(load_run(tmp_path / "run.npz"), 10, 5)
    assert joined.astray == whole.astray != []
    for one, other in zip(joined.state.watched, whole.state.watched, strict=True):
        np.testing.assert_array_equal(one, other)


def test_nobody_looks_without_atoms(state):
    run = Hopping(free, MASSES, OPTIONS).run(Hopping(free, MASSES, OPTIONS).start(state.R, state.v, 0), 20, 20)
    assert run.astray == [] and run.state.watched.closest.shape == (3, 0) and run.sound.all()
    assert "sound" not in population_table(run)


def test_program_says_who_went_astray(tmp_path, monkeypatch, capsys):
    import ase.io

    model = MovingModel("free", free, MASSES, "ev-angstrom", ("C", "H", "H"), watch=WATCH)
    monkeypatch.setattr(library, "find_model", lambda name: model)
    atoms = ase.Atoms("CH2", R)
    atoms.set_masses(MASSES[:, 0])
    frames = [atoms.copy() for _ in range(2)]
    frames[0].set_velocities([[0, 0, 0], [-0.1 * TIME_UNIT_FS, 0, 0], [0, 0, 0]])
    frames[1].set_velocities(np.zeros((3, 3)))
    for frame, name in zip(frames, "ab", strict=True):
        ase.io.write(tmp_path / f"{name}.traj", frame)
    ase.io.write(tmp_path / "in.traj", frames)
    command = ["hop", "free", str(tmp_path / "in.traj"), "--state", "0", "--timestep", "1", "--steps", "20"]
    assert main([*command, "-o", str(tmp_path / "out"), "--closest", "0.5"]) == 0
    said = capsys.readouterr().out
    assert "(1 gone astray, see report.json)" in said
    assert "without those gone astray: 1 trajectories, populations 1.000, 0.000" in said
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["closest_contacts"]["C-H"] == pytest.approx([0.0, 2.0], abs=1e-9)
    assert report["extrapolations"] == [0, 0] and report["sound"] == 1
    assert [(one["trajectory"], one["time_fs"]) for one in report["astray"]] == [(0, 15.0)]
    assert main([*command, "-o", str(tmp_path / "none"), "--closest", "0"]) == 0
    assert "astray" not in capsys.readouterr().out
    assert main([*command, "-o", str(tmp_path / "lose"), "--closest", "0.5", "--astray", "lose"]) == 2
    assert "went where the model knows nothing" in capsys.readouterr().err


def test_features_outside_are_counted():
    """The count of the model, against each feature compared with its range on the host."""
    model, params = load_states(datasets.path("methaniminium") / "diabatic.bpjax")
    watch = model.watch(params)
    assert watch.features == 6 * model.descriptor.size and watch.length == 1.0
    with np.load(datasets.path("methaniminium") / "hessian.npz") as minimum:
        at = minimum["positions"] * BOHR
    rng = np.random.default_rng(0)
    counts = []
    for spread in (0.0, 0.4, 1.0):
        R = at + spread * rng.normal(size=at.shape)
        G = np.asarray(model.features(jnp.asarray(R)))
        number = 0
        for element, features in zip(model.atoms, G, strict=True):
            low, high = (np.asarray(params["scaling"][element][name], float) for name in ("min", "max"))
            slack = 1000 * np.finfo(float).eps  # n2p2's
            number += int(((features < low - slack) | (features > high + slack)).sum())
        assert watch.outside is not None and int(watch.outside(jnp.asarray(R))) == number
        counts.append(number)
    assert counts[0] == 0 < counts[1] < counts[2]
