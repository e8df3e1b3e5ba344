"""Scaling of features."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bpjax.networks.scaling import FLOOR, fit_scaling, init_scaling, outside, scaled

ELEMENTS = ("Si", "C", "H")


@pytest.fixture(scope="module")
def data():
    random = np.random.default_rng(0)
    species = random.integers(0, 2, 400)  # no H
    G = random.normal(size=(400, 5)) * [1, 10, 0.1, 1e-6, 0] + [0, 100, 3, 1, 7]
    G[species == 1] *= 3
    return G, species


def test_zero_mean_and_unit_spread(data, strict_promotion):
    G, species = data
    scaling = fit_scaling(G, species, ELEMENTS)
    for s, element in enumerate(ELEMENTS[:2]):
        own = jnp.asarray(G[species == s], jnp.float32)
        x = np.asarray(jax.vmap(lambda g, scaling=scaling[element]: scaled(scaling, g))(own))[:, :3]
        # float32: 100 +- 10 has rounding of 1e-6 of its spread.
        np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-5, err_msg=element)
        np.testing.assert_allclose(x.std(axis=0), 1, atol=1e-5, err_msg=element)


def test_features_that_hardly_vary_are_not_blown_up(data):
    G, species = data
    scaling = fit_scaling(G, species, ELEMENTS)
    for s, element in enumerate(ELEMENTS[:2]):
        spread = G[species == s].std(axis=0)
        assert spread[3] < FLOOR * np.median(spread[:4])
        largest = 1 / (FLOOR * spread[3:].max())
        scale = np.asarray(scaling[element]["scale"])
        assert np.isfinite(scale).all() and scale.max() < largest
        assert scale[3] == scale[4]


def test_rounding_is_not_a_spread():
    # All atoms of a perfect crystal are alike, but their features differ in the last digits.
    G = np.array([[1.0, 20.0, 0.3]]) * (1 + 1e-15 * np.arange(8)[:, None])
    for noisy in (G, G.astype(np.float32) * (1 + 2e-7 * (np.arange(8, dtype=np.float32) % 2))[:, None]):
        scale = np.asarray(fit_scaling(noisy, np.zeros(8, int), ("Si",))["Si"]["scale"])
        assert (scale <= 1 / FLOOR * (1 + 1e-6)).all(), scale


def test_one_atom_and_no_atom(data):
    G, _ = data
    scaling = fit_scaling(G[:1], np.zeros(1, int), ELEMENTS)
    assert np.isfinite(scaling["Si"]["scale"]).all()
    np.testing.assert_allclose(scaling["Si"]["mean"], G[0], rtol=1e-6)  # float32
    for element in ("C", "H"):
        np.testing.assert_array_equal(scaling[element]["mean"], 0)
        np.testing.assert_array_equal(scaling[element]["scale"], 1)


def test_identity(strict_promotion):
    G = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)))
    scaling = init_scaling(ELEMENTS, 3, np.float64)
    for element in ELEMENTS:
        np.testing.assert_array_equal(scaled(scaling[element], G[0]), G[0])
        assert not outside(scaling[element], 1e300 * G[0]).any()


def test_range_of_the_data(data):
    G, species = data
    scaling = fit_scaling(G, species, ELEMENTS)
    for s, element in enumerate(ELEMENTS[:2]):
        own = jnp.asarray(G[species == s], jnp.float32)
        inside = jax.vmap(lambda g, scaling=scaling[element]: outside(scaling, g))(own)
        assert not inside.any()
        for column in range(3):
            for extreme, sign in ((own.max(axis=0), 1), (own.min(axis=0), -1)):
                beyond = own[0].at[column].set(extreme[column] + sign * 1e-3 * jnp.abs(extreme[column]))
                assert np.flatnonzero(outside(scaling[element], beyond)).tolist() == [column]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_tolerance_of_the_range(dtype):
    scaling = {"min": [-2.0], "max": [3.0], "scale": [10.0]}
    scaling = {name: jnp.asarray(value, dtype) for name, value in scaling.items()}
    # n2p2: 1000 units of rounding, absolute; float32: 16 units of the limit and 1e-4 of the spread, 0.1.
    low, high = (2.3e-13, 2.3e-13) if dtype == "float64" else (1.5e-5, 1.7e-5)
    for value, expected in ((-2.0, False), (3.0, False), (-2 - low, True), (3 + high, True)):
        assert bool(outside(scaling, jnp.asarray([value], dtype))[0]) is expected
    for value in (-2 - 0.7 * low, 3 + 0.7 * high):
        assert not outside(scaling, jnp.asarray([value], dtype))[0]
