"""Diabatic models for the tests, analytic ones and random smooth ones of any size."""

import jax.numpy as jnp
import numpy as np

VERLET = {"integrator": "velocity_verlet", "energy_tolerance_ev": 0.0}
"""Options of surface hopping where one force in a step of one length is exact enough: a quarter of the cost."""


def hermitian(rng, n, imaginary):
    A = rng.normal(size=(n, n)) + (1j * rng.normal(size=(n, n)) if imaginary else 0)
    return 0.5 * (A + A.conj().T)


def random_model(seed, states, coordinates, imaginary=False):
    """A smooth matrix: constant, linear and quadratic terms and a sine, all random."""
    rng = np.random.default_rng(seed)
    A = jnp.asarray(hermitian(rng, states, imaginary))
    B = jnp.asarray(np.stack([hermitian(rng, states, imaginary) for _ in range(coordinates)]))
    C = jnp.asarray(np.stack([hermitian(rng, states, imaginary) for _ in range(coordinates)]))
    D = jnp.asarray(np.stack([hermitian(rng, states, imaginary) for _ in range(coordinates)]))

    def model(R):
        x = R.reshape(-1).astype(A.dtype)
        return (
            A + jnp.tensordot(x, B, 1) + 0.3 * jnp.tensordot(x * jnp.roll(x, 1), C, 1) + jnp.tensordot(jnp.sin(x), D, 1)
        )

    return model


def spin_in_field(R):
    """A spin one half in the field R: degenerate at the origin, Berry curvature of a monopole."""
    x, y, z = R
    return 0.5 * jnp.array([[z, x - 1j * y], [x + 1j * y, -z]])


def circle(centre, radius, points):
    t = 2 * np.pi * np.arange(points) / points
    return jnp.asarray(np.asarray(centre)[None] + radius * np.stack([np.cos(t), np.sin(t)], axis=1))


def central(f, R, h=1e-5):
    """Central differences of f by every coordinate of R, on the last axes."""
    R = np.asarray(R, float)
    columns = []
    for index in np.ndindex(R.shape):
        step = np.zeros_like(R)
        step[index] = h
        columns.append((np.asarray(f(jnp.asarray(R + step))) - np.asarray(f(jnp.asarray(R - step)))) / (2 * h))
    return np.stack(columns, axis=-1).reshape(*columns[0].shape, *R.shape)


MASSES = np.array([2000.0, 3000.0, 4000.0, 6000.0])
"""Of the four coordinates of `molecule_like`, in electron masses."""


def molecule_like(states=3, coordinates=4, imaginary=False, seed=7):
    """A bound random model of moderate couplings, in hartree; states a few hundredths apart."""
    soft = random_model(seed, states, coordinates, imaginary)
    ladder = jnp.diag(0.012 * jnp.arange(states))

    def model(R):
        H = 0.01 * soft(0.5 * R) + ladder + 0.02 * jnp.sum(R * R) * jnp.eye(states)
        return H

    return model


def ensemble(number, coordinates=4, seed=0, speed=3e-3):
    """Coordinates and velocities of trajectories of `molecule_like`."""
    rng = np.random.default_rng(seed)
    return rng.normal(scale=0.7, size=(number, coordinates)), rng.normal(scale=speed, size=(number, coordinates))
