"""`SymmetryFunctions`: the contract of descriptors for each kind of function, and what is its own."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bpjax.descriptors import ACSF, Angular, Radial, SymmetryFunctions
from bpjax.descriptors import SymmetryFunction as F
from bpjax.descriptors.function_kernels import angle, angular_powers, compact, integer_powers, pair_sums
from bpjax.descriptors.symmetry import CORES
from bpjax.system import Environment
from tests.contracts import DescriptorContract, environment, features, features_and_gradient

ELEMENTS = ("H", "O")
PAIRS = (("H", "H"), ("H", "O"), ("O", "O"))


def both(*functions):
    """The same functions for both central elements."""
    return SymmetryFunctions(ELEMENTS, (functions, functions), "poly2", unit=0.9)


SETS = {
    "exponential": SymmetryFunctions(
        ELEMENTS,
        (
            (
                F(2, 5.0, ("H",), eta=0.1),
                F(2, 4.0, ("O",), eta=0.5, r_s=1.0),
                F(12, 5.0, eta=0.2, r_s=0.5),
                *(F(3, 5.0, pair, eta=0.05, lam=1.0, zeta=1.0) for pair in PAIRS),
                F(3, 4.5, ("H", "O"), eta=0.07, lam=-1.0, zeta=5.0, r_s=0.4),
                F(9, 5.0, ("H", "O"), eta=0.05, lam=-1.0, zeta=2.0),
                F(9, 5.0, ("O", "O"), eta=0.02, lam=1.0, zeta=16.0),
                F(13, 5.0, eta=0.05, r_s=0.5, lam=1.0, zeta=4.0),
            ),
            (F(2, 5.0, ("O",), eta=0.1),),
        ),
        "poly2",
        unit=0.9,
    ),
    "other powers": both(
        F(3, 5.0, ("H", "H"), eta=0.05, lam=1.0, zeta=2.5),
        F(9, 5.0, ("H", "O"), eta=0.05, lam=-1.0, zeta=3.7),
        F(9, 5.0, ("H", "O"), eta=0.05, lam=1.0, zeta=1.0),
        F(9, 5.0, ("O", "O"), eta=0.03, lam=0.5, zeta=2.0),
    ),
    "compact": both(
        F(20, 5.0, ("H",), r_l=0.5, core="p2"),
        F(20, 5.0, ("O",), r_l=-5.0, core="e"),
        F(23, 5.0, r_l=-5.0, core="p4a"),
        F(21, 5.0, ("H", "H"), r_l=-5.0, angles=(30.0, 170.0), core="p2"),
        F(21, 5.0, ("H", "O"), r_l=0.0, angles=(-120.0, 120.0), core="p3a"),
        F(22, 5.0, ("H", "O"), r_l=0.0, angles=(60.0, 300.0), core="p2"),
        F(22, 5.0, ("O", "O"), r_l=-5.0, angles=(0.0, 180.0), core="p3"),
        F(24, 5.0, r_l=-5.0, angles=(60.0, 300.0), core="p2", core_jk="e"),
        F(25, 5.0, r_l=-4.0, angles=(-170.0, 170.0), core="e"),
    ),
    "rough": both(
        F(21, 5.0, ("H", "O"), r_l=-5.0, angles=(-100.0, 100.0), core="p1"),
        F(22, 5.0, ("H", "H"), r_l=-5.0, angles=(90.0, 180.0), core="p1"),
        F(22, 5.0, ("O", "O"), r_l=-5.0, angles=(60.0, 300.0), core="p1"),
        F(23, 5.0, r_l=-5.0, core="p2"),
    ),
}


class TestSymmetryFunctions(DescriptorContract):
    # Compact functions take as long to compile as all others together.
    @pytest.fixture(
        scope="class", params=[pytest.param(n, marks=pytest.mark.exhaustive if n == "compact" else []) for n in SETS]
    )
    def descriptor(self, request):
        return SETS[request.param]


# ------------------------------------------------------------------------------------------- single parts


def sum_over_pairs(f, R, species):
    """A function written down as its formula says, neighbour by neighbour, with the cutoff function poly2."""
    r = np.linalg.norm(R, axis=1)
    Z = np.array([1, 8])[species]

    def f_c(r, r_c):
        x = r / r_c
        return ((15 - 6 * x) * x - 10) * x**3 + 1 if x < 1 else 0.0

    def core(name, x):
        return {
            "p1": lambda x: (2 * x - 3) * x**2 + 1,
            "p2": lambda x: ((15 - 6 * x) * x - 10) * x**3 + 1,
            "p3": lambda x: (x * (x * (20 * x - 70) + 84) - 35) * x**4 + 1,
            "p4": lambda x: (x * (x * ((315 - 70 * x) * x - 540) + 420) - 126) * x**5 + 1,
            "e": lambda x: np.exp(1 - 1 / (1 - x**2)),
        }[name](x)

    def C(a, left, right, name):
        x = abs(a - (left + right) / 2) / ((right - left) / 2)
        if x >= 1:
            return 0.0
        return core(name.removesuffix("a"), (2 - x) * x if name.endswith("a") else x)

    wanted = [ELEMENTS.index(e) for e in f.neighbors]
    total = 0.0
    if f.kind in (2, 12, 20, 23):
        for j in range(len(R)):
            weight = Z[j] if not wanted else float(species[j] == wanted[0])
            part = np.exp(-f.eta * (r[j] - f.r_s) ** 2) * f_c(r[j], f.cutoff) if f.kind < 20 else 0
            total += weight * (part if f.kind < 20 else C(r[j], f.r_l, f.cutoff, f.core))
        return total
    for j, k in itertools.combinations(range(len(R)), 2):
        weight = Z[j] * Z[k] if not wanted else float(sorted((species[j], species[k])) == sorted(wanted))
        r_jk = np.linalg.norm(R[k] - R[j])
        cos = R[j] @ R[k] / (r[j] * r[k])
        narrow = f.kind in (3, 13, 21, 24)
        if f.kind < 20:
            base = 1 + f.lam * cos
            value = 2 ** (1 - f.zeta) * base**f.zeta if base > 0 else 0.0
            value *= (
                np.exp(-f.eta * ((r[j] - f.r_s) ** 2 + (r[k] - f.r_s) ** 2)) * f_c(r[j], f.cutoff) * f_c(r[k], f.cutoff)
            )
            if narrow:
                value *= np.exp(-f.eta * (r_jk - f.r_s) ** 2) * f_c(r_jk, f.cutoff)
        else:
            value = C(np.degrees(np.arccos(np.clip(cos, -1, 1))), *f.angles, f.core.removesuffix("a"))
            value *= C(r[j], f.r_l, f.cutoff, f.core) * C(r[k], f.r_l, f.cutoff, f.core)
            if narrow:
                value *= C(r_jk, f.r_l, f.cutoff, f.core_jk or f.core)
        total += weight * value
    return total


@pytest.mark.parametrize("name", SETS)
def test_formulas(name):
    descriptor = SETS[name]
    env = Environment(*environment(descriptor))
    for central in (0, 1):
        found = jax.jit(descriptor)(env, jnp.asarray(central))
        known = jax.jit(descriptor, static_argnums=1)(env, central)
        np.testing.assert_array_equal(found, known)
        functions = descriptor.functions[central]
        expected = [
            sum_over_pairs(f, np.asarray(env.R_ij) / descriptor.unit, np.asarray(env.species_j)) for f in functions
        ]
        np.testing.assert_allclose(found[: len(functions)], expected, rtol=1e-11, atol=1e-13)
        np.testing.assert_array_equal(found[len(functions) :], 0.0)


@pytest.mark.slow
def test_equal_to_acsf():
    # Two independent ways to evaluate the same functions.
    angular = [(0.05, 1.0, 1.0, 0.0), (0.05, 4.0, -1.0, 0.3), (0.2, 2.5, 1.0, 0.0)]
    acsf = ACSF(
        ELEMENTS,
        5.0,
        "tanh3",
        g2=(Radial(0.1), Radial(0.5, 1.0)),
        g4=tuple(Angular(*p) for p in angular),
        g5=tuple(Angular(*p) for p in angular),
    )
    functions = [F(2, 5.0, (e,), eta=p.eta, r_s=p.r_s) for p in acsf.g2 for e in ELEMENTS]
    for kind, (eta, zeta, lam, r_s) in itertools.product((3, 9), angular):
        functions += [F(kind, 5.0, pair, eta=eta, zeta=zeta, lam=lam, r_s=r_s) for pair in PAIRS]
    listed = SymmetryFunctions(ELEMENTS, (tuple(functions),) * 2, "tanh3")
    env = environment(acsf)
    for ours, theirs in zip(features_and_gradient(listed, *env), features_and_gradient(acsf, *env), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-12)


@pytest.mark.slow
def test_order_of_functions_is_the_order_of_features():
    functions = SETS["exponential"].functions[0]
    order = np.random.default_rng(0).permutation(len(functions))
    mixed = SymmetryFunctions(ELEMENTS, (tuple(functions[n] for n in order), functions[:1]), "poly2", unit=0.9)
    env = environment(mixed)
    expected = features(SETS["exponential"], *env)
    np.testing.assert_allclose(features(mixed, *env), expected[order], rtol=1e-13)


def test_number_of_functions_does_not_change_the_program():
    """As many operations for 400 functions as for 40: what they differ in is in tables."""

    def operations(count):
        eta = np.linspace(0.01, 0.4, count // 8)
        functions = [
            F(kind, 5.0, pair, eta=float(e), lam=lam, zeta=4.0)
            for e in eta
            for kind in (3, 9)
            for lam in (1.0, -1.0)
            for pair in PAIRS[:2]
        ]
        descriptor = SymmetryFunctions(("H", "O"), (tuple(functions),) * 2)
        R, species, mask = environment(descriptor)
        jaxpr = jax.make_jaxpr(lambda R: jax.grad(lambda R: descriptor(Environment(R, species, mask), 0).sum())(R))(R)
        return str(jaxpr).count(" = ")

    assert operations(400) == operations(40)


def test_integer_powers_and_their_derivatives():
    zeta = (1, 2, 3, 7, 16, 64)
    base = jnp.broadcast_to(jnp.linspace(-0.3, 1.0, 12), (6, 12))
    expected = np.asarray(base) ** np.array(zeta)[:, None]
    np.testing.assert_allclose(integer_powers(base, zeta), expected, rtol=1e-14)
    f = partial(integer_powers, zeta=zeta)
    for order in (1, 2, 3):
        f = lambda b, f=f: jax.jvp(f, (b,), (jnp.ones_like(b),))[1]  # noqa: E731
        factor = np.array([np.prod([z - n for n in range(order)]) for z in zeta])[:, None]
        power = np.maximum(np.array(zeta)[:, None] - order, 0)
        np.testing.assert_allclose(f(base), factor * np.asarray(base) ** power, rtol=1e-13, atol=1e-15)


def test_powers_that_are_cut_off_where_the_base_is_negative():
    cos = jnp.asarray([-1.0, -0.6, 0.0, 0.9])
    zeta, lam = np.array([2.0, 2.5, 3.0]), np.array([2.0, -1.0, 0.5])
    base = np.maximum(1 + lam[:, None] * np.asarray(cos), 0)
    expected = 2 ** (1 - zeta[:, None]) * base ** zeta[:, None]
    np.testing.assert_allclose(angular_powers(cos, zeta, lam), expected, rtol=1e-14)


@pytest.mark.parametrize("core", CORES)
def test_compact_functions(core):
    a = jnp.linspace(-3.0, 6.0, 19)  # hits both ends and the centre
    value = compact(a[None], jnp.full((1, 1), -1.0), jnp.full((1, 1), 4.0), jnp.zeros((1, 1)), (core,))[0]
    x = np.abs(np.asarray(a) - 1.5) / 2.5
    assert (np.asarray(value)[x >= 1] == 0).all()
    assert float(value[np.argmin(x)]) == 1.0
    outwards = np.asarray(value)[np.argsort(x, kind="stable")]
    assert (np.diff(outwards) <= 1e-12).all()

    def f(a):
        return compact(a, jnp.asarray(-1.0), jnp.asarray(4.0), jnp.asarray(0.0), (core,))

    second = jax.vmap(jax.grad(jax.grad(f)))(jnp.asarray([1.5, 1.5 + 1e-7]))
    np.testing.assert_allclose(second[0], second[1], rtol=1e-5, atol=1e-5)  # also exactly in the centre


def test_angle():
    cos = jnp.asarray([-1.0, -0.99999, -0.5, 0.0, 0.7, 1.0])
    # At the ends it is held inside by 64 units of rounding, which is 2e-7 in the angle.
    np.testing.assert_allclose(angle(cos), np.arccos(cos), rtol=0, atol=2e-7)
    np.testing.assert_allclose(angle(cos)[1:-1], np.arccos(cos)[1:-1], rtol=1e-14)
    # (pi - theta)^2 is smooth in the cosine: its slope at -1 is -(-2) d(cos).
    slope = jax.grad(lambda c: (jnp.pi - angle(c)) ** 2)(jnp.asarray(-1.0))
    np.testing.assert_allclose(slope, 2.0, rtol=1e-6)


def test_pair_sums_is_a_double_sum():
    V, P = np.random.default_rng(0).normal(size=(2, 3, 7, 7))
    np.testing.assert_allclose(pair_sums(jnp.asarray(V), jnp.asarray(P)), np.einsum("qjk,ajk->qa", V, P), rtol=1e-13)


# --------------------------------------------------------------------------------------------- bad options


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(kind=4, cutoff=5.0), "type 4: unknown type; known are 2, 3"),
        (dict(kind=2, cutoff=5.0), "needs 1 neighbour elements, got 0"),
        (dict(kind=12, cutoff=5.0, neighbors=("H",)), "needs 0 neighbour elements, got 1"),
        (dict(kind=12, cutoff=0.0), "cutoff=0.0 must be positive"),
        (dict(kind=12, cutoff=5.0, eta=float("nan")), "eta=nan must be finite"),
        (dict(kind=13, cutoff=5.0, zeta=0.0), "zeta=0.0 must be positive"),
        (dict(kind=12, cutoff=5.0, core="p1"), "has no r_l, angles or core"),
        (dict(kind=23, cutoff=5.0), "core='', allowed are p1"),
        (dict(kind=23, cutoff=5.0, core="p5"), "core='p5'"),
        (dict(kind=23, cutoff=5.0, core="p1", r_l=5.0), "r_l=5.0 must be less than the cutoff"),
        (dict(kind=23, cutoff=5.0, core="p1", core_jk="p2"), "has no core_jk"),
        (dict(kind=23, cutoff=5.0, core="p1", angles=(0.0, 90.0)), "has no angles"),
        (dict(kind=25, cutoff=5.0, core="p1"), "needs two angles"),
        (dict(kind=25, cutoff=5.0, core="p1", angles=(90.0, 30.0)), "must be increasing"),
        (dict(kind=25, cutoff=5.0, core="p1", angles=(-30.0, 60.0)), "must be increasing and lie inside"),
        (dict(kind=25, cutoff=5.0, core="p1", angles=(-181.0, 181.0)), "span at most 360"),
    ],
)
def test_bad_functions(arguments, message):
    with pytest.raises(ValueError, match=message):
        F(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(elements=(), functions=()), "at least one chemical symbol"),
        (dict(elements=("H", "H"), functions=()), "each once"),
        (dict(functions=((F(12, 5.0),),)), "one list for each of H, O"),
        (dict(functions=((F(12, 5.0),), ())), "element O has no functions"),
        (dict(functions=((F(12, 5.0),) * 2, (F(12, 5.0),))), "a function of H is listed twice"),
        (dict(functions=((F(2, 5.0, ("C",)),), (F(12, 5.0),))), "functions of H name C, not in elements"),
        (dict(unit=0.0), "unit=0.0: must be positive"),
        (dict(cutoff_kind="square"), "cutoff kind='square'"),
        (dict(cutoff_inner=1.0), "cutoff inner=1.0"),
    ],
)
def test_bad_sets(arguments, message):
    with pytest.raises(ValueError, match=message):
        SymmetryFunctions(**{"elements": ELEMENTS, "functions": ((F(12, 5.0),),) * 2, **arguments})
