"""Pair vectors and what is made from pair gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bpjax.geometry import environments, forces_from_pairs, norm, pair_vectors, sanitised, virial_from_pairs, volume
from bpjax.neighbors import neighbor_list
from bpjax.system import Neighbors, System

pytestmark = pytest.mark.usefixtures("strict_promotion")

CELL = np.array([[3.0, 0.2, 0.1], [1.0, 3.5, -0.3], [-0.4, 0.6, 4.0]])


@pytest.fixture(scope="module")
def crystal():
    R = np.random.default_rng(0).uniform(-2, 6, (3, 3))
    neighbors = neighbor_list(R, CELL, True, 4.0, atoms=5)
    system = System(np.r_[R, np.zeros((2, 3))], np.array([1, 0, 1, 0, 0]), CELL, np.ones(3, bool), np.arange(5) < 3)
    return jax.tree.map(jnp.asarray, (system, neighbors))


def test_pair_vectors(crystal):
    system, neighbors = crystal
    R_ij = np.asarray(pair_vectors(system, neighbors))
    system, neighbors = jax.tree.map(np.asarray, crystal)
    for i, k in np.argwhere(neighbors.mask):
        expected = system.positions[neighbors.idx[i, k]] + neighbors.shift[i, k] @ CELL - system.positions[i]
        np.testing.assert_allclose(R_ij[i, k], expected, rtol=0, atol=1e-14)  # rounding
        assert 0 < np.linalg.norm(R_ij[i, k]) <= 4.0
    lengths = np.linalg.norm(R_ij[~neighbors.mask], axis=-1)
    np.testing.assert_array_equal(lengths, 1.0)


def test_environments(crystal):
    system, neighbors = crystal
    env = environments(system, neighbors)
    np.testing.assert_array_equal(env.species_j, system.species[neighbors.idx])
    np.testing.assert_array_equal(env.mask, neighbors.mask)


def test_numpy_and_traced_arrays_mix(crystal):
    system, neighbors = crystal
    host = jax.tree.map(np.asarray, (system, neighbors))
    expected = jax.tree.map(np.asarray, environments(system, neighbors))
    for found in (
        environments(*host),
        jax.jit(lambda n: environments(host[0], n))(neighbors),
        jax.jit(lambda s: environments(s, host[1]))(system),
        jax.jit(lambda R, n: environments(host[0]._replace(positions=R), n))(system.positions, neighbors),
    ):
        jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_without_shift_or_cell():
    R = jnp.asarray([[0.0, 0, 0], [1.0, 2.0, 2.0]])
    neighbors = Neighbors(jnp.asarray([[1], [0]]), None, jnp.ones((2, 1), bool))
    found = pair_vectors(System(R, jnp.zeros(2, jnp.int32)), neighbors)
    np.testing.assert_array_equal(found[:, 0], [[1, 2, 2], [-1, -2, -2]])
    shifted = neighbors._replace(shift=jnp.zeros((2, 1, 3), jnp.int32))
    np.testing.assert_array_equal(pair_vectors(System(R, jnp.zeros(2, jnp.int32)), shifted), found)


@jax.jit
def lengths_and_derivatives(R_ij, mask):
    """Lengths, and gradients and second derivatives of sums of them and of inverse cubes."""
    lengths = lambda R: norm(sanitised(R, mask))  # noqa: E731
    sums = (lambda R: jnp.sum(lengths(R)), lambda R: jnp.sum(1 / lengths(R) ** 3))
    return lengths(R_ij), [(jax.grad(f)(R_ij), jax.hessian(f)(R_ij)) for f in sums]


@pytest.mark.parametrize("garbage", [np.nan, np.inf, 0.0, 1e300], ids=str)
def test_masked_slots_have_no_value_and_no_derivative(garbage):
    R_ij = np.full((3, 3), garbage)
    R_ij[1] = [1.0, 2.0, 2.0]
    lengths, derivatives = lengths_and_derivatives(R_ij, np.array([False, True, False]))
    np.testing.assert_array_equal(lengths, [1, 3, 1])
    for gradient, hessian in derivatives:
        assert np.isfinite(hessian).all()
        np.testing.assert_array_equal(np.asarray(gradient)[[0, 2]], 0.0)


def test_forces_from_pairs(crystal):
    _, neighbors = crystal
    g = np.random.default_rng(1).normal(size=(*neighbors.idx.shape, 3))
    g[~np.asarray(neighbors.mask)] = np.nan  # whatever a kernel leaves there
    expected = np.zeros((5, 3))
    for i, k in np.argwhere(neighbors.mask):
        expected[i] += g[i, k]
        expected[neighbors.idx[i, k]] -= g[i, k]
    found = forces_from_pairs(jnp.asarray(g), neighbors.idx, neighbors.mask)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)  # rounding of some tens of terms
    np.testing.assert_allclose(found.sum(axis=0), 0, atol=1e-12)


def test_virial_is_the_strain_derivative(crystal):
    system, neighbors = crystal

    @jax.jit
    @jax.grad
    def dE(strain):
        deformed = jnp.eye(3) + strain
        R_ij = pair_vectors(
            system._replace(positions=system.positions @ deformed, cell=system.cell @ deformed), neighbors
        )
        return jnp.sum(jnp.where(neighbors.mask, jnp.sum(jnp.sin(R_ij) * R_ij[..., ::-1], axis=-1), 0))

    R_ij = pair_vectors(system, neighbors)
    g = jax.jit(jax.grad(lambda R: jnp.sum(jnp.where(neighbors.mask, jnp.sum(jnp.sin(R) * R[..., ::-1], axis=-1), 0))))(
        R_ij
    )
    # An energy without rotational invariance: the virial is not symmetric and its indices are told apart.
    np.testing.assert_allclose(virial_from_pairs(g, R_ij, neighbors.mask), -dE(jnp.zeros((3, 3))), rtol=0, atol=1e-11)


def test_volume():
    assert float(volume(jnp.asarray(CELL))) == pytest.approx(np.linalg.det(CELL), rel=1e-14)
    assert float(volume(jnp.asarray(CELL[[1, 0, 2]]))) == pytest.approx(np.linalg.det(CELL), rel=1e-14)
    batch = np.stack([CELL, 2 * CELL])
    np.testing.assert_allclose(volume(jnp.asarray(batch)), np.abs(np.linalg.det(batch)), rtol=1e-14)
