"""Eigenvalues and eigenvectors: values, derivatives against finite differences, nothing infinite at degeneracies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from bpjax.excited.eigen import degenerate_pairs, eigh, inverse_gaps
from tests.excited.cases import central, hermitian, random_model

pytestmark = pytest.mark.usefixtures("strict_promotion")


@pytest.mark.parametrize("imaginary", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_values(n, imaginary):
    H = np.stack([hermitian(np.random.default_rng(seed), n, imaginary) for seed in range(20)])
    E, U = (np.asarray(x) for x in jax.jit(jax.vmap(eigh))(jnp.asarray(H)))
    np.testing.assert_allclose(E, np.stack([scipy.linalg.eigvalsh(h) for h in H]), atol=1e-14)
    np.testing.assert_allclose(H @ U, U * E[:, None, :], atol=2e-14)
    np.testing.assert_allclose(np.swapaxes(np.conj(U), 1, 2) @ U, np.broadcast_to(np.eye(n), U.shape), atol=1e-14)


@pytest.mark.parametrize(
    "ab", [(1.0, 1.0, 0.0), (0.0, 0.0, 0.0), (1.0, 1.0, 1e-300), (-3.0, 5.0, 0.0), (5.0, -3.0, -1e-20)]
)
def test_closed_form_at_its_edges(ab):
    a, b, c = ab
    H = jnp.asarray([[a, c], [c, b]])
    E, U = jax.jit(eigh)(H)
    np.testing.assert_array_equal(E, np.sort([a, b]))
    np.testing.assert_allclose(H @ U, U * E[None, :], atol=1e-15)
    np.testing.assert_allclose(U.T @ U, np.eye(2), atol=1e-15)


@pytest.mark.parametrize("imaginary", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize("n", [2, 4])
def test_derivatives_are_those_of_finite_differences(n, imaginary):
    """Of energies (first and second) and of projectors, in which phases do not appear."""
    model = random_model(n, n, 3, imaginary)
    R = jnp.asarray([0.3, -0.7, 0.2])

    def values(R):
        E, U = eigh(model(R))
        return E, jnp.einsum("ai,bi->iab", U, U.conj())

    first = jax.jit(jax.jacfwd(values))
    for k in (0, 1):
        pick = jax.jit(lambda R, k=k: values(R)[k])
        np.testing.assert_allclose(first(R)[k], central(pick, R), atol=2e-8)
        slope = jax.jit(lambda R, k=k: first(R)[k])
        np.testing.assert_allclose(jax.jit(jax.jacfwd(slope))(R), central(slope, R), atol=2e-7)
    reverse = jax.jit(jax.jacrev(lambda R: values(R)[0]))(R)
    np.testing.assert_allclose(reverse, first(R)[0], atol=1e-13)


def test_derivative_of_states_is_parallel_transport():
    model = random_model(5, 3, 2, True)
    R = jnp.asarray([0.1, 0.4])
    U, dU = jax.jit(lambda R: jax.jvp(lambda R: eigh(model(R))[1], (R,), (jnp.asarray([0.6, 0.8]),)))(R)
    np.testing.assert_allclose(jnp.diagonal(U.conj().T @ dU), 0, atol=1e-14)


MATRICES = {
    "two equal": np.eye(2),
    "zero": np.zeros((2, 2)),
    "three, two equal": np.diag([1.0, 1.0, 3.0]),
    "three equal": -94.4 * np.eye(3),
    "complex pair": np.kron(np.diag([0.2, 0.5]), np.eye(2)).astype(complex),
}


@pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["f64", "f32"])
@pytest.mark.parametrize("name", MATRICES)
def test_nothing_is_infinite_at_a_degeneracy(name, dtype):
    H0 = MATRICES[name]
    kind = np.result_type(dtype, np.complex64) if np.iscomplexobj(H0) else dtype
    n = len(H0)
    rng = np.random.default_rng(1)
    A, B = (jnp.asarray(hermitian(rng, n, np.iscomplexobj(H0)).astype(kind)) for _ in range(2))
    target = jnp.asarray(rng.normal(size=n).astype(dtype))

    def model(x, w):
        return jnp.asarray(H0.astype(kind)) + (x + w * x * x).astype(kind) * A + (w * x * x).astype(kind) * B

    def loss(w):
        """As in training: energies and forces, from derivatives, against targets."""
        x = jnp.zeros((), dtype)
        E, dE = jax.jvp(lambda x: eigh(model(x, w))[0], (x,), (jnp.ones_like(x),))
        U = eigh(model(x + 0, w))[1]
        return jnp.sum((E - target) ** 2 + (dE - target) ** 2) + jnp.sum(jnp.abs(U) ** 4)

    w = jnp.ones((), dtype)
    for f in (loss, jax.grad(loss), jax.grad(jax.grad(loss))):
        assert np.isfinite(jax.jit(f)(w))
    E = jax.jit(lambda x: eigh(model(x, w))[0])
    x = jnp.zeros((), dtype)
    for _ in range(3):
        assert np.isfinite(E(x)).all()
        E = jax.jit(jax.jacfwd(E))


def test_gradients_at_a_degeneracy_sum_to_that_of_the_trace():
    model = random_model(2, 3, 2)
    shift = -model(jnp.zeros(2))  # at the origin the matrix is zero: all three states meet
    dE = jax.jit(jax.jacfwd(lambda R: eigh(model(R) + shift)[0]))(jnp.zeros(2))
    expected = jax.jacfwd(lambda R: jnp.trace(model(R)))(jnp.zeros(2))
    np.testing.assert_allclose(dE.sum(axis=0), expected, atol=1e-13)


def test_inverse_gaps():
    E = jnp.asarray([-1.0, -1.0 + 1e-17, 0.5, 2.0])
    F = inverse_gaps(E)
    np.testing.assert_array_equal(F, -F.T)
    assert F[0, 1] == 0 and float(F[0, 2]) == pytest.approx(1 / 1.5)
    assert np.asarray(degenerate_pairs(E))[0].tolist() == [True, True, False, False]
    width = 0.1
    np.testing.assert_allclose(inverse_gaps(E, width)[2, 3], 1.5 / (1.5**2 + width**2))
    close = jnp.asarray([0.0, 1e-6, 0.3])
    assert np.abs(inverse_gaps(close, width)).max() <= 1 / (2 * width)


def test_broadening_changes_derivatives_only():
    H = jnp.asarray([[0.0, 1e-3], [1e-3, 1e-3]])
    dH = jnp.asarray([[1.0, 0.3], [0.3, -1.0]])
    exact, broad = (jax.jvp(lambda H, w=w: eigh(H, w), (H,), (dH,)) for w in (0.0, 0.01))
    np.testing.assert_array_equal(exact[0][1], broad[0][1])
    np.testing.assert_array_equal(exact[1][0], broad[1][0])
    gap = float(exact[0][0][1] - exact[0][0][0])
    np.testing.assert_allclose(broad[1][1], exact[1][1] * gap**2 / (gap**2 + 1e-4), rtol=1e-12)
