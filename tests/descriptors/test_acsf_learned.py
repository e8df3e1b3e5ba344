"""ACSF whose parameters are arrays: the contract, shared values, conversion to a fixed set, options."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bpjax.descriptors import ACSF, Angular, Chosen, DefaultACSF, Radial
from bpjax.descriptors.reduced import choose_features
from bpjax.potential import Potential, energy, init
from bpjax.spec import from_spec, to_spec
from bpjax.system import Environment, Neighbors, System
from tests.contracts import LearnedContract, environment
from tests.descriptors.test_acsf import MORE, naive

RADIAL = ACSF(("Si", "C"), 5.0, "poly2", g1=True, g2=(Radial(0.3), Radial(0.8, 2.0)), g3=(1.0, 2.5), learn=True)
NARROW = ACSF(
    ("Si", "C"),
    4.5,
    "poly2",
    g4=(Angular(0.2, 1.0, 1.0), Angular(0.2, 2.5, -1.0), Angular(0.1, 1.0, 1.0, 0.5)),
    learn=("eta", "r_s"),
)
WIDE = ACSF(  # the last two go through pairs, the others through moments
    ("Si", "C"),
    4.5,
    "poly2",
    g5=(Angular(0.05, 1.0, -1.0), Angular(0.3, 2.0, 1.0, 1.0), Angular(0.3, 1.5, 1.0, 1.0), Angular(0.05, 17.0, 1.0)),
    learn=True,
)
WEIGHTED = ACSF(
    ("Si", "C"),
    5.0,
    "poly2",
    g2=(Radial(0.2, 1.0),),
    g3=(1.3,),
    g4=(Angular(0.02, 2.0, -1.0, 0.5),),
    g5=(Angular(0.5, 3.0, 1.0, 2.0), Angular(0.5, 1.0, -1.0, 2.0)),
    weights=(14.0, -6.0),
    learn=("r_s", "kappa"),
)
EXAMPLES = {"radial": RADIAL, "narrow": NARROW, "wide": WIDE, "weighted": WEIGHTED}


@partial(jax.jit, static_argnums=0)
def features(options, env, params=None):
    return options(Environment(*env), 0, params)


def moved(options, seed=0):
    """Parameters some way from the start."""
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda p: p * random.uniform(0.7, 1.2, p.shape) + 0.1, options.parameters(jnp.float64))


class TestLearnedACSF(LearnedContract):
    @pytest.fixture(params=EXAMPLES.values(), ids=EXAMPLES.keys())
    def descriptor(self, request):
        return request.param


def test_functions_with_the_same_radial_part_share_its_value():
    params = MORE["all"].parameters(jnp.float64)
    assert params == {}
    params = replace(MORE["all"], learn=True).parameters(jnp.float64)
    shapes = {kind: {name: p.shape for name, p in own.items()} for kind, own in params.items()}
    # G4: (0.02, 0) twice and (0.3, 1); G5 has parts of its own.
    pair = {"root_eta": (2,), "r_s": (2,)}
    assert shapes == {"g2": pair, "g3": {"kappa": (2,)}, "g4": pair, "g5": pair}
    np.testing.assert_allclose(params["g4"]["root_eta"], np.sqrt([0.02, 0.3]), rtol=1e-15)
    np.testing.assert_array_equal(params["g4"]["r_s"], [0.0, 1.0])
    assert {k: set(v) for k, v in WEIGHTED.parameters(jnp.float64).items()} == {
        "g2": {"r_s"},
        "g3": {"kappa"},
        "g4": {"r_s"},
        "g5": {"r_s"},
    }


@pytest.mark.parametrize("name", EXAMPLES)
def test_learned_values_are_those_of_a_fixed_set(name, strict_promotion):
    options, env = EXAMPLES[name], environment(EXAMPLES[name], 3)
    params = moved(options)
    fixed = options.with_parameters(params)
    assert fixed.learn is False and fixed.parameters(jnp.float64) == {}
    assert from_spec(ACSF, to_spec(fixed)) == fixed
    expected = naive(fixed, *env)
    scale = np.abs(expected).max()
    # Sums of some tens of terms in another order: rounding.
    np.testing.assert_allclose(features(options, env, params), expected, rtol=0, atol=1e-13 * scale)
    np.testing.assert_allclose(features(fixed, env), expected, rtol=0, atol=1e-13 * scale)
    assert np.abs(features(options, env) - expected).max() > 1e-3 * scale


def test_only_what_is_learned_changes():
    fixed = WEIGHTED.with_parameters(moved(WEIGHTED))
    for kind in ("g2", "g4", "g5"):
        for before, after in zip(getattr(WEIGHTED, kind), getattr(fixed, kind), strict=True):
            assert after == replace(before, r_s=after.r_s) and after.r_s != before.r_s
    assert fixed.g5[0].r_s == fixed.g5[1].r_s  # one part, two shapes
    assert fixed.labels != WEIGHTED.labels and len(set(fixed.labels)) == fixed.size


def test_start_returns_as_the_options():
    fixed = RADIAL.with_parameters(RADIAL.parameters(jnp.float64))
    assert fixed.g3 == RADIAL.g3 and [p.r_s for p in fixed.g2] == [p.r_s for p in RADIAL.g2]
    # The square of a rounded root: two roundings.
    np.testing.assert_allclose([p.eta for p in fixed.g2], [p.eta for p in RADIAL.g2], rtol=5e-16)


def test_eta_stays_positive_whatever_the_root():
    params = RADIAL.parameters(jnp.float64)
    other = {**params, "g2": {**params["g2"], "root_eta": -params["g2"]["root_eta"]}}
    env = environment(RADIAL)
    np.testing.assert_array_equal(features(RADIAL, env, other), features(RADIAL, env, params))
    assert all(p.eta > 0 for p in RADIAL.with_parameters(other).g2)


@pytest.fixture(scope="module")
def cluster():
    """Five atoms without periodicity, a masked slot each."""
    R = jnp.asarray(np.random.default_rng(0).uniform(0, 4, (5, 3)))
    idx = np.array([[j for j in range(5) if j != i] + [i] for i in range(5)], np.int32)
    mask = np.tile([True] * 4 + [False], (5, 1))
    return System(R, jnp.asarray([0, 1, 0, 1, 1], jnp.int32)), Neighbors(jnp.asarray(idx), None, jnp.asarray(mask))


@pytest.mark.slow
def test_forces_can_be_learned_from(cluster):
    """Energy and forces of a potential, then the gradient of a loss with the descriptor's parameters."""
    system, neighbors = cluster
    descriptor = ACSF(("Si", "C"), 6.0, "poly2", g2=RADIAL.g2, g5=WIDE.g5[:2], learn=True)
    model = Potential(descriptor)
    params = init(model, jax.random.key(0), jnp.float64)

    @jax.jit
    def loss(learned):
        own = {**params, "descriptor": learned}
        E, g = jax.value_and_grad(lambda R: energy(model, own, system._replace(positions=R), neighbors))(
            system.positions
        )
        return E + jnp.sum(g**2)

    start = params["descriptor"]
    leaves, structure = jax.tree.flatten(start)
    assert len(leaves) == 4
    found = jax.tree.leaves(jax.jit(jax.grad(loss))(start))
    h = 1e-5  # truncation about h^2, rounding 1e-16 / h
    for n, leaf in enumerate(leaves):
        v = np.random.default_rng(n).normal(size=leaf.shape)
        ends = [loss(jax.tree.unflatten(structure, [*leaves[:n], leaf + s * h * v, *leaves[n + 1 :]])) for s in (1, -1)]
        scale = max(float(jnp.abs(f).max()) for f in found)
        assert float(jnp.sum(found[n] * v)) == pytest.approx(float(ends[0] - ends[1]) / (2 * h), abs=1e-7 * scale)

    # The same potential with an ordinary set of functions.
    learned = moved(descriptor)
    fixed = replace(model, descriptor=descriptor.with_parameters(learned))
    rest = {name: value for name, value in params.items() if name != "descriptor"}
    one = jax.jit(partial(energy, model))({**params, "descriptor": learned}, system, neighbors)
    two = jax.jit(partial(energy, fixed))(rest, system, neighbors)
    assert float(one) == pytest.approx(float(two), abs=1e-13)
    assert float(one) != pytest.approx(float(jax.jit(partial(energy, model))(params, system, neighbors)), abs=1e-4)


def test_default_set_passes_it_on():
    learned = DefaultACSF(learn=("r_s",)).build(("Si", "O"))
    assert replace(learned, learn=False) == DefaultACSF().build(("Si", "O"))
    assert {k: {n: p.shape for n, p in own.items()} for k, own in learned.parameters(jnp.float32).items()} == {
        "g2": {"r_s": (14,)},
        "g5": {"r_s": (6,)},
    }
    with pytest.raises(ValueError, match="kappa"):
        DefaultACSF(learn=("kappa",))


def test_options_return_from_plain_values():
    for options in (*EXAMPLES.values(), DefaultACSF(learn=("eta",)), DefaultACSF(learn=True)):
        assert from_spec(type(options), to_spec(options)) == options
        hash(options)
    old = to_spec(MORE["all"])
    del old["learn"]  # as files before this option have it
    assert from_spec(ACSF, old) == MORE["all"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learn": ("zeta",)}, "learn=.*zeta"),
        ({"learn": ("eta", "eta")}, "learn=.*each once"),
        ({"learn": ("kappa",)}, "learn=.*kappa.*no function"),
        ({"learn": True, "g1": True, "g2": ()}, "learn=True.*no function"),
    ],
)
def test_options_out_of_range_are_named(change, message):
    good = {"elements": ("Si",), "cutoff": 5.0, "g2": (Radial(0.1),)}
    ACSF(**good, learn=("eta",))
    assert ACSF(**good, learn=()).parameters(jnp.float64) == {}
    with pytest.raises(ValueError, match=f"ACSF {message}"):
        ACSF(**{**good, **change})


def test_arrays_that_do_not_fit_are_refused():
    env, params = environment(RADIAL), RADIAL.parameters(jnp.float64)
    wrong = {
        "another kind": {**params, "g4": params["g2"]},
        "a kind is missing": {"g2": params["g2"]},
        "a name is missing": {**params, "g2": {"r_s": params["g2"]["r_s"]}},
        "too many": jax.tree.map(lambda p: jnp.concatenate([p, p]), params),
    }
    for arrays in wrong.values():
        with pytest.raises(ValueError, match="ACSF params"):
            RADIAL(Environment(*env), 0, arrays)
        with pytest.raises(ValueError, match="ACSF params"):
            RADIAL.with_parameters(arrays)
    with pytest.raises(ValueError, match="ACSF params"):
        replace(RADIAL, learn=False)(Environment(*env), 0, params)
    broken = {**params, "g2": {**params["g2"], "r_s": np.array([0.0, np.nan])}}
    with pytest.raises(ValueError, match="r_s"):
        RADIAL.with_parameters(broken)


def test_what_is_learned_cannot_be_thinned_out():
    env = environment(RADIAL)
    G = np.stack([features(RADIAL, environment(RADIAL, seed)) for seed in range(20)])
    with pytest.raises(ValueError, match="cannot be reduced"):
        RADIAL.smallest_with((0, 2))
    with pytest.raises(ValueError, match="cannot be reduced"):
        choose_features(RADIAL, G, 3)
    fixed = RADIAL.with_parameters(RADIAL.parameters(jnp.float64))
    np.testing.assert_allclose(
        jax.jit(partial(Chosen(fixed, (0, 5, 2)), species_i=0))(Environment(*env)),
        features(fixed, env)[np.array([0, 5, 2])],
    )
