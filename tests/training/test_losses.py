"""The likelihood loss against values worked out by hand, and the widths that it should recover."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from bpjax.training.dataset import Layout, Targets
from bpjax.training.inputs import Outputs
from bpjax.training.losses import LikelihoodLoss, Noise, Widths, error_sums, likelihood_loss

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


def one_kind(**options):
    return LikelihoodLoss(**{"energy": None, "forces": None, "stress": None, **options})


def test_huber_by_hand():
    # Energies of atoms at 0.2 and 0.1 eV with a width of 0.1: two widths and one; beyond 1.5 widths the loss is 2 d |z| - d^2.
    value = likelihood_loss(one_kind(energy=0.1, huber=1.5), OUTPUTS, targets(), LAYOUT)
    assert float(value) == pytest.approx((2 * 1.5 * 2 - 1.5**2 + 1) / 2, rel=1e-12)
    plain = likelihood_loss(one_kind(forces=0.1), OUTPUTS, targets(), LAYOUT)
    assert float(likelihood_loss(one_kind(forces=0.1, huber=100.0), OUTPUTS, targets(), LAYOUT)) == float(plain)


def test_width_relative_to_the_force_by_hand():
    wanted = targets(forces=jnp.array([[3.0, 4, 0], [0, 0, 0], [0, 0, 1]]))
    loss = one_kind(forces=0.5, forces_relative=0.1)
    first = (2.9**2 + 4**2) / (0.5**2 + 0.5**2) + 0.2**2 / 0.5**2
    second = 0.7**2 / (0.5**2 + 0.1**2)
    value = likelihood_loss(loss, OUTPUTS, wanted, LAYOUT)
    assert float(value) == pytest.approx((first / 6 + second / 3) / 2, rel=1e-6)


def test_weights_of_single_forces():
    half = targets(forces_mask=jnp.array([0.5, 1.0, 0.0]))
    value = likelihood_loss(one_kind(forces=1.0), OUTPUTS, half, LAYOUT)
    assert float(value) == pytest.approx((0.5 * 0.01 + 0.04) / 6 / 2, rel=1e-6)


def test_widths_change_in_the_run():
    loss = LikelihoodLoss(energy=0.1, forces=0.2, stress=None, final_energy=0.001, change=(0.5, 1.0))
    assert float(loss.widths(0.2).energy) == pytest.approx(0.1)
    assert float(loss.widths(0.75).energy) == pytest.approx(0.01)  # the geometric mean
    assert float(loss.widths(1.0).energy) == pytest.approx(0.001)
    assert loss.widths(1.0).forces == 0.2 and loss.widths(1.0).stress is None


def test_learned_widths_are_the_errors():
    # The derivative with the logarithm of a width vanishes where the width is the root mean square error.
    loss = LikelihoodLoss(energy=0.1, forces=0.1, stress=0.01, learned=True)
    rms = {"energy": np.sqrt((0.2**2 + 0.1**2) / 2), "forces": np.sqrt((0.05 / 6 + 0.09 / 3) / 2)}
    rms["stress"] = np.sqrt((0.01**2 + 2 * 0.02**2 + 2 * 0.03**2) / 18)

    def objective(log):
        return likelihood_loss(loss, OUTPUTS, targets(), LAYOUT, Widths(**{k: jnp.exp(v) for k, v in log.items()}))

    at = jax.jit(jax.grad(objective))({name: jnp.log(value) for name, value in rms.items()})
    for slope in at.values():
        assert abs(float(slope)) < 1e-6
    away = jax.jit(jax.grad(objective))({name: jnp.log(2 * value) for name, value in rms.items()})
    assert all(float(slope) > 0.5 for slope in away.values())


def test_predicted_widths():
    # The negative logarithm of independent Gaussians, twice, without constants: by SciPy.
    loss = LikelihoodLoss(energy=1.0, forces=1.0, stress=None, beta=0.0)
    noise = Noise(jnp.array([0.3, 0.2]), jnp.array([0.1, 0.2, 0.4]))
    gaussian = scipy.stats.norm.logpdf
    constant = gaussian(0.0)
    energy = -2 * (gaussian(np.array([0.4, -0.1]), scale=noise.energy) - constant)
    each = -2 * (gaussian(np.asarray(OUTPUTS.forces), scale=np.asarray(noise.forces)[:, None]) - constant).sum(axis=1)
    forces = np.array([(each[0] + each[1]) / 6, each[2] / 3])
    value = likelihood_loss(loss, OUTPUTS, targets(), LAYOUT, None, noise)
    assert float(value) == pytest.approx((energy + forces).mean(), rel=1e-6)
    # With beta = 1 the gradient with the prediction is that of plain squares, whatever the width.
    loss = LikelihoodLoss(energy=1.0, forces=None, stress=None, beta=1.0)

    def objective(energy):
        return likelihood_loss(loss, OUTPUTS._replace(energy=energy), targets(), LAYOUT, None, noise)

    np.testing.assert_allclose(jax.jit(jax.grad(objective))(OUTPUTS.energy), OUTPUTS.energy, rtol=1e-6)


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
        ({"huber": 0.0}, "huber=0.0"),
        ({"forces_relative": -0.1}, "forces_relative=-0.1"),
        ({"final_energy": -1.0}, "final_energy=-1.0"),
        ({"stress": None, "final_stress": 0.1}, "final_stress=0.1: stress is left out"),
        ({"change": (0.9, 0.7)}, "change="),
        ({"learned": True, "huber": 1.0}, "learned=True.*huber"),
        ({"learned": True, "final_energy": 0.1}, "learned=True.*final"),
        ({"learned": True, "forces_relative": 0.1}, "learned=True.*forces_relative"),
        ({"beta": 2.0}, "beta=2.0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        LikelihoodLoss(**options)
