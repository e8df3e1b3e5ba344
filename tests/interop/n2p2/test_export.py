"""Models as folders: what is written returns, and what cannot be written is named."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bpjax.descriptors import ACSF, Angular, ImbalzanoACSF, Radial, SymmetryFunction, SymmetryFunctions
from bpjax.errors import ConfigError, OutputExistsError
from bpjax.interop.n2p2 import read_folder, read_potential, sorted_functions, write_potential
from bpjax.interop.n2p2.export import READERS, export_problems
from bpjax.networks import MLP, PerElement
from bpjax.networks.elemental import ACTIVATIONS
from bpjax.potential.energy import Potential, energy_from_features, init
from bpjax.system import Environment
from bpjax.units import HARTREE
from tests.interop.n2p2.example import INPUT, weights, write_example

ELEMENTS = ("O", "H", "C")
"""Neither by atomic number nor by name."""

GRID = ACSF(
    elements=ELEMENTS,
    cutoff=4.0,
    cutoff_kind="poly2",
    cutoff_inner=0.2,
    g1=True,
    g2=(Radial(0.9, 1.1), Radial(0.3)),
    g4=(Angular(0.2, 2.0, -1.0, 0.3), Angular(0.1, 1.0, 1.0)),
    g5=(Angular(0.2, 1.5, 1.0), Angular(0.05, 4.0, -1.0, 0.5)),
)
WEIGHTED = dataclasses.replace(GRID, g5=(), weights=(8.0, 1.0, 6.0))
NETWORK = MLP((4, 3), ("tanh", "gaussian"))


def randomised(model, seed=0, dtype=np.float64):
    """Arrays without zeros, positive where they must be."""
    random = np.random.default_rng(seed)
    params = init(model, jax.random.key(0))
    networks = jax.tree.map(lambda p: random.normal(size=p.shape).astype(dtype), params["networks"])
    shape = params["scaling"][model.elements[0]]["mean"].shape
    scaling = {}
    for element in model.elements:
        low = random.normal(size=shape)
        high, mean, scale = (
            low + random.uniform(1, 2, shape),
            low + random.uniform(0.1, 1, shape),
            random.uniform(1, 2, shape),
        )
        scaling[element] = {"mean": mean, "scale": scale, "min": low, "max": high}
    scaling = jax.tree.map(lambda p: p.astype(dtype), scaling)
    energy_scale = random.uniform(1, 2, params["energy_scale"].shape)
    return {"networks": networks, "scaling": scaling, "energy_scale": np.asarray(energy_scale, dtype)}


def environment(seed, neighbors=9):
    random = np.random.default_rng(seed)
    R_ij = random.normal(size=(neighbors, 3))
    R_ij *= (random.uniform(0.9, 4.2, neighbors) / np.linalg.norm(R_ij, axis=1))[:, None]
    return R_ij, random.choice(ELEMENTS, neighbors)


@partial(jax.jit, static_argnums=0)
def local_energy(model, params, R_ij, species, i):
    G = model.descriptor(Environment(R_ij, species, jnp.ones(len(species), bool)), i)
    return energy_from_features(model, params, G, i)


def energy(model, params, centre, R_ij, symbols):
    species = jnp.asarray([model.elements.index(s) for s in symbols])
    i = model.elements.index(centre)
    E_i = local_energy(model, params, jnp.asarray(R_ij), species, jnp.asarray(i))
    return float(E_i) + model.offset_energies(np.array([i]))[0]


def same_energies(a, b, rtol=1e-11):
    for seed, centre in enumerate(ELEMENTS):
        R_ij, symbols = environment(seed)
        assert energy(*a, centre, R_ij, symbols) == pytest.approx(energy(*b, centre, R_ij, symbols), rel=rtol)


def with_lists(unit):
    """A model that lists its functions, in no order, more for one element than for another."""
    functions = (
        (SymmetryFunction(3, 7.0, ("H", "O"), 0.1, 0.4, 2.0, -1.0), SymmetryFunction(2, 6.0, ("C",), 0.3, 1.0)),
        (SymmetryFunction(23, 7.0, r_l=-7.0, core="p2"), SymmetryFunction(12, 7.0, eta=0.1)),
        (
            SymmetryFunction(25, 7.0, r_l=0.5, angles=(-90.0, 90.0), core="e"),
            SymmetryFunction(9, 7.0, ("C", "O"), 0.1, zeta=1.5),
            SymmetryFunction(2, 7.0, ("C",), 0.01),
        ),
    )
    return SymmetryFunctions(ELEMENTS, functions, "tanh3", unit=unit)


DESCRIPTORS = {"acsf": GRID, "Z": WEIGHTED, "A": with_lists(1.0), "0.6 A": with_lists(0.6)}


@pytest.mark.parametrize(
    ("name", "units"),
    [
        *((name, "hartree-bohr") for name in DESCRIPTORS),
        ("0.6 A", "ev-angstrom"),
        # Lengths that need no conversion.
        *(pytest.param(name, "ev-angstrom", marks=pytest.mark.slow) for name in ("acsf", "Z", "A")),
    ],
)
def test_models_return_with_the_same_energies(tmp_path, name, units):
    descriptor = DESCRIPTORS[name]
    model = Potential(descriptor, NETWORK, offsets=(-3.0, -1.0, -2.0))
    params = randomised(model)
    write_potential(tmp_path / "nnp", model, params, units)
    found, arrays = read_potential(tmp_path / "nnp", units)
    assert found.elements == ("H", "C", "O")
    np.testing.assert_allclose(found.offsets, (-1.0, -2.0, -3.0), rtol=1e-15)
    same_energies((model, params), (found, arrays))
    for functions in found.descriptor.functions:
        assert sorted_functions(functions, ELEMENTS) == functions
    write_potential(tmp_path / "again", found, arrays, units)
    again, same = read_potential(tmp_path / "again", units)
    assert again.descriptor == found.descriptor and again.network == found.network
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-14), same, arrays)


def test_an_imported_folder_returns_as_it_was(tmp_path):
    model, params = read_potential(write_example(tmp_path / "a"), "hartree-bohr")
    write_potential(tmp_path / "b", model, params, "hartree-bohr")
    a, b = read_folder(tmp_path / "a"), read_folder(tmp_path / "b")
    assert (a.settings.functions, a.settings.networks) == (b.settings.functions, b.settings.networks)
    assert b.settings.conv_energy == 1.0 and b.settings.scaling == "sigma"
    np.testing.assert_allclose(a.settings.atom_energy, b.settings.atom_energy, rtol=1e-15)
    for element in a.settings.elements:
        np.testing.assert_array_equal(a.scaling[element][:, :2], b.scaling[element][:, :2])
        jax.tree.map(np.testing.assert_array_equal, a.weights[element], b.weights[element])
    found, arrays = read_potential(tmp_path / "b", "hartree-bohr")
    assert found.descriptor == model.descriptor
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-14), params, arrays)


def test_narrow_networks_are_filled_up(tmp_path):
    # n2p2 2.3 and RuNNer disagree on the keyword for widths of one element's network.
    path = write_example(tmp_path / "a", text=INPUT + "element_nodes_short C 1 5\nelement_nodes_short O 2 1\n")
    (path / "weights.006.data").write_text(weights(2, hidden=(5, 2)))
    (path / "weights.008.data").write_text(weights(4, hidden=(3, 1)))
    model, params = read_potential(path, "ev-angstrom", element_nodes="documented")
    remarks = write_potential(tmp_path / "b", model, params)
    assert "narrower networks were filled up with zero weights: all have 5-2 hidden nodes" in remarks
    assert "element_" not in (tmp_path / "b" / "input.nn").read_text()
    found, arrays = read_potential(tmp_path / "b", "ev-angstrom")
    assert found.network == MLP((5, 2), ("tanh", "softplus"))
    same_energies((model, params), (found, arrays), rtol=1e-13)


def test_float32_arrays_are_written_exactly(tmp_path):
    model = Potential(GRID, NETWORK)
    params = randomised(model, dtype=np.float32)
    write_potential(tmp_path / "nnp", model, jax.tree.map(jnp.asarray, params))
    folder = read_folder(tmp_path / "nnp")
    np.testing.assert_array_equal(folder.weights["H"]["hidden_0"]["bias"], params["networks"]["H"]["hidden_0"]["bias"])
    assert folder.settings.networks[0].hidden == NETWORK.hidden
    # The energy scale goes into the output layer: not all programs that read such folders know of conv_energy.
    expected = np.float64(params["networks"]["H"]["output"]["kernel"]) * float(params["energy_scale"])
    np.testing.assert_array_equal(folder.weights["H"]["output"]["kernel"], expected)
    assert folder.settings.conv_energy == 1
    assert folder.settings.atom_energy == (0.0, 0.0, 0.0)


def test_committee(tmp_path):
    model = Potential(GRID, NETWORK, members=2)
    params = randomised(model)
    params["energy_scale"] = np.array([1.5, 2.5])
    remarks = write_potential(tmp_path / "nnp", model, params)
    assert sorted(p.name for p in (tmp_path / "nnp").iterdir()) == ["nnp-1", "nnp-2"]
    assert any(f'dir "{tmp_path}/nnp/nnp-1"' in remark for remark in remarks)
    assert any("one member of the committee" in remark for remark in remarks)
    found, arrays = read_potential(tmp_path / "nnp", "ev-angstrom")
    assert found.members == 2
    np.testing.assert_array_equal(arrays["energy_scale"], [1.0, 1.0])
    same_energies((model, params), (found, arrays))
    with pytest.raises(OutputExistsError):
        write_potential(tmp_path / "nnp", model, params)
    write_potential(
        tmp_path / "nnp", dataclasses.replace(model, members=1), jax.tree.map(lambda p: p[:1], params), overwrite=True
    )
    assert sorted(p.name for p in (tmp_path / "nnp").iterdir()) == ["nnp-1"]


def test_unknown_ranges_are_made_wide(tmp_path):
    model = Potential(GRID, NETWORK)
    params = randomised(model)
    params["scaling"]["C"]["max"] = np.full(model.descriptor.size, np.inf)
    del params["scaling"]["H"]["min"]
    remarks = write_potential(tmp_path / "nnp", model, params)
    assert [r.split()[6] for r in remarks if r.startswith("the range of the functions")] == ["H", "C"]
    low, high, mean, sigma = read_folder(tmp_path / "nnp").scaling["C"].T
    np.testing.assert_allclose(high, mean + 1e6 * sigma)
    np.testing.assert_allclose(low, mean - 1e6 * sigma)
    same_energies((model, params), read_potential(tmp_path / "nnp", "ev-angstrom"))


def test_commands_for_lammps(tmp_path):
    model = Potential(GRID, NETWORK)
    remarks = write_potential(tmp_path / "nnp", model, randomised(model))
    line = f'pair_style hdnnp 4.0 dir "{tmp_path}/nnp" showew no showewsum 100 maxew 1000 resetew yes'
    assert remarks[-2:] == [
        f"LAMMPS, units metal: {line} cflength 1.0 cfenergy 1.0",
        "LAMMPS: pair_coeff * * H C O (in the order of the atom types)",
    ]
    remarks = write_potential(tmp_path / "nnp", model, randomised(model), "hartree-bohr", overwrite=True)
    line = line.replace("4.0", "4.00000001")  # no less than the functions' radius in spite of rounded conversions
    assert f"LAMMPS, units metal: {line} cflength 1.8897261246 cfenergy 0.0367493222" in remarks
    text = (tmp_path / "nnp" / "input.nn").read_text()
    assert text.startswith("# Behler-Parrinello potential written by bpjax.\n# Units: hartree, bohr.\n")
    other = dataclasses.replace(model, network=dataclasses.replace(NETWORK, output_activation="tanh"))
    write_potential(tmp_path / "other", other, randomised(other), "hartree-bohr")
    assert read_folder(tmp_path / "other").settings.conv_energy == pytest.approx(
        HARTREE / float(randomised(other)["energy_scale"]), rel=1e-15
    )


def test_programs_that_read_less_than_n2p2(tmp_path):
    """CP2K reads types 2 and 3 without a shift, two cutoff functions, one system of units; RuNNer no weighted ones, no sigma."""
    plain = ACSF(("H", "O"), 4.0, "cosine", g2=(Radial(0.3),), g4=(Angular(0.1, 1.0, 1.0),))
    shifted = dataclasses.replace(plain, g4=(Angular(0.1, 1.0, 1.0, 0.5),), cutoff_inner=0.2)
    other = dataclasses.replace(plain, cutoff_kind="poly2", g5=(Angular(0.1, 1.0, 1.0),))
    weighted = ACSF(("H", "O"), 4.0, "cosine", g2=(Radial(0.3),), weights=(1.0, 8.0))
    descriptors = {"plain": plain, "shifted": shifted, "other": other, "weighted": weighted}
    models = {name: Potential(descriptor, NETWORK) for name, descriptor in descriptors.items()}
    found = {name: {reader: export_problems(model, reader) for reader in READERS} for name, model in models.items()}
    assert all(not problems[reader] for problems in found.values() for reader in ("n2p2", "lammps"))
    assert found["plain"]["cp2k"] == []
    assert export_problems(Potential(ImbalzanoACSF().build(("H", "O")), NETWORK), "cp2k") == []  # as the README says
    assert found["shifted"]["cp2k"] == [
        "a shift r_s of type 3, which it passes over",
        "an inner cutoff radius, which it passes over",
    ]
    assert found["other"]["cp2k"] == ["symmetry functions of type 9", "cutoff function poly2 (only cosine, tanh3)"]
    assert found["weighted"]["cp2k"] == found["weighted"]["runner"][:1] == ["symmetry functions of type 12"]
    assert found["plain"]["runner"] == ["scaling by sigma (scale_symmetry_functions_sigma)"]
    remarks = write_potential(tmp_path / "a", models["other"], randomised(models["other"]))
    assert "not for CP2K: symmetry functions of type 9; cutoff function poly2 (only cosine, tanh3)" in remarks
    arrays = randomised(models["plain"])
    assert not any(
        "not for CP2K" in r for r in write_potential(tmp_path / "b", models["plain"], arrays, "hartree-bohr")
    )
    write_potential(tmp_path / "c", models["plain"], arrays, "hartree-bohr", reader="cp2k")
    with pytest.raises(
        ConfigError, match=r"cannot be written for CP2K: units ev-angstrom \(CP2K reads hartree and bohr\)"
    ):
        write_potential(tmp_path / "d", models["plain"], arrays, reader="cp2k")
    with pytest.raises(
        ConfigError, match="cannot be written for CP2K: symmetry functions of type 9; cutoff function poly2"
    ):
        write_potential(tmp_path / "d", models["other"], randomised(models["other"]), "hartree-bohr", reader="cp2k")
    with pytest.raises(ConfigError, match="reader: 'cpmd' is not one of n2p2, lammps, cp2k, runner"):
        write_potential(tmp_path / "d", models["plain"], arrays, reader="cpmd")
    assert not (tmp_path / "d").exists()


def test_what_cannot_be_written_is_listed(tmp_path):
    descriptor = dataclasses.replace(GRID, g3=(1.0,), g2=(Radial(0.0),), weights=(1.0, 2.0, 3.0))
    network = PerElement((MLP((3,), "silu"), MLP((3, 2), "gelu"), MLP((3,), "silu")))
    model = Potential(descriptor, network)
    with pytest.raises(ConfigError) as caught:
        write_potential(tmp_path / "nnp", model, init(model, jax.random.key(0)))
    for words in (
        f"{tmp_path}/nnp: cannot be written for n2p2: ",
        "G3 functions",
        "weights other than the atomic numbers",
        "G5 functions with weights",
        "G1 together with G2 of eta=0",
        "activation silu",
        "activation gelu",
        "depth or activations differ from element to element",
    ):
        assert words in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_other_refusals(tmp_path):
    model = Potential(GRID, NETWORK)
    params = randomised(model)

    def refused(message, model=model, params=params, units="ev-angstrom"):
        with pytest.raises(ConfigError, match=message):
            write_potential(tmp_path / "nnp", model, params, units)

    refused("units: 'kcal' is not known", units="kcal")
    unfinished = object.__new__(Potential)  # a potential whose descriptor is made only in training
    for name, value in vars(model).items():
        object.__setattr__(unfinished, name, value)
    object.__setattr__(unfinished, "descriptor", _Other())
    refused("descriptor _Other", model=unfinished)
    twice = SymmetryFunctions(("H", "O"), (tuple(SymmetryFunction(3, 6.0, p) for p in (("H", "O"), ("O", "H"))),) * 2)
    refused("the same but for the order of their two neighbours", model=Potential(twice, NETWORK))
    cores = tuple(SymmetryFunction(24, 6.0, angles=(0.0, 90.0), core=core) for core in ("p1", "e"))
    refused(
        "type 24 that differ in nothing but their core", model=Potential(SymmetryFunctions(("H",), (cores,)), NETWORK)
    )
    for path, value, message in (
        (("scaling", "H", "scale"), 0.0, "a feature scale of H that is not positive"),
        (
            ("networks", "C", "output"),
            {"kernel": np.full((3, 1), np.nan), "bias": np.zeros(1)},
            "weights or feature means of C",
        ),
        (("energy_scale",), np.array(-1.0), "an energy scale that is not positive"),
    ):
        broken = jax.tree.map(np.copy, params)
        inner = broken
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = np.full_like(inner[path[-1]], value) if isinstance(value, float) else value
        refused(message, params=broken)
    assert list(tmp_path.iterdir()) == []


class _Other:
    elements = ELEMENTS


def test_every_activation_is_written_or_refused(tmp_path):
    for name in ACTIVATIONS:
        model = Potential(GRID, MLP((2,), name))
        params = randomised(model)
        if name in ("silu", "gelu", "gelu_erf", "celu"):
            with pytest.raises(ConfigError, match=f"activation {name}"):
                write_potential(tmp_path / name, model, params)
        else:
            write_potential(tmp_path / name, model, params)
            assert read_potential(tmp_path / name, "ev-angstrom")[0].network == model.network
