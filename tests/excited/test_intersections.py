"""Search for minimum-energy intersections, against closed forms."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bpjax import datasets
from bpjax.excited.intersections import IntersectionOptions, minimum_energy_intersection
from bpjax.excited.lvc import LinearVibronic
from bpjax.excited.models import JahnTeller
from bpjax.excited.states_data import METHANIMINIUM, read_states
from bpjax.excited.states_store import load_states
from bpjax.units import BOHR, HARTREE
from tests.excited.cases import random_model, spin_in_field


def linear_two_state(seed, modes=5):
    """H = w Q^2/2 + E_i + k_i Q on the diagonal, l Q off it."""
    rng = np.random.default_rng(seed)
    w, E = rng.uniform(0.5, 2.0, modes), np.array([0.0, 1.5])
    k, l = rng.normal(size=(2, modes)), rng.normal(size=modes)

    def model(Q):
        mean = 0.5 * jnp.sum(w * Q * Q)
        a, b, c = mean + E[0] + k[0] @ Q, mean + E[1] + k[1] @ Q, l @ Q
        return jnp.stack([jnp.stack([a, c]), jnp.stack([c, b])])

    # Lagrange: minimise the mean of the diagonal with equal diagonal and zero coupling, both linear.
    A, rhs = np.stack([k[1] - k[0], l]), np.array([-1.5, 0.0])
    s = 0.5 * (k[0] + k[1])
    K = np.block([[np.diag(w), A.T], [A, np.zeros((2, 2))]])
    Q = np.linalg.solve(K, np.concatenate([-s, rhs]))[:modes]
    return model, Q


@pytest.mark.parametrize("seed", range(3))
def test_linear_model_in_closed_form(seed):
    model, expected = linear_two_state(seed)
    options = IntersectionOptions(stride=0.5, stiffness=1.0, slope=1e-7, gap=1e-9)
    starts = jnp.asarray(np.random.default_rng(seed).normal(size=(4, 5)))
    found = jax.jit(jax.vmap(lambda Q: minimum_energy_intersection(model, Q, options=options)))(starts)
    assert found.converged.all()
    np.testing.assert_allclose(found.R, np.broadcast_to(expected, (4, 5)), atol=1e-5)
    np.testing.assert_allclose(np.sum(found.plane.g * found.plane.h, axis=1), 0, atol=1e-9)


def test_jahn_teller_intersection_is_the_origin():
    found = jax.jit(lambda R: minimum_energy_intersection(JahnTeller(), R))(jnp.array([0.4, -0.3]))
    assert found.converged
    np.testing.assert_allclose(found.R, 0, atol=1e-6)
    assert found.energies[1] - found.energies[0] <= 1e-6


def test_start_at_an_exact_degeneracy():
    found = jax.jit(lambda R: minimum_energy_intersection(JahnTeller(), R))(jnp.zeros(2))
    assert found.converged and found.steps == 0
    assert all(np.isfinite(a).all() for a in jax.tree.leaves(found))


def curved_seam(Q, bend=2.0):
    """A seam x = bend z^2, y = 0 that is lowest at z = 1 and -1, with a saddle at z = 0."""
    x, y, z = Q[0] - bend * Q[2] ** 2, Q[1], Q[2]
    mean = (z**2 - 1) ** 2 + 3.0 * x + 0.3 * x**2
    return mean * jnp.eye(2) + jnp.stack([jnp.stack([-x, y]), jnp.stack([y, x])])


def test_curved_seam_with_a_saddle():
    bends = jnp.array([0.0, 2.0, -5.0])
    options = IntersectionOptions(slope=1e-6, gap=1e-9, stride=0.5)

    def search(bend):
        return minimum_energy_intersection(partial(curved_seam, bend=bend), jnp.array([0.3, 0.2, 0.0]), options=options)

    found = jax.jit(jax.vmap(search))(bends)
    assert found.converged.all() and (found.steps < 60).all()
    np.testing.assert_allclose(found.R[:, :2], np.stack([bends, np.zeros(3)], axis=1), atol=1e-5)
    np.testing.assert_allclose(np.abs(found.R[:, 2]), 1, atol=1e-5)
    np.testing.assert_allclose(found.energies, 0, atol=1e-8)


def test_a_single_start_keeps_its_symmetry():
    options = IntersectionOptions(starts=1)
    found = jax.jit(lambda Q: minimum_energy_intersection(curved_seam, Q, options=options))(jnp.array([0.3, 0.2, 0.0]))
    assert found.converged and found.R[2] == 0
    np.testing.assert_allclose(found.energies, 1, atol=1e-5)


def test_goes_round_what_is_not_finite():
    def model(Q):
        return curved_seam(Q) + jnp.where(Q[1] < -0.01, jnp.nan, 0.0) * jnp.eye(2)

    starts = jnp.array([[1.5, 0.3, 0.9], [1.5, -1.0, 0.9]])
    found = jax.jit(jax.vmap(lambda Q: minimum_energy_intersection(model, Q)))(starts)
    assert found.converged.tolist() == [True, False] and found.steps[1] == 0
    np.testing.assert_allclose(found.R[0], [2, 0, 1], atol=1e-3)


@pytest.mark.slow
def test_shipped_potential_finds_the_intersection_of_the_data():
    folder = datasets.path("methaniminium")
    data = read_states(folder / "ch2nh2_sa3cas43_631gs.npz", METHANIMINIUM)
    model, params = load_states(folder / "diabatic.bpjax")
    twisted = jnp.asarray(data.positions[[n for n, tag in enumerate(data.tags) if tag == "torsion"][-1]])
    found = jax.jit(lambda R: minimum_energy_intersection(partial(model, params), R))(twisted)
    with np.load(folder / "meci01.npz") as file:
        reference, energy = file["R"] * BOHR, file["E"][0] * HARTREE
    assert found.converged
    assert abs(float(found.energies[0]) + model.zero - energy) < 0.05

    def distances(R):
        return np.linalg.norm(R[:, None] - R, axis=2)

    # Hydrogens of one atom, and mirror images, are alike.
    alike = [
        reference[[0, 1, *on_carbon, *on_nitrogen]]
        for on_carbon in ((2, 3), (3, 2))
        for on_nitrogen in ((4, 5), (5, 4))
    ]
    off = [np.abs(distances(np.asarray(found.R)) - distances(R)).max() for R in alike]
    assert min(off) < 0.02


def test_says_that_it_has_not_converged():
    model = random_model(0, 3, 4)
    found = jax.jit(lambda R: minimum_energy_intersection(model, R, 1, 2, IntersectionOptions(steps=2)))(jnp.ones(4))
    assert not found.converged and found.steps == 2


def test_upper_states_of_a_larger_model():
    model = LinearVibronic.build(
        (1.0, 1.0, 1.0), np.diag([-20.0, 0.0, 1.0]), np.array([np.diag([0, 1.0, -1.0]), [[0, 0, 0], [0, 0, 1.0], [0, 1.0, 0]],
        np.diag([0, 0.3, 0.3])]),
    )  # fmt: skip
    options = IntersectionOptions(stride=0.5, stiffness=1.0)
    found = jax.jit(lambda Q: minimum_energy_intersection(model, Q, 1, 2, options))(jnp.array([0.1, 0.2, 0.5]))
    assert found.converged
    np.testing.assert_allclose(found.R, [0.5, 0.0, -0.3], atol=1e-3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: minimum_energy_intersection(JahnTeller(), jnp.zeros(2), 0, 2), "i=0, j=2"),
        (lambda: minimum_energy_intersection(JahnTeller(), jnp.zeros(2), 1, 0), "i=1, j=0"),
        (lambda: minimum_energy_intersection(spin_in_field, jnp.ones(3)), "real symmetric"),
        (lambda: IntersectionOptions(stride=0.0), "stride=0.0"),
        (lambda: IntersectionOptions(steps=0), "steps=0"),
        (lambda: IntersectionOptions(starts=0), "starts=0"),
        (lambda: IntersectionOptions(spread=float("nan")), "spread=nan"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
