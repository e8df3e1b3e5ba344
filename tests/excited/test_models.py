"""Analytic models: their published values, derivatives, and what they must not accept."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bpjax.excited import lvc
from bpjax.excited.adiabatic import adiabatic, energies
from bpjax.excited.gap_couplings import landau_zener
from bpjax.excited.lvc import LinearVibronic, debye_bath, ohmic_bath, pyrazine_3_modes, pyrazine_4_modes, spin_boson
from bpjax.excited.models import JahnTeller, LandauZener, TullyDual, TullyExtended, TullySimple
from bpjax.excited.propagation import propagate_adiabatic, propagate_diabatic
from bpjax.spec import from_spec, to_spec
from bpjax.units import HARTREE
from tests.excited.cases import central, random_model


def tully(name, x):
    """The formulas of the paper, in NumPy."""
    if name == "simple":
        a = np.sign(x) * 0.01 * (1 - np.exp(-1.6 * abs(x)))
        return [[a, 0.005 * np.exp(-(x**2))], [0.005 * np.exp(-(x**2)), -a]]
    if name == "dual":
        c = 0.015 * np.exp(-0.06 * x**2)
        return [[0, c], [c, -0.1 * np.exp(-0.28 * x**2) + 0.05]]
    c = 0.1 * np.exp(0.9 * x) if x < 0 else 0.1 * (2 - np.exp(-0.9 * x))
    return [[6e-4, c], [c, -6e-4]]


TULLY = {"simple": TullySimple(), "dual": TullyDual(), "extended": TullyExtended()}


@pytest.mark.parametrize("name", TULLY)
def test_tully(name):
    model = TULLY[name]
    x = np.array([-1e4, -8.0, -1.3, -1e-9, 0.0, 1e-9, 0.4, 5.0, 1e4])
    H = jax.jit(jax.vmap(model))(jnp.asarray(x)[:, None])
    np.testing.assert_allclose(H, [tully(name, float(a)) for a in x], rtol=1e-14, atol=1e-17)
    slope = jax.jit(jax.vmap(jax.jacfwd(model)))(jnp.asarray(x)[:, None])[..., 0]
    h = 1e-6  # at x = 0 itself both sides have this slope
    expected = [(np.array(tully(name, a + h)) - np.array(tully(name, a - h))) / (2 * h) for a in x]
    np.testing.assert_allclose(slope, expected, atol=1e-7)
    for order in (1, 2, 3):
        f = model
        for _ in range(order):
            f = jax.jacrev(f)
        assert np.isfinite(jax.jit(jax.vmap(f))(jnp.asarray(x)[:, None])).all()


def test_jahn_teller():
    model = JahnTeller(coupling=0.7, frequency=1.2, quadratic=0.3)
    R = jnp.asarray([0.4, -1.1])
    x, y = 0.4, -1.1
    r, phi = np.hypot(x, y), np.arctan2(y, x)
    gap = 2 * abs(
        0.7 * r * np.exp(1j * phi) + 0.15 * r**2 * np.exp(-2j * phi)
    )  # the text-book form in polar coordinates
    E = jax.jit(lambda R: energies(model, R))(R)
    np.testing.assert_allclose(E, 0.6 * r**2 + np.array([-0.5, 0.5]) * gap, rtol=1e-14)
    linear = JahnTeller(0.7, 1.2)
    np.testing.assert_allclose(linear.linear_model()(R), linear(R), atol=1e-15)


def test_intersections_of_the_quadratic_jahn_teller_model():
    model = JahnTeller(coupling=1.0, quadratic=0.5)
    for phi in np.pi * np.array([1 / 3, 1, 5 / 3]):
        E = energies(model, 4.0 * jnp.asarray([np.cos(phi), np.sin(phi)]))
        assert float(E[1] - E[0]) == pytest.approx(0, abs=1e-14)


def test_pyrazine():
    model = pyrazine_3_modes()
    Q = jnp.asarray([0.5, -1.0, 0.3])
    eV = jax.jit(model)(Q) * HARTREE
    harmonic = 0.5 * (0.126 * 0.25 + 0.074 + 0.118 * 0.09)
    expected = [[3.94 + 0.037 * 0.5 + 0.105, 0.262 * 0.3], [0.262 * 0.3, 4.84 - 0.254 * 0.5 - 0.149]]
    np.testing.assert_allclose(eV, expected + harmonic * np.eye(2), rtol=1e-13)
    four = pyrazine_4_modes()
    np.testing.assert_allclose(jnp.diag(four.constant) * HARTREE, [-0.423, 0.423], rtol=1e-13)
    np.testing.assert_allclose(four.masses * four.frequencies, 1)


def test_linear_vibronic_is_a_pytree():
    model = pyrazine_3_modes()
    Q = jnp.asarray([0.5, -1.0, 0.3])
    f = jax.jit(lambda model: energies(model, Q)[0])
    slope = jax.grad(f)(model).linear
    expected = central(lambda L: f(dataclasses.replace(model, linear=0.5 * (L + jnp.swapaxes(L, 1, 2)))), model.linear)
    np.testing.assert_allclose(slope, expected, atol=1e-8)
    several = jax.tree.map(lambda *x: jnp.stack(x), model, pyrazine_3_modes(), model)
    np.testing.assert_allclose(jax.jit(jax.vmap(lambda model: energies(model, Q)))(several)[1], energies(model, Q))


def test_baths():
    """Sum rules: the discrete modes carry the integrals of J over omega."""
    w, c = ohmic_bath(kondo=0.3, cutoff=2.0, modes=40)
    share = -np.expm1(-5.0)
    assert np.sum(c**2 / w**2) / 2 == pytest.approx(0.5 * 0.3 * 2.0 * share)
    assert w[-1] == pytest.approx(10.0)
    # the number of modes up to a frequency follows exp(-w / w_c)
    np.testing.assert_allclose(-np.expm1(-w / 2.0) / share, np.arange(1, 41) / 40, rtol=1e-12)
    w, c = debye_bath(reorganisation=0.5, cutoff=1.5, modes=60)
    assert np.sum(c**2 / (2 * w**2)) == pytest.approx(0.5)
    assert np.sum(c**2 / (2 * w**2) * (w < 1.5)) == pytest.approx(0.25)  # half of it below the cutoff


def test_spin_boson():
    model = spin_boson(0.4, 0.1, [1.0, 2.0], [0.3, 0.5])
    q = np.array([0.2, -0.7])
    shift = 0.3 * 0.2 - 0.5 * 0.7
    H = 0.5 * (0.04 + 4 * 0.49) * np.eye(2) + np.array([[0.4 + shift, 0.1], [0.1, -0.4 - shift]])
    np.testing.assert_allclose(model(jnp.asarray(np.sqrt([1.0, 2.0]) * q)), H, rtol=1e-14)


@pytest.mark.parametrize(
    "model", [*TULLY.values(), LandauZener(0.02, 0.001), JahnTeller()], ids=lambda m: type(m).__name__
)
def test_options_survive_a_file(model):
    assert from_spec(type(model), to_spec(model)) == model


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: TullySimple(mass=0.0), "TullySimple mass=0.0: must be positive"),
        (lambda: TullyDual(A=np.nan), "TullyDual A=nan: must be finite"),
        (lambda: TullyExtended(C=-0.9), "TullyExtended C=-0.9: must be positive"),
        (lambda: LandauZener(0.0, 0.1), "LandauZener slope=0"),
        (lambda: JahnTeller(frequency=-1.0), "JahnTeller frequency=-1.0"),
        (lambda: JahnTeller(quadratic=0.1).linear_model(), "JahnTeller quadratic=0.1: must be 0"),
        (
            lambda: LinearVibronic.build([1.0], 1j * np.eye(2), np.zeros((1, 2, 2))),
            "constant: must be real; spin-orbit",
        ),
        (lambda: LinearVibronic.build([1.0], [[0, 1], [2, 0]], np.zeros((1, 2, 2))), "constant: must be symmetric"),
        (lambda: LinearVibronic.build([1.0], np.eye(2), np.zeros((2, 2, 2))), r"linear: must have shape \(1, 2, 2\)"),
        (lambda: LinearVibronic.build([np.inf], np.eye(2), np.zeros((1, 2, 2))), "frequencies: must be finite"),
        (lambda: spin_boson(0.1, 0.1, [1.0, -1.0], [0.1, 0.1]), "spin_boson frequencies: must be positive"),
        (lambda: lvc.ohmic_bath(0.1, -1.0, 5), "ohmic_bath cutoff=-1.0: must be positive"),
        (lambda: lvc.debye_bath(0.1, 1.0, 0), "debye_bath modes=0: must be positive"),
    ],
)
def test_bad_options(build, message):
    with pytest.raises(ValueError, match=message):
        build()


# ------------------------------------------------------------------------------- amplitudes on a path


@pytest.mark.parametrize("V, alpha", [(0.005, 0.002), (0.005, 0.001), (0.01, 0.001), (0.002, 0.0005)])
def test_landau_zener(V, alpha):
    """Starting and ending in adiabatic states, far from the crossing."""
    model = LandauZener(alpha, V)
    T = 40 * max(V / alpha, alpha**-0.5)
    times = jnp.linspace(-T, T, 20001)
    start, end = (adiabatic(model, jnp.asarray([t])).states for t in (-T, T))
    run = jax.jit(lambda c: propagate_diabatic(model, lambda t: t[None], times, c))
    c = run(start[:, 0].astype(complex))
    staying = np.abs(end[:, 1] @ c[-1]) ** 2  # in the diabatic state: up in the adiabatic ones
    exact = float(landau_zener(jnp.asarray(V), jnp.asarray(alpha)))
    assert exact == pytest.approx(np.exp(-2 * np.pi * V**2 / alpha), rel=1e-14)
    assert staying == pytest.approx(exact, abs=1e-4)
    np.testing.assert_allclose(np.sum(np.abs(c) ** 2, axis=1), 1, atol=1e-11)


@pytest.mark.parametrize("imaginary", [False, True], ids=["real", "complex"])
def test_both_pictures_agree(imaginary):
    """Populations from the diabatic matrix and from v.d between adiabatic states; both converge to the same, in second order."""
    model = random_model(8, 3, 2, imaginary)
    path = lambda t: jnp.stack([jnp.sin(0.7 * t), 0.5 * t - 0.3])  # noqa: E731

    def difference(n):
        times = jnp.linspace(0, 2, n)
        R = jax.vmap(path)(times)
        states = jax.vmap(lambda R: adiabatic(model, R).states)(R)
        c = jnp.asarray([0.6, 0.0, 0.8j])
        a = propagate_adiabatic(model, path, times, c)
        d = propagate_diabatic(model, path, times, states[0].astype(complex) @ c)
        P = jnp.abs(jnp.einsum("kai,ka->ki", states.conj(), d)) ** 2
        return jnp.abs(P - jnp.abs(a) ** 2).max()

    coarse, fine = (float(jax.jit(difference, static_argnums=0)(n)) for n in (501, 1001))
    assert fine < 1e-4 and coarse / fine == pytest.approx(4, rel=0.1)


def test_models_are_hashable_options():
    assert len({dataclasses.replace(TullySimple(), A=0.02), TullySimple(), TullySimple()}) == 2
