"""Eigenvalues and eigenvectors: values, derivatives against finite differences, nothing infinite at degeneracies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from bpjax.excited.eigen import degenerate_pairs, eigh, inverse_gaps
from tests.excited.cases import central, hermitian, random_model

pytestmark = pytest.mark.usefixtures("strict_promotion")

jit_eigh = jax.jit(eigh)


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
    H = np.array([[a, c], [c, b]])
    E, U = (np.asarray(x) for x in jit_eigh(H))
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

    first = jax.jacfwd(values)
    ours = jax.jit(lambda R: (first(R), jax.jacfwd(first)(R), jax.jacrev(lambda R: values(R)[0])(R)))(R)
    both = jax.jit(lambda R: (values(R), first(R)))
    for k in (0, 1):
        np.testing.assert_allclose(ours[0][k], central(lambda R, k=k: both(R)[0][k], R), atol=2e-8)
        np.testing.assert_allclose(ours[1][k], central(lambda R, k=k: both(R)[1][k], R), atol=2e-7)
    np.testing.assert_allclose(ours[2], ours[0][0], atol=1e-13)


def test_derivative_of_states_is_parallel_transport():
    model = random_model(5, 3, 2, True)
    R = jnp.asarray([0.1, 0.4])
    U, dU = jax.jit(lambda R: jax.jvp(lambda R: eigh(model(R))[1], (R,), (jnp.asarray([0.6, 0.8]),)))(R)
    np.testing.assert_allclose(np.diagonal(np.asarray(U).conj().T @ np.asarray(dU)), 0, atol=1e-14)


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

    @jax.jit
    def everything(w, x):
        slopes = (loss, jax.grad(loss), jax.grad(jax.grad(loss)))
        E = lambda x: eigh(model(x, w))[0]  # noqa: E731
        energies = (E, jax.jacfwd(E), jax.jacfwd(jax.jacfwd(E)))
        return [f(w) for f in slopes], [f(x) for f in energies]

    for value in jax.tree.leaves(everything(jnp.ones((), dtype), jnp.zeros((), dtype))):
        assert np.isfinite(value).all()


def test_gradients_at_a_degeneracy_sum_to_that_of_the_trace():
    model = random_model(2, 3, 2)
    origin = jnp.zeros(2)
    shift = -jax.jit(model)(origin)  # at the origin the matrix is zero: all three states meet
    both = lambda R: (eigh(model(R) + shift)[0], jnp.trace(model(R)))  # noqa: E731
    dE, expected = jax.jit(jax.jacfwd(both))(origin)
    np.testing.assert_allclose(np.asarray(dE).sum(axis=0), expected, atol=1e-13)


def test_inverse_gaps():
    E = np.array([-1.0, -1.0 + 1e-17, 0.5, 2.0])
    gaps = jax.jit(inverse_gaps, static_argnums=1)
    F = np.asarray(jax.jit(inverse_gaps)(E))
    np.testing.assert_array_equal(F, -F.T)
    assert F[0, 1] == 0 and float(F[0, 2]) == pytest.approx(1 / 1.5)
    assert np.asarray(jax.jit(degenerate_pairs)(E))[0].tolist() == [True, True, False, False]
    width = 0.1
    np.testing.assert_allclose(np.asarray(gaps(E, width))[2, 3], 1.5 / (1.5**2 + width**2))
    assert np.abs(gaps(np.array([0.0, 1e-6, 0.3]), width)).max() <= 1 / (2 * width)


def test_broadening_changes_derivatives_only():
    H = jnp.asarray([[0.0, 1e-3], [1e-3, 1e-3]])
    dH = jnp.asarray([[1.0, 0.3], [0.3, -1.0]])
    slope = jax.jit(lambda width: jax.jvp(lambda H: eigh(H, width), (H,), (dH,)), static_argnums=0)
    exact, broad = (jax.tree.map(np.asarray, slope(width)) for width in (0.0, 0.01))
    np.testing.assert_array_equal(exact[0][1], broad[0][1])
    np.testing.assert_array_equal(exact[1][0], broad[1][0])
    gap = float(exact[0][0][1] - exact[0][0][0])
    np.testing.assert_allclose(broad[1][1], exact[1][1] * gap**2 / (gap**2 + 1e-4), rtol=1e-12)
