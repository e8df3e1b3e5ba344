"""The extended Kalman filter against its formula in NumPy, and against what is known of linear models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from bpjax.errors import ConfigError
from bpjax.training.kalman import block_sizes, init_filter, update
from bpjax.training.kalman_options import KalmanFilter
from tests.training.kalman_reference import ReferenceFilter

RUN = jax.jit(update, static_argnums=(0, 1))


def sequence(n, m, count, seed=0):
    """Derivatives and errors of updates, as if of a network: of unlike sizes, with rows that are nearly parallel."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=n)
    for _ in range(count):
        yield common * rng.normal(size=(m, 1)) + 0.3 * rng.normal(size=(m, n)), rng.normal(size=m)


@pytest.mark.parametrize("kind", ["standard", "fading"])
@pytest.mark.parametrize("m", [1, 3, 12])
def test_updates_equal_the_formula(kind, m):
    options = KalmanFilter(kind=kind, eta=0.01, eta_max=0.05, q_min=1e-3)
    n, per_epoch = 20, 10
    reference = ReferenceFilter(options, np.linspace(-1, 1, n), per_epoch)
    state, w = init_filter(options, (n,), jnp.float64), jnp.linspace(-1, 1, n)
    # 25 updates: both schedules end on the way.
    for H, xi in sequence(n, m, 25):
        reference.update(H.T, xi)
        state, w = RUN(options, per_epoch, state, w, jnp.asarray(H), jnp.asarray(xi)[None])
        np.testing.assert_allclose(w, reference.w, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(state.P[0], reference.P, rtol=1e-10, atol=1e-10)
        np.testing.assert_array_equal(state.P[0], state.P[0].T)
        np.testing.assert_allclose(
            [state.eta, state.q, state.lam], [reference.eta, reference.q, reference.lam], rtol=1e-13
        )
    if kind == "standard":
        assert 0.05 <= state.eta < 0.07 and state.q <= 1e-3


def test_filters_of_elements_are_independent():
    options = KalmanFilter(blocks="element")
    sizes, per_epoch = (7, 12), 10
    parts = [ReferenceFilter(options, np.zeros(n), per_epoch) for n in sizes]
    state, w = init_filter(options, sizes, jnp.float64), jnp.zeros(sum(sizes))
    for H, xi in sequence(sum(sizes), 2, 12):
        both = np.stack([xi, 0.25 * xi])
        for part, columns, error in zip(parts, np.split(H, [7], axis=1), both, strict=True):
            part.update(columns.T, error)
        state, w = RUN(options, per_epoch, state, w, jnp.asarray(H), jnp.asarray(both))
    np.testing.assert_allclose(w, np.concatenate([part.w for part in parts]), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(state.P[1], parts[1].P, rtol=1e-10, atol=1e-10)


def test_blocks_of_layers_share_the_gain():
    # The decoupled filter is the full one whose P is kept block diagonal.
    options = KalmanFilter(blocks="layer", q0=0.0)
    sizes, per_epoch = (5, 3, 9), 10
    n = sum(sizes)
    label = np.repeat([0, 1, 2], sizes)
    reference = ReferenceFilter(options, np.zeros(n), per_epoch)
    state, w = init_filter(options, sizes, jnp.float64), jnp.zeros(n)
    for H, xi in sequence(n, 2, 12):
        reference.update(H.T, xi)
        reference.P[label[:, None] != label[None, :]] = 0
        state, w = RUN(options, per_epoch, state, w, jnp.asarray(H), jnp.asarray(xi)[None])
    np.testing.assert_allclose(w, reference.w, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("blocks", ["layer", "element"])
def test_a_single_block_is_the_whole_filter(blocks):
    results = []
    for which in (blocks, "global"):
        options = KalmanFilter(blocks=which)
        state, w = init_filter(options, (11,), jnp.float64), jnp.zeros(11)
        for H, xi in sequence(11, 2, 8):
            state, w = RUN(options, 10, state, w, jnp.asarray(H), jnp.asarray(xi)[None])
        results.append((w, state.P[0]))
    np.testing.assert_array_equal(results[0][0], results[1][0])
    np.testing.assert_array_equal(results[0][1], results[1][1])


@pytest.mark.parametrize("m", [1, 5])
def test_linear_model_gives_ridge_regression(m):
    # Without process noise and forgetting, one pass over y = x w is the minimum of eta |y - X w|^2 + epsilon |w|^2.
    rng = np.random.default_rng(1)
    X, y = rng.normal(size=(60, 8)), rng.normal(size=60)
    for options, eta in (
        (KalmanFilter(eta=0.3, eta_tau=0.0, q0=0.0, epsilon=0.2), 0.3),
        (KalmanFilter(kind="fading", lambda_0=1.0, eta=1.0, q0=0.0, epsilon=0.2), 1.0),
    ):
        state, w = init_filter(options, (8,), jnp.float64), jnp.zeros(8)
        for H, target in zip(X.reshape(-1, m, 8), y.reshape(-1, m), strict=True):
            state, w = RUN(options, 60, state, w, jnp.asarray(H), jnp.asarray(target - H @ w)[None])
        covariance = np.linalg.inv(eta * X.T @ X + 0.2 * np.eye(8))
        np.testing.assert_allclose(w, eta * covariance @ X.T @ y, rtol=1e-11)
        np.testing.assert_allclose(state.P[0], covariance, rtol=1e-10, atol=1e-14)


def test_forgetting_gives_weighted_least_squares():
    # lambda constant: the error k updates ago counts lambda^k.
    rng = np.random.default_rng(2)
    X, y = rng.normal(size=(40, 6)), rng.normal(size=40)
    options = KalmanFilter(kind="fading", lambda_0=0.9, nue=1.0, eta=1.0, q0=0.0, epsilon=0.2)
    state, w = init_filter(options, (6,), jnp.float64), jnp.zeros(6)
    for x, target in zip(X, y, strict=True):
        state, w = RUN(options, 40, state, w, jnp.asarray(x)[None], jnp.asarray(target - x @ w)[None, None])
    weights = 0.9 ** np.arange(39, -1, -1)
    wanted = np.linalg.solve((X.T * weights) @ X + 0.9**40 * 0.2 * np.eye(6), (X.T * weights) @ y)
    np.testing.assert_allclose(w, wanted, rtol=1e-9)


def test_rows_of_zeros_change_nothing():
    options = KalmanFilter(q0=0.0, q_min=0.0)
    (H, xi), *_ = sequence(9, 2, 1)
    padded = np.pad(H, ((0, 3), (0, 0))), np.pad(xi, (0, 3))
    states = [
        RUN(options, 5, init_filter(options, (9,), jnp.float64), jnp.ones(9), jnp.asarray(a), jnp.asarray(b)[None])
        for a, b in ((H, xi), padded)
    ]
    np.testing.assert_allclose(states[0][1], states[1][1], rtol=1e-13)
    np.testing.assert_allclose(states[0][0].P[0], states[1][0].P[0], rtol=1e-12, atol=1e-12)


def test_single_precision_stays_symmetric_and_positive():
    # Linear regression on inputs whose sizes differ by three orders of magnitude, thousands of updates.
    n, options = 40, KalmanFilter()
    rng = np.random.default_rng(3)
    X, truth = rng.normal(size=(3000, n)) * np.logspace(0, -3, n), rng.normal(size=n)

    def run(dtype):
        def body(carry, x):
            state, w = carry
            return update(options, 300, state, w, x[None], (x @ jnp.asarray(truth, dtype) - x @ w)[None, None]), None

        start = init_filter(options, (n,), dtype), jnp.zeros(n, dtype)
        return jax.jit(lambda: jax.lax.scan(body, start, jnp.asarray(X, dtype)))()[0]

    (single, w), (double, exact) = run(jnp.float32), run(jnp.float64)
    P = np.asarray(single.P[0])
    assert w.dtype == P.dtype == np.float32
    np.testing.assert_array_equal(P, P.T)
    assert np.linalg.eigvalsh(P.astype(float)).min() > 0
    # Rounding of 3000 updates, beside a P that began at 100 and weights of one.
    assert np.abs(P - double.P[0]).max() < 1e-3 * np.abs(double.P[0]).max()
    assert np.abs(w - exact).max() < 1e-2


TREE = {
    "networks": {
        element: {layer: {"bias": np.zeros(2), "kernel": np.zeros((k, 2))} for layer in ("hidden_0", "output")}
        for element, k in (("Cu", 3), ("Al", 4))
    }
}


def test_blocks_follow_the_order_of_the_flat_weights():
    marked = {
        e: {
            l: jax.tree.map(lambda a, m=(e, l): np.full(a.shape, hash(m) % 2**20), TREE["networks"][e][l])
            for l in layers
        }
        for e, layers in TREE["networks"].items()
    }
    flat = np.asarray(ravel_pytree({"networks": marked})[0])
    sizes = block_sizes("layer", TREE)
    start = 0
    for (_, element, layer), size in sizes.items():
        assert (flat[start : start + size] == hash((element, layer)) % 2**20).all()
        start += size
    assert start == len(flat)
    assert block_sizes("element", TREE) == {("networks", "Al"): 20, ("networks", "Cu"): 16}
    assert list(block_sizes("global", TREE).values()) == [36]
    with pytest.raises(ConfigError, match="blocks: 'element' has no place"):
        block_sizes("element", {**TREE, "descriptor": {"species_weights": np.ones(2)}})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "extended"}, "KalmanFilter kind='extended'.*standard, fading"),
        ({"blocks": "none"}, "blocks='none'.*global, element, layer"),
        ({"selection": "sort"}, "selection='sort'"),
        ({"group": "mean"}, "group='mean'.*full, sum"),
        ({"force_group": "all"}, "force_group='all'"),
        ({"precision": "bfloat16"}, "precision='bfloat16'"),
        ({"epsilon": 0.0}, "epsilon=0.0: must be positive"),
        ({"q0": -1.0}, "q0=-1.0: must be at least 0"),
        ({"lambda_0": 1.5}, "lambda_0=1.5: must be above 0 and at most 1"),
        ({"forces_fraction": 0.0}, "forces_fraction=0.0"),
        ({"trials": 0}, "trials=0: must be at least 1"),
        ({"average": 1.0}, "average=1.0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        KalmanFilter(**options)
