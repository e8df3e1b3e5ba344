"""The same energy and forces from every layout: supercells, padding, batches, blocks, ensembles, precision, elements."""

import subprocess
import sys
from functools import partial

import ase
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bpjax.descriptors import ACSF
from bpjax.descriptors.acsf import Angular, Radial
from bpjax.geometry import environments, forces_from_pairs
from bpjax.neighbors import neighbor_list
from bpjax.networks.elemental import MLP
from bpjax.potential import Potential, energy, init, predict
from bpjax.potential.blocks import BLOCK
from bpjax.potential.energy import energy_from_features, local_energies
from bpjax.system import system_from_arrays
from tests.potential.model import (
    ATOMS,
    CUTOFF,
    MODEL,
    PARAMS,
    SMALL,
    SMALL_PARAMS,
    close,
    energy_and_gradient,
    jit_energy,
    jit_grad_of_force_loss,
    jit_grad_small,
    jit_predict,
    prepared,
    strong,
)
from tests.small_model import STRUCTURES, crystal, liquid, molecule, one_atom

pytestmark = pytest.mark.usefixtures("strict_promotion")


@pytest.fixture(params=STRUCTURES)
def atoms(request) -> ase.Atoms:
    return STRUCTURES[request.param]()


# ------------------------------------------------------------------------------------ size extensive


@pytest.mark.slow
def test_two_far_copies():
    one = molecule()
    two = one + one
    two.positions[len(one) :] += [40.0, -30.0, 50.0]
    single, double = (jit_predict(MODEL, PARAMS, *prepared(a)) for a in (one, two))
    close(double.energy, 2 * single.energy)
    close(double.forces[: len(one)], single.forces[: len(one)])
    close(double.forces[len(one) : 2 * len(one)], single.forces[: len(one)], rtol=1e-11)
    close(double.virial, 2 * single.virial, rtol=1e-11)


@pytest.mark.parametrize("make", [one_atom, crystal], ids=lambda f: f.__name__)
def test_supercell(make):
    small = make()
    repeats = (2, 2, 2) if len(small) == 1 else (2, 1, 1)
    n = int(np.prod(repeats))
    assert CUTOFF > small.cell.lengths().min() / 2
    large = small.repeat(repeats)
    one, many = (jit_predict(MODEL, PARAMS, *prepared(a)) for a in (small, large))
    close(many.energy, n * one.energy)
    close(many.forces[: n * len(small)], jnp.tile(one.forces[: len(small)], (n, 1)))
    close(many.virial, n * one.virial)


@pytest.mark.slow
def test_large_supercell_in_blocks():
    # 2 x 2 x 2 cells of 16 atoms: more than a block, so that energy, forces and their derivatives go through the blocks.
    small, n = liquid(), 8
    large = small.repeat((2, 2, 2))
    assert len(large) > BLOCK
    big = prepared(large, capacity=len(large) + 3)
    one, many = jit_predict(SMALL, SMALL_PARAMS, *prepared(small)), jit_predict(SMALL, SMALL_PARAMS, *big)
    close(many.energy, n * one.energy)
    close(many.forces[: len(large)], jnp.tile(one.forces, (n, 1)), rtol=1e-11)
    close(many.virial, n * one.virial)
    # Of E^2 / 100 + sum F^2 the second part is extensive, and the gradient of the first is 2 E dE / 100.
    gradient = jit_grad_small(SMALL_PARAMS, *big, jnp.zeros((len(large) + 3, 3)))
    small_gradient = jit_grad_small(SMALL_PARAMS, *prepared(small), jnp.zeros((ATOMS, 3)))
    dE = jax.jit(jax.grad(lambda p: energy(SMALL, p, *prepared(small))))(SMALL_PARAMS)
    jax.tree.map(
        lambda g, s, d: close(g, n * s + (n**2 - n) * 2 * one.energy / 100 * d, rtol=1e-11),
        gradient,
        small_gradient,
        dE,
    )


# --------------------------------------------------------------------------------- layouts and padding


@pytest.mark.slow
def test_padded_atoms_do_not_matter(atoms):
    N = len(atoms)
    system, neighbors = prepared(atoms)
    clean = jit_predict(MODEL, PARAMS, system, neighbors)
    for garbage in (np.nan, np.inf, 1e30):
        dirty = system._replace(positions=system.positions.at[N:].set(garbage), species=system.species.at[N:].set(77))
        junk = neighbors._replace(
            idx=jnp.where(neighbors.mask, neighbors.idx, 10**6),
            shift=jnp.where(neighbors.mask[..., None], neighbors.shift, 99),
        )
        found = jit_predict(MODEL, PARAMS, dirty, junk)
        jax.tree.map(np.testing.assert_array_equal, found, clean)
        E, gradient = energy_and_gradient(PARAMS, dirty, junk)
        close(E, clean.energy)
        close(-gradient, clean.forces)
        np.testing.assert_array_equal(gradient[N:], 0)
    if N < ATOMS:
        g = jit_grad_of_force_loss(PARAMS, dirty, junk, jnp.zeros((ATOMS, 3)))
        expected = jit_grad_of_force_loss(PARAMS, system, neighbors, jnp.zeros((ATOMS, 3)))
        jax.tree.map(close, g, expected)


@pytest.mark.slow
def test_unpadded_and_without_masks_shifts_or_cell():
    atoms = molecule()
    expected = jit_predict(SMALL, SMALL_PARAMS, *prepared(atoms))
    system = system_from_arrays(atoms.numbers, atoms.positions, None, False, SMALL.elements)
    neighbors = neighbor_list(atoms.positions, None, False, CUTOFF)
    assert system.cell is None and neighbors.shift is None
    for bare in (system, system._replace(atom_mask=None, pbc=None)):
        found = jit_predict(SMALL, SMALL_PARAMS, bare, neighbors)
        close(found.energy, expected.energy)
        close(found.forces, expected.forces[: len(atoms)])
        close(found.virial, expected.virial)
        close(jit_energy(SMALL, SMALL_PARAMS, bare, neighbors), expected.energy)


def test_all_pairs():
    # What the neighbour list leaves out contributes nothing.
    atoms = molecule()
    N = len(atoms)
    idx = np.array([[j for j in range(N) if j != i] for i in range(N)], np.int32)
    system, neighbors = prepared(atoms)
    every = neighbors._replace(
        idx=jnp.zeros_like(neighbors.idx).at[:N, : N - 1].set(idx),
        mask=jnp.zeros_like(neighbors.mask).at[:N, : N - 1].set(True),
    )
    jax.tree.map(close, jit_predict(MODEL, PARAMS, system, every), jit_predict(MODEL, PARAMS, system, neighbors))


@pytest.mark.slow
def test_batch_is_a_loop():
    pairs = [prepared(make()) for make in STRUCTURES.values()]
    batch = jax.tree.map(lambda *a: jnp.stack(a), *pairs)
    together = jax.jit(jax.vmap(partial(predict, SMALL, SMALL_PARAMS)))(*batch)
    energies = jax.jit(jax.vmap(partial(energy, SMALL, SMALL_PARAMS)))(*batch)
    for n, pair in enumerate(pairs):
        alone = jit_predict(SMALL, SMALL_PARAMS, *pair)
        jax.tree.map(lambda a, b, n=n: close(a[n], b), together, alone)
        close(energies[n], alone.energy)


@pytest.mark.slow
def test_ensemble_is_a_loop():
    system, neighbors = prepared(crystal())
    members = [strong(SMALL, seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *p: jnp.stack(p), *members)
    together = jax.jit(jax.vmap(lambda p: predict(SMALL, p, system, neighbors)))(stacked)
    slopes = jax.jit(
        jax.vmap(jax.grad(lambda p, R: energy(SMALL, p, system._replace(positions=R), neighbors), argnums=1), (0, None))
    )(stacked, system.positions)
    for n, params in enumerate(members):
        alone = jit_predict(SMALL, params, system, neighbors)
        jax.tree.map(lambda a, b, n=n: close(a[n], b), together, alone)
        close(-slopes[n], alone.forces)


@pytest.mark.parametrize("block", [3, 5, 100])
def test_blocks(block):
    system, neighbors = prepared(liquid())
    env = environments(system, neighbors)
    expected = jit_predict(SMALL, SMALL_PARAMS, system, neighbors)
    E_i, g, *_ = jax.jit(partial(local_energies, SMALL, block=block))(SMALL_PARAMS, env, system.species)
    close(E_i, expected.atomic_energies)
    close(forces_from_pairs(g, neighbors.idx, neighbors.mask), expected.forces)


@pytest.mark.slow
def test_jit_is_eager():
    system, neighbors = prepared(molecule(), capacity=6, slots=8)
    jax.tree.map(
        close, predict(SMALL, SMALL_PARAMS, system, neighbors), jit_predict(SMALL, SMALL_PARAMS, system, neighbors)
    )


def test_host_arrays_are_taken_too():
    # As they come out of `system_from_arrays` and `neighbor_list`; some traced, some constants of the caller.
    system, neighbors = prepared(molecule(), capacity=6, slots=8)
    host = jax.tree.map(np.asarray, (system, neighbors))
    expected = jit_energy(SMALL, SMALL_PARAMS, system, neighbors)
    close(jit_energy(SMALL, SMALL_PARAMS, *host), expected)
    close(
        jax.jit(lambda R, n: energy(SMALL, SMALL_PARAMS, host[0]._replace(positions=R), n))(*host[0][:1], host[1]),
        expected,
    )
    close(
        jax.jit(lambda R: predict(SMALL, SMALL_PARAMS, host[0]._replace(positions=R), host[1]).energy)(host[0][0]),
        expected,
    )


# ------------------------------------------------------------------------------- elements and precision


@pytest.mark.parametrize("elements", [("Si", "C"), ("H", "O", "C"), ("O", "H")], ids="-".join)
@pytest.mark.slow
def test_each_species_has_its_own_network(elements):
    model = Potential(ACSF(elements, 4.0, g2=(Radial(0.3),), g5=(Angular(0.1, 1.0, 1.0),)), MLP((3,), "tanh"))
    params = jax.tree.map(lambda p: p, strong(model))  # sorts the keys of every dict
    assert list(params["networks"]) == sorted(elements)
    random = np.random.default_rng(0)
    symbols = [elements[n % len(elements)] for n in range(6)]
    atoms = ase.Atoms(symbols, random.uniform(0, 3, (6, 3)))
    system, neighbors = prepared(atoms, model=model, capacity=7, slots=8)
    G = jax.jit(jax.vmap(model.descriptor))(environments(system, neighbors), jnp.asarray(system.species))
    found = jit_predict(model, params, system, neighbors).atomic_energies
    for i, symbol in enumerate(symbols):
        p = jax.tree.map(np.asarray, params["networks"][symbol])
        s = params["scaling"][symbol]
        x = (np.asarray(G[i]) - np.asarray(s["mean"])) * np.asarray(s["scale"])
        x = np.tanh(x @ p["hidden_0"]["kernel"] + p["hidden_0"]["bias"])
        expected = 1.7 * (x @ p["output"]["kernel"] + p["output"]["bias"])[0]
        np.testing.assert_allclose(found[i], expected, rtol=0, atol=1e-13)
        others = [float(energy_from_features(model, params, G[i], jnp.asarray(t))) for t in range(len(elements))]
        np.testing.assert_allclose(others[elements.index(symbol)], expected, rtol=0, atol=1e-13)
        assert np.ptp(others) > 0.1
    batched = energy_from_features(model, params, G, system.species)
    close(batched[:6], found[:6])


def test_energy_does_not_depend_on_the_order_of_elements():
    other = Potential(ACSF(("O", "Si"), CUTOFF, "poly2", g2=(Radial(0.3),)), MLP((3,)))
    same = Potential(ACSF(("Si", "O"), CUTOFF, "poly2", g2=(Radial(0.3),)), MLP((3,)))
    params = strong(other)

    def swapped(p):
        first = {e: n["hidden_0"] | {"kernel": n["hidden_0"]["kernel"][::-1]} for e, n in p["networks"].items()}
        return p | {
            "networks": {e: n | {"hidden_0": first[e]} for e, n in p["networks"].items()},
            "scaling": {e: jax.tree.map(lambda a: a[::-1], s) for e, s in p["scaling"].items()},
        }

    one = jit_predict(other, params, *prepared(crystal(), model=other))
    two = jit_predict(same, swapped(params), *prepared(crystal(), model=same))
    jax.tree.map(close, two, one)


def test_single_precision(atoms):
    N = len(atoms)
    exact = jit_predict(MODEL, PARAMS, *prepared(atoms))
    system, neighbors = prepared(atoms, dtype=np.float32)
    found = jit_predict(MODEL, PARAMS, system, neighbors)  # parameters follow the positions
    assert {a.dtype for a in jax.tree.leaves(found)} == {jnp.dtype(jnp.float32)}
    assert jax.eval_shape(partial(energy, MODEL), PARAMS, system, neighbors).dtype == jnp.float32
    np.testing.assert_allclose(found.forces[:N], exact.forces[:N], rtol=0, atol=1e-4)  # what is asked for, in eV/A
    np.testing.assert_allclose(found.energy / N, exact.energy / N, rtol=0, atol=1e-5)
    np.testing.assert_allclose(found.virial, exact.virial, rtol=0, atol=1e-4 * N)


@pytest.mark.slow
def test_single_precision_parameters_in_double_precision():
    small = jax.tree.map(lambda p: p.astype(jnp.float32), PARAMS)
    found = jit_predict(MODEL, small, *prepared(crystal()))
    exact = jit_predict(MODEL, jax.tree.map(lambda p: p.astype(jnp.float64), small), *prepared(crystal()))
    assert {a.dtype for a in jax.tree.leaves(found)} == {jnp.dtype(jnp.float64)}
    jax.tree.map(close, found, exact)


def test_isolated_atom():
    atoms = ase.Atoms("O", [[1.0, 2.0, 3.0]])
    found = jit_predict(MODEL, PARAMS, *prepared(atoms))
    assert np.isfinite(found.energy)
    np.testing.assert_array_equal(found.forces, 0)
    np.testing.assert_array_equal(found.virial, 0)


@pytest.mark.slow
def test_start_is_finite_and_typed():
    for dtype in (jnp.float32, jnp.float64):
        params = init(MODEL, jax.random.key(0), dtype)
        assert {p.dtype for p in jax.tree.leaves(params)} == {jnp.dtype(dtype)}
        assert np.isfinite(jit_energy(MODEL, params, *prepared(crystal())))


def test_offsets_are_added_on_the_host():
    model = Potential(MODEL.descriptor, offsets=(-1000.25, -2040.5), isolated=(-999.0, -2000.0))
    found = model.offset_energies(np.array([1, 0, 0]))
    np.testing.assert_array_equal(found, [-2040.5, -1000.25, -1000.25])
    assert found.dtype == np.float64
    np.testing.assert_array_equal(MODEL.offset_energies(np.array([1, 0])), 0.0)
    with pytest.raises(ValueError, match="offsets"):
        Potential(MODEL.descriptor, offsets=(1.0,))
    with pytest.raises(ValueError, match="isolated"):
        Potential(MODEL.descriptor, isolated=(1.0, 2.0, 3.0))


def test_import_changes_no_configuration():
    code = (
        "import jax; before = dict(jax.config.values);"
        "import bpjax, bpjax.potential, bpjax.descriptors, bpjax.neighbors, bpjax.geometry, bpjax.networks;"
        "changed = {k: v for k, v in jax.config.values.items() if before.get(k, v) != v};"
        "assert not changed, changed"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
