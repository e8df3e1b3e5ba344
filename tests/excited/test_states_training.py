"""Training of diabatic potentials: derivatives, degeneracies, signs, progress, reproducibility, errors."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bpjax.errors import BpjaxError
from bpjax.excited.dipoles import diabatic_dipoles
from bpjax.excited.state_inputs import labels_of, prediction, state_inputs
from bpjax.excited.state_losses import StatesLoss, states_loss
from bpjax.excited.states_data import StatesData
from bpjax.excited.train import StatesTraining, started, train_states
from tests.excited.methaniminium import model, parameters, shaken, states

I, J = np.triu_indices(3, 1)

TRAINING = StatesTraining(
    epochs=60, batch_size=10, evaluate_every=20, learning_rate=1e-2, dtype="float64", validation=0.2
)


def labelled(own, params, R, seed=None):
    """Data that a model itself gives, with random signs of the states for a seed."""

    result = states(own, params, R)
    E, M = (np.array(a) for a in (result.energies, result.interstate))
    G, h, mu = M[:, np.arange(3), np.arange(3)], M[:, I, J], None
    if own.has_dipoles:
        diabatic = jax.jit(jax.vmap(lambda R: diabatic_dipoles(own, params, R)))(R)
        mu = np.einsum("nai,nabx,nbj->nijx", result.states, diabatic, result.states)
    if seed is not None:
        s = np.random.default_rng(seed).choice([-1.0, 1.0], size=(len(R), 3))
        h = h * (s[:, I] * s[:, J])[:, :, None, None]
        mu = None if mu is None else mu * (s[:, :, None] * s[:, None, :])[:, :, :, None]
    tags = ("a", "b") * (len(R) // 2)
    return StatesData(np.array([6, 7, 1, 1, 1, 1]), np.asarray(R), E + own.zero, G, h, mu, tags, "arbitrary")


def teacher(dipoles=False):
    own = model("odd", zero=-2500.0, offsets=(0.0, 0.6, 1.5), dipoles=dipoles, charge=1.0 if dipoles else 0.0)
    return own, parameters(own, 7)


@pytest.mark.slow
def test_prediction_from_stored_derivatives_is_that_of_the_model():
    own, params = teacher(dipoles=True)
    R = shaken(0, 3)
    data = labelled(own, params, R)
    inputs = state_inputs(own, params, jnp.asarray(R))
    found = jax.jit(jax.vmap(lambda x: prediction(own, params, x, 3)))(inputs)
    np.testing.assert_allclose(found.energies + own.zero, data.energies, atol=1e-9)
    np.testing.assert_allclose(found.gradients.reshape(3, 3, 6, 3), data.gradients, atol=1e-10)
    np.testing.assert_allclose(np.abs(found.couplings.reshape(3, 3, 6, 3)), np.abs(data.couplings), atol=1e-10)
    np.testing.assert_allclose(np.abs(found.dipoles), np.abs(data.dipoles), atol=1e-10)
    fewer = jax.jit(jax.vmap(lambda x: prediction(own, params, x, 2)))(inputs)
    np.testing.assert_allclose(fewer.gradients, found.gradients[:, :2], atol=1e-12)


@pytest.mark.slow
def test_loss_and_its_slope_do_not_depend_on_signs_of_the_data():
    own, params = teacher(dipoles=True)
    other = parameters(own, 8)
    loss, R = StatesLoss(dipoles=0.1), shaken(1, 4)
    inputs = state_inputs(own, params, jnp.asarray(R))

    @jax.jit
    def evaluate(labels):
        def total(p):
            one = lambda x, w: states_loss(loss, prediction(own, p, x, 3), w)  # noqa: E731
            return jnp.mean(jax.vmap(one)(inputs, labels))

        return jax.value_and_grad(total)({**params, **other, "scaling": params["scaling"]})

    value, slope = evaluate(labels_of(labelled(own, params, R), own.zero, loss, jnp.float64))
    for seed in range(3):
        again, same = evaluate(labels_of(labelled(own, params, R, seed), own.zero, loss, jnp.float64))
        np.testing.assert_allclose(again, value, rtol=1e-12)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10), same, slope)


@pytest.mark.slow
def test_training_slope_agrees_with_finite_differences():
    own, params = teacher()
    loss, R = StatesLoss(broadening=0.0), shaken(2, 2)
    inputs = state_inputs(own, params, jnp.asarray(R))
    labels = labels_of(labelled(own, parameters(own, 9), R), own.zero, loss, jnp.float64)

    @jax.jit
    def total(t, direction):
        p = jax.tree.map(lambda a, d: a + t * d, params["networks"], direction)
        one = lambda x, w: states_loss(loss, prediction(own, {**params, "networks": p}, x, 3), w)  # noqa: E731
        return jnp.mean(jax.vmap(one)(inputs, labels))

    rng = np.random.default_rng(3)
    direction = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)), params["networks"])
    slope = jax.jit(jax.grad(total))(0.0, direction)
    h = 1e-5
    np.testing.assert_allclose(slope, (total(h, direction) - total(-h, direction)) / (2 * h), rtol=1e-5)


@pytest.mark.parametrize(("dtype", "count"), [pytest.param("float32", 3, marks=pytest.mark.slow), ("float64", 2)])
def test_training_slopes_are_finite_at_exact_degeneracy(dtype, count):
    """All networks zero: every state has one energy, in the model and in the data."""
    own = model("odd")
    params = jax.tree.map(lambda p: jnp.asarray(p, dtype), parameters(own))
    params["networks"] = jax.tree.map(jnp.zeros_like, params["networks"])
    inputs = state_inputs(own, params, jnp.asarray(shaken(3, 2), dtype))
    found = jax.jit(jax.vmap(lambda x: prediction(own, params, x, count)))(inputs)
    assert np.ptp(found.energies) == 0
    apart = found._replace(energies=found.energies + jnp.arange(count, dtype=dtype))

    def total(networks, labels, loss):
        p = {**params, "networks": networks}
        one = lambda x, w: states_loss(loss, prediction(own, p, x, count, loss.broadening), w)  # noqa: E731
        return jnp.mean(jax.vmap(one)(inputs, labels))

    slopes = jax.jit(jax.value_and_grad(total), static_argnums=2)
    for loss in (StatesLoss(broadening=0.0), StatesLoss(compare="dyads")):
        for labels in (found, apart):
            value, slope = slopes(params["networks"], labels, loss)
            assert np.isfinite(value)
            assert all(np.isfinite(a).all() for a in jax.tree.leaves(slope))


@pytest.mark.slow
def test_short_training_learns_and_repeats():
    own, params = teacher()
    data = labelled(own, params, shaken(4, 24, 0.1), seed=0)
    fit = train_states(model("odd"), data, TRAINING)
    first, last = fit.history[0], fit.history[-1]
    assert last["training"] < 0.2 * first["training"] and last["epoch"] == 60
    assert min(line["validation"] for line in fit.history) < 0.5 * fit.history[0]["validation"]
    assert fit.model.zero == data.pick(data.split(0.2, 0)[0]).energies.min()
    again = train_states(model("odd"), data, TRAINING)
    assert again.history == fit.history
    jax.tree.map(np.testing.assert_array_equal, again.params, fit.params)


@pytest.mark.exhaustive
def test_more_diabatic_states_than_data_and_dipoles():
    own, params = teacher(dipoles=True)
    data = labelled(own, params, shaken(5, 12, 0.1), seed=1)
    first = replace(data, energies=data.energies[:, :2], gradients=data.gradients[:, :2], couplings=data.couplings[:, :1],
                    dipoles=data.dipoles[:, :2, :2])  # fmt: skip
    options = replace(TRAINING, loss=StatesLoss(dipoles=0.1), epochs=20, evaluate_every=10)
    fit = train_states(model("odd", dipoles=True, charge=1.0), first, options)
    assert fit.history[-1]["training"] < fit.history[0]["training"]
    assert len(fit.model.offsets) == 3 and fit.model.offsets[2] > fit.model.offsets[1]


@pytest.mark.slow
def test_adiabatic_model_learns_energies_and_gradients():
    own, params = teacher()
    data = labelled(own, params, shaken(6, 12, 0.1))
    fit = train_states(model("adiabatic"), data, replace(TRAINING, loss=StatesLoss(couplings=None)))
    assert fit.history[-1]["training"] < 0.5 * fit.history[0]["training"]


def test_errors_that_name_what_is_missing():
    own, params = teacher()
    data = labelled(own, params, shaken(0, 4))
    bare = replace(data, couplings=None, gradients=None)
    with pytest.raises(BpjaxError, match="no gradients and no couplings; possible are losses of energies"):
        labels_of(bare, 0.0, StatesLoss(), jnp.float64)
    with pytest.raises(BpjaxError, match="an adiabatic model has no couplings"):
        started(model("adiabatic"), data, StatesTraining())
    with pytest.raises(BpjaxError, match="no dipoles; build it with dipoles=True"):
        started(own, data, StatesTraining(loss=StatesLoss(dipoles=0.1)))
    with pytest.raises(BpjaxError, match="2 states, the data have 3"):
        two = replace(model("invariant"), states=2)
        started(two, data, StatesTraining())
    with pytest.raises(BpjaxError, match="the model is one of C-N-H-H-H-H, the data of N-C"):
        started(own, replace(data, numbers=data.numbers[[1, 0, 2, 3, 4, 5]]), StatesTraining())
    with pytest.raises(BpjaxError, match="0.01 of 4 geometries is none"):
        train_states(own, data, replace(TRAINING, validation=0.01))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs=0"),
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
        ({"average": 1.0}, "average=1.0"),
        ({"validation": 0.0}, "validation=0.0"),
        ({"dtype": "float16"}, "dtype=float16"),
        ({"weight_decay": -1.0}, "weight_decay=-1.0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        StatesTraining(**options)


@pytest.mark.exhaustive
def test_training_goes_on_from_an_earlier_model():
    own, params = teacher()
    data = labelled(own, params, shaken(0, 20))
    short = replace(TRAINING, epochs=20, starts=1)
    first = train_states(own, data, short)
    more = train_states(own, data, short, initial=(first.model, first.params))
    assert more.model == first.model
    assert more.history[-1]["validation"] < first.history[-1]["validation"]
    for kept, earlier in zip(*(jax.tree.leaves(m.params["scaling"]) for m in (more, first)), strict=True):
        np.testing.assert_allclose(kept, earlier, atol=1e-30)
    with pytest.raises(BpjaxError, match="initial: is a model of other options"):
        train_states(model("chiral"), data, TRAINING, initial=(first.model, first.params))
