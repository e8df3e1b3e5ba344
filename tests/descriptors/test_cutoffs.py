"""Cutoff functions: their formulas, and derivatives that are finite everywhere."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from bpjax.descriptors.cutoffs import FORMULAS, WITHOUT_INNER_RADIUS, Cutoff
from tests import quick_compiler
from tests.contracts import VANISHING

pytestmark = pytest.mark.usefixtures("strict_promotion")

R_C = 6.0

REFERENCE = {
    "cosine": lambda x: 0.5 + 0.5 * np.cos(np.pi * x),
    "tanh3": lambda x: np.tanh(1 - x) ** 3,
    "tanh3n": lambda x: np.tanh(1 - x) ** 3 * ((np.e + 1 / np.e) / (np.e - 1 / np.e)) ** 3,
    "exp": lambda x: np.exp(1 - 1 / (1 - x**2)),
    "poly1": lambda x: (1 - x) ** 2 * (1 + 2 * x),
    "poly2": lambda x: (1 - x) ** 3 * (1 + 3 * x + 6 * x**2),
    "poly3": lambda x: (1 - x) ** 4 * (1 + 4 * x + 10 * x**2 + 20 * x**3),
    "poly4": lambda x: (1 - x) ** 5 * (1 + 5 * x + 15 * x**2 + 35 * x**3 + 70 * x**4),
    "hard": np.ones_like,
}
"""The formulas in another form (the polynomials factorised)."""

OPTIONS = [
    Cutoff(R_C, kind, inner)
    for kind in FORMULAS
    for inner in (0.0, 0.3)
    if not inner or kind not in WITHOUT_INNER_RADIUS
]


def ids(options):
    return f"{options.kind}-{options.inner}"


POINTS = 300
"""Distances in a call of a compiled function: each cutoff function is compiled once for each type of number."""


@partial(jax.jit, static_argnums=0, compiler_options=quick_compiler.OPTIONS)
def _derivatives(f, r):
    out = []
    for _ in range(5):
        out.append(f(r))
        f = (lambda g: lambda r: jax.jvp(g, (r,), (jnp.ones_like(r),))[1])(f)
    return out


def derivatives(f, r):
    """f and its first four derivatives at r (a vector), by forward mode."""
    r = np.asarray(r)
    return [np.asarray(values)[: len(r)] for values in _derivatives(f, np.resize(r, POINTS))]


@partial(jax.jit, static_argnums=0, compiler_options=quick_compiler.OPTIONS)
def reversed_totals(f, r):
    """Sums over r of the first to fourth derivatives of f, in reverse mode."""
    total, out = (lambda r: jnp.sum(f(r))), []
    for _ in range(4):
        total = (lambda g: lambda r: jnp.sum(jax.grad(g)(r)))(total)
        out.append(total(r))
    return jnp.stack(out)


def test_all_are_tested():
    assert set(REFERENCE) == set(FORMULAS) == set(VANISHING)


@pytest.mark.parametrize("options", OPTIONS, ids=ids)
def test_formula(options):
    inner = options.inner * R_C
    r = np.linspace(0, 1.3 * R_C, 200)
    x = np.clip((r - inner) / (R_C - inner), 0, 1 - 1e-12)
    expected = np.where(r >= R_C, 0.0, REFERENCE[options.kind](x))
    np.testing.assert_allclose(derivatives(options, r)[0], expected, rtol=0, atol=5e-14)  # rounding of high powers


@pytest.mark.parametrize("kind", FORMULAS)
def test_at_the_centre(kind):
    expected = math.tanh(1) ** 3 if kind == "tanh3" else 1.0
    assert float(Cutoff(R_C, kind)(jnp.zeros(()))) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("options", OPTIONS, ids=ids)
def test_exactly_zero_from_the_radius_on(options):
    r = [R_C, np.nextafter(R_C, 9.0), 2 * R_C, 1e6, np.inf]
    for values in derivatives(options, r):
        np.testing.assert_array_equal(values, 0.0)


@pytest.mark.parametrize("options", [o for o in OPTIONS if o.inner], ids=ids)
def test_exactly_one_inside_the_inner_radius(options):
    r = [0.0, 1e-300, 1e-8, 1.0, np.nextafter(0.3 * R_C, 0)]
    values = derivatives(options, r)
    np.testing.assert_array_equal(values[0], 1.0)
    for derivative in values[1:]:
        np.testing.assert_array_equal(derivative, 0.0)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("options", OPTIONS, ids=ids)
def test_cutoff_has_nan_safe_derivatives_to_fourth_order(options, dtype):
    r_c, inner = dtype(R_C), dtype(options.inner * R_C)
    edges = [0.0, np.finfo(dtype).tiny, 1e-8, 1e-3]
    edges += [np.nextafter(inner, dtype(0)), inner, np.nextafter(inner, r_c)]
    edges += [
        r_c * dtype(1 - 1e-2),
        r_c * dtype(1 - 1e-3),
        r_c * dtype(1 - 5e-4),
        r_c * dtype(1 - 1e-4),
        r_c * dtype(1 - 1e-6),
    ]
    edges += [np.nextafter(r_c, dtype(0)), r_c, np.nextafter(r_c, dtype(9)), 1e9, np.inf]
    r = np.array(edges, dtype)
    for order, values in enumerate(derivatives(options, r)):
        assert values.dtype == dtype
        assert np.isfinite(values).all(), order
        # d^n f / dx^n of these formulas is below 1e5 for n up to 4, and r runs over at least 0.7 R_C.
        assert np.abs(values).max() < 1e5 / (0.7 * R_C) ** order, order

    assert np.isfinite(reversed_totals(options, r)).all()


@pytest.mark.parametrize("options", OPTIONS, ids=ids)
def test_derivatives_go_to_zero_at_the_radius(options):
    inside = derivatives(options, np.linspace(0.4, 0.95, 50) * R_C)
    edge = derivatives(options, [R_C - 1e-6])
    for order in range(VANISHING[options.kind] + 1):
        # First order in the distance from the radius: 1e-6 A times a ratio of derivatives below 100.
        assert np.abs(edge[order]).max() <= 1e-4 * np.abs(inside[order]).max(), order


@pytest.mark.parametrize("options", OPTIONS, ids=ids)
def test_check_grads(options):
    r = jnp.asarray(np.linspace(0.35, 0.97, 9) * R_C)
    # Differences with step 1e-4 of smooth functions: 1e-8 in each order.
    check_grads(jax.jit(options.__call__), (r,), order=3, modes=("fwd",), atol=1e-6, rtol=1e-6, eps=1e-4)


@pytest.mark.parametrize("options", OPTIONS, ids=ids)
def test_falls_from_one_to_zero(options):
    f = derivatives(options, np.linspace(0.0, 1.1 * R_C, 300))[0]
    assert (np.diff(f) <= 1e-14).all() and f[-1] == 0.0 and (f >= 0).all()  # rounding


def test_any_shape_and_dtype():
    assert Cutoff(5.0)(jnp.ones((2, 3, 4), jnp.float32)).shape == (2, 3, 4)
    assert Cutoff(5.0)(jnp.ones((), jnp.float32)).dtype == jnp.float32
    assert Cutoff(5.0)(jnp.ones((), jnp.float64)).dtype == jnp.float64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"radius": 0.0}, "radius=0.0"),
        ({"radius": -1.0}, "radius=-1.0"),
        ({"radius": math.inf}, "radius=inf"),
        ({"radius": math.nan}, "radius=nan"),
        ({"radius": 5.0, "kind": "cos"}, "kind='cos'.*cosine"),
        ({"radius": 5.0, "inner": 1.0}, "inner=1.0"),
        ({"radius": 5.0, "inner": -0.1}, "inner=-0.1"),
        ({"radius": 5.0, "inner": math.nan}, "inner=nan"),
        ({"radius": 5.0, "kind": "tanh3n", "inner": 0.1}, "tanh3n has no inner radius"),
    ],
)
def test_options_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Cutoff(**options)
