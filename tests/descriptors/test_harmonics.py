"""Real spherical harmonics against the Legendre polynomials and against scipy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import eval_legendre, sph_harm_y

from bpjax.descriptors import harmonics

pytestmark = pytest.mark.usefixtures("strict_promotion")

L = 16


@pytest.fixture(scope="module")
def unit_vectors():
    u = np.random.default_rng(0).normal(size=(12, 3))
    u[:6] = [[0, 0, 1], [0, 0, -1], [1, 0, 0], [0, -1, 0], [0, 1e-9, 1], [1e-12, 0, -1]]  # the poles, and close to them
    return u / np.linalg.norm(u, axis=1, keepdims=True)


def test_addition_theorem(unit_vectors):
    C = np.asarray(harmonics.racah(jnp.asarray(unit_vectors), L))
    cos = np.clip(unit_vectors @ unit_vectors.T, -1, 1)
    for l in range(L + 1):
        C_l = C[:, harmonics.degrees(L) == l]
        # Rounding of a recursion of l steps, and of 2 l + 1 terms.
        np.testing.assert_allclose(C_l @ C_l.T, eval_legendre(l, cos), rtol=0, atol=2e-13, err_msg=f"l={l}")


def test_equal_scipys(unit_vectors):
    theta, phi = np.arccos(np.clip(unit_vectors[:, 2], -1, 1)), np.arctan2(unit_vectors[:, 1], unit_vectors[:, 0])
    C = np.asarray(harmonics.racah(jnp.asarray(unit_vectors), L))
    column = 0
    for l in range(L + 1):
        for m in range(-l, l + 1):
            # scipy's are complex, with the Condon-Shortley sign and the prefactor sqrt((2l+1)/(4 pi)).
            Y = (-1) ** m * sph_harm_y(l, abs(m), theta, phi) * np.sqrt(4 * np.pi / (2 * l + 1))
            real = Y.real if m == 0 else np.sqrt(2) * (Y.real if m > 0 else Y.imag)
            # arccos near the poles loses half the digits: sin(theta) is wrong by up to 1e-8.
            np.testing.assert_allclose(C[:, column], real, rtol=0, atol=2e-7, err_msg=f"l={l} m={m}")
            np.testing.assert_allclose(C[6:, column], real[6:], rtol=0, atol=1e-12, err_msg=f"l={l} m={m}")
            column += 1
    assert column == harmonics.size(L) == C.shape[1]


def test_are_orthogonal():
    # Gauss-Legendre in z times equidistant angles integrate the products up to degree 2 L exactly.
    z, weight = np.polynomial.legendre.leggauss(L + 1)
    phi = 2 * np.pi * np.arange(2 * L + 2) / (2 * L + 2)
    z, phi = (a.ravel() for a in np.meshgrid(z, phi, indexing="ij"))
    s = np.sqrt(1 - z**2)
    C = np.asarray(harmonics.racah(jnp.asarray(np.stack([s * np.cos(phi), s * np.sin(phi), z], axis=1)), L))
    w = np.repeat(weight, 2 * L + 2) / (2 * (2 * L + 2))
    expected = np.diag(1 / (2 * harmonics.degrees(L) + 1))
    np.testing.assert_allclose((C * w[:, None]).T @ C, expected, rtol=0, atol=1e-13)  # rounding


def test_have_finite_derivatives_at_the_poles(unit_vectors):
    def f(u):
        return jnp.sum(harmonics.racah(u, 4) ** 2 * jnp.arange(1.0, harmonics.size(4) + 1)[None, :])

    u = jnp.asarray(unit_vectors)
    v = jnp.broadcast_to(jnp.asarray([1.0, 0.7, 0.3]), u.shape)

    def second(u):
        return jax.jvp(jax.grad(f), (u,), (v,))[1]

    for derivative in jax.jit(lambda u: (jax.grad(f)(u), *jax.jvp(second, (u,), (v,))))(u):
        assert np.isfinite(derivative).all()


def test_single_precision(unit_vectors):
    C32 = harmonics.racah(jnp.asarray(unit_vectors, jnp.float32), L)
    assert C32.dtype == jnp.float32
    C = harmonics.racah(jnp.asarray(unit_vectors), L)
    np.testing.assert_allclose(C32, C, rtol=0, atol=1e-5)  # rounding 6e-8 times derivatives of order l^2


def test_large_degrees_without_double_precision(unit_vectors):
    # The largest constants, 31!! at l = 16, fit neither 32-bit integers nor, squared, float32.
    with jax.enable_x64(False):
        C = harmonics.racah(jnp.asarray(unit_vectors, jnp.float32), L)
    assert C.dtype == jnp.float32 and np.isfinite(C).all()
