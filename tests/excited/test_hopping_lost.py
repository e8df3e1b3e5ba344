"""Trajectories that cannot go on: left out on request, and the rest go on as if they had never been there."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bpjax.cli.main import main
from bpjax.errors import DivergedError
from bpjax.excited import library
from bpjax.excited.hopping_files import load_run, save_run
from bpjax.excited.hopping_options import HoppingOptions
from bpjax.excited.hopping_run import Hopping
from bpjax.excited.models import TullySimple
from bpjax.units import ATOMIC_TIME_FS
from tests.excited.cases import VERLET

OPTIONS = HoppingOptions(
    timestep_fs=5 * ATOMIC_TIME_FS, decoherence="none", lost="leave_out", region=(-8.0, 8.0), **VERLET
)


def ends_at_one(R):
    """Tully's first model on the left of x = 1 and nothing on the right."""
    return TullySimple()(R) * jnp.where(R[0] < 1, 1.0, jnp.nan)


@pytest.fixture(scope="module")
def hopping():
    return Hopping(ends_at_one, [2000.0], OPTIONS)


@pytest.fixture(scope="module")
def state(hopping):
    """The second of four comes to the end of the model after 40 steps or some more; the last turns round on the left."""
    return hopping.start([[-5.0], [-1.0], [-4.0], [-7.0]], [[0.01], [0.01], [0.01], [-0.01]], 0, seed=2)


def test_the_others_go_on_as_without_the_lost_one(hopping, state):
    run = hopping.run(state, 60, 5, keep=True)
    kept = jax.tree.map(lambda x: x[np.array([0, 2, 3])], state)
    others = hopping.run(kept, 60, 5)
    assert [lost.trajectory for lost in run.lost] == [1] and others.lost == []
    steps, reason = run.lost[0].steps, run.lost[0].reason
    assert 35 < steps < 50 and reason.startswith("energies, forces or amplitudes are not finite; the last good state")
    np.testing.assert_array_equal(run.going[:, 1], np.arange(13) * 5 <= steps)
    assert run.going[:, [0, 2, 3]].all()
    found, expected = run.populations(), others.populations()
    np.testing.assert_array_equal(found.number, np.where(np.arange(13) * 5 <= steps, 4, 3))
    gone = found.number == 3
    for name in ("counts", "errors", "amplitudes", "diabatic", "diabatic_errors"):
        values = getattr(found, name)
        np.testing.assert_allclose(values[gone], getattr(expected, name)[gone], rtol=1e-12, atol=1e-15)
        assert np.isfinite(values).all()
    np.testing.assert_array_equal(run.outcomes().reflected, others.outcomes().reflected)
    assert run.outcomes().number == 3 and run.outcomes().reflected[0] == pytest.approx(1 / 3)


def test_an_explosion_is_no_success():
    """A stiff spring and a time step of more than its period: the energy would reach 1e78 eV, all of it finite."""
    R, v = np.array([[0.1, 0.0], [0.0, 0.0]]), np.zeros((2, 2))
    options = HoppingOptions(
        timestep_fs=50.0, method="born_oppenheimer", decoherence="none", units="ev-angstrom", **VERLET
    )
    spring = Hopping(lambda R: jnp.diag(jnp.array([20.0, 21.0])) * (0.1 + jnp.sum(R**2)), [1.0, 1.0], options)
    start = spring.start(R, v, 0)
    with pytest.raises(
        DivergedError, match=r"trajectory 0, step \d+: the total energy would go more than max_drift_ev = 1 eV"
    ):
        spring.run(start, 40, 4)
    kept = Hopping(spring.model, [1.0, 1.0], replace(options, lost="leave_out")).run(start, 40, 4)
    assert [lost.trajectory for lost in kept.lost] == [0] and kept.drift.max() <= 1.0
    assert Hopping(spring.model, [1.0, 1.0], replace(options, max_drift_ev=0.0)).run(start, 40, 4).drift.max() > 1e20


def test_averages_of_the_going_are_those_of_numpy(hopping, state):
    run = hopping.run(state, 20, 5)
    found, values = run.populations(), run.records.diabatic
    np.testing.assert_allclose(found.diabatic, values.mean(axis=1), rtol=1e-14)
    np.testing.assert_allclose(found.diabatic_errors, values.std(axis=1, ddof=1) / 2, rtol=1e-12, atol=1e-15)


@pytest.mark.slow
def test_restart_knows_what_was_lost(hopping, state, tmp_path):
    whole = hopping.run(state, 80, 10)
    save_run(tmp_path / "run.npz", hopping.run(state, 60, 10))
    joined = hopping.run(load_run(tmp_path / "run.npz"), 20, 10)
    assert joined.lost == whole.lost != []
    np.testing.assert_array_equal(joined.going, whole.going)
    np.testing.assert_array_equal(joined.records.kinetic, whole.records.kinetic)


def test_by_default_one_stops_all_and_without_any_left_there_is_no_run(hopping, state):
    words = r"trajectory 1, step 4\d: energies.* are not finite.*; with lost=leave_out the others go on"
    with pytest.raises(DivergedError, match=words):
        Hopping(ends_at_one, [2000.0], replace(OPTIONS, lost="stop")).run(state, 60, 60)
    fast = hopping.start([[0.5], [0.8]], [[0.01], [0.01]], 0)
    with pytest.raises(DivergedError, match=r"trajectory 0, step 1\d: .*\(2 of 2 trajectories stopped\)$"):
        hopping.run(fast, 40)


def test_option_is_checked():
    with pytest.raises(ValueError, match="lost=ignore: must be stop, leave_out"):
        HoppingOptions(lost="ignore")


@pytest.mark.slow
def test_program_leaves_them_out_and_says_so(tmp_path, monkeypatch, capsys):
    """Pyrazine whose first coordinate ends somewhere: the run stops, and goes on from its restart file without the lost."""
    whole = library.find_model("pyrazine")
    holed = replace(whole, model=lambda q: whole.model(q) * jnp.where(q[0] < 3.5, 1.0, jnp.nan))
    monkeypatch.setattr(library, "find_model", lambda name: holed)
    out = tmp_path / "out"
    command = ["hop", "pyrazine", "sample", "--state", "1", "--basis", "diabatic", "--timestep", "0.2", "-o", str(out)]
    command += ["--log-interval", "10", "--trajectories", "12", "--seed", "3", "--save", "12"]
    assert main([*command, "--steps", "10"]) == 0
    assert main([*command, "--steps", "50", "--resume"]) == 2
    assert "with lost=leave_out the others go on" in capsys.readouterr().err
    assert main([*command, "--steps", "50", "--resume", "--lost", "leave_out"]) == 0
    report, table = (json.loads((out / f"{name}.json").read_text()) for name in ("report", "populations"))
    lost = [entry["trajectory"] for entry in report["lost"]]
    assert 0 < len(lost) < 12 and report["trajectories"] == 12
    assert f"({len(lost)} lost, see report.json)" in capsys.readouterr().out
    assert table["going"][0] == 12 and table["going"][-1] == 12 - len(lost)
    with np.load(out / "trajectories.npz") as kept:
        last = kept["R"][-1, :, 0]
        np.testing.assert_array_equal(np.flatnonzero(~kept["going"][-1]), lost)
    assert (np.delete(last, lost) < 3.5).all()
    assert np.isfinite(report["largest_energy_drift_ev"])
