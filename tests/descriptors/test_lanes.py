"""The fast form of angular functions: energies and pair gradients equal those of the plain one."""

from dataclasses import replace

import ase
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bpjax.descriptors import ACSF, ANI, Angular, Chosen, Radial, SymmetryFunction, SymmetryFunctions
from bpjax.descriptors.cutoffs import FORMULAS, Cutoff
from bpjax.descriptors.lane_sums import _cutoff
from bpjax.geometry import environments
from bpjax.neighbors import neighbor_list
from bpjax.networks import MLP
from bpjax.potential import Potential, energy, init, predict
from bpjax.potential.energy import local_energies
from bpjax.system import Environment, system_from_arrays

ELEMENTS = ("H", "C", "O")
NARROW = tuple(
    Angular(e, z, lam, r) for e, r in ((0.01, 0.0), (0.2, 0.0), (0.1, 1.0)) for z in (1.0, 4.0) for lam in (1.0, -1.0)
)


def liquid(count: int, seed: int = 0) -> ase.Atoms:
    """Atoms of three elements at random places, some of them almost on top of each other, some alone."""
    rng = np.random.default_rng(seed)
    side = (count / 0.05) ** (1 / 3)
    return ase.Atoms(rng.choice(ELEMENTS, count), rng.uniform(0, side, (count, 3)), cell=[side] * 3, pbc=count > 60)


def arrays(model: Potential, atoms: ase.Atoms, dtype: str):
    """System and neighbour list with a skin, so that some neighbours are beyond the cutoff."""
    neighbors = neighbor_list(atoms.positions, atoms.cell.array, atoms.pbc, model.cutoff + 0.5)
    cell = (atoms.cell.array, True) if atoms.pbc.any() else (None, False)
    return system_from_arrays(atoms.numbers, atoms.positions, *cell, model.elements, dtype=dtype), neighbors


def both_forms(model: Potential, atoms: ase.Atoms, dtype: str = "float64"):
    """Atomic energies and pair gradients in the fast and in the plain form."""
    params = init(model, jax.random.key(0), np.dtype(dtype))
    system, neighbors = arrays(model, atoms, dtype)
    env = environments(system, neighbors)
    run = jax.jit(
        lambda env, lanes: local_energies(model, params, env, jnp.asarray(system.species), lanes=lanes)[:2],
        static_argnums=1,
    )
    fast, plain = run(env, True), run(env, False)
    assert np.all(np.asarray(fast[1])[~np.asarray(env.mask)] == 0)
    return fast, (plain[0], jnp.where(env.mask[..., None], plain[1], 0))


def assert_equal(fast, plain, rtol: float):
    for a, b in zip(fast, plain, strict=True):
        scale = float(jnp.max(jnp.abs(b)))
        assert scale > 0
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * scale)


SETS = {
    "narrow": ACSF(ELEMENTS, 5.0, g4=NARROW),
    "all kinds": ACSF(
        ELEMENTS,
        5.0,
        g1=True,
        g2=(Radial(1.0, 2.0),),
        g4=NARROW[:3],
        g5=(Angular(0.1, 2.0, 1.0), Angular(0.1, 2.5, 1.0), Angular(0.0, 12.0, -1.0)),
    ),
    "weighted": ACSF(ELEMENTS, 5.0, "poly2", 0.2, g4=NARROW[:5], g5=NARROW[-2:], weights=(1.0, 6.0, 8.0), wide="pairs"),
    "thinned out": Chosen(ACSF(ELEMENTS, 5.0, "tanh3", g2=(Radial(1.0),), g4=NARROW), (3, 0, 44, 17, 30, 5)),
    "ani": ANI.ani1x(ELEMENTS),
    "thinned out ani": Chosen(ANI.ani1x(ELEMENTS), (3, 100, 44, 47, 200)),
    "by element": SymmetryFunctions(
        ELEMENTS,
        (
            (
                SymmetryFunction(2, 9.0, ("H",), eta=0.3),
                SymmetryFunction(3, 9.0, ("H", "O"), eta=0.03, zeta=4.0, lam=-1.0),
                SymmetryFunction(3, 8.0, ("H", "O"), eta=0.03, zeta=4.0, lam=1.0),
                SymmetryFunction(3, 9.0, ("H", "O"), eta=0.1, r_s=1.5, zeta=1.5),
                SymmetryFunction(13, 9.0, eta=0.01, zeta=2.0),
            ),
            (SymmetryFunction(9, 9.0, ("C", "C"), eta=0.01, zeta=16.0), SymmetryFunction(2, 9.0, ("C",), eta=0.1)),
            (SymmetryFunction(2, 9.0, ("O",), eta=0.1),),
        ),
        cutoff_kind="tanh3",
        unit=0.529177,
    ),
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in ("narrow", "by element") else pytest.mark.exhaustive) for n in SETS]
)
@pytest.mark.slow
def test_equal_to_the_plain_form(name):
    """To the rounding of double precision: 1e-12 of the largest value, as sums of 10^3 terms of either sign give."""
    model = Potential(SETS[name], MLP((6,)))
    assert model.descriptor.has_lanes
    assert_equal(*both_forms(model, liquid(150)), 1e-12)


@pytest.mark.parametrize("dtype, rtol", [("float32", 1e-5), ("float64", 1e-12)])
def test_few_atoms(dtype, rtol):
    """Fewer atoms than lanes, fewer neighbours than a tile; in single precision to its rounding."""
    model = Potential(SETS["narrow"], MLP((6,)))
    assert_equal(*both_forms(model, liquid(13), dtype), rtol)


def test_ani_with_any_number_of_near_neighbours():
    """Slots for pairs are chosen by the most that a centre has within the angular cutoff: each choice, also none in a block."""
    ani, rng = ANI.ani1x(ELEMENTS), np.random.default_rng(0)
    weights = jnp.asarray(rng.normal(size=(7, ani.size)))

    def plain(R, species, mask):
        return jnp.sum(jax.vmap(ani)(Environment(R, species, mask)) * weights)

    def fast(R, species, mask):
        return jnp.sum(ani.in_lanes(Environment(R, species, mask), 0) * weights)

    plain, fast = (jax.jit(jax.value_and_grad(f)) for f in (plain, fast))
    for near in (0, 1, 9, 14, 40):
        u = rng.normal(size=(7, 40, 3))
        r = np.where(rng.permuted(np.broadcast_to(np.arange(40) < near, (7, 40)), axis=1), 2.9, 4.5)
        R = u / np.linalg.norm(u, axis=-1, keepdims=True) * (r + rng.uniform(-0.5, 0.5, r.shape))[..., None]
        env = (R, rng.integers(0, 3, (7, 40)), (r < 4) | (rng.random((7, 40)) < 0.8))
        assert_equal(fast(*env), plain(*env), 1e-12)


@pytest.mark.slow
def test_without_pairs():
    """Atoms with one neighbour or none have no angular functions: as the plain form says, exactly."""
    model = Potential(SETS["all kinds"], MLP((6,)))
    atoms = ase.Atoms("HOC", [[0, 0, 0], [0, 0, 1.2], [0, 0, 30]])
    fast, plain = both_forms(model, atoms)
    np.testing.assert_allclose(fast[0], plain[0], rtol=1e-14)
    np.testing.assert_allclose(fast[1], plain[1], atol=1e-15)


def test_neighbours_in_line_and_at_the_same_place():
    """Opposite and coinciding neighbours give finite, equal numbers."""
    R = np.array([[1.0, 0, 0], [-1.0, 0, 0], [1.0, 0, 0], [0, 2.0, 0], [0, 0, 4.999], [0, 0, 5.0], [9, 9, 9]])
    model = Potential(ACSF(("H",), 5.0, g4=NARROW[:8]), MLP((6,)))
    params = init(model, jax.random.key(0), np.float64)
    env = Environment(jnp.asarray(R)[None], jnp.zeros((1, 7), jnp.int32), jnp.asarray([[True] * 6 + [False]]))
    one = jax.jit(
        lambda lanes: local_energies(model, params, env, jnp.zeros(1, jnp.int32), lanes=lanes)[:2], static_argnums=0
    )
    fast, plain = one(True), one(False)
    np.testing.assert_allclose(fast[0], plain[0], rtol=1e-13)
    # The derivative of a distance of zero has no direction; the plain form takes none, the fast one has none to take.
    np.testing.assert_allclose(fast[1][0, 3:], plain[1][0, 3:], atol=1e-13)
    assert np.isfinite(np.asarray(fast[1])).all()


@pytest.mark.parametrize("kind", [kind for kind in FORMULAS if kind != "hard"])
def test_cutoff_and_slope(kind):
    """In the square of the distance, against the formula in the distance; polynomials of it cancel to 1000 roundings."""
    cutoff = Cutoff(6.0, kind)
    r = np.linspace(0.3, 6.5, 200)
    f, df = jax.jit(lambda d2: _cutoff(cutoff, d2))(jnp.asarray(r**2)[:, None, None])
    slope = jax.vmap(jax.grad(cutoff))(jnp.asarray(r))
    np.testing.assert_allclose(f[:, 0, 0], cutoff(jnp.asarray(r)), rtol=0, atol=2e-13)
    np.testing.assert_allclose(df[:, 0, 0], slope / (2 * r), rtol=0, atol=1e-13)
    single, _ = jax.jit(lambda d2: _cutoff(cutoff, d2))(jnp.asarray(r**2, jnp.float32)[:, None, None])
    np.testing.assert_allclose(single[:, 0, 0], cutoff(jnp.asarray(r)), rtol=0, atol=1e-4)


@pytest.mark.exhaustive
def test_derivatives_of_derivatives():
    """Gradients of forces with respect to parameters are those of the plain form; forces by grad are those of predict."""
    model = Potential(SETS["narrow"], MLP((6,)))
    params = init(model, jax.random.key(0), np.float64)
    system, neighbors = arrays(model, liquid(70), "float64")

    def forces(params):
        return -jax.grad(lambda R: energy(model, params, system._replace(positions=R), neighbors))(system.positions)

    def of_weights(forces):
        return jax.jit(jax.grad(lambda params: jnp.sum(forces(params) ** 2)))(params)

    np.testing.assert_allclose(jax.jit(forces)(params), predict(model, params, system, neighbors).forces, atol=1e-13)
    by_grad, by_prediction = (
        of_weights(forces),
        of_weights(lambda params: predict(model, params, system, neighbors).forces),
    )
    step = 1e-5
    weight = params["networks"]["H"]
    leaf, tree = jax.tree.flatten(weight)
    moved = [
        replace_leaf(
            params,
            tree.unflatten([leaf[0] + sign * step * (np.arange(leaf[0].size) == 1).reshape(leaf[0].shape), *leaf[1:]]),
        )
        for sign in (1, -1)
    ]
    squares = [float(jnp.sum(jax.jit(forces)(p) ** 2)) for p in moved]
    slope = (squares[0] - squares[1]) / (2 * step)
    for found in (by_grad, by_prediction):
        assert float(jax.tree.leaves(found["networks"]["H"])[0].reshape(-1)[1]) == pytest.approx(slope, rel=1e-6)


def replace_leaf(params, network):
    return {**params, "networks": {**params["networks"], "H": network}}


@pytest.mark.exhaustive
def test_batches():
    """Replicas, members, and both at once: each as evaluated on its own."""
    model = Potential(SETS["narrow"], MLP((6,)))
    two = [init(model, jax.random.key(n), np.float64) for n in (0, 1)]
    system, neighbors = arrays(model, liquid(70), "float64")
    R = jnp.stack([system.positions, system.positions + 0.02 * np.random.default_rng(0).normal(size=(70, 3))])
    members = jax.tree.map(lambda *leaves: jnp.stack(leaves), *two)

    def forces(params, R):
        return predict(model, params, system._replace(positions=R), neighbors).forces

    alone = [[jax.jit(forces)(params, R_n) for R_n in R] for params in two]
    for axes, arguments, expected in (
        ((None, 0), (two[0], R), alone[0]),
        ((0, None), (members, R[0]), [alone[0][0], alone[1][0]]),
        ((0, 0), (members, R), [alone[0][0], alone[1][1]]),
    ):
        found = jax.jit(jax.vmap(forces, in_axes=axes))(*arguments)
        np.testing.assert_allclose(found, jnp.stack(expected), atol=1e-13)


def test_plain_where_something_is_learned():
    """Functions that training changes have no fast form."""
    assert not replace(SETS["narrow"], learn=("eta",)).has_lanes
    assert not ACSF(("H",), 5.0, g2=(Radial(1.0),), g5=(Angular(0.1, 2.0, 1.0),)).has_lanes


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_plain_form_is_lowered_for_accelerators(platform):
    """Energies and pair gradients become a program for other devices, as far as that can be seen without one."""
    model = Potential(SETS["narrow"], MLP((6,)))
    params = init(model, jax.random.key(0), np.float32)
    system, neighbors = arrays(model, liquid(70), "float32")
    env, species = environments(system, neighbors), jnp.asarray(system.species)
    plain = jax.jit(lambda env: local_energies(model, params, env, species, lanes=False)[:2])
    assert jax.export.export(plain, platforms=(platform,))(env).platforms == (platform,)
