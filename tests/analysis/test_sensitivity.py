"""Sensitivity to features: finite differences, features that a network ignores, committees, lists of functions."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bpjax.analysis.sensitivity import (
    feature_gradients,
    format_sensitivities,
    ranked,
    sensitivities,
    sensitivities_of_features,
)
from bpjax.descriptors.reduced import Chosen
from bpjax.errors import StructureError, UnknownSpeciesError
from bpjax.networks.elemental import MLP
from bpjax.potential import Potential, energy, init
from bpjax.potential.describe import describe
from bpjax.potential.energy import energy_from_features
from tests.potential.model import SMALL, prepared, strong
from tests.small_model import crystal, liquid

FRAMES = [crystal(), liquid()]
FRAMES[1].numbers[::3] = 8
PARAMS = strong(SMALL, seed=3)
D = SMALL.descriptor.size


def features_by_element():
    G = np.concatenate(describe(SMALL.descriptor, FRAMES, "float64"))
    numbers = np.concatenate([atoms.numbers for atoms in FRAMES])
    return {e: G[numbers == n] for e, n in (("Si", 14), ("O", 8))}


def test_equal_to_finite_differences():
    rows = sensitivities(SMALL, PARAMS, FRAMES, "float64")
    G = features_by_element()
    assert [(r.element, r.function) for r in rows] == [(e, n + 1) for e in ("Si", "O") for n in range(D)]
    energies = jax.jit(lambda G, s: energy_from_features(SMALL, PARAMS, G, jnp.full(len(G), s)), static_argnums=1)
    h = 1e-5
    for row in rows:
        own, s = G[row.element], SMALL.elements.index(row.element)
        step = h * (np.arange(D) == row.function - 1)
        # Truncation h^2 / 6 times third derivatives of order 1, rounding 1e-16 / h.
        difference = (energies(own + step, s) - energies(own - step, s)) / (2 * h)
        assert row.rms == pytest.approx(np.sqrt(np.mean(difference**2)), rel=1e-6)
        assert row.mean_absolute == pytest.approx(np.mean(np.abs(difference)), rel=1e-6)
        assert row.spread == pytest.approx(own[:, row.function - 1].std(), rel=1e-12) and row.spread > 0
        assert row.effect == row.rms * row.spread and row.mean_effect == row.mean_absolute * row.spread
        assert row.atoms == len(own) and row.label == SMALL.descriptor.labels[row.function - 1]
        assert row.rms >= row.mean_absolute > 0
    assert rows == sensitivities_of_features(SMALL, PARAMS, G)


def test_a_linear_model_has_the_sensitivity_of_its_weights():
    model = Potential(SMALL.descriptor, MLP((), activation=()))
    params = strong(model)
    for row in sensitivities_of_features(model, params, features_by_element()):
        n, scaling = row.function - 1, params["scaling"][row.element]
        weight = (
            params["networks"][row.element]["output"]["kernel"][n, 0] * scaling["scale"][n] * params["energy_scale"]
        )
        assert row.rms == pytest.approx(abs(float(weight)), rel=1e-12) == row.mean_absolute


def test_what_a_network_ignores_has_no_sensitivity_and_can_be_left_out():
    params = jax.tree.map(lambda a: a, PARAMS)
    ignored = [1, 3]
    for element in SMALL.elements:
        first = params["networks"][element]["hidden_0"]
        first["kernel"] = first["kernel"].at[jnp.array(ignored)].set(0.0)
    rows = sensitivities(SMALL, params, FRAMES, "float64")
    for row in rows:
        assert (row.rms == 0) == (row.mean_absolute == 0) == (row.function - 1 in ignored)
    for element in SMALL.elements:
        order = ranked(rows, element)
        assert {row.function - 1 for row in order[-2:]} == set(ignored) and len(order) == D
        assert all(a.effect >= b.effect for a, b in itertools.pairwise(order))
    kept = [n for n in range(D) if n not in ignored]
    model = Potential(Chosen(SMALL.descriptor, tuple(kept)), SMALL.network)
    for element in SMALL.elements:
        first = params["networks"][element]["hidden_0"]
        first["kernel"] = first["kernel"][np.array(kept)]
        params["scaling"][element] = {name: a[np.array(kept)] for name, a in params["scaling"][element].items()}
    run = jax.jit(energy, static_argnums=0)
    full = jax.tree.map(lambda a: a, PARAMS)
    for element in SMALL.elements:
        first = full["networks"][element]["hidden_0"]
        first["kernel"] = first["kernel"].at[jnp.array(ignored)].set(0.0)
    one, other = (run(m, p, *prepared(crystal())) for m, p in ((SMALL, full), (model, params)))
    assert float(one) == pytest.approx(float(other), rel=1e-12)


def test_committee_is_the_mean_of_its_members():
    model, members = dataclasses.replace(SMALL, members=2), [strong(SMALL, seed=s) for s in (3, 4)]
    params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
    G = features_by_element()
    each = [np.asarray(feature_gradients(SMALL, p, G["O"], 1)) for p in members]
    np.testing.assert_allclose(
        feature_gradients(model, params, G["O"], 1), np.mean(each, axis=0), rtol=1e-12, atol=1e-14
    )


def test_lists_of_functions_go_by_their_own_lengths():
    from tests.descriptors.test_reduced import LISTED

    model = Potential(LISTED, MLP((3,)))
    G = np.random.default_rng(0).normal(size=(20, 5))
    rows = sensitivities_of_features(model, init(model, jax.random.key(0), np.float64), {"O": G, "H": G})
    assert [(r.element, r.function) for r in rows] == [("H", n) for n in range(1, 6)] + [("O", 1), ("O", 2)]
    assert rows[-1].label == "2 H eta=0.3 r_s=0 r_c=5" and rows[0].label == "2 H eta=0.1 r_s=0 r_c=5"


def test_single_precision_and_table():
    rows, exact = (sensitivities(SMALL, PARAMS, FRAMES, dtype) for dtype in ("float32", "float64"))
    for a, b in zip(rows, exact, strict=True):
        assert a.rms == pytest.approx(b.rms, rel=1e-4) and a.spread == pytest.approx(b.spread, rel=1e-4)
    lines = format_sensitivities(ranked(exact)).split("\n")
    assert len(lines) == 1 + 2 * D and len({len(line) for line in lines}) == 1
    best = ranked(exact)[0]
    assert best.label in lines[1] and f"{best.effect:.4e}" in lines[1] and lines[1].split()[0] == best.element


def test_bad_input():
    with pytest.raises(StructureError, match="no structure"):
        sensitivities(SMALL, PARAMS, [])
    alien = crystal()
    alien.numbers[0] = 6
    with pytest.raises(UnknownSpeciesError):
        sensitivities(SMALL, PARAMS, [alien])
    with pytest.raises(ValueError, match="the model has no C; its elements are Si, O"):
        sensitivities_of_features(SMALL, PARAMS, {"C": np.ones((2, D))})
    with pytest.raises(ValueError, match=f"features of O: must be at least one atom with {D} features"):
        sensitivities_of_features(SMALL, PARAMS, {"O": np.ones((2, D + 1))})
    with pytest.raises(ValueError, match="at least one atom"):
        sensitivities_of_features(SMALL, PARAMS, {"O": np.ones((0, D))})
