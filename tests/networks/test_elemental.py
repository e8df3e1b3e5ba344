"""Per-element networks against the same written out in numpy."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf, expit

from bpjax.networks.elemental import (
    ACTIVATIONS,
    MLP,
    NetworkChoices,
    PerElement,
    apply_network,
    init_networks,
    mlp_of,
    options_of,
    precondition,
)
from bpjax.networks.kernel import SparseGP
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


apply = jax.jit(apply_network, static_argnums=0)


def randomised(params, seed=0):
    """Parameters without zeros, on all leaves; the order of a pytree's dicts is that of sorted keys."""
    leaves, structure = jax.tree.flatten(params)
    random = np.random.default_rng(seed)
    return jax.tree.unflatten(structure, [jnp.asarray(random.normal(size=p.shape), p.dtype) for p in leaves])


def random_params(options, elements, size):
    """As those of a start in double precision, without the programs that draw it."""
    start = lambda: init_networks(options, elements, size, jax.random.key(0), jnp.float64)  # noqa: E731
    return randomised(jax.eval_shape(start))


@partial(jax.jit, static_argnums=0)
def all_and_first(options, params, x):
    return apply_network(options, params, x), apply_network(options, params, x[0])


def test_all_activations_are_tested():
    assert set(REFERENCE) == set(ACTIVATIONS)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_against_the_formula(activation):
    for options in (MLP((4, 3), activation), MLP((4, 3), "tanh", output_activation=activation)):
        params = random_params(options, ("Si",), 5)["Si"]
        x = np.random.default_rng(1).normal(size=(7, 5))
        expected = written_out(options, params, x)
        found, one = all_and_first(options, params, x)
        np.testing.assert_allclose(found, expected, rtol=1e-12)  # rounding
        assert one.shape == () and one.dtype == jnp.float64
        np.testing.assert_allclose(one, expected[0], rtol=1e-12)  # rounding


def test_a_layer_may_have_an_activation_of_its_own():
    options = MLP((4, 3, 2), ("tanh", "gaussian", "softplus"), "harmonic")
    params = random_params(options, ("Si",), 5)["Si"]
    x = np.random.default_rng(1).normal(size=5)
    np.testing.assert_allclose(apply(options, params, jnp.asarray(x)), written_out(options, params, x), rtol=1e-12)


def test_elements_may_have_networks_of_their_own():
    options = PerElement((MLP((4,)), MLP((3, 2), "tanh"), MLP((), ())))
    elements = ("O", "H", "C")
    params = random_params(options, elements, 5)
    assert set(params) == set(elements)
    assert params["H"]["hidden_0"]["kernel"].shape == (5, 3) and list(params["C"]) == ["output"]
    x = np.random.default_rng(1).normal(size=5)
    for index, element in enumerate(elements):
        own = options_of(options, index)
        assert own is options.networks[index]
        found = apply(own, params[element], jnp.asarray(x))
        np.testing.assert_allclose(found, written_out(own, params[element], x), rtol=1e-12)
    assert options_of(MLP(), 2) == MLP()
    with pytest.raises(ValueError, match="one for each of O, H, got 3"):
        init_networks(options, ("O", "H"), 5, jax.random.key(0))


def test_without_hidden_layers_it_is_linear():
    options = MLP(())
    params = random_params(options, ("Si",), 3)["Si"]
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


@pytest.fixture(scope="module")
def derivatives():
    """The first three of all activations, at five places: one program."""

    def three(function, x):
        values = []
        for _ in range(3):
            function = jax.grad(function)
            values.append(jax.vmap(function)(x))
        return jnp.stack(values)

    x = jnp.asarray([-30.0, -1.0, 0.0, 1.0, 30.0])
    return jax.jit(lambda x: {name: three(function, x) for name, function in ACTIVATIONS.items()})(x)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_derivatives_are_finite(derivatives, activation):
    assert np.isfinite(derivatives[activation]).all()


@pytest.mark.parametrize(
    "options",
    [
        MLP(),
        MLP((3,), init="nguyen_widrow", skip=True),
        MLP((3, 2), ("tanh", "relu"), "cosine"),
        PerElement((MLP(), MLP((3,)))),
    ],
)
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
        {"init": "widrow"},
    ],
)
def test_options_out_of_range_are_named(options):
    with pytest.raises(ValueError, match=f"MLP {next(iter(options))}="):
        MLP(**options)
    with pytest.raises(ValueError, match="PerElement networks"):
        PerElement(())


def test_skip_adds_a_linear_function_of_the_features():
    plain, options = MLP((4, 3), "tanh", "softplus"), MLP((4, 3), "tanh", "softplus", skip=True)
    start = init_networks(options, ("Si",), 5, jax.random.key(0), jnp.float64)["Si"]
    np.testing.assert_array_equal(start["skip"]["kernel"], np.zeros((5, 1)))
    without = init_networks(plain, ("Si",), 5, jax.random.key(0), jnp.float64)["Si"]
    assert set(start) == {*without, "skip"}
    for layer, values in without.items():  # the other layers start as without
        jax.tree.map(np.testing.assert_array_equal, start[layer], values)
    params = randomised(start)
    assert set(params["skip"]) == {"kernel"}
    x = np.random.default_rng(1).normal(size=(7, 5))
    expected = written_out(plain, params, x) + x @ np.asarray(params["skip"]["kernel"])[:, 0]
    np.testing.assert_allclose(apply(options, params, jnp.asarray(x)), expected, rtol=1e-12)  # rounding
    with pytest.raises(ValueError, match="MLP skip=True"):
        MLP((), skip=True)
    with pytest.raises(ValueError, match="MLP skip=True"):
        mlp_of(PerElement((plain, options)), 1)
    assert mlp_of(PerElement((plain, options)), 0) == plain


@pytest.mark.parametrize(("inputs", "nodes"), [(1, 300), (30, 200)])
@pytest.mark.slow
def test_nguyen_widrow_start(inputs, nodes):
    options = MLP((nodes, 150), "tanh", init="nguyen_widrow")
    params = init_networks(options, ("Si",), inputs, jax.random.key(0), jnp.float64)["Si"]
    for layer, n, H in (("hidden_0", inputs, nodes), ("hidden_1", nodes, 150)):
        beta = 0.7 * H ** (1 / n)
        kernel, bias = np.asarray(params[layer]["kernel"]), np.asarray(params[layer]["bias"])
        assert kernel.shape == (n, H) and bias.shape == (H,)
        np.testing.assert_allclose(np.linalg.norm(kernel, axis=0), beta, rtol=1e-6)  # drawn in single precision
        assert np.abs(bias).max() <= beta * (1 + 1e-6)
        # Uniform: mean 0 -+ beta / sqrt(3 H), mean of squares beta^2 / 3 -+ 2 beta^2 / sqrt(45 H); within four sigma.
        assert abs(bias.mean()) < 4 * beta / np.sqrt(3 * H)
        assert np.mean(bias**2) == pytest.approx(beta**2 / 3, abs=8 * beta**2 / np.sqrt(45 * H))
        assert abs(kernel.mean()) < 4 * beta / np.sqrt(n * kernel.size)
    output = np.asarray(params["output"]["kernel"])
    assert 0.4 < np.abs(output).max() <= 0.5 and np.mean(output**2) == pytest.approx(1 / 12, rel=0.3)
    np.testing.assert_array_equal(params["output"]["bias"], 0)


def test_nguyen_widrow_shares_out_the_inputs():
    # What the start is for: with one input in [-1, 1], the nodes' centres -b / w lie all over it, and each is about linear
    # (|w x + b| < 1) over 2 / |w| = 2 / (0.7 H) of it.
    params = init_networks(MLP((200,), "tanh", init="nguyen_widrow"), ("Si",), 1, jax.random.key(3), jnp.float64)
    layer = params["Si"]["hidden_0"]
    centres = -np.asarray(layer["bias"]) / np.asarray(layer["kernel"])[0]
    assert np.abs(centres).max() <= 1 + 1e-6
    assert np.histogram(centres, bins=5, range=(-1, 1))[0].min() > 20


OPTIONS = MLP((6, 5), ("tanh", "silu"))


@pytest.fixture(scope="module")
def network():
    """Parameters of `OPTIONS` and some features."""
    params = random_params(OPTIONS, ("Si",), 4)["Si"]
    return params, jnp.asarray(np.random.default_rng(1).normal(size=(7, 4)))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_unit_masks_and_a_single_choice_change_nothing(network, dtype):
    params, x = jax.tree.map(lambda p: p.astype(dtype), network)
    ones = {"hidden_0": jnp.ones(6), "hidden_1": jnp.ones(5)}
    for choices in (NetworkChoices(ones), NetworkChoices({"hidden_1": ones["hidden_1"]}), NetworkChoices()):
        found = apply(OPTIONS, params, x, choices)
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, apply(OPTIONS, params, x))
    found = apply(OPTIONS, params, x, NetworkChoices(activation={"silu": 0.0, "tanh": 1.0}))
    np.testing.assert_array_equal(found, apply(MLP((6, 5), "tanh"), params, x))


def test_masks_make_narrower_networks_in_one_program(network):
    params, x = network
    widths = [(6, 5), (3, 5), (6, 1), (2, 4)]
    masks = {f"hidden_{n}": jnp.asarray([np.arange((6, 5)[n]) < w[n] for w in widths]) for n in range(2)}
    count = 0

    @jax.jit
    def swept(masks):
        nonlocal count
        count += 1
        return jax.vmap(lambda m: apply_network(OPTIONS, params, x, NetworkChoices(m)))(masks)

    found = swept(masks)
    for (first, second), y in zip(widths, found, strict=True):
        narrow = {
            "hidden_0": {"kernel": params["hidden_0"]["kernel"][:, :first], "bias": params["hidden_0"]["bias"][:first]},
            "hidden_1": {
                "kernel": params["hidden_1"]["kernel"][:first, :second],
                "bias": params["hidden_1"]["bias"][:second],
            },
            "output": {"kernel": params["output"]["kernel"][:second], "bias": params["output"]["bias"]},
        }
        np.testing.assert_allclose(
            y, written_out(MLP((first, second), ("tanh", "silu")), narrow, np.asarray(x)), rtol=1e-12
        )
    swept(jax.tree.map(lambda m: m[::-1], masks))
    assert count == 1


def test_weights_of_masked_nodes_do_not_learn(network):
    params, x = network
    choices = NetworkChoices({"hidden_0": jnp.asarray([1.0, 1.0, 0.0, 1.0, 1.0, 0.0])})
    g = jax.jit(jax.grad(lambda p: jnp.sum(apply_network(OPTIONS, p, x, choices) ** 2)))(params)
    masked = np.array([2, 5])
    for part in (g["hidden_0"]["kernel"].T, g["hidden_0"]["bias"], g["hidden_1"]["kernel"]):
        np.testing.assert_array_equal(part[masked], 0)
        assert np.abs(np.delete(np.asarray(part), masked, axis=0)).min() > 0


def test_mixture_of_activations(network):
    params, x = network
    mixture = ("tanh", "gelu", "cosine")
    a = np.array([0.5, -0.2, 1.3])
    choices = NetworkChoices(activation=dict(zip(mixture, a, strict=True)))
    found = jax.jit(lambda choices: apply_network(OPTIONS, params, x, choices))(choices)
    y = np.asarray(x)
    for layer in ("hidden_0", "hidden_1"):
        z = y @ np.asarray(params[layer]["kernel"]) + np.asarray(params[layer]["bias"])
        y = sum(a_k * REFERENCE[name](z) for a_k, name in zip(a, mixture, strict=True))
    y = (y @ np.asarray(params["output"]["kernel"]) + np.asarray(params["output"]["bias"]))[:, 0]
    np.testing.assert_allclose(found, y, rtol=1e-12)  # rounding


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        (NetworkChoices({"hidden_2": np.ones(5)}), "hidden_2"),
        (NetworkChoices({"hidden_0": np.ones(5)}), "hidden_0"),
        (NetworkChoices({"output": np.ones(1)}), "output"),
        (NetworkChoices(activation={}), "activation"),
        (NetworkChoices(activation={"step": 1.0}), "step.*allowed are tanh"),
    ],
)
def test_choices_that_do_not_fit_are_named(network, choices, message):
    params, x = network
    with pytest.raises(ValueError, match=message):
        apply_network(OPTIONS, params, x, choices)
    with pytest.raises(ValueError, match="feed-forward"):
        apply_network(SparseGP(points=3), params, x, NetworkChoices())


@pytest.mark.parametrize("options", [OPTIONS, MLP((6, 5), "tanh", skip=True), MLP(())], ids=["plain", "skip", "linear"])
@pytest.mark.slow
def test_precondition(options):
    params = random_params(options, ("Si",), 4)["Si"]
    X = jnp.asarray(np.random.default_rng(2).normal(size=(50, 4)))
    before = np.asarray(apply(options, params, X))
    found = precondition(options, params, X)
    after = np.asarray(apply(options, found, X))
    # Rounding of 50 terms of order 1. The outputs are the old ones on another scale.
    np.testing.assert_allclose(after, (before - before.mean()) / before.std(), rtol=0, atol=1e-13)
    assert abs(after.mean()) < 1e-14 and after.std() == pytest.approx(1.0, abs=1e-14)
    assert set(found) == set(params)
    for layer in set(params) - {"output", "skip"}:
        jax.tree.map(np.testing.assert_array_equal, found[layer], params[layer])
    same = precondition(options, params, jnp.broadcast_to(X[:1], (9, 4)))  # no spread: only shifted
    jax.tree.map(np.testing.assert_array_equal, same["output"]["kernel"], params["output"]["kernel"])
    assert abs(float(apply(options, same, X[0]))) < 1e-13
    with pytest.raises(ValueError, match="at least one atom"):
        precondition(options, params, X[:0])
    for other in (SparseGP(points=3), MLP((6, 5), output_activation="tanh")):
        with pytest.raises(ValueError, match="precondition: only"):
            precondition(other, params, X)
