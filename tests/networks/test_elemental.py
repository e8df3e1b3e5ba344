"""Per-element networks against the same written out in numpy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf, expit

from bpjax.networks.elemental import ACTIVATIONS, MLP, PerElement, apply_network, init_networks, options_of
from bpjax.spec import from_spec, to_spec

pytestmark = pytest.mark.usefixtures("strict_promotion")

REFERENCE = {
    "tanh": np.tanh,
    "silu": lambda x: x * expit(x),
    "gelu": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "gelu_erf": lambda x: 0.5 * x * (1 + erf(x / np.sqrt(2))),
    "softplus": lambda x: np.logaddexp(x, 0),
    "logistic": expit,
    "reverse_logistic": lambda x: 1 - expit(x),
    "gaussian": lambda x: np.exp(-(x**2) / 2),
    "cosine": np.cos,
    "exponential": lambda x: np.exp(-x),
    "harmonic": np.square,
    "linear": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "celu": lambda x: np.where(x > 0, x, 0.1 * np.expm1(np.minimum(x, 0) / 0.1)),
}


def written_out(options, params, x):
    for layer, activation in enumerate(options.activations):
        p = params[f"hidden_{layer}"]
        x = REFERENCE[activation](x @ np.asarray(p["kernel"]) + np.asarray(p["bias"]))
    x = (x @ np.asarray(params["output"]["kernel"]) + np.asarray(params["output"]["bias"]))[..., 0]
    return REFERENCE[options.output_activation](x)


def randomised(params, seed=0):
    """Parameters without zeros, on all leaves; the order of a pytree's dicts is that of sorted keys."""
    leaves, structure = jax.tree.flatten(params)
    random = np.random.default_rng(seed)
    return jax.tree.unflatten(structure, [jnp.asarray(random.normal(size=p.shape), p.dtype) for p in leaves])


def test_all_activations_are_tested():
    assert set(REFERENCE) == set(ACTIVATIONS)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_against_the_formula(activation):
    for options in (MLP((4, 3), activation), MLP((4, 3), "tanh", output_activation=activation)):
        params = randomised(init_networks(options, ("Si",), 5, jax.random.key(0), jnp.float64))["Si"]
        x = np.random.default_rng(1).normal(size=(7, 5))
        expected = written_out(options, params, x)
        np.testing.assert_allclose(apply_network(options, params, jnp.asarray(x)), expected, rtol=1e-12)  # rounding
        one = apply_network(options, params, jnp.asarray(x[0]))
        assert one.shape == () and one.dtype == jnp.float64
        np.testing.assert_allclose(one, expected[0], rtol=1e-12)  # rounding


def test_a_layer_may_have_an_activation_of_its_own():
    options = MLP((4, 3, 2), ("tanh", "gaussian", "softplus"), "harmonic")
    params = randomised(init_networks(options, ("Si",), 5, jax.random.key(0), jnp.float64))["Si"]
    x = np.random.default_rng(1).normal(size=5)
    np.testing.assert_allclose(
        apply_network(options, params, jnp.asarray(x)), written_out(options, params, x), rtol=1e-12
    )


def test_elements_may_have_networks_of_their_own():
    options = PerElement((MLP((4,)), MLP((3, 2), "tanh"), MLP((), ())))
    elements = ("O", "H", "C")
    params = randomised(init_networks(options, elements, 5, jax.random.key(0), jnp.float64))
    assert set(params) == set(elements)
    assert params["H"]["hidden_0"]["kernel"].shape == (5, 3) and list(params["C"]) == ["output"]
    x = np.random.default_rng(1).normal(size=5)
    for index, element in enumerate(elements):
        own = options_of(options, index)
        assert own is options.networks[index]
        found = apply_network(own, params[element], jnp.asarray(x))
        np.testing.assert_allclose(found, written_out(own, params[element], x), rtol=1e-12)
    assert options_of(MLP(), 2) == MLP()
    with pytest.raises(ValueError, match="one for each of O, H, got 3"):
        init_networks(options, ("O", "H"), 5, jax.random.key(0))


def test_without_hidden_layers_it_is_linear():
    options = MLP(())
    params = randomised(init_networks(options, ("Si",), 3, jax.random.key(0), jnp.float64))["Si"]
    p = params["output"]
    found = apply_network(options, params, jnp.asarray([[1.0, 2.0, 3.0]]))
    np.testing.assert_allclose(found, np.array([1.0, 2, 3]) @ p["kernel"] + p["bias"], rtol=1e-14)


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


def test_celu_has_a_continuous_derivative():
    function = ACTIVATIONS["celu"]
    for x in (-1e-9, 0.0, 1e-9):
        slope = jax.grad(function)(jnp.asarray(x))
        assert float(slope) == pytest.approx(1.0, abs=1e-7)  # exp(-1e-9 / 0.1)
    assert float(function(jnp.asarray(-1e4))) == -0.1  # exp does not overflow on the other side
    assert float(jax.grad(function)(jnp.asarray(1e4))) == 1.0


@pytest.mark.parametrize("x", [-700.0, -40.0, -36.7, -5.0, -0.1, 0.0, 0.1, 5.0, 36.0, 700.0])
def test_softplus_and_the_logistic_pair_are_accurate_everywhere(x):
    exact = {
        "softplus": max(x, 0.0) + math.log1p(math.exp(-abs(x))),
        "logistic": 1 / (1 + math.exp(-x)) if x > 0 else math.exp(x) / (1 + math.exp(x)),
        "reverse_logistic": 1 / (1 + math.exp(x)) if x < 0 else math.exp(-x) / (1 + math.exp(-x)),
    }
    for name, value in exact.items():
        found = float(ACTIVATIONS[name](jnp.asarray(x, jnp.float64)))
        assert found == pytest.approx(value, rel=1e-15, abs=1e-305), name  # XLA flushes subnormal numbers


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("x", [-30.0, -1.0, 0.0, 1.0, 30.0])
def test_derivatives_are_finite(activation, x):
    function = ACTIVATIONS[activation]
    for _ in range(3):
        function = jax.grad(function)
        assert np.isfinite(function(jnp.asarray(x, jnp.float64)))


@pytest.mark.parametrize("options", [MLP(), MLP((3, 2), ("tanh", "relu"), "cosine"), PerElement((MLP(), MLP((3,))))])
def test_options_return_from_plain_values(options):
    assert from_spec(type(options), to_spec(options)) == options
    hash(options)


@pytest.mark.parametrize(
    "options",
    [
        {"hidden": (4, 0)},
        {"hidden": (-1,)},
        {"activation": "step"},
        {"activation": ("tanh", "step")},
        {"activation": ("tanh",)},
        {"output_activation": "step"},
    ],
)
def test_options_out_of_range_are_named(options):
    with pytest.raises(ValueError, match=f"MLP {next(iter(options))}="):
        MLP(**options)
    with pytest.raises(ValueError, match="PerElement networks"):
        PerElement(())
