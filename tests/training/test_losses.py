"""The likelihood loss against values worked out by hand, and the widths that it should recover."""

import jax.numpy as jnp
import numpy as np
import pytest

from bpjax.training.dataset import Layout, Targets
from bpjax.training.inputs import Outputs
from bpjax.training.losses import LikelihoodLoss, error_sums, likelihood_loss

LAYOUT = Layout(
    structure=jnp.array([0, 0, 1]),
    start=jnp.array([0, 0, 2]),
    real=jnp.array([True, True, True]),
    atoms=jnp.array([2.0, 1.0]),
    volume=jnp.array([10.0, 20.0]),
)


def targets(**changes) -> Targets:
    plain = Targets(
        jnp.zeros(2), jnp.zeros((3, 3)), jnp.zeros((2, 6)), jnp.ones(2), jnp.ones(3), jnp.ones(2), jnp.ones(2)
    )
    return plain._replace(**changes)


OUTPUTS = Outputs(
    energy=jnp.array([0.4, -0.1]),
    forces=jnp.array([[0.1, 0, 0], [0, -0.2, 0], [0, 0, 0.3]]),
    stress=jnp.array([[0.01, 0, 0, 0, 0, 0.02], [0, 0, 0, 0.03, 0, 0]]),
)


def test_value_by_hand():
    loss = LikelihoodLoss(energy=0.1, forces=0.5, stress=0.01, energy_per="structure")
    energy = (0.4 / 0.1) ** 2 + (0.1 / 0.1) ** 2
    forces = (0.1**2 + 0.2**2) / (3 * 2 * 0.5**2) + 0.3**2 / (3 * 1 * 0.5**2)
    stress = (0.01**2 + 2 * 0.02**2 + 2 * 0.03**2) / (9 * 0.01**2)
    value = likelihood_loss(loss, OUTPUTS, targets(), LAYOUT)
    assert float(value) == pytest.approx((energy + forces + stress) / 2, rel=1e-12)


def test_energies_per_atom():
    loss = LikelihoodLoss(energy=0.1, forces=None, stress=None, energy_per="atom")
    value = likelihood_loss(loss, OUTPUTS, targets(), LAYOUT)
    assert float(value) == pytest.approx(((0.2 / 0.1) ** 2 + (0.1 / 0.1) ** 2) / 2, rel=1e-12)


def test_weights_and_missing_labels():
    loss = LikelihoodLoss(energy=0.1, forces=None, stress=None, energy_per="structure")
    weighted = likelihood_loss(loss, OUTPUTS, targets(weight=jnp.array([3.0, 1.0])), LAYOUT)
    assert float(weighted) == pytest.approx((3 * 16 + 1) / 4, rel=1e-12)
    masked = likelihood_loss(loss, OUTPUTS, targets(energy_mask=jnp.array([0.0, 1.0])), LAYOUT)
    assert float(masked) == pytest.approx(1 / 2, rel=1e-12)
    empty = likelihood_loss(loss, OUTPUTS, targets(weight=jnp.zeros(2)), LAYOUT)
    assert float(empty) == 0


def test_true_widths_give_one_per_kind_of_label():
    # Each term is a mean of squares of standard normal numbers: 1 with a spread of sqrt(2 / count) < 0.02, tested at 5 sigma.
    rng = np.random.default_rng(0)
    structures, each = 4000, 4
    atoms = structures * each
    layout = Layout(
        jnp.repeat(jnp.arange(structures), each),
        jnp.repeat(jnp.arange(structures) * each, each),
        jnp.ones(atoms, bool),
        jnp.full(structures, float(each)),
        jnp.ones(structures),
    )
    zero = targets(
        energy=jnp.zeros(structures),
        forces=jnp.zeros((atoms, 3)),
        stress=jnp.zeros((structures, 6)),
        energy_mask=jnp.ones(structures),
        forces_mask=jnp.ones(atoms),
        stress_mask=jnp.ones(structures),
        weight=jnp.ones(structures),
    )
    noisy = Outputs(
        jnp.asarray(rng.normal(scale=0.02 * each, size=structures)),
        jnp.asarray(rng.normal(scale=0.3, size=(atoms, 3))),
        jnp.asarray(rng.normal(scale=0.01, size=(structures, 6))),
    )
    for kind in ({"energy": 0.02}, {"forces": 0.3}, {"stress": 0.01}):
        loss = LikelihoodLoss(**{"energy": None, "forces": None, "stress": None, **kind})
        assert float(likelihood_loss(loss, noisy, zero, layout)) == pytest.approx(1, abs=0.12)


def test_error_sums():
    sums = error_sums(LikelihoodLoss(), OUTPUTS, targets(), LAYOUT)
    np.testing.assert_allclose(sums.energy, [2, 0.2 + 0.1, 0.04 + 0.01], rtol=1e-12)
    np.testing.assert_allclose(sums.forces, [9, 0.6, 0.14], rtol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"energy": 0.0}, "energy=0.0"),
        ({"forces": -1.0}, "forces=-1.0"),
        ({"energy": None, "forces": None, "stress": None}, "nothing to fit"),
        ({"energy_per": "cell"}, "energy_per='cell'.*atom, structure"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        LikelihoodLoss(**options)
