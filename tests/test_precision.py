"""What JAX is switched to outside changes nothing: importing Sella, or making pymbar's MBAR, switches double precision on."""

import jax
import numpy as np
import pytest

from bpjax.descriptors import ANI, SOAP, Chosen, DefaultACSF, ImbalzanoACSF
from bpjax.dynamics import run_md
from bpjax.io.structures import write_structures
from bpjax.networks.elemental import MLP
from bpjax.potential import Potential, init
from bpjax.potential.describe import describe, jacobian, name_of_dtype
from bpjax.potential.evaluator import Evaluator
from bpjax.training import fit
from bpjax.training.prepare import read_run
from tests.small_model import MODEL, crystal, molecule, small_params
from tests.training.labelled import structures, training_file


def switched(compute):
    """What is computed with double precision off and on outside."""
    results = []
    for on in (False, True):
        with jax.enable_x64(on):
            results.append(compute())
    return results


def test_evaluation():
    atoms, params = crystal(), small_params()
    energies = {}
    for dtype in ("float32", "float64"):
        one, two = switched(lambda dtype=dtype: Evaluator(MODEL, params, dtype).evaluate(atoms))
        assert one.energy == two.energy
        np.testing.assert_array_equal(one.forces, two.forces)
        energies[dtype] = one.energy
    assert 1e-9 < abs(energies["float32"] - energies["float64"]) < 1e-4


def test_features():
    for dtype in ("float32", "float64"):
        one, two = switched(lambda dtype=dtype: describe(MODEL.descriptor, [crystal(), molecule()], dtype))
        for a, b in zip(one, two, strict=True):
            assert a.dtype == b.dtype == dtype
            np.testing.assert_array_equal(a, b)
    one, two = switched(lambda: jacobian(MODEL.descriptor, molecule(), "float64"))
    np.testing.assert_array_equal(one, two)
    assert name_of_dtype(np.float64) == name_of_dtype(np.dtype("f8")) == "float64"


@pytest.mark.slow
@pytest.mark.parametrize(
    "descriptor",
    [
        DefaultACSF(4.0, radial=3, angular=2).build(("O", "Si")),
        ImbalzanoACSF(cutoff=4.0, intervals=3, angular_intervals=2).build(("O", "Si")),
        SOAP(("O", "Si"), radius=4.0, n_max=3, l_max=2, sigma=0.5),
        SOAP(("O", "Si"), radius=4.0, n_max=3, l_max=2, sigma=0.5, channels="mu2"),
        ANI(("O", "Si"), 4.0, 3.0, (8.0,), (0.9, 2.0), (6.0,), (8.0,), (0.9, 2.0), (0.4, 1.2)),
        Chosen(DefaultACSF(4.0, radial=3, angular=2).build(("O", "Si")), (0, 3, 5)),
    ],
    ids=["acsf", "narrow", "soap", "mu2", "ani", "reduced"],
)
def test_one_precision_after_the_other(descriptor):
    """Whole numbers of 64 bits among the tables of a descriptor would be mistaken when a function is traced again (jax 0.10)."""
    model = Potential(descriptor, MLP((4,)))
    params = init(model, jax.random.key(0))
    found = {}
    for dtype in ("float32", "float64", "float32", "float64"):
        Evaluator(model, params, dtype).evaluate(molecule())  # another shape between
        result = Evaluator(model, params, dtype).evaluate(crystal())
        first = found.setdefault(dtype, result)
        np.testing.assert_array_equal(first.forces, result.forces)
    np.testing.assert_allclose(found["float32"].forces, found["float64"].forces, atol=2e-4)


@pytest.mark.slow
def test_dynamics():
    def run():
        found = run_md(MODEL, small_params(), crystal(), steps=20, log_interval=10, temperature=10.0, timestep_fs=0.2)
        return np.append(found.atoms.positions.ravel(), found.log["total_energy"])

    one, two = switched(run)
    np.testing.assert_array_equal(one, two)


@pytest.mark.slow
def test_training(tmp_path):
    """To rounding: what Python's numbers become in between differs in the last digit."""
    write_structures(tmp_path / "train.extxyz", structures(16))
    (tmp_path / "train.toml").write_text(training_file(20, 10))

    def run():
        options, found = read_run(tmp_path / "train.toml")
        leaves = jax.tree.leaves(fit(found, options).params)
        assert {np.asarray(leaf).dtype for leaf in leaves} == {np.dtype("float32")}
        return np.concatenate([np.asarray(leaf).ravel() for leaf in leaves])

    one, two = switched(run)
    np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5)
