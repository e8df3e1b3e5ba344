"""Surface hopping of vibronic models beside exact quantum dynamics, with spin-orbit coupling, and in a heat bath."""

import jax.numpy as jnp
import numpy as np
import pytest

from bpjax.excited.eigen import eigh
from bpjax.excited.hopping_options import HoppingOptions
from bpjax.excited.hopping_run import Hopping, run_hopping
from bpjax.excited.library import find_model
from bpjax.excited.lvc import LinearVibronic
from bpjax.excited.wigner import wigner_samples
from bpjax.units import BOLTZMANN, HARTREE
from tests.excited.cases import VERLET


def pyrazine(number, steps, dt=0.1, **changes):
    model = find_model("pyrazine")
    R, v = wigner_samples(model.modes, number, seed=5)
    options = HoppingOptions(timestep_fs=dt, **VERLET, **changes)
    return run_hopping(
        model.model, R, v, model.masses, 1, steps, options, interval=round(1 / dt), seed=2, basis="diabatic"
    )


@pytest.fixture(scope="module")
def exact(shared):
    with np.load(shared / "reference" / "physics" / "pyrazine3_exact.npz") as archive:
        return {name: archive[name] for name in archive.files}


def reference_curve(exact, times):
    return np.interp(times, exact["t_fs"], exact["P_S2_diabatic"])


@pytest.mark.reference
def test_pyrazine_decays_as_the_exact_packet(exact):
    """The first 50 fs of the population of diabatic S2: mean difference below 0.05, nowhere above 0.15."""
    run = pyrazine(200, 500)
    found = run.populations()
    expected = reference_curve(exact, run.times_fs)
    assert found.diabatic[0, 1] == pytest.approx(1.0, abs=0.02)  # on average over the drawn states
    difference = np.abs(found.diabatic[:, 1] - expected)
    assert difference.mean() < 0.05 and difference.max() < 0.15
    assert found.inconsistency.max() < 0.15
    assert run.drift.max() * HARTREE < 2e-2  # the cone is passed at any distance: see the next test


@pytest.mark.slow
@pytest.mark.reference
def test_pyrazine_longer(exact):
    """120 fs; hopping loses the recurrences in part. Single surface dynamics never leaves the upper state: far worse."""
    run = pyrazine(1000, 2400, dt=0.05)
    found, expected = run.populations(), reference_curve(exact, run.times_fs)
    error = np.sqrt(np.mean((found.diabatic[:, 1] - expected) ** 2))
    assert error < 0.1
    alone = pyrazine(200, 1200, method="born_oppenheimer").populations()
    assert np.sqrt(np.mean((alone.diabatic[:, 1] - reference_curve(exact, np.arange(121.0))) ** 2)) > 1.5 * error


@pytest.mark.reference
def test_sulfur_dioxide_crosses_between_spins(shared):
    """SHARC's model: 13 diagonal states of 4 singlets and 3 triplets from the geometry and velocities of its test run."""
    folder = shared / "reference" / "physics" / "so2_lvc"
    from bpjax.excited.sharc import read_lvc_template

    model = read_lvc_template(folder / "LVC.template", folder / "V.txt")
    R = np.array([line.split()[2:5] for line in (folder / "geom").read_text().splitlines() if line.strip()], float)
    v = np.array([line.split() for line in (folder / "veloc").read_text().splitlines() if line.strip()], float)
    rows = [line.split() for line in (folder / "output.lis").read_text().splitlines() if line.strip()[:1].isdigit()]
    masses = np.asarray(model.modes.masses)[:, None]
    options = HoppingOptions(timestep_fs=0.25, rescale="isotropic", **VERLET)
    hopping = Hopping(model, masses, options)
    number = 32
    start = hopping.start(np.repeat(R[None], number, 0), np.repeat(v[None], number, 0), 4, seed=1)
    run = hopping.run(start, 80, 2, keep=True)
    # Before anything has hopped the run is SHARC's: kinetic and potential energy of its table, to its own drift.
    kinetic, potential = (np.array([float(row[k]) for row in rows[:11]]) for k in (4, 5))
    quiet = np.flatnonzero((run.records.active[:11] == 4).all(axis=0))
    assert len(quiet) > number // 2
    np.testing.assert_allclose(run.records.kinetic[:11, quiet[0]] * HARTREE, kinetic, atol=4e-3)
    np.testing.assert_allclose(run.records.potential[:11, quiet[0]] * HARTREE, potential, atol=4e-3)
    np.testing.assert_allclose(run.records.adiabatic.sum(axis=2), 1, atol=1e-10)
    # Groups of three spin components are crossed within a step or two: no worse than SHARC's own total energy (0.032 eV).
    assert run.drift.max() * HARTREE < np.ptp([float(row[5]) for row in rows])
    shares = np.asarray(model.basis.populations(jnp.asarray(run.populations().diabatic)))
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-10)
    assert shares[0, 0] > 0.95 and 1e-6 < shares[-1, 1] < 0.5  # intersystem crossing, slowly


def two_level_bath(rescale="coupling", method="fewest_switches"):
    """A pair of levels whose coupling moves with an oscillator in a heat bath; gap about kT."""
    kT = 300 * BOLTZMANN / HARTREE
    w = 0.6 * kT
    model = LinearVibronic.build([w], [[0, 0], [0, 1.2 * kT]], [[[0.0, 0.5 * kT], [0.5 * kT, 0.0]]])
    options = HoppingOptions(
        timestep_fs=2.0, temperature=300.0, friction_per_fs=0.004, rescale=rescale, method=method, **VERLET
    )
    rng = np.random.default_rng(0)
    Q, v = rng.normal(scale=np.sqrt(kT / w), size=(2, 96, 1))
    run = run_hopping(model, Q, w * v, [1 / w], 0, 12000, options, interval=20, seed=8)
    grid = np.linspace(-8, 8, 2001)
    E = np.asarray(jnp.stack([eigh(model(jnp.asarray([x])))[0] for x in grid[::20]]))
    weights = np.exp(-E / kT).sum(axis=0)
    return run, weights[1] / weights.sum()


@pytest.mark.slow
def test_detailed_balance():
    """Populations in a heat bath against Boltzmann's, integrated over the coordinate; the mean field is far from them."""
    run, expected = two_level_bath()
    found = run.populations().counts[200:, 1].mean()
    assert abs(found - expected) < 0.03
    mean_field, _ = two_level_bath(method="ehrenfest")
    assert abs(mean_field.populations().amplitudes[200:, 1].mean() - expected) > 2 * abs(found - expected) + 0.03
