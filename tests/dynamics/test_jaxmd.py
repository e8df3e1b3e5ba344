from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.build import bulk
from jax_md import partition, quantity, simulate, space

from bpjax.dynamics import multi_image_potential, neighbor_list_potential, prediction_fn
from bpjax.dynamics.lists import check_minimum_image, skin_list
from bpjax.errors import CutoffError, UnknownSpeciesError
from bpjax.neighbors import neighbor_list
from bpjax.potential import predict
from bpjax.potential.forces import stress
from tests.dynamics.model import LATTICE, MODEL, crystal, params, system_of

P = params(np.float64)


def skewed(repeats=2):
    atoms = crystal(repeats, mixed=True)
    atoms.set_cell(atoms.cell.array + [[0, 0, 0], [0.4, 0, 0], [0.3, -0.2, 0]], scale_atoms=True)
    return atoms


PREDICT = jax.jit(partial(predict, MODEL, P))


def reference(atoms):
    system = system_of(atoms)
    cell = None if system.cell is None else atoms.cell.array
    return PREDICT(system, neighbor_list(atoms.positions, cell, atoms.pbc, MODEL.cutoff, capacity=96))


@cache
def skewed_setting(images=False, repeats=2, fractional=True):
    """What most tests start from, compiled once: neighbor_fn, energy_fn, its gradient, positions, box, list."""
    neighbor_fn, energy_fn, R, box = setting(skewed(repeats), images, fractional)
    return neighbor_fn, energy_fn, jax.jit(jax.value_and_grad(energy_fn)), R, box, neighbor_fn.allocate(R)


def setting(atoms, images=False, fractional=True, **options):
    """neighbor_fn, energy_fn, positions, box for a structure."""
    box = jnp.array(atoms.cell.array.T)
    species = system_of(atoms).species
    R = jnp.array(atoms.get_scaled_positions(wrap=False) if fractional else atoms.positions)
    if images:
        fns = multi_image_potential(
            MODEL, P, box, species=species, fractional_coordinates=fractional, skin=0.25, **options
        )
    else:
        fns = neighbor_list_potential(
            MODEL, P, None, box, species=species, fractional_coordinates=fractional, skin=0.25, **options
        )
    neighbor_fn, energy_fn = fns
    return neighbor_fn, jax.jit(energy_fn), R, box


@pytest.mark.parametrize(
    ("images", "repeats", "fractional"),
    [
        (False, 2, True),
        pytest.param(False, 2, False, marks=pytest.mark.slow),
        pytest.param(True, 1, True, marks=pytest.mark.slow),
        (True, 1, False),
    ],
)
def test_energy_and_forces_equal_predict(images, repeats, fractional):
    atoms = skewed(repeats)
    _, _, gradient, R, _, neighbors = skewed_setting(images, repeats, fractional)
    expected = reference(atoms)
    E, minus_F = gradient(R, neighbor=neighbors)
    np.testing.assert_allclose(E, expected.energy, rtol=1e-13)
    np.testing.assert_allclose(-minus_F, expected.forces, atol=1e-12)
    if fractional:
        species = system_of(atoms).species
        found = jax.jit(prediction_fn(MODEL, P, atoms.cell.array.T, species=species, images=images))(R, neighbors)
        for name in ("atomic_energies", "forces", "virial"):
            np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=1e-11, err_msg=name)


@pytest.mark.slow
def test_displacement_of_the_user():
    atoms = skewed()
    _, _, _, R, box, _ = skewed_setting()
    displacement, _ = space.periodic_general(box)
    neighbor_fn, energy_fn = neighbor_list_potential(
        MODEL, P, displacement, box, species=system_of(atoms).species, skin=0.25
    )
    minus_F = jax.grad(energy_fn)(R, neighbor=neighbor_fn.allocate(R), box=box)
    np.testing.assert_allclose(-minus_F, reference(atoms).forces, atol=1e-12)


def test_plain_list_of_jaxmd():
    atoms = skewed()
    _, _, gradient, R, box, _ = skewed_setting()
    displacement, _ = space.periodic_general(box)
    neighbors = partition.neighbor_list(displacement, box, MODEL.cutoff, 0.3, fractional_coordinates=True).allocate(R)
    np.testing.assert_allclose(-gradient(R, neighbor=neighbors)[1], reference(atoms).forces, atol=1e-12)


@pytest.mark.slow
def test_slab_and_free_cluster():
    slab = crystal(2, mixed=True)
    slab.pbc = (True, False, True)
    slab.center(vacuum=0.5, axis=1)  # so close to its image that a periodic list would see it
    for images in (False, True):
        neighbor_fn, energy_fn, R, _ = setting(slab, images, pbc=(True, False, True))
        minus_F = jax.grad(energy_fn)(R, neighbor=neighbor_fn.allocate(R))
        np.testing.assert_allclose(-minus_F, reference(slab).forces, atol=1e-12)
    cluster = crystal(2, mixed=True)
    cluster.pbc = False
    neighbor_fn, energy_fn = neighbor_list_potential(MODEL, P, species=system_of(cluster).species)
    R = jnp.array(cluster.positions)
    minus_F = jax.grad(energy_fn)(R, neighbor=neighbor_fn.allocate(R))
    np.testing.assert_allclose(-minus_F, reference(cluster).forces, atol=1e-12)


@pytest.mark.parametrize("images", [True, False])
def test_stress_is_minus_that_of_ase(images):
    atoms = skewed()
    _, energy_fn, _, R, box, neighbors = skewed_setting(images)
    expected = np.asarray(stress(reference(atoms), jnp.array(atoms.cell.array)))

    @jax.jit
    def both(R, box, neighbors):
        return [f(energy_fn, R, box, neighbor=neighbors) for f in (quantity.stress, quantity.pressure)]

    found, pressure = both(R, box, neighbors)
    np.testing.assert_allclose(found, -expected, atol=1e-12)
    np.testing.assert_allclose(pressure, -np.trace(expected) / 3, atol=1e-12)


@pytest.mark.parametrize("images", [pytest.param(True, marks=pytest.mark.slow), False])
def test_box_and_perturbation_against_finite_differences(images):
    _, energy_fn, _, R, box, neighbors = skewed_setting(images)
    h = 1e-5
    strain = jnp.array([[0.3, 0.1, -0.2], [0.1, -0.4, 0.5], [-0.2, 0.5, 0.2]])

    def strained(e):
        return energy_fn(R, neighbor=neighbors, box=(jnp.eye(3) + e * strain) @ box)

    def perturbed(e):
        return energy_fn(R, neighbor=neighbors, perturbation=jnp.eye(3) + e * strain)

    def scaled(e):
        return energy_fn(R, neighbor=neighbors, box=(1 + e) * box)

    def scaled_by_number(e):
        return energy_fn(R, neighbor=neighbors, perturbation=1 + e)

    functions = (strained, perturbed, scaled, scaled_by_number)
    run = jax.jit(lambda e: [jax.value_and_grad(f)(e) for f in functions])
    slopes, forward, backward = ([pair[which] for pair in run(e)] for e, which in ((0.0, 1), (h, 0), (-h, 0)))
    slope = (forward[0] - backward[0]) / (2 * h)
    assert abs(slope) > 0.01
    np.testing.assert_allclose(slopes[:2], np.full(2, slope), rtol=1e-7)
    np.testing.assert_allclose(forward[1], forward[0], rtol=1e-13)
    np.testing.assert_allclose(slopes[3], slopes[2], rtol=1e-12)


@pytest.mark.slow
def test_scalar_vector_and_matrix_boxes():
    atoms = crystal(2)
    L = 2 * LATTICE
    species = system_of(atoms).species
    R = jnp.array(atoms.get_scaled_positions())
    energies = []
    for box in (L, np.full(3, L), np.eye(3) * L):
        neighbor_fn, energy_fn = neighbor_list_potential(MODEL, P, None, box, species=species, skin=0.25)
        neighbors = neighbor_fn.allocate(R)
        energies += [energy_fn(R, neighbor=neighbors)]
    np.testing.assert_allclose(energies, energies[0], rtol=1e-13)


def test_small_cell_equals_supercell():
    small = crystal(1, mixed=True)
    neighbor_fn, energy_fn, R, _ = setting(small, images=True)
    E, g = jax.jit(jax.value_and_grad(energy_fn))(R, neighbor=neighbor_fn.allocate(R))
    neighbor_fn, energy_fn, R, _ = setting(small * (3, 3, 3))
    E_27, g_27 = jax.jit(jax.value_and_grad(energy_fn))(R, neighbor=neighbor_fn.allocate(R))
    np.testing.assert_allclose(27 * E, E_27, rtol=1e-13)
    np.testing.assert_allclose(np.tile(g, (27, 1)), g_27, atol=1e-12)


def test_one_atom_cell():
    atoms = bulk("Ar", "fcc", LATTICE)
    neighbor_fn, energy_fn, R, _ = setting(atoms, images=True)
    found = energy_fn(R, neighbor=neighbor_fn.allocate(R))
    np.testing.assert_allclose(found, reference(atoms).energy, rtol=1e-13)


@pytest.mark.parametrize("images", [True, False])
def test_lists_follow_atoms_out_of_the_cell(images):
    atoms = skewed()
    _, _, gradient, R, _, neighbors = skewed_setting(images)
    hop = np.zeros(R.shape)
    hop[::2] = [1, -2, 3]
    hopped = neighbors.update(R + hop)
    assert int(hopped.rebuilds) == (1 if images else 0)
    _, minus_F = gradient(R + hop, neighbor=hopped)
    np.testing.assert_allclose(-minus_F, reference(atoms).forces, atol=1e-11)


@pytest.mark.parametrize("images", [True, False])
def test_shrinking_box_rebuilds_the_list(images):
    atoms = skewed()
    neighbor_fn, energy_fn, _, R, box, _ = skewed_setting(images)
    neighbors = neighbor_fn.allocate(R, extra_capacity=30)
    assert int(neighbors.update(R, box=0.999 * box).rebuilds) == 0
    shrunk = neighbors.update(R, box=0.96 * box)
    assert int(shrunk.rebuilds) == 1
    atoms.set_cell(0.96 * atoms.cell.array, scale_atoms=True)
    minus_F = jax.jit(jax.grad(energy_fn))(R, neighbor=shrunk, box=0.96 * box)
    np.testing.assert_allclose(-minus_F, reference(atoms).forces, atol=1e-12)


@pytest.mark.slow
def test_cell_list_equals_all_pairs():
    box = np.diag([22.0, 23.0, 24.0]) + np.triu(np.full((3, 3), 1.0), 1)
    R = jnp.array(np.random.default_rng(0).random((300, 3)))
    lists = [skin_list(4.6, 0.3, box=box, disable_cell_list=flag).allocate(R) for flag in (True, False)]
    assert lists[1].inner.cell_list_fn is not None
    update = jax.jit(lambda x, n: n.update(x))
    for outside in (R, R + jnp.round(5 * R) - 2, R.at[0].set(-1e-20)):
        all_pairs, cells = (update(outside, n) for n in lists)
        assert not cells.did_buffer_overflow
        for a, b in zip(all_pairs.idx, cells.idx, strict=True):
            assert set(np.array(a)) | {300} == set(np.array(b)) | {300}


@pytest.mark.parametrize("images", [True, False])
def test_overflow_is_flagged_and_stays(images):
    neighbor_fn, _, _, R, _, neighbors = skewed_setting(images)
    few = neighbor_fn.allocate(R, capacity=5)
    assert few.did_buffer_overflow and few.max_occupancy == 5
    assert few.update(R * 1.5).did_buffer_overflow
    assert not neighbors.did_buffer_overflow


def run_in_jaxmd(name, images):
    """Some steps of an integrator of jax-md as its own examples run it; returns whatever shows that it works."""
    atoms = crystal(1 if images else 2, mixed=True)
    neighbor_fn, energy_fn, R, box = setting(atoms, images)
    _, shift = space.periodic_general(box)
    mass, kT, dt = jnp.array(atoms.get_masses()), 300 * 8.617e-5, 0.2
    neighbors = neighbor_fn.allocate(R)
    key = jax.random.key(0)
    if name == "npt_nose_hoover":
        init, apply = simulate.npt_nose_hoover(energy_fn, shift, dt, 0.0, kT)
        state = init(key, R, box, mass=mass, neighbor=neighbors)
    elif name == "nve":
        init, apply = simulate.nve(energy_fn, shift, dt)
        state = init(key, R, kT, mass=mass, neighbor=neighbors)
    else:
        init, apply = getattr(simulate, name)(energy_fn, shift, dt, kT)
        state = init(key, R, mass=mass, neighbor=neighbors)
    named = (lambda s: {"box": simulate.npt_box(s)}) if name == "npt_nose_hoover" else lambda s: {}

    @jax.jit
    def step(_, carry):
        state, neighbors = carry
        state = apply(state, neighbor=neighbors, **({} if name == "nve" else {"kT": kT}))
        return state, neighbors.update(state.position, **named(state))

    final, updated = jax.lax.fori_loop(0, 60, step, (state, neighbors))
    assert not updated.did_buffer_overflow
    return state, final


@pytest.mark.parametrize(
    ("name", "images"),
    [
        ("nve", False),
        pytest.param("nvt_nose_hoover", False, marks=pytest.mark.exhaustive),
        pytest.param("nvt_langevin", False, marks=pytest.mark.exhaustive),
        ("npt_nose_hoover", False),
        pytest.param("npt_nose_hoover", True, marks=pytest.mark.slow),
        pytest.param("nvt_nose_hoover", True, marks=pytest.mark.exhaustive),
    ],
)
def test_integrators_of_jaxmd_run_unchanged(name, images):
    state, final = run_in_jaxmd(name, images)
    assert np.isfinite(final.position).all()
    assert not np.allclose(state.position, final.position)
    if name == "npt_nose_hoover":
        assert abs(float(final.box_position)) > 1e-6


def test_arguments_are_used_or_refused():
    atoms = crystal(2)
    _, energy_fn, _, R, box, neighbors = skewed_setting()
    assert energy_fn(R, neighbor=neighbors, t=0, kT=0.1, dt=1.0, pressure=0.0) == energy_fn(R, neighbor=neighbors)
    with pytest.raises(TypeError, match="new_box"):
        energy_fn(R, neighbor=neighbors, new_box=box)
    with pytest.raises(ValueError, match="but 32 atoms"):
        energy_fn(R[:-1], neighbor=neighbors)
    with pytest.raises(ValueError, match="only Dense"):
        neighbor_list_potential(MODEL, P, None, box, species=np.zeros(3, int), format=partition.Sparse)
    with pytest.raises(UnknownSpeciesError, match="18"):
        neighbor_list_potential(MODEL, P, None, box, species=atoms.numbers)
    with pytest.raises(ValueError, match="free space"):
        fn, energy_free = neighbor_list_potential(MODEL, P, species=system_of(atoms).species)
        energy_free(R, neighbor=fn.allocate(R * 8.4), box=box)


def test_minimum_image_is_checked():
    with pytest.raises(CutoffError, match="multi_image_potential"):
        setting(crystal(1))
    box = np.array([[20.0, 15.0, 0], [0, 20.0, 0], [0, 0, 20.0]])  # skewed: heights 16, 20, 20
    check_minimum_image(box, (True, True, True), 7.9)
    with pytest.raises(CutoffError):
        check_minimum_image(box, (True, True, True), 8.1)
    check_minimum_image(box, (False, True, True), 9.9)


@pytest.mark.slow
def test_float32_energy_and_forces():
    atoms = skewed()
    expected = reference(atoms)
    fn, energy_fn = neighbor_list_potential(
        MODEL, params(), None, jnp.array(atoms.cell.array.T, jnp.float32), species=system_of(atoms).species, skin=0.25
    )
    R = jnp.array(atoms.get_scaled_positions(), jnp.float32)
    E, g = jax.value_and_grad(energy_fn)(R, neighbor=fn.allocate(R))
    assert E.dtype == g.dtype == jnp.float32
    np.testing.assert_allclose(E, expected.energy, rtol=1e-5)
    np.testing.assert_allclose(-g, expected.forces, atol=1e-4)
