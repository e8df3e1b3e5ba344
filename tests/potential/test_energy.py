"""Energy, forces and virial against finite differences, differentiated again, and under symmetry operations.

All structures are padded to the same number of atoms and slots, so that each function is compiled once.
"""

from functools import partial

import ase
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bpjax.descriptors import DefaultACSF
from bpjax.potential import Potential, energy, energy_and_forces, predict
from bpjax.potential.forces import stress
from tests.potential.model import (
    ATOMS,
    MODEL,
    PARAMS,
    SLOTS,
    SMALL,
    SMALL_PARAMS,
    close,
    energy_and_gradient,
    force_loss,
    jit_energy,
    jit_grad_of_force_loss,
    jit_predict,
    prepared,
)
from tests.small_model import STRUCTURES, crystal, liquid, molecule

pytestmark = pytest.mark.usefixtures("strict_promotion")


@pytest.fixture(params=STRUCTURES)
def atoms(request) -> ase.Atoms:
    return STRUCTURES[request.param]()


def difference(f, h=1e-3):
    """Derivative of f at 0 by central differences of fourth order: truncation h^4 f^(5) / 30 and rounding eps f / h."""
    return (8 * (f(h) - f(-h)) - (f(2 * h) - f(-2 * h))) / (12 * h)


# -------------------------------------------------------------------------------------- derivatives


def test_forces_equal_finite_differences(atoms):
    system, neighbors = prepared(atoms, skin=0.1)
    forces = np.asarray(jit_predict(MODEL, PARAMS, system, neighbors).forces)
    numeric = np.zeros((len(atoms), 3))

    def moved(i, a, x):
        R = np.array(system.positions)
        R[i, a] += x
        return float(jit_energy(MODEL, PARAMS, system._replace(positions=R), neighbors))

    for place in np.ndindex(numeric.shape):
        numeric[place] = -difference(partial(moved, *place))
    if len(atoms) > 1:
        assert np.abs(forces).max() > 0.03
    # 1e-6 of the largest force is what is asked for.
    np.testing.assert_allclose(forces[: len(atoms)], numeric, rtol=0, atol=1e-6 * max(np.abs(numeric).max(), 1e-3))
    np.testing.assert_array_equal(forces[len(atoms) :], 0)


def test_virial_and_stress_equal_finite_differences(atoms):
    system, neighbors = prepared(atoms, skin=0.1)
    prediction = jit_predict(MODEL, PARAMS, system, neighbors)
    numeric = np.zeros((3, 3))
    for a, b in np.ndindex(3, 3):

        def E(x, a=a, b=b):
            deformation = np.eye(3)
            deformation[a, b] += x
            R, cell = np.asarray(system.positions), np.asarray(system.cell)
            strained = system._replace(positions=R @ deformation, cell=cell @ deformation)
            return float(jit_energy(MODEL, PARAMS, strained, neighbors))

        numeric[a, b] = difference(E, h=3e-4)
    assert np.abs(numeric).max() > 0.03
    np.testing.assert_allclose(prediction.virial, -numeric, rtol=0, atol=1e-6 * np.abs(numeric).max())
    close(prediction.virial, prediction.virial.T)
    if atoms.pbc.all():
        V = atoms.get_volume()
        np.testing.assert_allclose(
            stress(prediction, system.cell), numeric / V, rtol=0, atol=1e-6 * np.abs(numeric).max() / V
        )


@pytest.mark.slow
def test_gradient_of_the_energy_is_minus_the_forces(atoms):
    system, neighbors = prepared(atoms)
    prediction = jit_predict(MODEL, PARAMS, system, neighbors)
    E, gradient = energy_and_gradient(PARAMS, system, neighbors)
    close(E, prediction.energy)
    close(-gradient, prediction.forces)
    E, forces = jax.jit(energy_and_forces, static_argnums=0)(MODEL, PARAMS, system, neighbors)
    close(E, prediction.energy)
    close(forces, prediction.forces)
    close(prediction.atomic_energies.sum(), prediction.energy)
    assert prediction.atomic_energies.shape == (ATOMS,)


def test_hessian_is_symmetric_and_equals_differences_of_forces():
    # Of the small model: second derivatives of each function are in the contract of the descriptors.
    system, neighbors = prepared(molecule(), skin=0.1, capacity=5, slots=8)
    hessian = jax.jit(jax.hessian(lambda R: energy(SMALL, SMALL_PARAMS, system._replace(positions=R), neighbors)))
    H = np.asarray(hessian(system.positions)).reshape(15, 15)
    close(H, H.T)
    forces = jax.jit(lambda R: predict(SMALL, SMALL_PARAMS, system._replace(positions=R), neighbors).forces)
    e = np.eye(15).reshape(15, 5, 3)
    numeric = -np.stack([difference(lambda x, n=n: forces(system.positions + x * e[n])).reshape(15) for n in range(15)])
    close(H, numeric, rtol=1e-6)  # truncation, as for the forces


def test_forward_mode():
    system, neighbors = prepared(crystal())
    random = np.random.default_rng(0)
    v = jnp.asarray(random.normal(size=system.positions.shape))
    dp = jax.tree.map(lambda p: jnp.asarray(random.normal(size=p.shape)), SMALL_PARAMS)

    def E(params, R):
        return energy(SMALL, params, system._replace(positions=R), neighbors)

    _, slope = jax.jit(lambda: jax.jvp(E, (SMALL_PARAMS, system.positions), (dp, v)))()
    gp, gR = jax.jit(jax.grad(E, argnums=(0, 1)))(SMALL_PARAMS, system.positions)
    expected = jnp.sum(gR * v) + sum(jnp.sum(a * b) for a, b in zip(*map(jax.tree.leaves, (gp, dp)), strict=True))
    close(slope, expected)


def _moved(params, direction, x):
    return jax.tree.map(lambda p, d: p + x * d, params, direction)


@pytest.mark.slow
def test_gradient_of_the_force_loss_equals_finite_differences():
    system, neighbors = prepared(liquid())
    target = jnp.asarray(np.random.default_rng(1).normal(size=(ATOMS, 3)))
    loss = jax.jit(lambda p: force_loss(p, system, neighbors, target))
    gradient = jit_grad_of_force_loss(PARAMS, system, neighbors, target)
    for leaf, p in zip(*map(jax.tree.leaves, (gradient, PARAMS)), strict=True):
        assert leaf.shape == p.shape and np.isfinite(leaf).all()
    for seed in range(4):
        random = np.random.default_rng(seed)
        direction = jax.tree.map(lambda p, random=random: jnp.asarray(random.normal(size=p.shape)), PARAMS)
        slope = sum(jnp.sum(g * d) for g, d in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True))
        numeric = difference(lambda x, d=direction: float(loss(_moved(PARAMS, d, x))))
        # Truncation h^4 f^(5) / 30 with h = 1e-3, and rounding 1e-16 / h.
        assert float(slope) == pytest.approx(numeric, rel=1e-6)


@pytest.mark.slow
def test_gradient_of_a_loss_on_predicted_forces_is_the_same():
    # Training may also go through `predict`, whose forces do not come from jax.grad.
    system, neighbors = prepared(molecule())
    target = jnp.zeros((ATOMS, 3))

    def loss(params):
        p = predict(MODEL, params, system, neighbors)
        return p.energy**2 / 100 + jnp.sum((p.forces + target) ** 2)

    found = jax.jit(jax.grad(loss))(PARAMS)
    expected = jit_grad_of_force_loss(PARAMS, system, neighbors, target)
    jax.tree.map(close, found, expected)


# --------------------------------------------------------------------------------------- symmetries


def test_forces_and_torque_vanish(atoms):
    prediction = jit_predict(MODEL, PARAMS, *prepared(atoms))
    F = np.asarray(prediction.forces)[: len(atoms)]
    np.testing.assert_allclose(F.sum(axis=0), 0, atol=1e-12 * max(np.abs(F).max(), 1))  # rounding
    if not atoms.pbc.any():
        torque = np.cross(atoms.positions, F).sum(axis=0)
        np.testing.assert_allclose(torque, 0, atol=1e-11 * np.abs(F).max())  # rounding times some A


@pytest.mark.parametrize("operation", ["rotation", "reflection", "inversion"])
def test_rotation_and_reflection(atoms, operation):
    Q, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
    Q = {"rotation": Q * np.linalg.det(Q), "reflection": -Q * np.linalg.det(Q), "inversion": -np.eye(3)}[operation]
    turned = atoms.copy()
    turned.set_cell(atoms.cell.array @ Q.T)
    turned.positions = atoms.positions @ Q.T
    one, other = (jit_predict(MODEL, PARAMS, *prepared(a)) for a in (atoms, turned))
    close(other.energy, one.energy)
    close(other.forces, one.forces @ Q.T, rtol=1e-11)
    close(other.virial, Q @ one.virial @ Q.T, rtol=1e-11)


def test_translation_and_wrapping(atoms):
    moved = atoms.copy()
    moved.positions += [0.7, -12.3, 4.4]
    moved.wrap()
    one, other = (jit_predict(MODEL, PARAMS, *prepared(a)) for a in (atoms, moved))
    close(other.energy, one.energy)
    close(other.forces, one.forces, rtol=1e-11)
    close(other.virial, one.virial, rtol=1e-11)


def test_permutation_of_atoms(atoms):
    order = np.random.default_rng(0).permutation(len(atoms))
    one, other = (jit_predict(MODEL, PARAMS, *prepared(a)) for a in (atoms, atoms[order]))
    close(other.energy, one.energy)
    close(other.forces[: len(order)], one.forces[order])
    close(other.atomic_energies[: len(order)], one.atomic_energies[order])


def test_skin_and_order_of_neighbours_do_not_matter(atoms):
    system, neighbors = prepared(atoms)
    one = jit_predict(MODEL, PARAMS, system, neighbors)
    _, more = prepared(atoms, skin=0.4)
    assert int(more.mask.sum()) >= int(neighbors.mask.sum())
    order = np.random.default_rng(0).permutation(SLOTS)
    other = jit_predict(MODEL, PARAMS, system, jax.tree.map(lambda a: a[:, order], more))
    jax.tree.map(close, other, one)


class _Module:
    """Something like a network of Flax."""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"descriptor": DefaultACSF(4.0)}, "DefaultACSF is a rule that makes a descriptor for given elements"),
        ({"descriptor": "ACSF"}, "Potential descriptor: str is no descriptor"),
        ({"network": _Module()}, "_Module is none of MLP, PerElement, SparseGP"),
    ],
)
def test_what_is_no_descriptor_or_network_is_named(changes, words):
    """Tests check types beside this, and users do not: here the package's own check alone."""
    made = object.__new__(Potential)
    for name, value in {**vars(MODEL), **changes}.items():
        object.__setattr__(made, name, value)
    with pytest.raises(ValueError, match=words):
        made.__post_init__()
