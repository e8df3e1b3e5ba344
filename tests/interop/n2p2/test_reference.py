"""Whole potentials against n2p2: functions, derivatives, energies and forces of all reference cases and published potentials."""

import json
import warnings
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.data import atomic_numbers

from bpjax.dynamics import multi_image_potential
from bpjax.geometry import environments
from bpjax.interop.n2p2 import read_potential
from bpjax.io.runner import read_runner
from bpjax.io.structures import read_structures
from bpjax.neighbors import neighbor_list
from bpjax.networks.scaling import scaled
from bpjax.potential.evaluator import Evaluator
from bpjax.potential.forces import predict
from bpjax.system import system_from_arrays
from bpjax.units import HARTREE
from tests.tiers import exhaustive, slow

pytestmark = pytest.mark.reference

CASES = (
    *("all", "compact", "dataset_norm", "element_nodes", "normalize_nodes", "weighted"),
    *(f"act_{letter}" for letter in "Sceghprst"),
    *(f"exp_cutoff{n}" for n in range(9)),
    *(f"exp_cutoff{n}_alpha03" for n in range(1, 9)),
    *(f"scaling_{mode}" for mode in ("center", "center_scale", "none", "scale", "sigma")),
)

WITH_DERIVATIVES = ("all", "compact", "dataset_norm", "exp_cutoff2", "weighted")

ATOMS = 12


@cache
def inputs(path, elements):
    """System and neighbours of the five structures, all of one shape; lengths are those of the files."""
    data, out = np.load(path), []
    slots = max(int(data[f"s{s}_num_neighbors"].max()) for s in range(5)) + 1
    for s in range(5):
        R, cell = data[f"s{s}_positions"], data.get(f"s{s}_lattice")
        pbc = cell is not None
        numbers = np.array([atomic_numbers[e] for e in data[f"s{s}_elements"]])
        system = system_from_arrays(numbers, R, cell, pbc, elements, capacity=ATOMS)
        if cell is None:
            system = system._replace(cell=np.eye(3))
        neighbors = neighbor_list(R, cell, pbc, 6.0, atoms=ATOMS, capacity=slots)
        if neighbors.shift is None:
            neighbors = neighbors._replace(shift=np.zeros((*neighbors.idx.shape, 3), np.int32))
        out.append(jax.tree.map(jnp.asarray, (system, neighbors)))
    return out


@cache
def reference_case(folder):
    """Model, parameters, and a function compiled once for the five structures: features, scaled features, a prediction."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # element_nodes, see test_potential
        model, params = read_potential(folder, "ev-angstrom")  # numbers as they are

    @jax.jit
    def run(system, neighbors):
        env = environments(system, neighbors)
        G = jax.vmap(model.descriptor)(env, system.species)
        x = jnp.stack([jax.vmap(lambda g, e=e: scaled(params["scaling"][e], g))(G) for e in model.elements], axis=1)
        x = jnp.take_along_axis(x, system.species[:, None, None], axis=1)[:, 0]
        return G, x, predict(model, params, system, neighbors)

    return model, params, run


def jacobian(model):
    """Derivatives of all functions, (N, D, N, 3), column by column: one small program instead of a large one."""

    @jax.jit
    def column(system, neighbors, direction):
        def G(R):
            env = environments(system._replace(positions=R), neighbors)
            return jax.vmap(model.descriptor)(env, system.species)

        return jax.jvp(G, (system.positions,), (direction,))[1]

    def run(system, neighbors):
        directions = np.eye(3 * ATOMS).reshape(3 * ATOMS, ATOMS, 3)
        columns = [np.asarray(column(system, neighbors, d)) for d in directions]
        return np.stack(columns, axis=-1).reshape(*columns[0].shape, ATOMS, 3)

    return run


def close(found, expected, tolerance, what):
    """Relative to the largest of its kind, and for what is not small by itself relative to itself."""
    largest = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * 1e-3 * largest, err_msg=what)


OFTEN = ("act_S",)
"""Cases that run every time: other activations are tested one by one, other networks in test_potential."""

AT_TIMES = (
    "element_nodes",
    "weighted",
    "compact",
    "normalize_nodes",
    "scaling_sigma",
    "exp_cutoff2_alpha03",
)
"""Those of the slow tests; each of the others is one more choice of an option that has tests of its own."""


RARELY = tuple(case for case in CASES if case not in OFTEN + AT_TIMES)


@pytest.mark.parametrize("case", [*OFTEN, *slow(*AT_TIMES), *exhaustive(*RARELY)])
def test_reference_case(shared, case):
    folder = shared / "reference" / "n2p2" / case
    data = np.load(folder / "reference.npz")
    valid = [s["forces_valid"] for s in json.loads((folder.parent / "meta.json").read_text())[case]["structures"]]
    model, params, run = reference_case(folder)
    derivatives = jacobian(model)
    text = (folder / "input.nn").read_text().split()
    per_length = float(text[text.index("conv_length") + 1]) if "conv_length" in text else 1.0
    for s, (system, neighbors) in enumerate(inputs(folder / "reference.npz", model.elements)):
        G, x, prediction = jax.tree.map(np.asarray, run(system, neighbors))
        N, D = len(data[f"s{s}_elements"]), int(data[f"s{s}_num_symfunc"][0])
        assert model.descriptor.size == D and (data[f"s{s}_num_symfunc"] == D).all()
        close(G[:N], data[f"s{s}_G_raw"].reshape(N, D), 1e-9, "functions")
        close(x[:N], data[f"s{s}_G_scaled"].reshape(N, D), 1e-9, "scaled functions")
        internal = prediction.atomic_energies[:N] / float(params["energy_scale"])
        close(internal, data[f"s{s}_atomic_energies_internal"], 1e-9, "atomic energies")
        energy = prediction.energy + model.offset_energies(np.asarray(system.species)[:N]).sum()
        np.testing.assert_allclose(energy, data[f"s{s}_energy"], rtol=1e-13)
        if valid[s]:  # n2p2's forces are wrong where an atom sees its own image
            forces = data[f"s{s}_forces"]
            np.testing.assert_allclose(prediction.forces[:N], forces, rtol=0, atol=1e-9 * np.abs(forces).max())
        if case in WITH_DERIVATIVES:
            found = np.asarray(derivatives(system, neighbors))[:N, :, :N].transpose(0, 2, 1, 3)
            expected = data[f"s{s}_dGraw_dR"].reshape(N, N, D, 3) * per_length
            size = np.abs(expected).max(axis=(0, 1, 3), keepdims=True)
            assert (np.abs(found - expected) <= 1e-9 * size).all()


@pytest.mark.parametrize("case", [*slow("weighted"), *exhaustive("all")])
def test_forces_where_an_atom_sees_its_image(shared, case):
    """There n2p2 has them wrong; ours are the derivative of the energy, in which both agree."""
    folder = shared / "reference" / "n2p2" / case
    model, _, run = reference_case(folder)
    energy = lambda system: run(system, neighbors)[2]  # noqa: E731
    for s in (1, 4):
        system, neighbors = inputs(folder / "reference.npz", model.elements)[s]
        forces = np.asarray(energy(system).forces)
        h = 1e-4
        for i, axis in ((0, 0), (1, 2)):
            sides = [
                float(energy(system._replace(positions=system.positions.at[i, axis].add(d * h))).energy)
                for d in (1, -1)
            ]
            # Truncation h^2 E''' / 6 and rounding 1e-13 / h are below 1e-7 of the forces, which are of order 1.
            np.testing.assert_allclose(forces[i, axis], -(sides[0] - sides[1]) / (2 * h), rtol=0, atol=1e-6)


# ---------------------------------------------------------------------------------------- published potentials

PUBLISHED = {"H2O_RPBE-D3": "hartree-bohr", "Cu2S_PBE": "ev-angstrom"}


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_potentials(shared, name):
    folder, units = shared / "data" / "n2p2" / name, PUBLISHED[name]
    model, params = read_potential(folder, units)
    (atoms,) = read_runner(folder / "input.data", units)
    found = Evaluator(model, params, "float64").evaluate(atoms)
    (expected,) = read_runner(folder / "output.data", units)
    np.testing.assert_allclose(found.energy, expected.get_potential_energy(), rtol=1e-10)
    forces = expected.get_forces()
    np.testing.assert_allclose(found.forces, forces, rtol=0, atol=1e-8 * np.abs(forces).max())
    in_tests_of_n2p2 = float(np.load(folder / "repo_reference.npz")["energy"])
    energy = HARTREE if units == "hartree-bohr" else 1.0
    np.testing.assert_allclose(found.energy, in_tests_of_n2p2 * energy, rtol=1e-10)


@pytest.mark.exhaustive
def test_single_precision(shared):
    """Water in float32: networks work in normalised units, and offsets of 7000 eV stay on the host."""
    folder = shared / "data" / "n2p2" / "H2O_RPBE-D3"
    model, params = read_potential(folder, "hartree-bohr")
    (atoms,) = read_runner(folder / "input.data", "hartree-bohr")
    double = Evaluator(model, params, "float64").evaluate(atoms)
    single = Evaluator(model, params, "float32").evaluate(atoms)
    assert np.abs(single.forces - double.forces).max() < 2e-4  # eV/A
    assert abs(single.energy - double.energy) / len(atoms) < 2e-6  # eV; the total is 750 000 eV


@pytest.mark.parametrize(
    "element",
    [pytest.param("Cu", marks=pytest.mark.exhaustive), pytest.param("Li", marks=pytest.mark.exhaustive), "Si"],
)
def test_mlearn(shared, element):
    """Potentials published with mlearn, on its test files, against n2p2."""
    folder = shared / "data" / "mlearn_nnp" / element
    model, params = read_potential(folder, "ev-angstrom")  # lengths and energies as in the files: bohr and hartree
    data = np.load(folder / "reference_test.npz")
    frames = read_structures(shared / "data" / "mlearn" / f"{element}_test.extxyz")
    first = np.concatenate([[0], np.cumsum(data["natoms"])])
    for atoms in frames:
        atoms.set_cell(atoms.cell.array / 0.5291772083, scale_atoms=True)  # the constant that was used there
    largest = np.argsort(data["natoms"], kind="stable")
    chosen = [*largest[:4], *largest[-2:]]
    results = Evaluator(model, params, "float64").evaluate_many([frames[n] for n in chosen])
    compared = 0
    for n, found in zip(chosen, results, strict=True):
        assert len(frames[n]) == data["natoms"][n]
        # The energies there have 9 digits.
        energy = data["e_nnp_ha"][n]
        assert abs(found.energy - energy) <= 0.51e-8 * 10 ** np.ceil(np.log10(abs(energy)))
        if min(frames[n].cell.volume / np.linalg.norm(np.cross(*np.delete(frames[n].cell, i, 0))) for i in range(3)) > (
            model.cutoff
        ):  # else an atom sees its own image, and n2p2 has wrong forces
            forces = data["f_nnp_ha_bohr"].reshape(-1, 3)[first[n] : first[n + 1]]
            # Positions there have 8 decimals in angstrom: 1e-8 bohr times force constants below 0.5 hartree/bohr^2.
            np.testing.assert_allclose(found.forces, forces, rtol=0, atol=5e-9)
            compared += 1
    assert compared


@pytest.mark.slow
def test_jax_md(shared):
    """A folder as `(neighbor_fn, energy_fn)`, on a cell with several images."""
    folder = shared / "reference" / "n2p2" / "weighted"
    data = np.load(folder / "reference.npz")
    model, params = read_potential(folder, "ev-angstrom")
    box = jnp.asarray(data["s0_lattice"].T)
    species = np.array([model.elements.index(e) for e in data["s0_elements"]])
    neighbor_fn, energy_fn = multi_image_potential(model, params, box, species=species)
    R = jnp.asarray(data["s0_positions"] @ np.linalg.inv(data["s0_lattice"]))
    neighbors = neighbor_fn.allocate(R)
    E, dE = jax.jit(jax.value_and_grad(energy_fn))(R, neighbor=neighbors)
    np.testing.assert_allclose(E + model.offset_energies(species).sum(), data["s0_energy"], rtol=1e-13)
    forces = data["s0_forces"]
    np.testing.assert_allclose(-dE, forces, rtol=0, atol=1e-9 * np.abs(forces).max())
