"""Stored features, environments evaluated in each step, and the model's own prediction say the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bpjax.descriptors import DefaultACSF
from bpjax.neighbors import neighbor_list
from bpjax.networks import MLP
from bpjax.networks.scaling import fit_scaling
from bpjax.potential import Potential, init, predict
from bpjax.potential.forces import stress
from bpjax.system import system_from_arrays
from bpjax.training.dataset import VOIGT, build_dataset, targets
from bpjax.training.inputs import (
    as_environments,
    batches_of,
    evaluate_batch,
    gather,
    store,
    to_device,
)
from bpjax.training.losses import LikelihoodLoss, likelihood_loss
from tests.training.labelled import structures

ELEMENTS = ("Al", "Cu")


@pytest.fixture(scope="module")
def setting():
    descriptor = DefaultACSF(cutoff=4.5, radial=4, angular=2, zeta=(1.0, 2.0)).build(ELEMENTS)
    frames = structures(4)
    data = build_dataset(frames, ELEMENTS, descriptor.cutoff)
    stored = store(descriptor, data)
    model = Potential(descriptor, MLP((8,), "silu"))
    params = init(model, jax.random.key(0), jnp.float32)
    params["scaling"] = fit_scaling(stored.G, data.species, ELEMENTS)
    plan = batches_of(stored, data, 4)
    chosen = plan.in_order()[0]
    rows, layout = plan.layout(data, chosen)
    return model, params, frames, data, stored, chosen, rows, layout


def taken(inputs, rows):
    return to_device(gather(inputs, rows))


@pytest.mark.parametrize("kind", ["stored", "environments"])
def test_batch_equals_prediction_of_each_structure(setting, kind):
    # Inputs are float32, the prediction float64: 1e-5 of the largest value is rounding.
    model, params, frames, data, stored, chosen, rows, layout = setting
    inputs = stored if kind == "stored" else as_environments(data)
    found = jax.jit(evaluate_batch, static_argnums=0)(model, params, taken(inputs, rows), layout)
    evaluate = jax.jit(predict, static_argnums=0)
    for slot, n in enumerate(chosen):
        atoms = frames[n]
        cell, pbc = atoms.cell.array, atoms.pbc
        system = system_from_arrays(atoms.numbers, atoms.positions, cell, pbc, ELEMENTS)
        neighbors = neighbor_list(atoms.positions, cell, pbc, model.cutoff)
        wanted = evaluate(model, params, system, neighbors)
        assert found.energy[slot] == pytest.approx(float(wanted.energy), rel=1e-5, abs=1e-5)
        here = np.asarray(layout.real & (layout.structure == slot))
        np.testing.assert_allclose(found.forces[here], wanted.forces, atol=2e-5)
        if pbc.all():
            sigma = np.asarray(stress(wanted, jnp.asarray(cell)))
            np.testing.assert_allclose(found.stress[slot], sigma[VOIGT], atol=2e-6)


def test_training_gradients_agree(setting):
    model, params, _, data, stored, chosen, rows, layout = setting
    wanted = targets(data, np.zeros(2), chosen, rows, layout)

    def gradient(inputs):
        def objective(networks):
            outputs = evaluate_batch(model, {**params, "networks": networks}, inputs, layout)
            return likelihood_loss(LikelihoodLoss(), outputs, wanted, layout)

        return jax.jit(jax.grad(objective))(params["networks"])

    one, two = gradient(taken(stored, rows)), gradient(taken(as_environments(data), rows))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4 * float(jnp.abs(a).max()))
