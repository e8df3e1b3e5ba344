"""Per-element networks against the same written out in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf, expit

from bpjax.networks.elemental import ACTIVATIONS, MLP, apply_networks, init_networks

pytestmark = pytest.mark.usefixtures("strict_promotion")

REFERENCE = {
    "tanh": np.tanh,
    "silu": lambda x: x * expit(x),
    "gelu": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "softplus": lambda x: np.logaddexp(x, 0),
    "logistic": expit,
}


def written_out(options, params, x):
    for layer in range(len(options.hidden)):
        p = params[f"hidden_{layer}"]
        x = REFERENCE[options.activation](x @ np.asarray(p["kernel"]) + np.asarray(p["bias"]))
    return (x @ np.asarray(params["output"]["kernel"]) + np.asarray(params["output"]["bias"]))[..., 0]


def randomised(params, seed=0):
    """Parameters without zeros, on all leaves; the order of a pytree's dicts is that of sorted keys."""
    leaves, structure = jax.tree.flatten(params)
    random = np.random.default_rng(seed)
    return jax.tree.unflatten(structure, [jnp.asarray(random.normal(size=p.shape), p.dtype) for p in leaves])


def test_all_activations_are_tested():
    assert set(REFERENCE) == set(ACTIVATIONS)
    assert abs(erf(1.0) - 0.8427) < 1e-4  # gelu is the tanh form, up to 1e-3 from the one with erf


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("elements", [("Si", "C"), ("H", "O", "C"), ("Si",)], ids="-".join)
def test_each_atom_goes_through_the_network_of_its_element(activation, elements):
    options = MLP((4, 3), activation)
    params = randomised(init_networks(options, elements, 5, jax.random.key(0), jnp.float64))
    G = np.random.default_rng(1).normal(size=(len(elements), 5))
    for species, element in enumerate(elements):
        found = apply_networks(options, params, elements, jnp.asarray(G), jnp.asarray(species))
        assert found.shape == ()
        np.testing.assert_allclose(found, written_out(options, params[element], G[species]), rtol=1e-13)  # rounding


def test_batch():
    options, elements = MLP((4,)), ("O", "H")
    params = randomised(init_networks(options, elements, 5, jax.random.key(0), jnp.float64))
    G = np.random.default_rng(1).normal(size=(7, 2, 5))
    species = np.arange(7) % 2
    found = apply_networks(options, params, elements, jnp.asarray(G), jnp.asarray(species))
    expected = [written_out(options, params[elements[s]], G[n, s]) for n, s in enumerate(species)]
    np.testing.assert_allclose(found, expected, rtol=1e-13)  # rounding


def test_without_hidden_layers_it_is_linear():
    options = MLP(())
    params = randomised(init_networks(options, ("Si",), 3, jax.random.key(0), jnp.float64))
    p = params["Si"]["output"]
    found = apply_networks(options, params, ("Si",), jnp.asarray([[1.0, 2.0, 3.0]]), jnp.asarray(0))
    np.testing.assert_allclose(found, np.array([1.0, 2, 3]) @ p["kernel"][:, 0] + p["bias"][0], rtol=1e-14)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_start(dtype):
    params = init_networks(MLP((50, 40)), ("Si", "C"), 30, jax.random.key(1), dtype)
    assert list(params) == ["Si", "C"]
    assert {p.dtype for p in jax.tree.leaves(params)} == {jnp.dtype(dtype)}
    kernel = params["Si"]["hidden_0"]["kernel"]
    assert kernel.shape == (30, 50) and params["C"]["hidden_1"]["kernel"].shape == (50, 40)
    assert float(jnp.std(kernel)) == pytest.approx(30**-0.5, rel=0.1)  # LeCun: variance 1 / inputs
    assert not np.array_equal(kernel, params["C"]["hidden_0"]["kernel"])
    np.testing.assert_array_equal(params["Si"]["hidden_0"]["bias"], 0)


@pytest.mark.parametrize("options", [{"hidden": (4, 0)}, {"hidden": (-1,)}, {"activation": "relu"}])
def test_options_out_of_range_are_named(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        MLP(**options)
