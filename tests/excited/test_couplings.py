"""Adiabatic states and their couplings against finite differences, closed forms and each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bpjax.excited.adiabatic import Adiabatic, adiabatic, energies, gradients, hessians, to_adiabatic, to_diabatic
from bpjax.excited.couplings import (
    branching_plane,
    derivative_couplings,
    diagonal_correction,
    orthogonalised,
    second_order_couplings,
    time_derivative_couplings,
)
from bpjax.excited.gap_couplings import baeck_an, belyaev_lebedev, interstate_dyad, landau_zener, leading_vector
from bpjax.excited.gauge import aligned, gauge_transform
from bpjax.excited.models import JahnTeller, LandauZener
from tests.excited.cases import central, random_model, spin_in_field

R3 = jnp.asarray([0.3, -0.7, 0.2])

jit_couplings = jax.jit(derivative_couplings)


@pytest.fixture(scope="module", params=[False, True], ids=["real", "complex"])
def case(request):
    model = random_model(7, 4, 3, request.param)
    return model, jax.jit(lambda R: adiabatic(model, R))


def test_gradients(case):
    model, states = case
    np.testing.assert_allclose(gradients(states(R3)), central(jax.jit(lambda R: energies(model, R)), R3), atol=1e-8)


def test_couplings_are_overlaps_of_displaced_states(case):
    """<i|grad j> from eigenvectors of NumPy at displaced geometries, their phases aligned."""
    model, states = case
    result = states(R3)
    U, matrix, align = np.asarray(result.states), jax.jit(model), jax.jit(aligned)

    def displaced(R):
        return align(np.linalg.eigh(np.asarray(matrix(R)))[1], U)

    expected = np.einsum("ai,aj...->ij...", U.conj(), central(displaced, R3))
    d = np.asarray(jit_couplings(result))
    np.testing.assert_allclose(d, expected, atol=2e-8)
    np.testing.assert_array_equal(d, -np.swapaxes(d.conj(), 0, 1))
    np.testing.assert_array_equal(d[np.arange(4), np.arange(4)], 0)


def test_interstate_is_gap_times_coupling_and_hermitian(case):
    result = case[1](R3)
    h, d, E = (np.asarray(x) for x in (result.interstate, jit_couplings(result), result.energies))
    gap = (E[None, :] - E[:, None])[..., None]
    off = ~np.eye(4, dtype=bool)
    np.testing.assert_allclose(h[off], (gap * d)[off], atol=1e-13)
    np.testing.assert_allclose(h, np.swapaxes(h.conj(), 0, 1), atol=1e-13)


def test_derivatives_of_h(case):
    """Finite differences of the interstate elements, aligned: what training on h differentiates."""
    model, states = case
    U = states(R3).states

    def h(R):
        result = adiabatic(model, R)
        turned = aligned(result.states, U)
        phase = jnp.sum(result.states.conj() * turned, axis=0)
        return gauge_transform(result, phase).interstate

    h = jax.jit(h)
    expected = central(h, R3)

    def free(R):
        return adiabatic(model, R).interstate

    ours = jax.jit(jax.jacfwd(free))(R3)
    # Phases that `aligned` turned at R3 itself: all one.
    here = (np.asarray(h(R3)) / np.asarray(states(R3).interstate))[..., None]
    np.testing.assert_allclose(here, 1, atol=1e-12)
    np.testing.assert_allclose(ours, expected, atol=3e-7)


def test_second_order_couplings():
    model = random_model(3, 3, 2)
    R = jnp.asarray([0.4, 0.1])
    U = jax.jit(lambda R: adiabatic(model, R).states)(R)
    states = lambda R: aligned(adiabatic(model, R).states, U)  # noqa: E731
    expected = np.einsum("ai,aj...->ij...", U, central(jax.jit(jax.jacfwd(states)), R))
    ours = jax.jit(lambda R: second_order_couplings(model, R))(R)
    np.testing.assert_allclose(ours, expected, atol=1e-7)
    np.testing.assert_allclose(ours, np.swapaxes(ours, -1, -2), atol=1e-12)  # mixed derivatives


def test_hessians():
    model = random_model(4, 3, 3)
    ours = jax.jit(lambda R: hessians(model, R))(R3)
    np.testing.assert_allclose(ours, central(jax.jit(lambda R: gradients(adiabatic(model, R))), R3), atol=1e-7)


def test_training_gradient_of_forces_and_couplings():
    """Second derivatives as training takes them: by parameters of a loss on gradients and |h|^2."""
    model = random_model(5, 3, 2)
    R = jnp.asarray([0.2, -0.3])

    def loss(w):
        result = adiabatic(lambda R: model(w[0] * R) + w[1] * jnp.diag(jnp.asarray([0.0, 1.0, 3.0])) * R[0] ** 2, R)
        return jnp.sum(gradients(result) ** 3) + jnp.sum(result.interstate[0, 1] ** 2)

    w = jnp.asarray([1.1, 0.4])
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(w), central(jax.jit(loss), w), rtol=1e-7)


@pytest.mark.parametrize("imaginary", [False, True], ids=["real", "complex"])
def test_random_phases_change_nothing_observable(imaginary):
    model = random_model(11, 3, 4, imaginary)
    rng = np.random.default_rng(0)
    points = rng.normal(size=(50, 4))
    theta = rng.uniform(0, 2 * np.pi, size=(50, 3))
    phases = np.exp(1j * theta) if imaginary else np.sign(np.cos(theta))

    @jax.jit
    @jax.vmap
    def observables(R, p):
        result = gauge_transform(adiabatic(model, R), p)
        d = derivative_couplings(result)
        v = jnp.arange(1.0, 5.0)
        vd = time_derivative_couplings(result, v)
        triple = jnp.einsum("a,b,c->abc", d[0, 1], d[1, 2], d[2, 0])
        density = to_diabatic(jnp.diag(jnp.asarray([0.5, 0.3, 0.2])), result.states)
        return (
            result.energies,
            gradients(result),
            jnp.abs(d),
            jnp.abs(vd),
            triple,
            density,
            diagonal_correction(result, v),
        )

    for a, b in zip(observables(points, phases), observables(points, np.ones_like(phases)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12 * np.abs(b).max())


def test_jahn_teller_coupling_is_tangential():
    model = JahnTeller(coupling=0.7)
    coupling = jax.jit(lambda R: derivative_couplings(adiabatic(model, R)))
    for r, phi in ((1e-6, 0.3), (0.1, 0.7), (1.0, 2.0), (30.0, 5.0)):
        R = r * np.array([np.cos(phi), np.sin(phi)])
        d = np.asarray(coupling(R))[0, 1]
        assert np.linalg.norm(d) == pytest.approx(1 / (2 * r), rel=1e-10)
        assert abs(d @ R) < 1e-10
        assert abs(d @ np.array([-np.sin(phi), np.cos(phi)])) == pytest.approx(1 / (2 * r), rel=1e-10)


def test_area_under_the_coupling_of_an_avoided_crossing():
    """The states exchange their characters: the integral of d is pi/2, its peak F/4V."""
    model = LandauZener(slope=0.02, coupling=0.003)
    u = np.linspace(-np.pi / 2, np.pi / 2, 2002)[1:-1]  # x = (2V/F) tan u
    x = 2 * 0.003 / 0.02 * np.tan(u)
    coupling = lambda R: derivative_couplings(adiabatic(model, R))[0, 1, 0]  # noqa: E731
    d = jax.jit(jax.vmap(coupling))(x[:, None])
    area = np.sum(np.abs(d) * 2 * 0.003 / 0.02 / np.cos(u) ** 2) * (u[1] - u[0])
    assert area == pytest.approx(np.pi / 2 * 2000 / 2001, rel=1e-10)
    at_crossing = jax.jit(coupling)(np.zeros(1))
    assert abs(float(at_crossing)) == pytest.approx(0.02 / (4 * 0.003), rel=1e-12)


def test_branching_plane_opens_the_gap():
    """Both vectors at an intersection, in a random basis of the degenerate states; gap = 2 r |g| and 2 r |h|."""
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(5, 5)))[0]

    def model(R):
        x, y, z = (R @ turn)[:3]
        return jnp.asarray([[0.3 * x + 0.1 * z, 0.12 * y], [0.12 * y, -0.3 * x + 0.1 * z]])

    plane_of = jax.jit(lambda states: orthogonalised(branching_plane(states, 0, 1)))
    states = jax.jit(lambda R: adiabatic(model, R))(np.zeros(5))
    plane = jax.tree.map(np.asarray, plane_of(states))
    assert float(np.linalg.norm(plane.g)) == pytest.approx(0.3)
    assert float(np.linalg.norm(plane.h)) == pytest.approx(0.12)
    np.testing.assert_allclose(plane.s, 0.1 * turn[:, 2], atol=1e-14)
    # The same from states that are mixed by an angle: two cuts of one cone.
    c, s = np.cos(0.4), np.sin(0.4)
    O = np.array([[c, -s], [s, c]])
    mixed = Adiabatic(states.energies, np.asarray(states.states) @ O, jax.jit(to_adiabatic)(states.interstate, O))
    again = jax.tree.map(np.asarray, plane_of(mixed))
    assert abs(float(again.g @ again.h)) < 1e-15
    np.testing.assert_allclose(np.abs(again.g @ plane.g), 0.09, rtol=1e-12)
    r, levels = 1e-3, jax.jit(lambda R: energies(model, R))
    for direction, slope in ((plane.g, 0.3), (plane.h, 0.12)):
        E = levels(r * direction / np.linalg.norm(direction))
        assert float(E[1] - E[0]) == pytest.approx(2 * r * slope, rel=1e-10)


def test_nothing_is_infinite_at_an_intersection():
    model = JahnTeller(quadratic=0.3)

    def everything(R):
        result = adiabatic(model, R)
        return (
            *result,
            derivative_couplings(result),
            second_order_couplings(model, R),
            hessians(model, R),
            diagonal_correction(result, jnp.ones(2)),
            *orthogonalised(branching_plane(result, 0, 1)),
        )

    def first(R):  # what training differentiates, in reverse
        result = adiabatic(model, R)
        return (*result, derivative_couplings(result))

    origin = jnp.zeros(2)
    for f in (everything, jax.jacfwd(everything), jax.jacrev(first)):
        assert all(np.isfinite(x).all() for x in jax.jit(f)(origin))
    spin = jax.jit(jax.jacfwd(lambda R: derivative_couplings(adiabatic(spin_in_field, R)).real))(jnp.zeros(3))
    assert np.isfinite(spin).all()


def test_diabatic_and_back():
    model = random_model(9, 4, 3, True)

    @jax.jit
    def both_ways(R):
        result = adiabatic(model, R)
        E, H = jnp.diag(result.energies).astype(complex), model(R)
        return E, H, to_diabatic(E, result.states), to_adiabatic(H, result.states)

    E, H, diabatic, back = both_ways(R3)
    np.testing.assert_allclose(diabatic, H, atol=1e-13)
    np.testing.assert_allclose(back, E, atol=1e-13)


# ------------------------------------------------------------------------------- from energies alone


def test_gap_formulas_are_exact_for_straight_lines():
    F, V, v = 0.02, 0.003, 0.005
    model = LandauZener(F, V)
    gap = lambda x: jnp.diff(energies(model, x[None]))[0]  # noqa: E731

    @jax.jit
    def formulas(x):
        width, curvature = gap(x), jax.grad(jax.grad(gap))(x)
        passage = landau_zener(jnp.asarray(V), jnp.asarray(v * F))
        return baeck_an(width, curvature), passage, belyaev_lebedev(width, v**2 * curvature)

    peak, exact, probability = (float(value) for value in formulas(0.0))
    assert peak == pytest.approx(F / (4 * V), rel=1e-12)
    assert exact == pytest.approx(np.exp(-2 * np.pi * V**2 / (v * F)), rel=1e-14)
    assert probability == pytest.approx(exact, rel=1e-12)


@pytest.mark.slow
def test_dyad_from_the_hessian_of_the_gap():
    model = JahnTeller(coupling=0.7)
    R = jnp.asarray([0.4, -0.3])

    @jax.jit
    def dyad_and_vector(R):
        H, E = hessians(model, R), energies(model, R)
        dyad = interstate_dyad(E[1] - E[0], H[1] - H[0])
        return dyad, adiabatic(model, R).interstate[0, 1], leading_vector(dyad), leading_vector(-dyad)

    dyad, h, found, none = (np.asarray(x) for x in dyad_and_vector(R))
    np.testing.assert_allclose(dyad, np.outer(h, h), atol=1e-13)
    np.testing.assert_allclose(found * np.sign(found @ h), h, atol=1e-13)
    assert none.tolist() == pytest.approx([0, 0], abs=1e-7)


FORMULAS = [jax.jit(jax.value_and_grad(f, argnums=(0, 1))) for f in (baeck_an, belyaev_lebedev)]


@pytest.mark.parametrize("gap, curvature", [(0.0, 1.0), (1.0, 0.0), (1.0, -1.0), (0.0, 0.0)])
def test_gap_formulas_have_finite_derivatives(gap, curvature):
    for f in FORMULAS:
        value, slopes = f(gap, curvature)
        assert np.isfinite([value, *slopes]).all()
    assert float(FORMULAS[1](0.0, 1.0)[0]) == 1.0  # through an intersection every trajectory hops


# ------------------------------------------------------------------------------------------ bad input


def test_complex_where_real_is_needed():
    R = jnp.asarray([0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match="branching_plane needs a real symmetric diabatic matrix, got complex128"):
        branching_plane(adiabatic(spin_in_field, R), 0, 1)
    with pytest.raises(ValueError, match="second_order_couplings needs a real"):
        second_order_couplings(spin_in_field, R)


def test_models_that_return_nonsense():
    with pytest.raises(ValueError, match=r"square matrix \(S, S\), got shape \(2, 3\)"):
        adiabatic(lambda R: jnp.zeros((2, 3)) * R[0], jnp.zeros(1))
    with pytest.raises(ValueError, match="real or complex matrix, got int"):
        adiabatic(lambda R: jnp.zeros((2, 2), jnp.int32), jnp.zeros(1))
    with pytest.raises(ValueError, match="two different states"):
        branching_plane(adiabatic(JahnTeller(), jnp.ones(2)), 1, 1)
