"""Spin-orbit coupling: bases of several multiplicities, and SHARC's model of SO2."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bpjax.errors import FormatError
from bpjax.excited.adiabatic import adiabatic, gradients
from bpjax.excited.eigen import eigh
from bpjax.excited.library import find_model
from bpjax.excited.sharc import read_lvc_template
from bpjax.excited.spin import SpinStates, spin_adiabatic, spin_free
from tests.excited.cases import central, hermitian


def test_basis():
    basis = SpinStates((2, 1, 1))
    assert basis.size == 2 + 2 + 3
    assert basis.multiplicities == (1, 2, 3)
    assert basis.labels[2:] == ((2, 0, -0.5), (2, 0, 0.5), (3, 0, -1.0), (3, 0, 0.0), (3, 0, 1.0))
    rng = np.random.default_rng(0)
    blocks = {m: jnp.asarray(hermitian(rng, n, False)) for m, n in ((1, 2), (2, 1), (3, 1))}
    expected = np.zeros((7, 7))
    expected[:2, :2] = blocks[1]
    for k in (2, 3):
        expected[k, k] = blocks[2][0, 0]
    for k in (4, 5, 6):
        expected[k, k] = blocks[3][0, 0]
    np.testing.assert_array_equal(basis.expand(blocks), expected)
    np.testing.assert_array_equal(basis.populations(jnp.arange(7.0)), [1.0, 5.0, 15.0])


def test_kramers_pairs_stay_degenerate():
    """A doublet of two states with a coupling that respects time reversal: every level twice."""
    basis = SpinStates((0, 2))
    soc = np.kron([[1, 0], [0, -1]], [[0, 1j], [-1j, 0]]) + np.kron([[0, 1], [1, 0]], [[0, 0.3j], [-0.3j, 0]])
    basis.check_coupling(soc)
    E, U = jax.jit(lambda b: spin_adiabatic(basis, {2: b}, jnp.asarray(soc)))(jnp.diag(jnp.asarray([0.0, 1.0])))
    np.testing.assert_allclose(E[::2], E[1::2], atol=1e-14)
    np.testing.assert_allclose(E[2] - E[0], np.sqrt(1 + 4 * 1.09), rtol=1e-13)
    np.testing.assert_allclose(basis.populations(jnp.abs(U.T) ** 2), 1, atol=1e-14)


def test_both_orders_of_diagonalising_agree():
    basis = SpinStates((3, 0, 2))
    rng = np.random.default_rng(6)
    blocks = {1: jnp.asarray(hermitian(rng, 3, False)), 3: jnp.asarray(hermitian(rng, 2, False))}
    soc = jnp.asarray(0.1 * hermitian(rng, 9, True))
    E, _ = spin_adiabatic(basis, blocks, soc)
    E_free, U, soc_free = jax.jit(lambda: spin_free(basis, blocks, soc))()
    np.testing.assert_allclose(eigh(jnp.diag(E_free) + soc_free)[0], E, atol=1e-14)
    np.testing.assert_allclose(U.conj().T @ basis.expand(blocks) @ U, np.diag(E_free), atol=1e-14)
    np.testing.assert_array_equal(E_free[3:5], E_free[5:7])


@pytest.mark.parametrize(
    "soc, message",
    [
        (np.zeros((3, 3)), r"must have shape \(4, 4\)"),
        (np.full((4, 4), np.nan), "must be finite"),
        (np.triu(np.ones((4, 4))), r"must be Hermitian, but elements \(0, 1\) and \(1, 0\)"),
        (1j * np.ones((4, 4)), "must be Hermitian"),
    ],
)
def test_bad_spin_orbit_matrices(soc, message):
    with pytest.raises(ValueError, match=message):
        SpinStates((1, 0, 1)).check_coupling(soc)


def test_bad_bases():
    for counts in ((), (0, 0), (2, -1)):
        with pytest.raises(ValueError, match="SpinStates counts"):
            SpinStates(counts)
    with pytest.raises(ValueError, match=r"multiplicities \[1\]: must be those of \(1, 3\)"):
        SpinStates((1, 0, 1)).expand({1: jnp.zeros((1, 1))})
    with pytest.raises(ValueError, match="block of multiplicity 3"):
        SpinStates((1, 0, 1)).expand({1: jnp.zeros((1, 1)), 3: jnp.zeros((2, 2))})


# ---------------------------------------------------------------------------------------------- SO2


@pytest.fixture(scope="module")
def so2(shared):
    folder = shared / "reference" / "physics" / "so2_lvc"
    R = np.array([line.split()[2:5] for line in (folder / "geom").read_text().splitlines() if line.strip()], float)
    lines = (folder / "output.dat").read_text().splitlines()
    start = next(k for k, line in enumerate(lines) if "Hamiltonian (MCH)" in line) + 1
    H = np.array([line.split() for line in lines[start : start + 13]], float)
    return read_lvc_template(folder / "LVC.template"), jnp.asarray(R), H[:, 0::2] + 1j * H[:, 1::2]


@pytest.mark.reference
def test_so2_spin_free_energies(so2):
    molecule, R, H = so2
    blocks = jax.jit(molecule.spin_free)(R)
    E, _, _ = spin_free(molecule.basis, blocks, molecule.soc)
    np.testing.assert_allclose(E, H.diagonal().real, atol=1e-7)


@pytest.mark.reference
def test_so2_spin_orbit_states(so2):
    """SHARC's run left the fourth singlet out of the couplings (actstates 3 0 3): so do we, in its basis."""
    molecule, R, H = so2
    E, _, soc = spin_free(molecule.basis, molecule.spin_free(R), molecule.soc)
    np.testing.assert_allclose(np.abs(soc[:3]), np.abs(H[:3] - np.diag(H.diagonal())[:3]), atol=1e-8)
    kept = np.arange(13) != 3
    active = jnp.where(jnp.asarray(np.outer(kept, kept)), soc, 0)
    np.testing.assert_allclose(eigh(jnp.diag(E) + active)[0], np.linalg.eigvalsh(H), atol=1e-7)


@pytest.mark.reference
def test_so2_gradients_with_spin_orbit_coupling(so2):
    molecule, R, _ = so2
    ours = jax.jit(lambda R: gradients(adiabatic(molecule, R)))(R)
    energies = jax.jit(lambda R: jnp.linalg.eigvalsh(molecule(R)))
    np.testing.assert_allclose(ours, central(energies, R), atol=2e-8)
    np.testing.assert_allclose(ours.sum(axis=1), 0, atol=5e-6)  # to the digits of the normal modes in the file


@pytest.mark.reference
def test_so2_normal_coordinates(so2):
    molecule, R, _ = so2
    Q = molecule.modes.coordinates(R)
    np.testing.assert_allclose(Q[6:], [-0.143579, 0.129390, 0.228945], atol=1e-6)
    inside = molecule.modes.positions(Q)
    # The modes in the file are orthonormal to 5e-5 only.
    np.testing.assert_allclose(molecule.modes.coordinates(inside)[6:], Q[6:], atol=2e-5)


# -------------------------------------------------------------------------------------- the reader

MODES = """Geometry
 H 1. 0.0 0.0 0.0 1.007825
 Li 3. 0.0 0.0 3.0 7.016
Frequencies
 0.0 0.0 0.0 0.0 0.0 0.006
Mass-weighted normal modes
 1 0 0 0 0 0
 0 1 0 0 0 0
 0 0 1 0 0 0
 0 0 0 1 0 0
 0 0 0 0 1 0
 0 0 0 0 0 1
"""

TEMPLATE = """V0.txt   # the modes
1 0 1
epsilon
2
 1 1 0.0
 3 1 0.1

kappa
1
 3 1 6 0.02
lambda
0
SOC R
 0 0 0.001 0
 0 0 0 0
 0.001 0 0 0
 0 0 0 0
SOC I
 0 0.002 0 0.002
 -0.002 0 0 0
 0 0 0 0
 -0.002 0 0 0
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "V0.txt").write_text(MODES)
    (tmp_path / "LVC.template").write_text(TEMPLATE)
    return tmp_path


def test_read(folder):
    molecule = read_lvc_template(folder / "LVC.template")
    assert molecule.symbols == ("H", "Li") and molecule.basis.counts == (1, 0, 1)
    R = molecule.modes.reference.at[1, 2].add(0.3)
    Q = np.sqrt(0.006 * 7.016 * 1822.888486209) * 0.3
    H = jax.jit(lambda molecule, R: molecule(R))(molecule, R)
    T = 0.1 + 0.02 * Q
    expected = np.diag([0, T, T, T]) + 0.003 * Q**2 * np.eye(4) + 0j
    expected[0, 1:] = [0.002j, 0.001, 0.002j]
    expected[1:, 0] = np.conj(expected[0, 1:])
    np.testing.assert_allclose(H, expected, atol=1e-14)
    assert molecule.dipoles.shape == (3, 4, 4)
    # by the parameters of the model
    slope = jax.grad(lambda blocks: dataclasses.replace(molecule, blocks=blocks)(R)[1, 1].real)(molecule.blocks)
    assert float(slope[3].linear[5, 0, 0]) == pytest.approx(Q)


def test_blocks_of_sharc_4(folder, monkeypatch):
    """What does not touch the dynamics is passed over, what is empty is nothing, and terms that the model has not are refused."""
    plain = read_lvc_template(folder / "LVC.template")
    R = plain.modes.reference.at[1, 2].add(0.3)
    more = "gamma\n0\neta\n0\nlambda_soc\n0\n"
    more += "".join(f"{name}\n{4 * f' 0.5 0.5 0.5 0.5{chr(10)}'}" for name in ("MDMX R", "EQMZ_dX R", "QMXX R"))
    fit = "Multipolar Density Fit{}\n2\n1 1 1 1 0 0 0 0 0\n3 1 1 1 0.1 0 0 0 0\n"
    monkeypatch.setenv("MODES", str(folder))
    for settings in ("", " (4x4x2x10)  settings [order grid firstlayer density layers] 2 lebedev 1.4 10 4"):
        text = TEMPLATE.replace("epsilon", "charge 0 0\nepsilon").replace("V0.txt", "$MODES/V0.txt")
        (folder / "any.name").write_text(text + more + fit.format(settings))
        model = find_model(str(folder / "any.name"))
        np.testing.assert_array_equal(model.model(R), plain(R))
        assert model.files == (folder / "any.name", folder / "V0.txt")
    for name in ("gamma", "eta", "lambda_soc"):
        (folder / "any.name").write_text(TEMPLATE + f"{name}\n1\n3 1 1 6 6 0.01\n")
        with pytest.raises(
            FormatError, match=f"'{name}' has rows: terms beyond linear vibronic coupling are not known"
        ):
            find_model(str(folder / "any.name"))


def test_the_case_of_sharc_4(shared, tmp_path):
    """O-H with one mode: energies by hand, at the reference and along the mode."""
    for name in ("LVC.template", "V0.txt"):
        (tmp_path / name).write_text((shared / "cases" / "sharc4_lvc" / name).read_text())
    model = read_lvc_template(tmp_path / "LVC.template")
    np.testing.assert_allclose(model(model.modes.reference), np.diag([0.0, 0.1]), atol=1e-15)
    Q = 0.7
    along = model.modes.positions(jnp.zeros(6).at[5].set(Q))
    expected = 0.5 * 0.017 * Q**2 * np.eye(2) + [[0, 2e-3 * Q], [2e-3 * Q, 0.1 + 1e-3 * Q]]
    np.testing.assert_allclose(model(along), expected, atol=1e-9)


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("kappa", "kapa", r"line 8: 'kapa' is not the start of a block; allowed are epsilon, kappa, lambda, SOC R"),
        ("lambda\n0", "kappa\n0", "line 11: a second block 'kappa'"),
        ("1 0 1\n", "1 x 1\n", "line 2: '1 x 1': must be numbers of singlets"),
        ("1 0 1\n", "0 0 0\n", "line 2: '0 0 0': must be numbers of singlets"),
        ("epsilon\n2", "epsilon\ntwo", "line 4: the number of rows must follow 'epsilon'"),
        (" 3 1 6 0.02", " 3 1 0.02", "line 10: '3 1 0.02' in 'kappa': must be multiplicity state mode value"),
        (" 3 1 6 0.02", " 3 1 7 0.02", "line 10: mode 7 in 'kappa': allowed are 1 to 6"),
        (" 3 1 6 0.02", " 3 2 6 0.02", "line 10: state 2 in 'kappa': allowed are 1 to 1"),
        (" 3 1 6 0.02", " 2 1 6 0.02", r"line 10: multiplicity 2 in 'kappa': allowed are those with states, \(1, 3\)"),
        (" 3 1 6 0.02", " 3 1 6 nan", "line 10: 'nan': must be a number"),
        (" 3 1 6 0.02", " 3 1 6. 0.02", "line 10: '3 1 6.' in 'kappa'.*whole numbers"),
        ("lambda\n0", "lambda\n1\n 3 1 1 6 0.1", "line 13: state 1 twice in 'lambda'"),
        (" 0 0 0.001 0\n", " 0 0 0.001\n", "line 14: '0 0 0.001': must be a row of 4 numbers"),
        (" -0.002 0 0 0\n 0 0 0 0\n", " 0.002 0 0 0\n 0 0 0 0\n", "LVC.template: spin-orbit matrix: must be Hermitian"),
        (" 0 0 0 0\n -0.002 0 0 0\n", " 0 0 0 0\n", "the file ends within the block 'SOC I' of 4 rows"),
        ("V0.txt ", "V1.txt ", "V1.txt: no such file"),
        ("V0.txt ", "V\0.txt ", "cannot be read: embedded null byte"),
    ],
)
def test_malformed_template(folder, old, new, message):
    path = folder / "LVC.template"
    assert old in TEMPLATE
    path.write_text(TEMPLATE.replace(old, new, 1))
    with pytest.raises(FormatError, match=message):
        read_lvc_template(path)


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("Frequencies", "Freqs", "has no line 'frequencies'"),
        (" H 1.", " Q 1.", "line 2: 'Q' is not an element"),
        ("1.007825", "-1", "line 2: masses must be positive"),
        ("1.007825", "", "line 2: .*must be element, nuclear charge, x, y, z, mass"),
        (" 0 0 0 0 0 1\n", "", "line 6: must have 6 rows of normal modes, got 5"),
        (" 1 0 0 0 0 0\n", " 1 0 0 0 0\n", "line 7: '1 0 0 0 0': must be a row of 6 modes"),
        ("0.006", "-0.006", "line 5: frequencies must not be negative"),
    ],
)
def test_malformed_modes(folder, old, new, message):
    assert old in MODES
    (folder / "V0.txt").write_text(MODES.replace(old, new, 1))
    with pytest.raises(FormatError, match=message):
        read_lvc_template(folder / "LVC.template")
