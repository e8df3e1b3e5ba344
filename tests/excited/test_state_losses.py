"""Losses of several states: no dependence on signs, the cone at a seam, finite values and derivatives at degeneracies."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bpjax.excited.state_losses import StateLabels, StatesLoss, cone_difference, pair_signs, sign_patterns, states_loss
from bpjax.excited.states_data import pairs_of

LOSS = StatesLoss(dipoles=0.1)

evaluate = jax.jit(states_loss, static_argnums=0)


def random_labels(seed, S=3, C=18, width=1.0):
    rng = np.random.default_rng(seed)
    mu = rng.normal(size=(S, S, 3))
    return StateLabels(
        jnp.asarray(np.sort(3 * rng.normal(size=S))),
        jnp.asarray(width * rng.normal(size=(S, C))),
        jnp.asarray(width * rng.normal(size=(len(pairs_of(S)), C))),
        jnp.asarray(mu + np.swapaxes(mu, 0, 1)),
    )


def turned(labels, signs):
    """The labels with other signs of the states."""
    s = np.asarray(signs, float)
    i, j = np.triu_indices(len(s), 1)
    return labels._replace(
        couplings=labels.couplings * (s[i] * s[j])[:, None],
        dipoles=labels.dipoles * (s[:, None] * s[None, :])[:, :, None],
    )


@pytest.mark.parametrize("compare", ["signs", "dyads"])
@pytest.mark.parametrize("S", [2, 3, 4])
def test_signs_of_states_change_nothing(compare, S):
    loss = replace(LOSS, compare=compare)
    found, wanted = random_labels(0, S), random_labels(1, S)
    value = partial(evaluate, loss)
    expected = value(found, wanted)
    rng = np.random.default_rng(2)
    for _ in range(6):
        a, b = rng.choice([-1, 1], size=(2, S))
        np.testing.assert_allclose(value(turned(found, a), turned(wanted, b)), expected, rtol=1e-13)
        np.testing.assert_allclose(value(turned(found, a), found), 0, atol=1e-9)


def test_signs_of_single_pairs_do_change_something():
    """The product h01 h12 h20 has no sign: turning one coupling alone is an error, but not for dyads."""
    wanted = random_labels(3)
    found = wanted._replace(couplings=wanted.couplings.at[0].multiply(-1))
    assert evaluate(StatesLoss(seam=0.0), found, wanted) > 1
    np.testing.assert_allclose(evaluate(StatesLoss(seam=0.0, compare="dyads"), found, wanted), 0, atol=1e-9)


def test_patterns():
    assert sign_patterns(3).tolist() == [[1, 1, 1], [1, 1, -1], [1, -1, 1], [1, -1, -1]]
    assert (np.prod(pair_signs(3), axis=1) == 1).all()
    assert len(sign_patterns(5)) == 16 and pair_signs(1).shape == (1, 0)


def test_mean_of_squares_by_hand():
    wanted = StateLabels(jnp.array([0.0, 4.0]), jnp.zeros((2, 3)), jnp.array([[0.0, 0.0, 2.0]]), None)
    found = StateLabels(jnp.array([0.3, 4.0]), jnp.zeros((2, 3)).at[1, 0].set(0.4), jnp.array([[0.0, 0.0, -1.4]]), None)
    loss = StatesLoss(energies=0.1, gradients=0.2, couplings=0.3, high=None, seam=0.0)
    expected = 3**2 / 2 + 2**2 / 6 + 2**2 / 3
    np.testing.assert_allclose(evaluate(loss, found, wanted), expected, rtol=1e-12)
    high = replace(loss, high=4.0, couplings=None)  # the upper state has half the weight in each error
    np.testing.assert_allclose(evaluate(high, found, wanted), 3**2 / 2 + 2**2 / 6 / 4, rtol=1e-12)
    weighted = replace(loss, couplings=None, state_weights=(1.0, 3.0))
    np.testing.assert_allclose(evaluate(weighted, found, wanted), 0.5 * 3**2 / 2 + 1.5 * 2**2 / 6, rtol=1e-12)


def test_small_errors_count_alike_in_both_comparisons():
    """For errors perpendicular to large couplings."""
    wanted = StateLabels(jnp.array([0.0, 4.0]), None, 5.0 * jnp.eye(18)[:1], None)
    found = wanted._replace(couplings=wanted.couplings.at[0, 1].add(1e-3))
    one, other = (
        evaluate(StatesLoss(compare=compare, gradients=None, couplings=1e-2), found, wanted)
        for compare in ("signs", "dyads")
    )
    np.testing.assert_allclose(one, other, rtol=2e-3)


def test_cone_difference_is_the_smallest_over_rotations():
    g, h, g0, h0 = np.random.default_rng(4).normal(size=(4, 7))
    phi = np.linspace(0, 2 * np.pi, 20001)[:, None]
    values = [
        ((g * np.cos(phi) + s * h * np.sin(phi) - g0) ** 2 + (s * h * np.cos(phi) - g * np.sin(phi) - h0) ** 2).sum(
            axis=1
        )
        for s in (1, -1)
    ]
    np.testing.assert_allclose(cone_difference(*map(jnp.asarray, (g, h, g0, h0))), np.min(values), rtol=1e-6)


def test_at_a_seam_a_mixture_of_the_two_states_is_no_error():
    loss = StatesLoss()
    wanted = random_labels(5, S=2)._replace(energies=jnp.array([1.0, 1.0]), dipoles=None)
    G, h = wanted.gradients, wanted.couplings[0]
    g, s = 0.5 * (G[1] - G[0]), 0.5 * (G[0] + G[1])
    for phi in (0.0, 0.7, 2.5):
        g2, h2 = g * np.cos(phi) + h * np.sin(phi), h * np.cos(phi) - g * np.sin(phi)
        found = wanted._replace(gradients=jnp.stack([s - g2, s + g2]), couplings=h2[None])
        np.testing.assert_allclose(evaluate(loss, found, wanted), 0, atol=1e-12)
    apart = wanted._replace(energies=jnp.array([1.0, 6.0]))
    assert evaluate(loss, found._replace(energies=apart.energies), apart) > 1


@pytest.mark.parametrize("compare", ["signs", "dyads"])
def test_finite_where_everything_is_zero_or_equal(compare):
    loss = replace(LOSS, compare=compare)
    zero = StateLabels(jnp.zeros(3), jnp.zeros((3, 18)), jnp.zeros((3, 18)), jnp.zeros((3, 3, 3)))
    for found, wanted in ((zero, zero), (zero, random_labels(6)), (random_labels(6), zero), (random_labels(7),) * 2):
        value, slope = jax.jit(jax.value_and_grad(partial(states_loss, loss)))(found, wanted)
        assert np.isfinite(value)
        assert all(np.isfinite(a).all() for a in jax.tree.leaves(slope))


def test_missing_labels_contribute_nothing():
    found, wanted = random_labels(8), random_labels(9)
    bare = wanted._replace(gradients=None, couplings=None, dipoles=None)
    only = StatesLoss(gradients=None, couplings=None)
    np.testing.assert_allclose(evaluate(LOSS, found, bare), evaluate(only, found, wanted), rtol=1e-14)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"energies": -1.0}, "energies=-1.0"),
        ({"energies": None, "gradients": None, "couplings": None}, "nothing to fit"),
        ({"compare": "phases"}, "allowed are signs, dyads"),
        ({"state_weights": (0.0, 0.0)}, "not all 0"),
        ({"seam": -0.1}, "seam=-0.1"),
        ({"high": 0.0}, "high=0.0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        StatesLoss(**options)
