"""The total energy of hopping trajectories: orders of the integrators, and what an energy tolerance promises."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bpjax.errors import DivergedError
from bpjax.excited.hopping import PARTS
from bpjax.excited.hopping_options import HoppingOptions
from bpjax.excited.hopping_run import Hopping, run_hopping
from bpjax.excited.library import find_model
from bpjax.excited.models import JahnTeller
from bpjax.excited.wigner import wigner_samples
from bpjax.units import HARTREE
from tests.excited.cases import MASSES, VERLET, ensemble, molecule_like

TIGHT = HoppingOptions(timestep_fs=0.4)


@pytest.mark.parametrize(("integrator", "order"), [("velocity_verlet", 2), ("omelyan", 4)])
def test_order_of_the_integrators(integrator, order):
    def quartic(R):
        return jnp.diag(jnp.array([0.0, 0.5])) + (0.01 * jnp.sum(R**4) + 0.02 * jnp.sum(R**2)) * jnp.eye(2)

    drifts = []
    for dt in (1.0, 0.5):
        options = HoppingOptions(
            timestep_fs=dt, integrator=integrator, energy_tolerance_ev=0.0, method="born_oppenheimer"
        )
        run = run_hopping(quartic, [[1.0, 0.3]], [[0.0, 4e-3]], [1800.0], 0, round(60 / dt), options)
        drifts.append(run.drift[0])
    assert 1e-10 < drifts[1] < 1e-3
    assert abs(np.log2(drifts[0] / drifts[1]) - order) < 0.3


@pytest.mark.parametrize(
    "changes",
    [
        {},
        pytest.param(
            {"rescale": "gradients", "frustrated": "gradient", "integrator": "velocity_verlet"}, marks=pytest.mark.slow
        ),
        pytest.param(
            {"amplitudes": "coupling", "substeps": 5, "rescale": "velocity", "frustrated": "reverse"},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["coupling", "gradients", "velocity"],
)
def test_energy_is_conserved_through_hops(changes):
    options = replace(TIGHT, **changes)
    if options.integrator == "velocity_verlet":
        options = replace(options, timestep_fs=0.05)
    steps = round(30 / options.timestep_fs)
    run = run_hopping(molecule_like(), *ensemble(64), MASSES, 2, steps, options, interval=steps, seed=4)
    assert run.hops["accepted"].sum() > 20
    # The promise of 1e-4 eV; twice that for Verlet, whose errors of second order add up.
    limit = 2e-4 if options.integrator == "velocity_verlet" else 1e-4
    assert run.drift.max() * HARTREE < limit
    total = run.records.potential + run.records.kinetic
    assert np.abs(total[1] - total[0]).max() * HARTREE < limit
    np.testing.assert_allclose(run.records.adiabatic.sum(axis=2), 1, atol=1e-12)
    np.testing.assert_allclose(run.records.diabatic.sum(axis=2), 1, atol=1e-10)
    assert (np.asarray(run.state.step) == steps).all() and not np.asarray(run.state.part).any()


@pytest.mark.slow
def test_landau_zener_hops_conserve_energy():
    options = HoppingOptions(
        timestep_fs=0.02, rescale="isotropic", frustrated="reverse", method="landau_zener", **VERLET
    )
    run = run_hopping(molecule_like(), *ensemble(64), MASSES, 2, 1500, options, interval=1500, seed=4)
    assert run.hops["accepted"].sum() > 20
    # Steps of one length: what is left is Verlet's, and worst for the few that pass a cone within a step of its tip.
    assert np.quantile(run.drift, 0.95) * HARTREE < 1e-4
    assert run.drift.max() * HARTREE < 2e-3


@pytest.mark.slow
def test_cones_of_pyrazine_keep_the_energy():
    """Trajectories pass the intersection at any distance; with steps of one length some lose hundredths of an eV."""
    model = find_model("pyrazine")
    R, v = wigner_samples(model.modes, 128, units=model.units)
    drift = {}
    for name, options in (("fixed", replace(TIGHT, energy_tolerance_ev=0.0)), ("tolerance", TIGHT)):
        hopping = Hopping(model.model, model.masses, options)
        run = hopping.run(hopping.start(R, v, 1, basis="diabatic"), 100, 50)
        assert len(run.hops) > 20
        drift[name] = run.drift.max() * HARTREE
    assert drift["tolerance"] < 1e-4 < 1e-3 < drift["fixed"]


@pytest.mark.slow
def test_ehrenfest_with_a_tolerance():
    # The mean force and the amplitudes are split at second order: the energy of the mean field is kept by shorter steps alone.
    options = replace(TIGHT, method="ehrenfest", timestep_fs=0.05)
    run = run_hopping(molecule_like(), *ensemble(16), MASSES, 2, 200, options, interval=200)
    assert run.drift.max() * HARTREE < 2e-4


def test_straight_through_a_tip():
    """Into the tip of a cone itself, where the force jumps at a point: no NaN; the error is that of a shortest part of a step."""
    R, v = np.array([[-1.0, 0.0], [-1.0, 1e-9]]), np.array([[1.5, 0.0], [1.5, 0.0]])
    options = replace(TIGHT, timestep_fs=0.005, tracking=False)
    run = run_hopping(JahnTeller(1.0), R, v, [1.0], 0, 8, options, keep=True)
    assert np.isfinite(run.records.R).all() and (run.records.R[-1, :, 0] > 0.1).all()
    jump, speed = 2.0, 1.5
    assert run.drift.max() < jump * speed * options.dt / PARTS + 1e-4 / HARTREE


@pytest.mark.slow
def test_hole_of_a_model_is_an_error_and_not_an_endless_run():
    def bottomless(R):
        return jnp.diag(jnp.array([0.0, 1.0])) - 1.0 / (jnp.sum(R * R) + 1e-8) * jnp.eye(2)

    hopping = Hopping(bottomless, [2000.0], replace(TIGHT, timestep_fs=1.0))
    with pytest.raises(
        DivergedError, match=r"trajectory 1, step \d+: the energy can be kept to 0.0001 eV only by steps far"
    ):
        hopping.run(hopping.start([[30.0], [0.5]], [[0.0], [0.0]], 0), 20)


@pytest.mark.slow
def test_lanes_do_not_depend_on_each_other():
    hopping = Hopping(molecule_like(), MASSES, TIGHT)
    state = hopping.start(*ensemble(6), 2, seed=4)
    together = hopping.run(state, 60, 20)
    n = int(np.bincount(together.hops["trajectory"]).argmax())
    alone = hopping.run(jax.tree.map(lambda x: x[n : n + 1], state), 60, 20)
    # One that waits for others tries no hops meanwhile.
    own = together.hops[together.hops["trajectory"] == n]
    np.testing.assert_array_equal(own["step"], alone.hops["step"])
    np.testing.assert_array_equal(alone.records.active[:, 0], together.records.active[:, n])
    np.testing.assert_allclose(alone.state.R[0], together.state.R[n], atol=1e-12)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"energy_tolerance_ev": -1.0}, "energy_tolerance_ev=-1.0: must be finite and at least 0"),
        ({"energy_tolerance_ev": 1e-4, "friction_per_fs": 0.1}, "must be 0 with friction_per_fs"),
        ({"energy_tolerance_ev": 1e-4, "method": "landau_zener"}, "must be 0 with landau_zener"),
        ({"integrator": "leapfrog"}, "integrator=leapfrog: must be velocity_verlet, omelyan"),
    ],
)
def test_options_are_checked(changes, words):
    with pytest.raises(ValueError, match=words):
        HoppingOptions(**changes)
