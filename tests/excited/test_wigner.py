"""Sampling, spectra and paths against closed forms."""

import ase.build
import numpy as np
import pytest

from bpjax.errors import FormatError, StructureError
from bpjax.excited.library import find_model, read_hessian
from bpjax.excited.paths import linear_path, superposed
from bpjax.excited.spectrum import SUM_RULE, absorption_spectrum, oscillator_strengths
from bpjax.excited.wigner import HarmonicModes, normal_modes, rigid_motions, wigner_samples, wigner_variance
from bpjax.units import BOHR, BOLTZMANN, ELECTRONIC, HARTREE


def springs(R, pairs, k):
    """Hessian of springs at their rest lengths."""
    H = np.zeros((*R.shape, *R.shape))
    for i, j in pairs:
        n = (R[i] - R[j]) / np.linalg.norm(R[i] - R[j])
        block = k * np.outer(n, n)
        for a, b, sign in ((i, i, 1), (j, j, 1), (i, j, -1), (j, i, -1)):
            H[a, :, b, :] += sign * block
    return H


def test_width_of_one_oscillator_in_both_units():
    """Position and velocity variances hbar/(2 m w) coth(hbar w/2kT) and that times w^2; four standard errors."""
    for name, temperature in (("atomic", 0.0), ("atomic", 800.0), ("ev-angstrom", 800.0)):
        units = ELECTRONIC[name]
        m, w = 1800.0 * units.electron_mass, 0.004 / units.hbar * units.hartree
        modes = normal_modes(np.array([0.3]), [[m * w**2]], [m])
        n = 40000
        R, v = wigner_samples(modes, n, temperature, name, seed=1)
        x = 0.5 * units.hbar * w / (units.boltzmann * temperature) if temperature else np.inf
        expected = 0.5 * units.hbar / (m * w) / np.tanh(x)
        assert R.mean() == pytest.approx(0.3, abs=4 * np.sqrt(expected / n))
        assert R.var() == pytest.approx(expected, rel=4 * np.sqrt(2 / n))
        assert v.var() == pytest.approx(expected * w**2, rel=4 * np.sqrt(2 / n))


def test_units_agree():
    """0.004 hartree at 800 K is one oscillator, whatever its units."""
    atomic, molecular = (ELECTRONIC[name] for name in ("atomic", "ev-angstrom"))
    ratio = [u.hartree / u.boltzmann for u in (atomic, molecular)]
    assert ratio[0] == pytest.approx(HARTREE / BOLTZMANN, rel=1e-14) and ratio[1] == pytest.approx(ratio[0], rel=1e-14)
    # hbar is energy times time: in both units hbar/(hartree) is one atomic unit of time.
    assert molecular.hbar / molecular.hartree * molecular.time_fs == pytest.approx(atomic.time_fs, rel=1e-12)
    # and the unit of time is length sqrt(mass/energy)
    scale = molecular.bohr * np.sqrt(molecular.electron_mass / molecular.hartree)
    assert scale * molecular.time_fs == pytest.approx(atomic.time_fs, rel=1e-8)


def test_zero_and_high_temperature():
    assert wigner_variance(0.01, 0.0, 1.0, 1.0) == 0.5
    assert wigner_variance(0.01, 50.0, 1.0, 1.0) == pytest.approx(50.0 / 0.01, rel=1e-6)  # kT / hbar w


def test_modes_of_molecules():
    """A triangle has 3 vibrations, a chain 4, of which two are bends; the stretches of CO2 are those of the textbook."""
    R = np.array([[0, 0, 0], [1.9, 0, 0], [0.5, 1.7, 0.3]])
    m = np.array([16.0, 1.0, 2.0])[:, None]
    modes = normal_modes(R, springs(R, ((0, 1), (1, 2), (0, 2)), 0.4), m)
    assert modes.modes.shape == (9, 3)
    np.testing.assert_allclose(modes.modes.T @ modes.modes, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(modes.modes.T @ rigid_motions(R, np.broadcast_to(m, R.shape)), 0, atol=1e-10)
    chain = np.array([[0, 0, -1.2], [0, 0, 0], [0, 0, 1.2]])
    masses, k, bend = np.array([16.0, 12.0, 16.0])[:, None], 1.3, 0.05
    H = springs(chain, ((0, 1), (1, 2)), k)
    b = np.array([1.0, -2.0, 1.0])
    for axis in (0, 1):
        H[:, axis, :, axis] += bend * np.outer(b, b)
    w = normal_modes(chain, H, masses).frequencies
    total = 16 + 12 + 16
    stretches = [np.sqrt(k / 16), np.sqrt(k * total / (16 * 12))]
    bends = [np.sqrt(2 * bend * total / (16 * 12)) for _ in range(2)]
    np.testing.assert_allclose(np.sort(w), np.sort(stretches + bends), rtol=1e-10)


def test_samples_of_a_molecule_keep_still():
    """No momentum, no angular momentum about the reference, mean energy hbar w/2 in each mode."""
    R = np.array([[0, 0, 0], [1.9, 0, 0], [0.5, 1.7, 0.3]])
    m = 1822.9 * np.array([16.0, 1.0, 2.0])[:, None]
    H = springs(R, ((0, 1), (1, 2), (0, 2)), 0.4)
    modes = normal_modes(R, H, m)
    positions, v = wigner_samples(modes, 4000, seed=3)
    np.testing.assert_allclose((m * v).sum(axis=1), 0, atol=1e-12)
    np.testing.assert_allclose((m * np.cross(R, v)).sum(axis=1), 0, atol=1e-10)
    d = (positions - R).reshape(4000, -1)
    potential = 0.5 * np.einsum("na,ab,nb->n", d, H.reshape(9, 9), d).mean()
    kinetic = 0.5 * (m * v**2).sum(axis=(1, 2)).mean()
    zero_point = 0.25 * modes.frequencies.sum()
    assert potential == pytest.approx(zero_point, rel=0.05) and kinetic == pytest.approx(zero_point, rel=0.05)


def test_vibronic_models_have_unit_widths():
    model = find_model("pyrazine")
    R, v = wigner_samples(model.modes, 20000, seed=1)
    np.testing.assert_allclose(R.var(axis=0), 0.5, rtol=0.05)
    np.testing.assert_allclose(v.var(axis=0), 0.5 / model.masses**2, rtol=0.05)


def test_hessians_that_are_none():
    one = np.zeros((2, 3))
    with pytest.raises(StructureError, match="hessian: must have 6 x 6 elements"):
        normal_modes(one, np.eye(5), np.ones((2, 1)))
    with pytest.raises(StructureError, match="is not that of a minimum"):
        normal_modes(np.zeros(2), np.diag([1.0, -0.3]), np.ones(2))
    with pytest.raises(StructureError, match="must be symmetric"):
        normal_modes(np.zeros(2), [[1.0, 0.5], [0.0, 1.0]], np.ones(2))
    modes = HarmonicModes(np.zeros(1), np.ones(1), np.ones(1), np.eye(1))
    for wrong in ({"number": 0}, {"number": 1, "temperature": -1.0}, {"number": 1, "units": "au"}):
        with pytest.raises(ValueError, match="wigner_samples"):
            wigner_samples(modes, **wrong)


def test_hessian_file(tmp_path, shared):
    folder = shared / "reference" / "physics" / "so2_lvc"
    (tmp_path / "LVC.template").write_text((folder / "LVC.template").read_text())
    (tmp_path / "V.txt").write_text((folder / "V.txt").read_text())
    model = find_model(str(tmp_path / "LVC.template"))
    expected = model.modes
    root = np.sqrt(expected.masses.ravel())
    K = expected.modes
    H = root[:, None] * (K @ np.diag(expected.frequencies**2) @ K.T) * root[None]
    entries = {"positions": expected.reference * BOHR, "hessian": H * HARTREE / BOHR**2, "units": "ev-angstrom"}
    np.savez(tmp_path / "h.npz", numbers=[16, 8, 8], **entries)
    modes = read_hessian(tmp_path / "h.npz", model)
    np.testing.assert_allclose(modes.frequencies, np.sort(expected.frequencies), rtol=1e-4)
    np.savez(tmp_path / "h.npz", numbers=[8, 16, 8], **entries)
    with pytest.raises(FormatError, match=r"h\.npz: field numbers: are"):
        read_hessian(tmp_path / "h.npz", model)
    np.savez(tmp_path / "h.npz", positions=expected.reference)
    with pytest.raises(FormatError, match=r"h\.npz: has no field 'hessian'; there are positions"):
        read_hessian(tmp_path / "h.npz", model)


# ------------------------------------------------------------------------------------------------- spectra


@pytest.mark.parametrize("shape", ["gaussian", "lorentzian"])
def test_spectrum_of_an_ensemble(shape):
    """Area by the sum rule, 1.0976 eV A^2 for f = 1; height and half height of a single line."""
    assert SUM_RULE == pytest.approx(1.09761, abs=1e-5)  # pi e^2 h / (2 m c eps0) in other units
    E = np.linspace(-1000, 1000, 2000001)
    gaps, f = np.array([[4.0, 6.0], [4.2, 6.4]]), np.array([[0.1, 0.5], [0.3, 0.7]])
    found = absorption_spectrum(E, gaps, f, 0.4, shape)
    area = np.trapezoid(found.states, E, axis=1)
    np.testing.assert_allclose(area, SUM_RULE * f.mean(axis=0), rtol=1e-3 if shape == "lorentzian" else 1e-8)
    np.testing.assert_allclose(found.states.sum(axis=0), found.cross_section, rtol=1e-12)
    one = absorption_spectrum(np.array([5.0, 5.2]), [[5.0]], [[1.0]], 0.4, shape)
    height = np.sqrt(4 * np.log(2) / np.pi) / 0.4 if shape == "gaussian" else 2 / (np.pi * 0.4)
    assert one.cross_section[0] == pytest.approx(SUM_RULE * height, rel=1e-12)
    assert one.cross_section[1] == pytest.approx(0.5 * one.cross_section[0], rel=1e-12)


def test_spectrum_of_a_displaced_oscillator():
    """Gaps linear in a coordinate of Gaussian width: a Gaussian band, whose variance adds to that of the line."""
    x = np.random.default_rng(0).normal(scale=0.2, size=20000)
    E = np.linspace(1, 9, 801)
    found = absorption_spectrum(E, 5 + 1.5 * x[:, None], np.ones((len(x), 1)), 0.1)
    variance = 0.3**2 + (0.1 / 2.354820045) ** 2
    expected = SUM_RULE * np.exp(-((E - 5) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)
    assert (np.abs(found.cross_section - expected) < 5 * found.error + 1e-3 * expected.max()).all()
    assert np.abs(found.cross_section - expected).max() < 0.06 * expected.max()


def test_oscillator_strength():
    """f = 2/3 dE |mu|^2 in atomic units; Lyman alpha of hydrogen: 0.4162."""
    x = 128 * np.sqrt(2) / 243 * BOHR  # <1s|z|2p_z>, one of three directions
    f = 3 * oscillator_strengths(np.array([0.375 * HARTREE]), np.array([[0.0, 0.0, x]]))
    assert f[0] == pytest.approx(0.4162, abs=1e-4)
    with pytest.raises(ValueError, match="width=0"):
        absorption_spectrum(np.ones(2), np.ones((1, 1)), np.ones((1, 1)), 0.0)
    with pytest.raises(ValueError, match="must both be"):
        absorption_spectrum(np.ones(2), np.ones((1, 1)), np.ones((2, 1)))


# --------------------------------------------------------------------------------------------------- paths


def turned(R, angle):
    c, s = np.cos(angle), np.sin(angle)
    return R @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]).T + [3.0, -1.0, 0.5]


def test_superposition_finds_the_rotation():
    R = ase.build.molecule("CH3CH2OH").positions
    np.testing.assert_allclose(superposed(turned(R, 2.2), R), R, atol=1e-12)


def test_paths_between_geometries():
    molecule = ase.build.molecule("CH3CH2OH")
    R0 = molecule.positions
    molecule.set_distance(0, 1, 2.0)
    R1 = turned(molecule.positions, 1.0)
    for internal in (False, True):
        path = linear_path(R0, R1, 5, internal)
        assert path.shape == (5, *R0.shape)
        np.testing.assert_allclose(path[0], R0, atol=1e-12)
        i, j = np.triu_indices(len(R0), 1)
        distances = np.linalg.norm(path[:, i] - path[:, j], axis=2)
        np.testing.assert_allclose(distances[-1], np.linalg.norm(R1[i] - R1[j], axis=1), atol=1e-10)
    middle = 0.5 * (distances[0] + distances[-1])
    assert np.abs(distances[2] - middle).max() < 0.1
    with pytest.raises(ValueError, match="points=1"):
        linear_path(R0, R1, 1)
    with pytest.raises(StructureError, match="one shape"):
        linear_path(R0, R1[:-1], 3)


def test_internal_path_turns_a_group_without_squeezing_it():
    """A hydrogen molecule turned by 150 degrees beside an atom that holds it: straight lines would shrink its bond."""
    R0 = np.array([[0, 0, 0], [2.0, 0.37, 0], [2.0, -0.37, 0]])
    R1 = R0.copy()
    R1[1:, 1] *= np.cos(np.radians(150))
    R1[1:, 2] = 0.37 * np.sin(np.radians(150)) * np.array([1, -1])
    extra = np.array([[0, 1.5, 1.0], [0, -1.2, 1.0]])  # atoms that hold the frame
    R0, R1 = np.concatenate([R0, extra]), np.concatenate([R1, extra])
    bond = [
        np.linalg.norm(linear_path(R0, R1, 5, internal)[2, 1] - linear_path(R0, R1, 5, internal)[2, 2])
        for internal in (False, True)
    ]
    assert bond[0] < 0.5 and bond[1] > 0.65
