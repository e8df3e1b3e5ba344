"""Scaling of features."""

import jax.numpy as jnp
import numpy as np
import pytest

from bpjax.networks.scaling import FLOOR, fit_scaling, init_scaling, scaled

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
        x = np.asarray(scaled(scaling, ELEMENTS, jnp.asarray(G[species == s], jnp.float32)))[:, s, :3]
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


def test_each_element_has_its_own_in_the_order_of_species(strict_promotion):
    scaling = {e: {"mean": jnp.full(2, 10.0 * n), "scale": jnp.full(2, n + 1.0)} for n, e in enumerate(ELEMENTS)}
    x = scaled(dict(sorted(scaling.items())), ELEMENTS, jnp.full(2, 100.0))
    np.testing.assert_array_equal(x, [[100, 100], [180, 180], [240, 240]])
    batch = scaled(scaling, ELEMENTS, jnp.full((4, 2), 100.0))
    np.testing.assert_array_equal(batch, np.broadcast_to(x, (4, 3, 2)))


def test_identity(strict_promotion):
    G = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)))
    scaling = init_scaling(ELEMENTS, 3, np.float64)
    np.testing.assert_array_equal(scaled(scaling, ELEMENTS, G), np.repeat(G[:, None], 3, axis=1))
