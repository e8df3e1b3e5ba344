"""Diabatic potentials: symmetry, derivatives, geometric phases with and without odd factors, dipoles, files."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bpjax
from bpjax.errors import BpjaxError
from bpjax.excited.diabatic import DiabaticPotential, MultiStatePotential, Term, init
from bpjax.excited.dipoles import diabatic_dipoles
from bpjax.excited.gauge import berry_phases
from bpjax.excited.states_store import load_states, save_states
from bpjax.networks.elemental import MLP
from tests.excited.methaniminium import (
    ATOMS,
    BEND_C,
    DESCRIPTOR,
    EXCHANGES,
    TORSION,
    TWISTED,
    matrices,
    mirror_loop,
    model,
    parameters,
    rotation,
    shaken,
    states,
)

DIAGONALS = {"H on C": [1, -1, 1], "H on N": [1, -1, 1], "inversion": [1, 1, -1]}
"""How operations turn the states of the odd model over: the first never, the second by exchanges, the third by inversion."""


@pytest.mark.parametrize("kind", ["odd", "chiral", "invariant", "adiabatic"])
def test_symmetric_and_invariant_to_rigid_motions(kind):
    own = model(kind)
    R = shaken(0, 4)
    H = np.asarray(matrices(own, parameters(own), R))
    np.testing.assert_array_equal(H, np.swapaxes(H, 1, 2))
    np.testing.assert_allclose(matrices(own, parameters(own), R @ rotation(5).T + 2.0), H, atol=1e-12)
    offdiagonal = np.abs(H[:, 0, 1]).min()
    assert offdiagonal == 0 if kind == "adiabatic" else offdiagonal > 1e-5


def test_exchanges_and_inversion_turn_states_over():
    """H(PR) = D H(R) D with the signs of the states, so that energies are invariant."""
    own = model("odd")
    params, R = parameters(own), shaken(1, 4)
    H = matrices(own, params, R)
    images = {"inversion": -R, **{name: R[:, order] for name, order in EXCHANGES.items()}}
    for name, image in images.items():
        D = np.array(DIAGONALS[name], float)
        np.testing.assert_allclose(matrices(own, params, image), D[:, None] * H * D[None, :], atol=1e-12)


@pytest.mark.parametrize("kind", ["chiral", "invariant"])
def test_models_that_name_no_atoms_know_all_exchanges(kind):
    own = model(kind)
    params, R = parameters(own), shaken(1, 4)
    H = matrices(own, params, R)
    for order in ([0, 1, 3, 2, 4, 5], [0, 1, 4, 2, 5, 3]):
        np.testing.assert_allclose(matrices(own, params, R[:, order]), H, atol=1e-12)
    D = np.array([1, -1, 1]) if kind == "chiral" else np.ones(3)
    np.testing.assert_allclose(matrices(own, params, -R), D[:, None] * H * D[None, :], atol=1e-12)


def test_gradients_agree_with_finite_differences():
    own = model("odd")
    params, R = parameters(own), shaken(2)[0]
    h = 1e-5 * np.eye(18).reshape(18, 6, 3)
    E = np.linalg.eigvalsh(np.concatenate([matrices(own, params, R + h), matrices(own, params, R - h)]))
    M = np.asarray(states(own, params, R[None]).interstate[0])
    G = M[np.arange(3), np.arange(3)]
    np.testing.assert_allclose(G.reshape(3, 18), ((E[:18] - E[18:]) / 2e-5).T, atol=1e-7)
    np.testing.assert_allclose(M.sum(axis=2), 0, atol=1e-12)
    np.testing.assert_allclose(np.cross(R, M).sum(axis=2), 0, atol=1e-12)


@pytest.mark.slow
def test_offsets_are_on_the_diagonal():
    own, params = model("odd"), parameters(model("odd"))
    shifted = replace(own, offsets=(0.5, 1.0, -2.0), zero=-100.0)
    difference = shifted(params, jnp.asarray(TWISTED)) - own(params, jnp.asarray(TWISTED))
    np.testing.assert_allclose(difference, np.diag([0.5, 1.0, -2.0]), atol=1e-13)


def cone(seed, factor=None):
    """A two-state model that crosses at the symmetric geometry: linear networks, and for a factor a constant times that."""
    odd, signs = ((), ()) if factor is None else ((factor,), ((), factor.signs))
    own = DiabaticPotential(DESCRIPTOR, ATOMS, 2, MLP(()), odd=odd, signs=signs)
    params = parameters(own, seed)
    for element, network in params["networks"].items():
        kernel, bias = network["output"]["kernel"], network["output"]["bias"].at[2].set(0.5)
        kernel = kernel if factor is None else kernel.at[:, 2].set(0.0)
        params["networks"][element] = {"output": {"kernel": kernel, "bias": bias}}
    H = matrices(own, params, TWISTED[None])[0]
    carbon = params["networks"]["C"]["output"]  # there is one atom of it: the diagonal becomes equal
    params["networks"]["C"]["output"] = {**carbon, "bias": carbon["bias"].at[0].add(H[1, 1] - H[0, 0])}
    return own, params


@pytest.mark.parametrize("seed", range(3))
def test_odd_coupling_gives_the_phase_of_a_symmetric_intersection(seed):
    own, params = cone(seed, TORSION)
    for radius in (0.01, 0.05):
        result = states(own, params, mirror_loop(radius, 24))
        assert (result.energies[:, 1] - result.energies[:, 0]).min() > 1e-4
        np.testing.assert_allclose(berry_phases(result.states), np.pi, atol=1e-12)
    beside = mirror_loop(0.02, 24) + 0.1 * (mirror_loop(1.0, 4)[1] - TWISTED)
    np.testing.assert_allclose(berry_phases(states(own, params, beside).states), 0.0, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.slow
def test_invariants_alone_retrace_the_loop(seed):
    """Whatever the parameters: mirror images have one matrix, and the phase is zero. Two states that would cross, and three."""
    for own, params in (cone(seed), (model("invariant"), parameters(model("invariant"), seed))):
        loop = mirror_loop(0.05, 24)
        H = np.asarray(matrices(own, params, loop))
        np.testing.assert_allclose(H[1:], H[1:][::-1], atol=1e-12)
        assert np.abs(H[6] - H[0]).max() > 1e-4  # ... though it does change along the loop
        np.testing.assert_allclose(berry_phases(states(own, params, loop).states), 0.0, atol=1e-12)


@pytest.mark.slow
def test_dipoles_move_with_the_charge_and_turn_with_the_molecule():
    own = model("odd", dipoles=True, charge=1.0)
    params, R = parameters(own), shaken(4)[0]
    dipoles = jax.jit(lambda R: diabatic_dipoles(own, params, R))  # one compilation for all geometries
    mu, Q = np.asarray(dipoles(R)), rotation(6)
    np.testing.assert_array_equal(mu, np.swapaxes(mu, 0, 1))
    np.testing.assert_allclose(dipoles(R @ Q.T), mu @ Q.T, atol=1e-12)
    moved = mu + np.eye(3)[:, :, None] * np.array([1.0, -2.0, 0.5])
    np.testing.assert_allclose(dipoles(R + np.array([1.0, -2.0, 0.5])), moved, atol=1e-12)
    for name, order in EXCHANGES.items():
        D = np.array(DIAGONALS[name], float)
        np.testing.assert_allclose(dipoles(R[order]), D[:, None, None] * mu * D[None, :, None], atol=1e-12)
    D = np.array(DIAGONALS["inversion"], float)
    np.testing.assert_allclose(dipoles(-R), -D[:, None, None] * mu * D[None, :, None], atol=1e-12)


@pytest.mark.slow
def test_planar_molecule_has_an_out_of_plane_transition_dipole():
    """Where its coupling is zero by symmetry: gradients of the factor give what charges cannot."""
    own = model("odd", dipoles=True)
    flat = TWISTED.copy()
    flat[:, 0], flat[4:, 1], flat[2, 2] = 0.0, (0.84, -0.84), -0.3
    mu = jax.jit(lambda R: diabatic_dipoles(own, parameters(own), R))(jnp.asarray(flat))
    H = matrices(model("odd"), parameters(model("odd")), np.stack([flat] * 4))
    np.testing.assert_allclose(H[:, 0, 2], 0, atol=1e-14)
    assert abs(mu[0, 2, 0]) > 1e-4
    np.testing.assert_allclose(mu[0, 2, 1:], 0, atol=1e-14)


def test_model_file_keeps_every_bit(tmp_path):
    for own in (model("odd", dipoles=True, zero=-2568.0), model("chiral"), model("adiabatic", offsets=(1.0, 2.0, 3.0))):
        params = init(own, jax.random.key(1))
        save_states(tmp_path / "states.bpjax", own, params, {"note": "test"})
        again, loaded = load_states(tmp_path / "states.bpjax")
        assert again == own and hash(again) == hash(own)
        jax.tree.map(np.testing.assert_array_equal, loaded, params)


def test_model_file_of_another_kind(tmp_path):
    from tests.small_model import MODEL, small_params

    bpjax.save(tmp_path / "ground.bpjax", MODEL, small_params())
    with pytest.raises(BpjaxError, match="Potential"):
        load_states(tmp_path / "ground.bpjax")
    own = model("odd")
    params = parameters(own)
    del params["scales"]
    save_states(tmp_path / "states.bpjax", own, params)
    with pytest.raises(BpjaxError, match=r"'scales'.* is missing"):
        load_states(tmp_path / "states.bpjax")


def test_terms():
    products = {(0, 1): [(0,), (2, 3), (4, 5)], (0, 2): [(0, 1), (2, 4), (3, 5)], (1, 2): [(1,), (2, 5), (3, 4)]}
    assert model("odd").terms[3:] == tuple(Term(*pair, own) for pair, all_ in products.items() for own in all_)
    assert len(model("invariant").terms) == 6 and len(model("adiabatic").terms) == 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DiabaticPotential(DESCRIPTOR, ATOMS, 2, odd=(TORSION,)), "which signs"),
        (lambda: DiabaticPotential(DESCRIPTOR, ATOMS, 2, odd=(BEND_C,), signs=((), ("C", "N"))), "signs C, N"),
        (lambda: DiabaticPotential(DESCRIPTOR, ATOMS, 3, odd=(TORSION,), signs=((), ("C", "N"))), "for each of 3"),
        (lambda: DiabaticPotential(DESCRIPTOR, ATOMS[:5], 2, odd=(TORSION,), signs=((), ("C", "N"))), "there are 5"),
        (lambda: DiabaticPotential(DESCRIPTOR, ("C", "O"), 2), "O is not among the elements"),
        (lambda: DiabaticPotential(DESCRIPTOR, ATOMS, 0), "states=0"),
        (lambda: DiabaticPotential(DESCRIPTOR, ATOMS, 2, offsets=(1.0,)), "offsets"),
        (lambda: MultiStatePotential(DESCRIPTOR, ("C",), 2), "at least two atoms"),
        (lambda: MultiStatePotential(DESCRIPTOR, ATOMS, 2, zero=float("nan")), "must be finite"),
    ],
)
def test_bad_options(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_positions_of_another_molecule():
    own = model("adiabatic")
    with pytest.raises(ValueError, match="6 atoms"):
        own(parameters(own), jnp.zeros((5, 3)))
