"""Phases along paths and around loops: invariance, closed forms, an ab initio intersection."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bpjax import datasets
from bpjax.excited.adiabatic import adiabatic, energies
from bpjax.excited.couplings import derivative_couplings
from bpjax.excited.eigen import eigh
from bpjax.excited.gauge import (
    aligned,
    berry_connection,
    berry_curvature,
    berry_phase_integral,
    berry_phases,
    diabatising_rotations,
    fixed_gauge,
    followed,
    followed_signs,
    loop_integral,
    matched,
    parallel_transport,
    wilson_loop,
)
from bpjax.excited.models import JahnTeller
from tests.excited.cases import circle, random_model, spin_in_field

jit_matched, jit_transport = jax.jit(matched), jax.jit(parallel_transport)


@jax.jit
def phases_and_loop(states):
    """By overlaps of both kinds: phases of each state, and of the lowest alone."""
    return berry_phases(states), wilson_loop(states[:, :, :1])


def along(model, path):
    """Energies, followed states and couplings in their phases."""
    result = jax.vmap(lambda R: adiabatic(model, R))(path)
    states = followed(result.states)
    d = jax.vmap(derivative_couplings)(result)
    phase = jnp.sum(result.states.conj() * states, axis=1)
    turned = phase.conj()[:, :, None, None] * d * phase[:, None, :, None]
    return result.energies, states, turned


LOOPS = {
    "around": (JahnTeller(), (0.0, 0.0), 0.5, np.pi),
    "around, off centre": (JahnTeller(), (0.2, 0.1), 1.0, np.pi),
    "beside": (JahnTeller(), (2.0, 0.0), 1.0, 0.0),
    "around all four": (JahnTeller(quadratic=1.0), (0.0, 0.0), 4.0, 2 * np.pi),
    "around one of four": (JahnTeller(quadratic=1.0), (0.0, 0.0), 0.5, np.pi),
}
"""A model, centre and radius of a circle, mixing angle around it. With g = 1 there are intersections at the origin
(winding +1) and,
of winding -1, at three points at distance 2: 1 - 3 half turns around all of them."""


@pytest.mark.parametrize("name", LOOPS)
def test_loops(name):
    model, centre, radius, angle = LOOPS[name]
    path = circle(centre, radius, 128)

    @jax.jit
    def run(path):
        _, states, d = along(model, path)
        return *phases_and_loop(states), loop_integral(path, d[:, 0, 1])

    gamma, W, integral = run(path)
    expected = angle % (2 * np.pi)
    np.testing.assert_allclose(gamma, expected, atol=1e-10)
    np.testing.assert_allclose(np.abs(integral), angle, atol=1e-10)
    np.testing.assert_allclose(W, [[np.cos(expected)]], atol=1e-12)


def test_loops_do_not_depend_on_phases():
    rng = np.random.default_rng(4)
    for model, path, real in (
        (JahnTeller(), circle((0, 0), 1.0, 12), True),
        (spin_in_field, jnp.asarray(np.c_[circle((0, 0), 0.6, 40), np.full(40, 0.8)]), False),
    ):
        states = np.asarray(jax.jit(jax.vmap(lambda R, model=model: eigh(model(R))[1]))(path))
        theta = rng.uniform(0, 2 * np.pi, size=(len(path), 1, 2))
        other = states * (np.sign(np.cos(theta)) if real else np.exp(1j * theta))
        (gamma, W), (other_gamma, other_W) = phases_and_loop(states), phases_and_loop(other)
        np.testing.assert_allclose(np.exp(1j * np.asarray(other_gamma - gamma)), 1, atol=1e-13)
        np.testing.assert_allclose(other_W, W, atol=1e-13)


def test_spin_in_a_field_gains_half_the_solid_angle():
    """By overlaps, by the connection, and as flux of the curvature: minus and plus half the solid angle."""
    theta, K = 0.6, 400
    states_fn = lambda R: fixed_gauge(eigh(spin_in_field(R))[1], 1)  # noqa: E731

    def path(t):
        phi = 2 * np.pi * t
        return 1.3 * jnp.stack([jnp.sin(theta) * jnp.cos(phi), jnp.sin(theta) * jnp.sin(phi), jnp.cos(theta) + 0 * phi])

    half = np.pi * (1 - np.cos(theta))
    integral = jax.jit(lambda: berry_phase_integral(states_fn, path, 16))()
    turn = np.exp(1j * np.asarray(integral)) / np.exp(1j * np.array([half, -half]))
    np.testing.assert_allclose(turn, 1, atol=1e-12)
    on_loop = jax.vmap(lambda t: eigh(spin_in_field(path(t)))[1])
    by_overlaps = jax.jit(lambda t: berry_phases(on_loop(t)))(jnp.asarray(np.arange(K) / K))
    np.testing.assert_allclose(by_overlaps, [half, -half], atol=2e-5)  # second order in the step

    R = jax.jit(path)(0.2)
    curvature = np.asarray(jax.jit(lambda R: berry_curvature(adiabatic(spin_in_field, R)))(R))
    vector = curvature[:, [1, 2, 0], [2, 0, 1]]
    monopole = np.asarray(R) / (2 * np.linalg.norm(R) ** 3)
    np.testing.assert_allclose(vector, [monopole, -monopole], atol=1e-14)
    curl = jax.jit(jax.jacfwd(lambda R: berry_connection(states_fn, R)))(R)
    curl = np.asarray(curl)
    np.testing.assert_allclose(np.swapaxes(curl, 1, 2) - curl, curvature, atol=1e-13)


def test_parallel_transport_has_no_connection():
    A = jax.jit(lambda R: berry_connection(lambda R: eigh(spin_in_field(R))[1], R))(jnp.asarray([0.3, 0.2, 0.5]))
    np.testing.assert_allclose(A, 0, atol=1e-15)


def test_trivial_crossing_is_followed():
    """Two states cross without coupling, a third looks on: character decides, not the order by energy."""
    vectors = jax.jit(lambda H: eigh(H)[1])
    before, after = vectors(np.diag([0.0, 0.1, 1.0])), -vectors(np.diag([0.1, 0.0, 1.0]))
    states, order = jit_matched(after, before)
    assert order.tolist() == [1, 0, 2]
    np.testing.assert_allclose(states, before, atol=1e-15)
    kept = aligned(after, before)  # without reordering: overlaps are zero, phases stay
    np.testing.assert_array_equal(kept[:, :2], after[:, :2])


def test_matched_is_the_best_assignment():
    import scipy.optimize

    rng = np.random.default_rng(3)
    for _ in range(10):
        U, V = (np.linalg.qr(rng.normal(size=(5, 5)) + 1j * rng.normal(size=(5, 5)))[0] for _ in range(2))
        states, order = jit_matched(jnp.asarray(U), jnp.asarray(V))
        _, expected = scipy.optimize.linear_sum_assignment(-(np.abs(V.conj().T @ U) ** 2))
        assert order.tolist() == expected.tolist()
        overlap = np.diagonal(V.conj().T @ np.asarray(states))
        np.testing.assert_allclose(overlap.imag, 0, atol=1e-14)
        assert (overlap.real > 0).all()


def test_parallel_transport_of_a_degenerate_group():
    rng = np.random.default_rng(5)
    U = np.linalg.qr(rng.normal(size=(5, 5)) + 1j * rng.normal(size=(5, 5)))[0][:, :2]
    mix = np.linalg.qr(rng.normal(size=(2, 2)) + 1j * rng.normal(size=(2, 2)))[0]
    back = jit_transport(jnp.asarray(U @ mix), jnp.asarray(U))
    np.testing.assert_allclose(back, U, atol=1e-14)
    tilted = np.linalg.qr(U + 0.2 * rng.normal(size=(5, 2)))[0]
    overlap = U.conj().T @ np.asarray(jit_transport(jnp.asarray(tilted), jnp.asarray(U)))
    np.testing.assert_allclose(overlap, overlap.conj().T, atol=1e-14)
    assert (np.linalg.eigvalsh(overlap) > 0).all()
    loop = np.stack([np.linalg.qr(U + 0.3 * rng.normal(size=(5, 2)))[0] for _ in range(6)])
    mixed = loop @ np.stack([np.linalg.qr(rng.normal(size=(2, 2)))[0] for _ in range(6)])
    loop_of = jax.jit(wilson_loop)
    phases = [np.sort(np.angle(np.linalg.eigvals(loop_of(jnp.asarray(x))))) for x in (loop, mixed)]
    np.testing.assert_allclose(phases[0], phases[1], atol=1e-12)


def test_diabatising_rotations_undo_the_couplings():
    """Along a path of three states they restore the smooth diabatic matrix, up to the constant rotation at the start."""
    model = random_model(2, 3, 2)
    t = np.linspace(0, 1, 2001)
    path = jnp.asarray(np.stack([0.5 * t, np.sin(2 * t)], axis=1))
    E, states, d = jax.jit(lambda path: along(model, path))(path)
    T = jax.jit(diabatising_rotations)(path, d)
    E, states, T = np.asarray(E), np.asarray(states), np.asarray(T)
    H = np.einsum("kia,ki,kib->kab", T, E, T)
    expected = np.einsum("ai,kab,bj->kij", states[0], jax.jit(jax.vmap(model))(path), states[0])
    np.testing.assert_allclose(H, expected, atol=5e-6)  # second order in the step
    np.testing.assert_allclose(np.swapaxes(T, 1, 2) @ T, np.broadcast_to(np.eye(3), T.shape), atol=1e-12)


def test_diabatising_rotations_around_a_cone_change_the_sign():

    @jax.jit
    def rotations(path):
        _, _, d = along(JahnTeller(), path)
        # After one turn the followed states have the other sign, both: the coupling is the same.
        return diabatising_rotations(jnp.concatenate([path, path[:1]]), jnp.concatenate([d, d[:1]]))

    T = rotations(circle((0, 0), 1.0, 400))
    np.testing.assert_allclose(T[-1], -np.eye(2), atol=1e-3)


def test_ab_initio_intersection():
    """CH2NH2+, SA-CASSCF: couplings with random signs on two loops around the S1/S0 intersection."""
    data = np.load(datasets.path("methaniminium") / "ch2nh2_sa3cas43_631gs.npz")
    integral = jax.jit(lambda R, d: loop_integral(R, followed_signs(d)))
    for tag, tolerance in (("loop0.02", 2e-5), ("loop0.10", 5e-4)):
        rows = np.flatnonzero(np.char.startswith(data["tag"].astype(str), tag))
        assert len(rows) == 12
        angle = float(integral(data["R"][rows], data["d_etf"][rows, 0]))
        assert abs(angle) / np.pi == pytest.approx(1, abs=tolerance)


def test_cone_of_the_gap():
    E = jax.jit(jax.vmap(lambda R: energies(JahnTeller(coupling=0.7), R)))(circle((0, 0), 0.3, 7))
    np.testing.assert_allclose(E[:, 1] - E[:, 0], 2 * 0.7 * 0.3, rtol=1e-14)
