"""Reading data of several states: units, signs and kinds of couplings, and every mistake with a clear error."""

from dataclasses import replace

import ase.units
import numpy as np
import pytest

from bpjax import datasets
from bpjax.errors import BpjaxError, ConfigError, FormatError
from bpjax.excited.states_data import (
    METHANIMINIUM,
    SPAINN,
    StatesFormat,
    concatenated,
    pairs_of,
    read_states,
    without_rigid_motions,
)
from tests.excited.methaniminium import shaken

HARTREE, BOHR = ase.units.Hartree, ase.units.Bohr

FORM = StatesFormat("hartree", "bohr", couplings="d", coupling_kind="derivative", dipoles="mu", phases="arbitrary")


def arrays(n=5, S=3, N=6):
    rng = np.random.default_rng(0)
    return {
        "Z": np.array([6, 7, 1, 1, 1, 1]),
        "R": shaken(0, n) / BOHR,
        "E": np.sort(rng.normal(size=(n, S)), axis=1),
        "G": rng.normal(size=(n, S, N, 3)),
        "d": rng.normal(size=(n, len(pairs_of(S)), N, 3)),
        "mu": rng.normal(size=(n, S, S, 3)),
        "tag": np.array(["a", "a", "a", "b", "b"][:n]),
    }


def written(tmp_path, **changes):
    fields = {name: a for name, a in {**arrays(), **changes}.items() if a is not None}
    np.savez(tmp_path / "states.npz", **fields)
    return tmp_path / "states.npz"


def test_units_and_couplings(tmp_path):
    raw, data = arrays(), read_states(written(tmp_path), FORM)
    assert data.atoms == ("C", "N", "H", "H", "H", "H") and data.tags == ("a", "a", "a", "b", "b")
    np.testing.assert_allclose(data.positions, raw["R"] * BOHR, rtol=1e-8)
    np.testing.assert_allclose(data.gradients, raw["G"] * HARTREE / BOHR, rtol=1e-8)
    gap = raw["E"][:, 2] - raw["E"][:, 0]
    np.testing.assert_allclose(data.couplings[:, 1], (gap * HARTREE / BOHR)[:, None, None] * raw["d"][:, 1], rtol=1e-8)
    np.testing.assert_allclose(data.dipoles, raw["mu"] * BOHR, rtol=1e-8)
    turned = read_states(
        written(tmp_path, G=raw["G"].swapaxes(1, 2), d=raw["d"].swapaxes(1, 2)), replace(FORM, axes="atoms, states")
    )
    np.testing.assert_array_equal(turned.gradients, data.gradients)
    np.testing.assert_array_equal(turned.couplings, data.couplings)
    h = read_states(written(tmp_path), replace(FORM, coupling_kind="interstate")).couplings
    np.testing.assert_allclose(h, raw["d"] * HARTREE / BOHR, rtol=1e-8)
    minus = read_states(written(tmp_path), replace(FORM, coupling_kind="minus interstate", coupling_unit=2.0))
    np.testing.assert_allclose(minus.couplings, -2 * h, rtol=1e-14)


def test_forces_packed_dipoles_and_some_states(tmp_path):
    raw = arrays()
    packed = raw["mu"][:, *np.triu_indices(3)]
    path = written(tmp_path, R=raw["R"] * BOHR, G=None, mu=packed, F=-raw["G"])
    form = replace(FORM, forces="F", length="angstrom", gradient_length="bohr", dipole_length="bohr", states=(0, 2))
    data = read_states(path, form)
    np.testing.assert_allclose(data.positions, raw["R"] * BOHR)
    np.testing.assert_allclose(data.gradients, raw["G"][:, [0, 2]] * HARTREE / BOHR, rtol=1e-8)
    gap = raw["E"][:, 2] - raw["E"][:, 0]
    np.testing.assert_allclose(data.couplings[:, 0], (gap * HARTREE / BOHR)[:, None, None] * raw["d"][:, 1], rtol=1e-8)
    np.testing.assert_allclose(data.dipoles[:, 0, 1], packed[:, 2] * BOHR, rtol=1e-8)
    np.testing.assert_allclose(data.dipoles[:, 1, 0], packed[:, 2] * BOHR, rtol=1e-8)


def test_possible_losses_and_splits(tmp_path):
    data = read_states(written(tmp_path, G=None), replace(FORM, couplings=None, dipoles=None, phases=None))
    assert data.possible_losses() == ("energies",) and data.phases is None
    kept, aside = data.split(0.4, seed=0)
    assert sorted([*kept, *aside]) == list(range(5)) and len(aside) == 2
    assert sorted(np.array(data.tags)[aside]) == ["a", "b"]
    np.testing.assert_array_equal(data.pick(aside).energies, data.energies[aside])
    with pytest.raises(ValueError, match="between 0 and 1"):
        data.split(1.0, seed=0)
    with pytest.raises(ValueError, match="seed=-1: must be a whole number"):
        data.split(0.4, seed=-1)


@pytest.mark.parametrize(
    ("changes", "form", "message"),
    [
        ({"E": arrays()["E"][:, ::-1]}, {}, "geometry 0: state 1 .* lies below state 0"),
        ({"E": arrays()["E"] + 0j}, {}, "field E: is complex"),
        ({"G": np.where(np.arange(5)[:, None, None, None] == 3, np.nan, arrays()["G"])}, {}, "field G: geometry 3"),
        ({"d": arrays()["d"][:, :2]}, {}, r"field d: has shape \(5, 2, 6, 3\), not \(5, 3, 6, 3\)"),
        ({"d": None}, {}, "no field 'd'"),
        ({"R": None}, {}, "no field for positions: one of R, positions"),
        ({}, {"states": (0, 3)}, "states: .* no different states of 3"),
        ({"mu": np.array([{}] * 5)}, {}, "field mu: pickled objects may run any code"),
    ],
)
def test_bad_files(tmp_path, changes, form, message):
    path = written(tmp_path, **changes)
    with pytest.raises(BpjaxError, match=message):
        read_states(path, replace(FORM, **form))


@pytest.mark.parametrize(("unit", "said"), [("angstrom", "bohr"), ("nm", "bohr")])
def test_lengths_in_another_unit(tmp_path, unit, said):
    R = shaken(0, 5, width=0.03) / BOHR
    with pytest.raises(FormatError, match=rf"nearest atoms are .* times as far apart .*; is their length in {said}"):
        read_states(written(tmp_path, R=R), replace(FORM, length=unit))
    for Z, r in (([7, 7], 1.098), ([6, 8], 1.128), ([1, 1], 0.741), ([6, 6, 6], 1.20)):  # the shortest bonds there are
        apart = r * np.arange(len(Z))[None, :, None] * [1.0, 0, 0] + 0.02 * np.random.default_rng(0).normal(
            size=(5, len(Z), 3)
        )
        plain = replace(FORM, couplings=None, dipoles=None, phases=None, axes="states, atoms")
        fields = dict(Z=np.array(Z), G=None, d=None, mu=None)
        read_states(written(tmp_path, **fields, R=apart), replace(plain, length="angstrom"))
        with pytest.raises(FormatError, match="is their length in bohr"):
            read_states(written(tmp_path, **fields, R=apart / BOHR), replace(plain, length="angstrom"))
        with pytest.raises(FormatError, match="is their length in angstrom"):
            read_states(written(tmp_path, **fields, R=apart), plain)
    small = written(tmp_path, R=R * BOHR)
    with pytest.raises(FormatError, match=r"nearest atoms are 0\.[345]\d times .*; is their length in angstrom"):
        read_states(small, FORM)


def test_as_many_atoms_as_states(tmp_path):
    """Three and three: shapes do not tell which axis is which, but forces sum to zero over atoms alone."""
    rng = np.random.default_rng(0)
    water = np.array([[0, 0, 0.12], [0, 0.76, -0.48], [0, -0.76, -0.48]]) / BOHR
    G = rng.normal(size=(5, 3, 3, 3))
    G -= G.mean(axis=2, keepdims=True)
    fields = dict(Z=np.array([8, 1, 1]), R=water + 0.05 * rng.normal(size=(5, 3, 3)), d=None, mu=None)
    form = replace(FORM, couplings=None, dipoles=None, phases=None, axes="states, atoms")
    found = read_states(written(tmp_path, **fields, G=G), form)
    np.testing.assert_allclose(found.gradients, G * HARTREE / BOHR, rtol=1e-8)
    words = "sum to zero over states and not over atoms: are their axes geometries, {}, 3[?] The format says"
    other, turned = written(tmp_path, **fields, G=G.swapaxes(1, 2)), replace(form, axes="atoms, states")
    with pytest.raises(FormatError, match=words.format("atoms, states")):
        read_states(other, form)
    np.testing.assert_array_equal(read_states(other, turned).gradients, found.gradients)
    with pytest.raises(FormatError, match=words.format("states, atoms")):
        read_states(written(tmp_path, **fields, G=G), turned)
    with pytest.raises(FormatError, match="sum to zero over states"):
        read_states(written(tmp_path, **fields, G=None, F=-G.swapaxes(1, 2)), replace(form, forces="F"))
    # Without a statement it is refused, whatever the forces sum to; also where couplings alone are ambiguous.
    unstated, message = replace(form, axes=None), "StatesFormat axes: the shape of {}, .* does not tell which axis"
    rough = rng.normal(size=(5, 3, 3, 3))
    for given in (G, G.swapaxes(1, 2), rough, rough - rough.mean(axis=(1, 2), keepdims=True)):
        with pytest.raises(ConfigError, match=message.format("G")):
            read_states(written(tmp_path, **fields, G=given), unstated)
    coupled, fields = replace(FORM, dipoles=None, axes=None), {**fields, "d": rough}
    with pytest.raises(ConfigError, match=message.format("d")):
        read_states(written(tmp_path, **fields, G=None), coupled)


@pytest.mark.parametrize("axes", ["states, atoms", "atoms, states"])
def test_axes_by_their_shapes(tmp_path, axes):
    """Six atoms of three states: any field that tells is enough, and the rest follows; four states have six pairs."""
    told = read_states(written(tmp_path), replace(FORM, axes="states, atoms"))
    swap = (lambda a: a.swapaxes(1, 2)) if axes == "atoms, states" else (lambda a: a)
    raw = arrays()
    found = read_states(written(tmp_path, G=swap(raw["G"]), d=swap(raw["d"])), FORM)
    np.testing.assert_array_equal(found.gradients, told.gradients)
    np.testing.assert_array_equal(found.couplings, told.couplings)
    raw = arrays(S=4)
    found = read_states(written(tmp_path, **{**raw, "G": swap(raw["G"]), "d": swap(raw["d"])}), FORM)
    expected = read_states(written(tmp_path, **raw), replace(FORM, axes="states, atoms"))
    np.testing.assert_array_equal(found.gradients, expected.gradients)
    np.testing.assert_array_equal(found.couplings, expected.couplings)


def test_no_such_file(tmp_path):
    with pytest.raises(BpjaxError, match="no such file"):
        read_states(tmp_path / "none.npz", FORM)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coupling_kind": None}, "does not say what 'd' are; allowed are derivative, interstate"),
        ({"phases": None}, "arbitrary from geometry to geometry or consistent"),
        ({"axes": "atoms"}, "axes='atoms': allowed are states, atoms, atoms, states"),
        ({"phases": "some"}, "allowed are arbitrary, consistent"),
        ({"coupling_kind": "nac"}, "coupling_kind='nac'"),
        ({"energy": "parsec"}, "energy='parsec'"),
        ({"gradient_length": "parsec"}, "gradient_length='parsec'"),
        ({"coupling_unit": 0.0}, "coupling_unit=0.0"),
        ({"gradients": "G", "forces": "F"}, "one of the two"),
    ],
)
def test_bad_formats(options, message):
    with pytest.raises(ValueError, match=message):
        replace(FORM, **options)


def test_rigid_motions_are_projected_out():
    R = shaken(1, 4, 0.3)
    axis, shift = np.array([0.3, -1.0, 0.5]), np.array([1.0, 2.0, -1.0])
    rigid = (np.cross(axis, R) + shift)[:, None]
    v = np.random.default_rng(2).normal(size=(4, 2, 6, 3))
    np.testing.assert_allclose(without_rigid_motions(rigid, R), 0, atol=1e-12)
    free = without_rigid_motions(v + rigid, R)
    np.testing.assert_allclose(free, without_rigid_motions(v, R), atol=1e-12)
    np.testing.assert_allclose(free.sum(axis=2), 0, atol=1e-12)
    np.testing.assert_allclose(np.cross(R[:, None], free).sum(axis=2), 0, atol=1e-12)
    line = np.outer(np.arange(3.0), [0, 0, 1.0])[None]
    assert np.isfinite(without_rigid_motions(np.ones((1, 1, 3, 3)), line)).all()


def test_methaniminium():
    """Share of rigid rotations in the couplings as its description says: 46, 35 and 2 per cent."""
    data = read_states(datasets.path("methaniminium") / "ch2nh2_sa3cas43_631gs.npz", METHANIMINIUM)
    h = without_rigid_motions(data.couplings, data.positions)
    share = 1 - np.sum(h**2, axis=(0, 2, 3)) / np.sum(data.couplings**2, axis=(0, 2, 3))
    np.testing.assert_allclose(share, [0.46, 0.35, 0.02], atol=0.01)
    assert len(data) == 230 and data.possible_losses() == ("energies", "gradients", "couplings", "dipoles")


def test_couplings_of_two_conventions_agree(shared, tmp_path):
    """Of a public set whose first ten geometries are in angstrom; the others are 3.57 times as large."""
    with pytest.raises(FormatError, match="is their length in bohr"):
        read_states(shared / "data/nonadiabatic/ch2nh2_plus.npz", SPAINN)
    with np.load(shared / "data/nonadiabatic/ch2nh2_plus.npz") as archive:
        n, arrays = len(archive["positions"]), {name: archive[name] for name in archive.files}
    path = tmp_path / "ten.npz"
    np.savez(path, **{name: array[:10] if len(array) == n else array for name, array in arrays.items()})
    smooth = read_states(path, SPAINN)
    direct = read_states(path, replace(SPAINN, couplings="nacs", coupling_kind="derivative"))
    np.testing.assert_allclose(smooth.couplings, direct.couplings, atol=1e-6 * np.abs(direct.couplings).max())


def test_states_of_two_multiplicities(shared):
    path = shared / "data/nonadiabatic/c9h8o_2singlets_2triplets_soc.npz"
    form = StatesFormat("hartree", "angstrom", gradient_length="bohr")
    with pytest.raises(BpjaxError, match="choose those of one multiplicity"):
        read_states(path, form)
    singlets = read_states(path, replace(form, states=(0, 1)))
    assert singlets.states == 2 and singlets.possible_losses() == ("energies", "gradients")


def test_concatenated_data(tmp_path):
    whole = read_states(written(tmp_path), FORM)
    joined = concatenated([whole.pick([0, 1]), whole.pick([2, 3, 4])])
    assert joined.tags == whole.tags and joined.phases == "arbitrary"
    for name in ("positions", "energies", "gradients", "couplings", "dipoles"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(whole, name))
    bare = read_states(written(tmp_path, G=None), FORM)
    assert concatenated([whole, bare]).gradients is None and len(concatenated([whole, bare])) == 10
    for wrong, words in (
        ([], "no data"),
        (
            [whole, read_states(written(tmp_path, Z=np.array([7, 6, 1, 1, 1, 1])), FORM)],
            "C-N-H-H-H-H and of N-C-H-H-H-H",
        ),
        ([whole, read_states(written(tmp_path), replace(FORM, states=(0, 1)))], "of 3 and of 2 states"),
        ([whole, replace(whole, phases="consistent")], "phases are arbitrary and consistent"),
    ):
        with pytest.raises(ValueError, match=words):
            concatenated(wrong)
