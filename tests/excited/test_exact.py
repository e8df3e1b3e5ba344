"""Exact quantum dynamics: against published-model references, closed forms, and one method against the other."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bpjax.excited import grid as split
from bpjax.excited import harmonic
from bpjax.excited.eigen import eigh
from bpjax.excited.grid import Grid, gaussian_packet
from bpjax.excited.lvc import LinearVibronic, pyrazine_3_modes
from bpjax.excited.models import JahnTeller, TullyDual, TullyExtended, TullySimple
from bpjax.units import ATOMIC_TIME_FS

MODELS = {"sac": TullySimple(), "dac": TullyDual(), "ecr": TullyExtended()}


def test_levels_of_one_state_are_harmonic():
    """A displaced oscillator: levels w (n + 1/2) - k^2 / 2w."""
    model = LinearVibronic.build([0.5, 1.3], [[0.2]], [[[0.1]], [[0.4]]])
    levels = harmonic.vibronic_levels(model, (25, 25), 4)
    shift = 0.2 - 0.01 / 1.0 - 0.16 / 2.6
    np.testing.assert_allclose(levels, shift + np.array([0.9, 1.4, 1.9, 2.2]), atol=1e-10)


@pytest.mark.reference
@pytest.mark.parametrize("k", [1.0, 2.0])
def test_levels_of_the_jahn_teller_model(k, shared):
    """Every level of half-integer j twice: the signature of the Berry phase."""
    reference = json.loads((shared / "reference" / "physics" / "lz_jt.json").read_text())[f"JT_k{k}"]
    expected = np.sort([level for j in reference.values() for level in j])[:3]
    levels = harmonic.vibronic_levels(JahnTeller(k).linear_model(), (36, 36), 6)
    np.testing.assert_allclose(levels[0::2], expected, atol=1e-5)
    np.testing.assert_allclose(levels[1::2], expected, atol=1e-5)


def test_lanczos_step_is_the_exponential():
    model = JahnTeller(0.7).linear_model()
    shape = (2, 8, 8)
    rng = np.random.default_rng(0)
    psi = rng.normal(size=shape) + 1j * rng.normal(size=shape)
    apply = lambda v: harmonic.hamiltonian(model, v)  # noqa: E731
    H = jax.vmap(lambda v: apply(v.reshape(shape)).reshape(-1))(jnp.eye(128))
    np.testing.assert_allclose(H, H.T, atol=1e-14)
    E, U = np.linalg.eigh(np.asarray(H))
    expected = U @ (np.exp(-0.3j * E) * (U.T @ psi.reshape(-1)))
    ours = jax.jit(lambda v: harmonic.lanczos_step(apply, v, 0.3, 24))(jnp.asarray(psi))
    np.testing.assert_allclose(ours.reshape(-1), expected, atol=1e-10)
    still = harmonic.lanczos_step(lambda v: 2.0 * v, jnp.asarray(psi), 0.3, 5)  # an eigenvector: the space ends at once
    np.testing.assert_allclose(still, np.exp(-0.6j) * psi, atol=1e-12)


def test_free_packet_spreads():
    """Centre and width of a free Gaussian packet; the norm is kept."""
    g = Grid((-40.0,), (40.0,), (512,))
    psi = gaussian_packet(g, *(jnp.asarray([x]) for x in (-5.0, 2.0, 1.5)), jnp.asarray([1.0 + 0j]))
    mass, t = 1.7, 6.0
    psi = jax.jit(lambda psi: split.propagate(lambda R: 0 * R[None, :], g, jnp.asarray([mass]), psi, 0.5, 12))(psi)
    x, density = g.coordinates()[:, 0], np.abs(np.asarray(psi)[:, 0]) ** 2 * g.element
    assert density.sum() == pytest.approx(1, abs=1e-12)
    assert density @ x == pytest.approx(-5 + 2 * t / mass, abs=1e-9)
    assert density @ x**2 - (density @ x) ** 2 == pytest.approx(1.5**2 + (t / (2 * 1.5 * mass)) ** 2, rel=1e-9)


def test_grid_and_harmonic_basis_agree():
    """Diabatic populations of the E x e model after the same time, by two methods that share nothing."""
    model = JahnTeller(0.6)
    run = jax.jit(lambda psi: harmonic.propagate(model.linear_model(), psi, 0.25, 12, 20))(
        harmonic.ground_packet((24, 24), 2, 1)
    )
    g = Grid((-9.0, -9.0), (9.0, 9.0), (48, 48))
    state = jnp.asarray([0.0, 1.0 + 0j])
    psi = gaussian_packet(g, jnp.zeros(2), jnp.zeros(2), jnp.full(2, np.sqrt(0.5)), state)
    psi = jax.jit(lambda psi: split.propagate(model, g, jnp.ones(2), psi, 0.02, 150))(psi)
    np.testing.assert_allclose(split.populations(g, psi), run.populations[-1], atol=1e-4)
    np.testing.assert_allclose(run.populations.sum(axis=1), 1, atol=1e-10)
    adiabatic = split.adiabatic_packet(model, g, psi)
    assert float(split.populations(g, adiabatic).sum()) == pytest.approx(1, abs=1e-10)


def tully(name, centre, spread, momenta, time, grid, dt=8.0):
    model = MODELS[name]
    lower = eigh(model(jnp.asarray([grid.low[0]])))[1][:, 0].astype(complex)
    packet = gaussian_packet(grid, *(jnp.asarray([x]) for x in (-20.0, centre, 0.5 / spread)), lower)
    run = jax.jit(
        lambda psi: split.scattering(model, 2000.0, jnp.asarray(momenta), psi, grid, 12.0, 20.0, dt, int(time / dt))
    )
    return run(packet)


def compare(shared, name, momenta, result, tolerance):
    reference = json.loads((shared / "reference" / "physics" / "tully_exact.json").read_text())[name]
    for k, T, R in zip(momenta, *result, strict=True):
        np.testing.assert_allclose(T, reference[f"{k:.8g}"]["T"], atol=tolerance, err_msg=f"{name} {k} T")
        np.testing.assert_allclose(R, reference[f"{k:.8g}"]["R"], atol=tolerance, err_msg=f"{name} {k} R")
    total = np.asarray(result.transmitted).sum(axis=1) + np.asarray(result.reflected).sum(axis=1)
    np.testing.assert_allclose(total, 1, atol=tolerance)


@pytest.mark.reference
def test_tully_at_high_momenta(shared):
    """One packet gives the whole range of energies."""
    g = Grid((-80.0,), (140.0,), (4096,))
    momenta = (20.0, 25.0, 30.0)
    compare(shared, "sac", momenta, tully("sac", 24.0, 3.0, momenta, 9000, g, dt=10.0), 2e-3)


SLOW = [
    ("sac", 13.0, 2.0, (10.0, 12.0, 15.0), 24000),
    ("dac", 16.0, 2.0, (16.0, 18.0, 20.0), 20000),
    ("dac", 30.0, 3.0, (22.36068, 25.0, 30.0), 10000),
    ("dac", 44.0, 3.0, (40.0, 50.0), 8000),
    ("ecr", 15.0, 2.0, (12.0, 15.0), 14000),
    ("ecr", 25.0, 2.0, (20.0, 25.0), 10000),
    ("ecr", 33.0, 1.5, (32.0, 35.0), 12000),
]


@pytest.mark.slow
@pytest.mark.reference
@pytest.mark.parametrize("name, centre, spread, momenta, time", SLOW, ids=lambda x: str(x))
def test_tully_tables(name, centre, spread, momenta, time, shared):
    g = Grid((-200.0,), (440.0,), (16384,))
    compare(shared, name, momenta, tully(name, centre, spread, momenta, time, g), 2e-3)


@pytest.mark.slow
@pytest.mark.reference
def test_pyrazine_populations(shared):
    """Exact diabatic S2 population of the three-mode model, up to 60 fs."""
    reference = np.load(shared / "reference" / "physics" / "pyrazine3_exact.npz")
    model = pyrazine_3_modes()
    start = harmonic.ground_packet((24, 34, 22), 2, 1)
    run = jax.jit(lambda psi: harmonic.propagate(model, psi, 1 / ATOMIC_TIME_FS, 60, 24))(start)
    np.testing.assert_allclose(run.populations[:, 1], reference["P_S2_diabatic"][:61], atol=3e-3)
    np.testing.assert_allclose(np.abs(run.autocorrelation), np.abs(reference["autocorr"][:61]), atol=3e-3)


def test_bad_input():
    model = JahnTeller().linear_model()
    with pytest.raises(ValueError, match="must be one number for each of 2 modes"):
        harmonic.vibronic_levels(model, (5,), 2)
    with pytest.raises(ValueError, match="less than the size of the basis, 18"):
        harmonic.vibronic_levels(model, (3, 3), 18)
    for low, high, points, message in (
        ((0.0,), (1.0, 2.0), (8,), "must be of one length"),
        ((1.0,), (1.0,), (8,), "Grid high"),
        ((0.0,), (1.0,), (1,), "Grid points"),
    ):
        with pytest.raises(ValueError, match=message):
            Grid(low, high, points)
