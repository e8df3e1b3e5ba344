"""Potentials of TorchANI: published ones against its arrays, models put together from parts against its own code.

What needs TorchANI is skipped where it is not installed. Version 2.0 carries the weights of ANI-1x and ANI-1ccx; 2.9 can put
models together from parts.
"""

import dataclasses
import functools
import json
import sys

import ase
import ase.build
import jax
import numpy as np
import pytest

from bpjax.descriptors import ANI
from bpjax.errors import BpjaxError, ConfigError
from bpjax.interop.ase import BpjaxCalculator
from bpjax.interop.torchani import MODELS, from_torchani, load_torchani
from bpjax.networks import MLP, PerElement
from bpjax.potential import Potential, init, load, save
from bpjax.potential.evaluator import Evaluator
from bpjax.units import HARTREE

ELEMENTS = ("H", "C", "O")
SMALL = dataclasses.replace(ANI.ani1x(ELEMENTS), radial_shifts=(1.0, 2.0), angular_shifts=(1.5,), sections=(0.5, 1.5))


def molecule(name="CH3CH2OH"):
    return ase.build.molecule(name)


def box():
    """Two molecules in a skewed cell that is shorter than two cutoffs."""
    atoms = ase.build.molecule("CH3OH", cell=[[6.0, 0, 0], [1.0, 6.5, 0], [-0.5, 0.7, 7.0]], pbc=True)
    other = ase.build.molecule("H2O")
    other.positions += (3.0, 3.0, 3.5)
    atoms.extend(other)
    atoms.rattle(0.03, seed=1)
    return atoms


# ----------------------------------------------------------------------------------------------------- without TorchANI


@pytest.mark.slow
def test_model_file_of_such_a_potential(tmp_path):
    networks = PerElement((MLP((6, 4), "celu"), MLP((5,), "gelu_erf"), MLP((4,), "celu")))
    model = Potential(SMALL, networks, offsets=(-13.6, -1030.0, -2043.0), members=3)
    params = jax.tree.map(np.asarray, init(model, jax.random.key(0), np.float64))
    save(tmp_path / "ani.bpjax", model, params)
    again = load(tmp_path / "ani.bpjax")
    assert again[0] == model and all(jax.tree.leaves(jax.tree.map(np.array_equal, again[1], params)))


@pytest.mark.slow
def test_forces_are_the_derivative_of_the_energy():
    model = Potential(SMALL, MLP((6,), "celu"))
    evaluator = Evaluator(model, init(model, jax.random.key(1), np.float64), "float64")
    atoms, h = box(), 1e-4
    forces = evaluator.evaluate(atoms).forces
    for i, a in ((0, 0), (3, 1), (7, 2)):
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[i, a] += sign * h
            energies.append(evaluator.evaluate(moved).energy)
        # Truncation h^2 f''' / 6 with eta = 16 / A^2, and 1e-14 / h of rounding.
        np.testing.assert_allclose(forces[i, a], -(energies[0] - energies[1]) / (2 * h), atol=1e-6)


def test_without_torchani(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchani", None)  # import raises ImportError
    with pytest.raises(BpjaxError, match="ani2x: needs TorchANI, which cannot be imported .*pip install torchani"):
        load_torchani("ani2x")
    with pytest.raises(ConfigError, match="name: 'ani3x' is not known; give ani1x, ani1ccx, ani2x"):
        load_torchani("ani3x")


def test_not_a_model():
    with pytest.raises(BpjaxError, match="it is of class dict; supported are ANI and"):
        from_torchani({})


# ----------------------------------------------------------------------------------------------------- published weights


@functools.cache
def published(name):
    """Model and arrays, or why there are none."""
    try:
        return load_torchani(name)
    except BpjaxError as error:
        return str(error)


@pytest.fixture(params=MODELS)
def name(request):
    """Name of a model whose weights are there."""
    pytest.importorskip("torchani")
    found = published(request.param)
    if isinstance(found, str):
        pytest.skip(found)
    return request.param


def torchani_values(model, atoms):
    """Energy in hartree and forces in hartree/A from TorchANI's own code, in float64."""
    import torch

    model = model.double()
    symbols = getattr(model, "symbols", None) or model.consts.species
    number = model.periodic_table_index if hasattr(model, "periodic_table_index") else False
    species = atoms.numbers if number else [list(symbols).index(s) for s in atoms.get_chemical_symbols()]
    R = torch.tensor(atoms.positions[None], requires_grad=True)
    more = {}
    if atoms.pbc.any():
        more = {"cell": torch.tensor(atoms.cell.array), "pbc": torch.tensor(atoms.pbc)}
    energy = model((torch.tensor(np.array(species)[None]), R), **more).energies
    (gradient,) = torch.autograd.grad(energy.sum(), R)
    return float(energy.detach()), -gradient[0].numpy()


def assert_equal(result, energy, forces):
    """What is found in eV equals numbers in hartree: float64 on both sides, so rounding.

    But PyTorch's derivative of CELU is rounded to float32 inside, whatever the type: 1.5e-8 of derivatives of order 1.
    """
    assert result.energy / HARTREE == pytest.approx(energy, rel=1e-12, abs=1e-11)
    np.testing.assert_allclose(result.forces / HARTREE, forces, rtol=0, atol=1e-8)


@pytest.mark.reference
def test_against_the_program(name):
    import torchani

    own = getattr(torchani.models, MODELS[name])()
    model, params = published(name)
    assert model.members == 8 and model.elements[:4] == ("H", "C", "N", "O")
    assert model.descriptor == (ANI.ani2x() if name == "ani2x" else ANI.ani1x())
    evaluator = Evaluator(model, params, "float64")
    for atoms in (molecule(), molecule("CH3CONH2"), box()):
        assert_equal(evaluator.evaluate(atoms), *torchani_values(own, atoms))


def test_single_member(name):
    model, params = load_torchani(name, 3)
    assert model.members is None
    all_of_them = jax.tree.map(lambda leaf: leaf[3], published(name)[1])
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, params, all_of_them)))
    for number in (-1, 8):
        with pytest.raises(ConfigError, match=f"member: there are members 0 to 7, got {number}"):
            load_torchani(name, number)


@pytest.mark.reference
def test_reference_energies(shared, name, tmp_path):
    folder = shared / "reference" / "torchani"
    table = json.loads((folder / "energies.json").read_text())
    save(tmp_path / "m.bpjax", *published(name))
    calculator = BpjaxCalculator(str(tmp_path / "m.bpjax"), "float64")
    geometries = {file.stem.split("_", 2)[2]: file for file in sorted(folder.glob("energy_*.npz"))}
    compared = 0
    for key, (energy, largest_force, spread) in table.items():
        kind, label = key.split("/")
        if kind != name or label not in geometries:
            continue
        data = np.load(geometries[label])
        atoms = ase.Atoms(numbers=data["numbers"], positions=data["positions"], cell=data["cell"], pbc=data["pbc"])
        atoms.calc = calculator
        assert atoms.get_potential_energy() / HARTREE == pytest.approx(energy, abs=1e-10)
        forces = atoms.get_forces() / HARTREE
        assert np.abs(forces).max() == pytest.approx(largest_force, abs=1e-8)  # see `assert_equal`
        result = calculator.evaluator.evaluate(atoms)
        assert result.energy_spread / HARTREE == pytest.approx(spread, rel=1e-8)
        if (folder / f"energy_{name}_{label}.npz").exists():
            data = np.load(folder / f"energy_{name}_{label}.npz")
            np.testing.assert_allclose(forces, data["forces_hartree_per_A"], rtol=0, atol=1e-8)
            assert result.energy_spread / HARTREE == pytest.approx(data["member_energies"].std(), rel=1e-8)
        compared += 1
    assert compared >= 5 and any("pbc" in label for label in geometries)


# -------------------------------------------------------------------------------------- models put together from parts


@pytest.fixture
def arch():
    """TorchANI's module of architectures, with torch's random numbers in a known state."""
    arch = pytest.importorskip("torchani.arch", reason="needs TorchANI 2.7 or later")
    import torch

    torch.manual_seed(0)
    return arch


ENERGIES = {"H": -0.5, "C": -37.8, "O": -75.0}


def simple(arch, **options):
    options = {"repulsion": False, "self_energies": ENERGIES, "strategy": "pyaev", "cutoff_fn": "cosine", **options}
    return arch.simple_ani(ELEMENTS, "wb97x-631gd", **options)


@pytest.mark.parametrize(
    "options",
    [
        {"ensemble_size": 3, "activation": "celu", "bias": True},
        {"ensemble_size": 1, "activation": "gelu", "cutoff_fn": "smooth", "radial_cutoff": 4.5, "sections": 6},
    ],
    ids=["ensemble", "single"],
)
def test_random_weights(arch, options, tmp_path):
    own = simple(arch, **options)
    model, params = from_torchani(own)
    assert model.elements == ELEMENTS and model.members == (3 if options["ensemble_size"] == 3 else None)
    np.testing.assert_allclose(model.offsets, HARTREE * np.array(list(ENERGIES.values())), rtol=1e-7)  # float32 there
    save(tmp_path / "m.bpjax", model, params)
    found = Evaluator(*load(tmp_path / "m.bpjax"), "float64")
    for atoms in (molecule(), box()):
        assert_equal(found.evaluate(atoms), *torchani_values(own, atoms))


def test_members_and_terms_that_do_not_count(arch):
    own = simple(arch, ensemble_size=4, repulsion=True)
    own.set_enabled("repulsion_xtb", False)
    own.set_enabled("energy_shifter", False)
    own.set_active_members([2, 0])
    model, params = from_torchani(own)
    assert model.members == 2 and model.offsets == (0.0, 0.0, 0.0)
    assert_equal(Evaluator(model, params, "float64").evaluate(box()), *torchani_values(own, box()))
    model, params = from_torchani(own[1])
    assert model.members is None
    assert_equal(Evaluator(model, params, "float64").evaluate(box()), *torchani_values(own[1], box()))


def refused():
    """What cannot be taken over: how it is built, and what the message names."""

    def networks(change):
        def build(arch):
            own = simple(arch)
            change(own, own.nnp.neural_networks.atomics["H"])
            return own

        return build

    def elu(own, network):
        import torch

        network.activation = torch.nn.ELU()

    def celu(own, network):
        import torch

        network.activation = torch.nn.CELU(alpha=0.2)

    def order(own, network):
        own.aev_computer.radial.cutoff_fn.order = 3

    return {
        "repulsion": (lambda arch: simple(arch, repulsion=True), r"terms beside the networks: repulsion_xtb \(Rep"),
        "dispersion": (lambda arch: simple(arch, dispersion=True), r"dispersion_d3 \(TwoBodyDispersionD3\)"),
        "biweight": (lambda arch: simple(arch, cutoff_fn="biweight"), "cutoff function is of class CutoffBiweight"),
        "shared": (lambda arch: simple(arch, container="ANISharedNetworks"), "of class ANISharedNetworks"),
        "fused": (
            lambda arch: simple(arch, ensemble_size=2, activation="celu", bias=True).to_infer_model(),
            "of class BmmEnsemble",
        ),
        "charges": (
            lambda arch: arch.simple_aniq(ELEMENTS, "wb97x-631gd", repulsion=False, cutoff_fn="cosine"),
            "it is of class ANIq",
        ),
        "activation": (networks(elu), "activation is of class ELU"),
        "alpha": (networks(celu), "CELU with alpha=0.2, supported: 0.1"),
        "networks off": (networks(lambda own, network: own.set_enabled("nnp", False)), "networks are not enabled"),
        "order": (lambda arch: changed(simple(arch, cutoff_fn="smooth"), order), "CutoffSmooth of order 3"),
    }


def changed(own, change):
    change(own, None)
    return own


@pytest.mark.parametrize("case", refused())
def test_refusals(arch, case):
    build, message = refused()[case]
    with pytest.raises(BpjaxError, match=message):
        from_torchani(build(arch))
