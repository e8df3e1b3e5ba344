"""Is the compiler right? jax 0.10.2 is not (jax#39103), silently: on the CPU, a product of each row with a matrix,
followed by a sum over the row, comes out wrong from about 16 384 rows on. That is pair geometry in a skewed cell.

The package cannot work around this; `pyproject.toml` excludes the versions known to be wrong, and this test is for
the next one. It uses the plainest code, so that a failure here is never ours.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytestmark = pytest.mark.as_users

ROWS = [16385, 20001, 32769]


def distances(R, i, j):
    """Free boundaries."""
    R_ij = R[j] - R[i]
    return R_ij, jnp.linalg.norm(R_ij, axis=-1)


def image_distances(R, i, j, shift, cell):
    """Periodic images, cell vectors as rows: written for one pair, as descriptors are."""

    def pair(i, j, shift):
        R_ij = R[j] - R[i] + shift @ cell
        return R_ij, jnp.sqrt(jnp.sum(R_ij**2))

    return jax.vmap(pair)(i, j, shift)


def squared_lengths(shift, cell):
    """The case of jax#39103."""
    return (jax.vmap(lambda row: jnp.sum((cell @ row) ** 2))(shift),)


def neighbour_distances(R, idx):
    """A dense list: one row of neighbours for each atom."""
    R_ij = R[idx] - R[:, None, :]
    return R_ij, jnp.linalg.norm(R_ij, axis=-1)


def with_lengths(R_ij):
    return R_ij, np.linalg.norm(R_ij, axis=-1)


IN_NUMPY = {
    distances: lambda R, i, j: with_lengths(R[j] - R[i]),
    image_distances: lambda R, i, j, shift, cell: with_lengths(R[j] - R[i] + shift @ cell),
    squared_lengths: lambda shift, cell: (np.sum((shift @ cell.T) ** 2, axis=-1),),
    neighbour_distances: lambda R, idx: with_lengths(R[idx] - R[:, None, :]),
}


def check(function, dtype, *arguments):
    """Compiled equals NumPy, to rounding."""
    arguments = [a.astype(dtype) if np.issubdtype(a.dtype, np.floating) else a for a in map(np.asarray, arguments)]
    compiled = jax.jit(function)(*arguments)
    for a, b in zip(compiled, IN_NUMPY[function](*arguments), strict=True):
        scale = float(np.max(np.abs(b)))
        np.testing.assert_allclose(
            a,
            b,
            rtol=0,
            atol=100 * np.finfo(dtype).eps * scale,
            err_msg=f"jax {jax.__version__} miscompiles {function.__name__} in {dtype.__name__}: do not use it",
        )


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_compiled_pair_geometry_is_that_of_numpy(rows, dtype):
    random = np.random.default_rng(rows)
    R = random.uniform(0, 30, (1000, 3))
    cell = np.diag([30.0, 30.0, 30.0]) + random.uniform(0, 3, (3, 3))
    i, j = random.integers(0, len(R), (2, rows))
    shift = random.integers(-2, 3, (rows, 3)).astype(float)
    check(distances, dtype, R, i, j)
    check(image_distances, dtype, R, i, j, shift, cell)
    check(squared_lengths, dtype, np.arange(3.0 * rows).reshape(rows, 3), cell)
    check(neighbour_distances, dtype, random.uniform(0, 30, (rows, 3)), random.integers(0, rows, (rows, 4)))
