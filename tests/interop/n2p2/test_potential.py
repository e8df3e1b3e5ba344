"""Folders as potentials: energies against n2p2, ways of scaling, units, committees."""

from contextlib import nullcontext

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bpjax.errors import ConfigError, FormatError
from bpjax.interop.n2p2 import read_folder, read_potential
from bpjax.networks import MLP, PerElement
from bpjax.networks.elemental import ACTIVATIONS, options_of
from bpjax.potential.energy import energy_from_features
from bpjax.system import Environment
from bpjax.units import BOHR, HARTREE
from tests.interop.n2p2.example import INPUT, weights, write_example

SCALED = "center_symmetry_functions\nscale_symmetry_functions\n"


def energies(model, params, G, element):
    species = jnp.full(len(G), model.elements.index(element))
    padded = np.pad(G, ((0, 0), (0, model.descriptor.size - G.shape[1])))
    return np.asarray(energy_from_features(model, params, jnp.asarray(padded), species))


def written_out(folder, element, G, first, last):
    """Energies in the file's unit, without the free atom's."""
    s, layers = folder.settings, folder.weights[element]
    low, high, mean, sigma = folder.scaling[element].T
    width = last - first
    x = {
        "none": G,
        "scale": first + width * (G - low) / (high - low),
        "center": G - mean,
        "scale_center": first + width * (G - mean) / (high - low),
        "sigma": first + width * (G - mean) / sigma,
    }[s.scaling]
    for name, function in (("hidden_0", np.tanh), ("hidden_1", lambda x: np.logaddexp(x, 0)), ("output", lambda x: x)):
        x = x @ layers[name]["kernel"] + layers[name]["bias"]
        x = function(x / len(layers[name]["kernel"]) if s.normalize_nodes else x)
    return x[:, 0] / s.conv_energy


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(
    ("mode", "lines"),
    {
        "none": "",
        "scale": "scale_symmetry_functions\n",
        "center": "center_symmetry_functions\n",
        "scale_center": SCALED,
        "sigma": "scale_symmetry_functions_sigma\n",
    }.items(),
)
def test_every_way_of_scaling(tmp_path, mode, lines, normalize):
    text = INPUT.replace(SCALED, lines) + "normalize_nodes\n" * normalize
    path = write_example(tmp_path / "nnp", text=text)
    folder = read_folder(path)
    assert folder.settings.scaling == mode
    model, params = read_potential(path, "hartree-bohr")
    assert model.descriptor.unit == BOHR and model.descriptor.functions == folder.settings.functions
    assert (model.descriptor.cutoff_kind, model.descriptor.cutoff_inner) == ("poly2", 0.25)
    assert model.members is None and model.network == MLP((3, 2), ("tanh", "softplus"))
    np.testing.assert_allclose(model.offsets, HARTREE * np.array([-0.5, -37.8, -74.9]), rtol=1e-15)
    assert all(isinstance(leaf, np.ndarray) and leaf.dtype == np.float64 for leaf in jax.tree.leaves(params))
    for element, table in folder.scaling.items():
        G = np.random.default_rng(1).uniform(-1, 2, (5, len(table)))
        expected = HARTREE * written_out(folder, element, G, -1.0, 1.0)
        np.testing.assert_allclose(energies(model, params, G, element), expected, rtol=1e-12)  # rounding
        size, own = model.descriptor.size, params["scaling"][element]
        np.testing.assert_array_equal(own["min"], [*table[:, 0], *[-np.inf] * (size - len(table))])
        np.testing.assert_array_equal(own["max"], [*table[:, 1], *[np.inf] * (size - len(table))])


def test_units_of_the_networks(tmp_path):
    lines = "mean_energy -2.5\nconv_energy 8.0\nconv_length 1.5\n"
    path = write_example(tmp_path / "nnp", text=INPUT + lines)
    folder = read_folder(path)
    model, params = read_potential(path, "ev-angstrom")
    assert model.descriptor.unit == 1.0 and model.cutoff == 6.0
    assert params["energy_scale"] == 1 / 8 and params["energy_scale"].shape == ()
    np.testing.assert_allclose(model.offsets, np.array([-0.5, -37.8, -74.9]) - 2.5, rtol=1e-15)
    G = np.random.default_rng(1).uniform(0, 2, (5, 2))
    expected = written_out(folder, "C", G, -1.0, 1.0)
    np.testing.assert_allclose(energies(model, params, G, "C"), expected, rtol=1e-12)


def test_networks_of_their_own(tmp_path):
    path = write_example(tmp_path / "nnp", text=INPUT + "element_nodes_short C 1 5\n")
    (path / "weights.006.data").write_text(weights(2, hidden=(5, 2)))
    model, params = read_potential(path, "ev-angstrom", element_nodes="documented")
    layers = ("tanh", "softplus")
    assert model.network == PerElement((MLP((3, 2), layers), MLP((5, 2), layers), MLP((3, 2), layers)))
    G = np.random.default_rng(1).uniform(0, 2, (5, 2))
    np.testing.assert_allclose(
        energies(model, params, G, "C"),
        written_out(read_folder(path, element_nodes="documented"), "C", G, -1.0, 1.0),
        rtol=1e-12,
    )


def test_units_must_be_said(tmp_path):
    path = write_example(tmp_path / "nnp")
    for units in (None, "hartree", "eV-angstrom"):
        with pytest.raises(ConfigError) as caught:
            read_potential(path, units)
        assert caught.value.field == "units" and "hartree-bohr or ev-angstrom" in str(caught.value)


def test_committee(tmp_path):
    root = tmp_path / "committee"
    for n in (1, 2, 3):
        extra = f"mean_energy 0\nconv_energy {n}\nconv_length 1\n"
        write_example(root / f"nnp-{n}", seed=10 * n, text=INPUT + extra)
    model, params = read_potential(root, "hartree-bohr")
    assert model.members == 3
    assert {leaf.shape[0] for leaf in jax.tree.leaves(params)} == {3}
    np.testing.assert_allclose(params["energy_scale"], HARTREE / np.array([1, 2, 3]))
    G = np.random.default_rng(1).uniform(0, 2, (5, 4))
    singles = [energies(*read_potential(root / f"nnp-{n}", "hartree-bohr"), G, "O") for n in (1, 2, 3)]
    np.testing.assert_allclose(energies(model, params, G, "O"), np.mean(singles, axis=0), rtol=1e-12)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("0.2 1.d0 6", "0.2 1.d0 5", "symmetry functions differ from those of nnp-1"),
        ("t p l", "t t l", "shapes of the networks differ"),
        ("cutoff_type 6 0.25", "cutoff_type 6 0.2", "inner radius of the cutoff function differ"),
        ("cutoff_type 6 0.25", "cutoff_type 5 0.25", "cutoff function differ"),
        ("atom_energy H -0.5", "atom_energy H -0.4", "atom_energy differ"),
        ("epochs 10", "mean_energy 1\nconv_energy 1\nconv_length 1\nepochs", "mean_energy differ"),
    ],
)
def test_members_that_do_not_fit_together(tmp_path, old, new, message):
    root = tmp_path / "committee"
    write_example(root / "nnp-1")
    write_example(root / "nnp-2", text=INPUT.replace(old, new))
    with pytest.raises(FormatError, match=rf"nnp-2/input\.nn: {message}"):
        read_potential(root, "hartree-bohr")


def test_incomplete_committees(tmp_path):
    root = tmp_path / "committee"
    for n in (1, 3):
        write_example(root / f"nnp-{n}")
    with pytest.raises(FormatError, match="committee: nnp-2 is missing"):
        read_potential(root, "hartree-bohr")
    (root / "nnp-3").rename(root / "nnp-2")
    assert read_potential(root, "hartree-bohr")[0].members == 2
    (root / "input.nn").write_text(INPUT)
    with pytest.raises(FormatError, match=r"committee: holds both input\.nn and members of a committee \(nnp-1\)"):
        read_potential(root, "hartree-bohr")
    with pytest.raises(FormatError, match="none: no such folder"):
        read_potential(tmp_path / "none", "hartree-bohr")


def eagerly(model, params, G, element):
    """Energies in the networks' unit; without compiling, which would be most of the time here."""
    scaling, layers = params["scaling"][element], params["networks"][element]
    x = (np.pad(G, ((0, 0), (0, model.descriptor.size - G.shape[1]))) - scaling["mean"]) * scaling["scale"]
    network = options_of(model.network, model.elements.index(element))
    for n, name in enumerate((*network.activations, network.output_activation)):
        layer = layers.get(f"hidden_{n}", layers["output"])
        x = np.asarray(ACTIVATIONS[name](jnp.asarray(x @ layer["kernel"] + layer["bias"])))
    return x[:, 0]


@pytest.mark.reference
def test_energies_are_those_of_n2p2(shared):
    cases = sorted((shared / "reference" / "n2p2").glob("*/"))
    assert len(cases) == 37
    for path in cases:
        reference = np.load(path / "reference.npz")
        # n2p2 2.3 takes "C 1 4" (layer 1 has 4 nodes) for 1 node in layer 1, and uses the first 22 of 55 weights.
        misread = (
            pytest.warns(UserWarning, match="weights fit element_nodes_short")
            if path.name == "element_nodes"
            else nullcontext()
        )
        with misread:
            model, params = read_potential(path, "hartree-bohr")
        rows, symbols, expected = [], [], []
        for k in range(5):
            rows += np.split(reference[f"s{k}_G_raw"], np.cumsum(reference[f"s{k}_num_symfunc"])[:-1])
            symbols += reference[f"s{k}_elements"].tolist()
            expected += reference[f"s{k}_atomic_energies_internal"].tolist()
        for element in model.elements:
            atoms = [n for n, symbol in enumerate(symbols) if symbol == element]
            found = eagerly(model, params, np.array([rows[n] for n in atoms]), element)
            np.testing.assert_allclose(found, [expected[n] for n in atoms], rtol=0, atol=1e-14, err_msg=path.name)


@pytest.mark.reference
@pytest.mark.parametrize("case", ["compact", "weighted"])
@pytest.mark.slow
def test_functions_are_those_of_n2p2(shared, case):
    reference = np.load(shared / "reference" / "n2p2" / case / "reference.npz")
    model, _ = read_potential(shared / "reference" / "n2p2" / case, "ev-angstrom")  # lengths as in the file
    positions, symbols = reference["s3_positions"], reference["s3_elements"]
    species = np.array([model.elements.index(symbol) for symbol in symbols])
    rows = np.split(reference["s3_G_raw"], np.cumsum(reference["s3_num_symfunc"])[:-1])
    for i, row in enumerate(rows):
        others = np.arange(len(symbols)) != i
        R_ij = jnp.asarray((positions - positions[i])[others])
        env = Environment(R_ij, jnp.asarray(species[others]), jnp.ones(len(R_ij), bool))
        found = model.descriptor(env, jnp.asarray(species[i]))
        np.testing.assert_allclose(found[: len(row)], row, rtol=1e-10, atol=1e-12)


@pytest.mark.reference
def test_published_potentials_are_read(shared):
    published = {"n2p2/Cu2S_PBE": "ev-angstrom", "n2p2/H2O_RPBE-D3": "hartree-bohr"}
    published |= {f"mlearn_nnp/{element}": "hartree-bohr" for element in ("Cu", "Li", "Si")}
    for name, units in published.items():
        model, params = read_potential(shared / "data" / name, units)
        assert model.members is None and set(params["networks"]) == set(model.elements)
