"""Descriptors made of others: the contract, equality with the whole, no work for what was not chosen, files."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bpjax.descriptors import ACSF, Angular, DefaultACSF, Radial, SymmetryFunctions
from bpjax.descriptors import SymmetryFunction as F
from bpjax.descriptors.published_sets import ImbalzanoACSF
from bpjax.descriptors.reduced import Chosen, Projected, choose_features, only
from bpjax.descriptors.selection import cur, principal_components, standardised, uncorrelated
from bpjax.networks.elemental import MLP
from bpjax.potential import Potential, energy, init
from bpjax.potential.store import load, save
from bpjax.spec import from_spec, to_spec
from bpjax.system import Environment
from tests.contracts import DescriptorContract, environment
from tests.potential.model import prepared
from tests.small_model import crystal

POOL = ACSF(
    ("Si", "O"),
    4.5,
    "poly2",
    g1=True,
    g2=(Radial(0.2), Radial(1.0, 2.0)),
    g3=(1.3, 0.2),
    g4=(Angular(0.02, 2.0, -1.0), Angular(0.3, 4.0, 1.0, 1.0), Angular(0.02, 1.5, 1.0), Angular(0.3, 1.0, 1.0, 1.0)),
    g5=(Angular(0.02, 2.0, -1.0), Angular(0.5, 9.0, 1.0, 2.0), Angular(0.3, 1.5, 1.0), Angular(0.02, 1.0, -1.0)),
)
"""Functions of all kinds, in no regular pattern; 34 features."""

LISTED = SymmetryFunctions(
    ("H", "O"),
    (
        (
            F(2, 5.0, ("H",), eta=0.1),
            F(2, 4.0, ("O",), eta=0.5, r_s=1.0),
            F(3, 5.0, ("H", "O"), eta=0.05, lam=1.0, zeta=1.0),
            F(12, 5.0, eta=0.2, r_s=0.5),
            F(9, 5.0, ("O", "O"), eta=0.02, lam=1.0, zeta=16.0),
        ),
        (F(2, 5.0, ("O",), eta=0.1), F(2, 5.0, ("H",), eta=0.3)),
    ),
    "poly2",
    unit=0.9,
)

RADIAL = ACSF(("Si", "O"), 4.5, "poly2", g2=(Radial(0.2), Radial(1.0, 2.0)))

SOME = ACSF(("Si", "O"), 4.5, "poly2", g2=(Radial(0.2), Radial(1.0, 2.0)), g5=(Angular(0.02, 1.0, -1.0),))

EXAMPLES = {
    "some": Chosen(SOME, (5, 3, 0)),
    "chosen": Chosen(POOL, (33, 8, 3, 12, 24)),  # G2, G3, G4, G5 by pairs and by moments
    "projected": Projected(RADIAL, (0.5, 0.1, 0.2, 0.0), ((0.6, -0.8, 0.1, 0.0), (0.2, 0.3, -1.0, 1.5))),
}


class TestReduced(DescriptorContract):
    @pytest.fixture(scope="class", params=["some", pytest.param("chosen", marks=pytest.mark.exhaustive), "projected"])
    def descriptor(self, request):
        return EXAMPLES[request.param]


class Sealed:
    """A descriptor that cannot compute a part of its features."""

    def __init__(self, inside):
        self.elements, self.cutoff, self.size, self.labels = inside.elements, inside.cutoff, inside.size, inside.labels
        self.inside, self.working_set = inside, inside.working_set

    def __call__(self, env, species_i):
        return self.inside(env, species_i)


WHOLE = {
    "acsf": POOL,
    "listed": LISTED,
    "sealed": Sealed(RADIAL),
    "projected": EXAMPLES["projected"],
    "chosen": Chosen(SOME, (5, 3, 4, 0)),
}


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.slow
def test_chosen_features_are_those_of_the_whole(name, strict_promotion):
    whole, centres = WHOLE[name], range(len(WHOLE[name].elements))
    R, species, mask = environment(whole, 1, farthest=1.2)  # some beyond the cutoff
    expected = jax.jit(lambda R: jnp.stack([jnp.asarray(whole(Environment(R, species, mask), s)) for s in centres]))(R)
    random = np.random.default_rng(0)
    for count in {max(1, whole.size // 3), whole.size - 1}:
        indices = tuple(random.permutation(whole.size)[:count].tolist())
        part = Chosen(whole, indices)
        found = jax.jit(lambda R, part=part: jnp.stack([part(Environment(R, species, mask), s) for s in centres]))(R)
        # The same sums in another order.
        np.testing.assert_allclose(found, expected[:, list(indices)], rtol=0, atol=1e-13 * np.abs(expected).max())
        assert part.labels == tuple(whole.labels[n] for n in indices) and part.size == count
        assert part.elements == whole.elements and part.cutoff == whole.cutoff and part.working_set(20) > 0


def test_elements_with_fewer_functions_get_zeros():
    env = Environment(*environment(LISTED))
    part = Chosen(LISTED, (4, 1))
    hydrogen, oxygen = (jax.jit(part, static_argnums=1)(env, s) for s in (0, 1))
    whole = jax.jit(LISTED, static_argnums=1)(env, 1)
    assert oxygen[0] == 0 and oxygen[1] == pytest.approx(float(whole[1]), rel=1e-13) and (hydrogen != 0).all()
    traced = jax.jit(part)(env, jnp.int32(1))
    np.testing.assert_array_equal(traced, oxygen)
    nothing = jax.jit(Chosen(LISTED, (4, 3)), static_argnums=1)(env, 1)
    np.testing.assert_array_equal(nothing, 0.0)


def flops(descriptor, elements, slots=30):
    def gradient(R):
        species, mask = jnp.arange(slots, dtype=jnp.int32) % elements, jnp.ones(slots, bool)
        return jax.grad(lambda R: jnp.sum(jnp.sin(descriptor(Environment(R, species, mask), 0))))(R)

    return jax.jit(gradient).lower(jnp.ones((slots, 3))).compile().cost_analysis()["flops"]


@pytest.mark.slow
@pytest.mark.as_users
def test_a_part_is_a_part_of_the_work():
    """Energies and forces from a tenth of the features; all that is left are distances, angles and their exponentials."""
    pool = ImbalzanoACSF(5.0, intervals=4, angular_intervals=4).build(("Si", "O"))
    random = np.random.default_rng(3)
    indices = tuple(random.permutation(pool.size)[: pool.size // 10].tolist())
    whole = flops(pool, 2)
    assert (
        flops(Chosen(pool, indices), 2) < 0.5 * whole
    )  # they need nearly every exponential and every power of the pool
    # One radial function needs no pair of neighbours at all.
    assert flops(Chosen(pool, (0,)), 2) < 0.02 * whole
    listed = SymmetryFunctions(
        ("H", "O"),
        tuple(
            tuple(F(3, 5.0, pair, eta=eta, zeta=4.0) for eta in (0.01, 0.05, 0.2, 0.4) for pair in PAIRS)
            for _ in range(2)
        ),
    )
    alone = flops(listed.subset([[2], [2]]), 2)
    assert flops(Chosen(listed, (2,)), 2) <= alone < 0.5 * flops(listed, 2)


PAIRS = (("H", "H"), ("H", "O"), ("O", "O"))


def test_only_leaves_unused_functions_out():
    n = len(POOL.labels)
    assert only(POOL, tuple(range(n))) == POOL
    wanted = tuple(i for i, label in enumerate(POOL.labels) if "G2 eta=1 " in label or "G4 eta=0.02 zeta=2" in label)
    part = only(POOL, wanted)
    assert isinstance(part, ACSF) and part.g2 == (Radial(1.0, 2.0),) and part.g4 == (Angular(0.02, 2.0, -1.0),)
    assert part.labels == tuple(POOL.labels[i] for i in wanted) and not part.g1 and part.g3 == part.g5 == ()
    part = only(POOL, wanted[1:])
    assert isinstance(part, Chosen) and part.descriptor.size == 5 and part.size == 4
    assert part.labels == tuple(POOL.labels[i] for i in wanted[1:])
    assert part.working_set(30) < POOL.working_set(30) and Chosen(POOL, wanted).working_set(30) == part.working_set(30)


def matrix(descriptor, atoms=60, seed=0):
    """Features of random environments, with all neighbours up to the cutoff."""
    envs = [environment(descriptor, seed + n) for n in range(atoms)]
    R, species, mask = (jnp.stack(a) for a in zip(*envs, strict=True))
    return np.asarray(jax.jit(jax.vmap(lambda R, s, m: descriptor(Environment(R, s, m), 0)))(R, species, mask))


def test_choose_features():
    pool = DefaultACSF(cutoff=4.0, radial=4, angular=2, zeta=(1.0,), centred=(), smallest=1.5).build(("Si",))
    G = matrix(pool)
    expected = sorted(cur(standardised(G), 4).tolist())
    part = choose_features(pool, G, 4)
    assert part.labels == tuple(pool.labels[n] for n in expected)
    assert choose_features(pool, G, 4, standardise=False).labels == tuple(pool.labels[n] for n in sorted(cur(G, 4)))
    assert choose_features(pool, G, 4, "pearson").labels == tuple(pool.labels[n] for n in uncorrelated(G, count=4))
    assert choose_features(pool, G, 4, "farthest").size == 4
    assert choose_features(pool, G, pool.size) == pool
    cost = np.where(np.arange(pool.size) < 4, 1.0, 1e6)  # angular ones are dear
    assert choose_features(pool, G, 3, cost=cost).g5 == ()
    np.testing.assert_array_equal(matrix(part)[:, 0], matrix(pool)[:, expected[0]])


@pytest.mark.parametrize("standardise", [True, False])
def test_principal_components_as_descriptor(standardise):
    G = np.column_stack([matrix(RADIAL), np.full(60, 0.25)])

    class WithConstant(Sealed):
        def __call__(self, *environment):
            return jnp.append(self.inside(*environment), 0.25)

    inside = WithConstant(RADIAL)
    inside.size, inside.labels = 5, (*RADIAL.labels, "constant")
    pca = choose_features(inside, G, 3, "pca", standardise=standardise)
    assert isinstance(pca, Projected) and pca.labels == ("PC 1", "PC 2", "PC 3")
    assert isinstance(pca.descriptor, Chosen) and pca.descriptor.size == 4  # the constant one is not computed
    p = matrix(pca)
    X = standardised(G) if standardise else G
    found = principal_components(X, 3)
    np.testing.assert_allclose(p, (X - found.mean) @ found.components.T, atol=1e-12)
    # Uncorrelated, with the variances of the components.
    covariance = np.cov(p.T, bias=True)
    np.testing.assert_allclose(covariance, np.diag(np.diag(covariance)), atol=1e-12 * covariance.max())
    np.testing.assert_allclose(np.diag(covariance) / X.var(axis=0).sum(), found.explained, rtol=1e-10)


def test_functions_of_each_element_are_chosen_on_its_own_atoms():
    random = np.random.default_rng(0)
    G = {"H": random.normal(size=(30, 5)) * [1, 5, 3, 0, 4], "O": np.zeros((20, 5))}
    G["O"][:, :2] = random.normal(size=(20, 2))
    part = choose_features(LISTED, G, 3, standardise=False)
    assert isinstance(part, SymmetryFunctions)
    assert part.functions[0] == tuple(LISTED.functions[0][n] for n in (1, 2, 4))
    assert part.functions[1] == LISTED.functions[1]
    assert LISTED.subset([[4, 0], [1]]).functions == (
        (LISTED.functions[0][4], LISTED.functions[0][0]),
        LISTED.functions[1][1:],
    )


MODELS = {
    "chosen": Chosen(RADIAL, (2, 0)),
    "projected": EXAMPLES["projected"],
    "chosen listed": Chosen(LISTED, (1, 4)),
}


@pytest.mark.parametrize("name", MODELS)
def test_model_file(name, tmp_path):
    model = Potential(MODELS[name], MLP((3,)))
    params = init(model, jax.random.key(0), np.float64)
    save(tmp_path / "a.bpjax", model, params)
    loaded, again = load(tmp_path / "a.bpjax")
    assert loaded == model and hash(loaded) == hash(model)
    if name == "chosen listed":
        return
    system, neighbors = prepared(crystal(), model=model)
    run = jax.jit(energy, static_argnums=0)
    assert run(loaded, again, system, neighbors) == run(model, params, system, neighbors)


class CountingHash(tuple):
    """A tuple that counts how often its hash is taken."""

    count = 0

    def __hash__(self):
        CountingHash.count += 1
        return super().__hash__()


def test_a_projection_is_hashed_once():
    big = Projected(RADIAL, (0.0,) * 4, CountingHash(((1.0, 2.0, 3.0, 4.0),) * 3))
    f = jax.jit(lambda model, x: 2 * x, static_argnums=0)
    for _ in range(5):
        f(Potential(big, MLP((3,))), 1.0)
    assert CountingHash.count == 1
    other = from_spec(Projected, json.loads(json.dumps(to_spec(big))))
    assert other == big and hash(other) == hash(big)
    assert hash(Projected(RADIAL, big.mean, big.components[:2])) != hash(big)
    pool = ACSF(("Si",), 5.0, g3=tuple(float(n) for n in range(2000)))
    with pytest.raises(ValueError, match="501 x 2000 numbers, at most 1000000"):
        Projected(pool, (0.0,) * 2000, ((0.0,) * 2000,) * 501)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Chosen(RADIAL, ()), "at least one"),
        (lambda: Chosen(RADIAL, (1, 1)), "each once"),
        (lambda: Chosen(RADIAL, (0, 4)), "4 is not one of the 4 features, 0 to 3"),
        (lambda: Chosen(RADIAL, (-1,)), "-1 is not one"),
        (lambda: only(RADIAL, (9,)), "9 is not one"),
        (lambda: Projected(RADIAL, (0.0,), ((1.0,) * 4,)), "mean: one number for each of the 4"),
        (lambda: Projected(RADIAL, (0.0,) * 4, ()), "at least one row"),
        (lambda: Projected(RADIAL, (0.0,) * 4, ((1.0,) * 3,)), "each with 4"),
        (lambda: Projected(RADIAL, (0.0,) * 4, ((np.inf,) * 4,)), "finite"),
        (lambda: LISTED.subset([[0]]), "one list for each of H, O"),
        (lambda: LISTED.subset([[0], [2]]), "O has functions 0 to 1"),
        (lambda: LISTED.subset([[0], []]), "O has no functions"),
        (lambda: choose_features(RADIAL, np.ones((3, 3)), 1), "has 4 features"),
        (lambda: choose_features(RADIAL, matrix(RADIAL), 2, "lasso"), "allowed are cur, farthest, pearson, pca"),
        (lambda: choose_features(RADIAL, matrix(RADIAL), 2, "pearson", cost=np.ones(4)), "only for method 'cur'"),
        (lambda: choose_features(RADIAL, {"Si": np.ones((3, 4))}, 1), "SymmetryFunctions"),
        (lambda: choose_features(LISTED, {"H": np.ones((3, 5))}, 1), "features of H, O, got H"),
        (lambda: choose_features(RADIAL, np.ones((3, 4)), 2), "only 0 of 4"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
