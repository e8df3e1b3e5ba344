"""Search for minimum-energy intersections, against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bpjax.excited.intersections import IntersectionOptions, minimum_energy_intersection
from bpjax.excited.lvc import LinearVibronic
from bpjax.excited.models import JahnTeller
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
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
