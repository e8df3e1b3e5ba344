"""Odd factors: how they turn over, where they vanish, that they are smooth everywhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bpjax.excited.odd import Chirality, Lean, SignedVolume, Torsion, Twist, monomials
from tests.excited.cases import central
from tests.excited.methaniminium import (
    ATOMS,
    BEND_C,
    BEND_N,
    CHIRALITY,
    EXCHANGES,
    LEAN_C,
    LEAN_N,
    TORSION,
    TWIST,
    TWISTED,
    rotation,
    shaken,
)

FACTORS = {
    "torsion": TORSION,
    "twist": TWIST,
    "bend at C": BEND_C,
    "bend at N": BEND_N,
    "lean at C": LEAN_C,
    "lean at N": LEAN_N,
    "chirality": CHIRALITY,
}

OPERATIONS = {"H on C": "C", "H on N": "N", "inversion": "mirror"}
"""Names that the factors have for them."""


@pytest.mark.parametrize("factor", FACTORS)
def test_signs_under_every_operation(factor):
    f = jax.jit(jax.vmap(FACTORS[factor]))
    R = shaken(1, 20)
    value = f(R)
    turns = {op: -1 if name in FACTORS[factor].signs else 1 for op, name in OPERATIONS.items()}
    assert np.abs(value).min() > 1e-5 and np.abs(value).max() < 1
    np.testing.assert_allclose(f(R @ rotation(2).T + 3.0), value, atol=1e-13)
    np.testing.assert_allclose(f(-R), turns["inversion"] * value, atol=1e-14)
    for exchange, order in EXCHANGES.items():
        np.testing.assert_allclose(f(R[:, order]), turns[exchange] * value, atol=1e-13)


def test_torsion_and_chirality_vanish_on_the_symmetric_geometry_and_change_sign_there():
    twist = np.zeros((6, 3))
    twist[4, 1], twist[5, 1] = 0.05, -0.05
    for factor in map(jax.jit, (TORSION, CHIRALITY)):
        at, beside, other = (float(factor(TWISTED + k * twist)) for k in (0, 1, -1))
        assert abs(at) < 1e-14
        assert abs(beside) > 1e-3
        np.testing.assert_allclose(beside, -other, atol=1e-13)


def test_torsion_and_twist_are_cosine_and_sine_of_the_angle_between_the_planes():
    torsion, twist = (
        jax.jit(kind((0, 1), (2, 3), (4, 5), length=10.0)) for kind in (Torsion, Twist)
    )  # so long: not saturated
    for angle in (0.0, 0.3, 1.2, 2.0):
        a = np.array([np.cos(angle), np.sin(angle), 0.0])
        R = np.array(
            [[0, 0, 0], [0, 0, 1.3], [-0.9, 0, -0.5], [0.9, 0, -0.5], *(np.array([0, 0, 1.8]) + s * a for s in (-1, 1))]
        )
        np.testing.assert_allclose(torsion(jnp.asarray(R)), 1.3**2 * 1.8 * 2.0 * np.cos(angle) / 10.0**4, atol=1e-7)
        np.testing.assert_allclose(twist(jnp.asarray(R)), 1.3 * 1.8 * 2.0 * np.sin(angle) / 10.0**3, atol=1e-7)


@pytest.mark.parametrize("name", FACTORS)
def test_derivatives(name):
    f = FACTORS[name]
    R = shaken(3)[0]
    derivatives = jax.jit(lambda R: (f(R), jax.grad(f)(R), jax.hessian(f)(R)))
    np.testing.assert_allclose(derivatives(R)[1], central(lambda R: derivatives(R)[0], R), atol=1e-8)
    collinear = np.outer(np.arange(6.0), [0.3, 0.4, 0.5])
    for awkward in (collinear, np.zeros((6, 3)), 1e6 * TWISTED):
        for values in derivatives(awkward):
            assert np.isfinite(values).all()


def test_monomials():
    factors = (TORSION, BEND_C, BEND_N)
    assert monomials(factors, frozenset()) == ((),)
    assert monomials(factors, frozenset({"C", "N"})) == ((0,), (1, 2))
    assert monomials(factors, frozenset({"C", "mirror"})) == ((1,), (0, 2))
    assert monomials(factors, frozenset({"C"})) == ()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Torsion((0, 1), (2, 3), (4, 2)), "every atom once"),
        (lambda: Torsion((0, 1), (2, 3), (4, 5), length=0.0), "length=0.0"),
        (lambda: Twist((0, 1), (2, 3), (4, 5), length=-1.0), "length=-1.0"),
        (lambda: Lean((0, 1), (2, 1), ("C",)), "every atom once"),
        (lambda: SignedVolume(0, (1, 2, -3), ("C",)), "every atom once"),
        (lambda: SignedVolume(0, (1, 2, 3), ()), "at least one name"),
        (lambda: Chirality(ATOMS, (1.0, 2.0, 2.0)), "must differ"),
        (lambda: Chirality(ATOMS, (1.0, -2.0, 2.0)), "must be positive"),
        (lambda: Chirality(ATOMS, gain=0.0), "gain=0.0"),
    ],
)
def test_bad_options(make, message):
    with pytest.raises(ValueError, match=message):
        make()
