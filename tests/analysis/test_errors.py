import json
import math
from dataclasses import dataclass

import numpy as np
import pytest

from bpjax.analysis.errors import FORCE_EDGES, calibration, error_metrics, force_size_errors, worst_errors
from bpjax.io.labels import Labels


def test_numbers_by_hand():
    predicted = [
        Labels(10.0, np.array([[1.0, 0, 0], [-1, 0, 0]]), np.eye(3)),
        Labels(3.0, np.zeros((1, 3)), None),
        Labels(1.0, np.zeros((1, 3)), None),
    ]
    reference = [
        Labels(8.0, np.zeros((2, 3)), np.eye(3) + 0.5 * (np.eye(3, k=1) + np.eye(3, k=-1))),
        Labels(6.0, np.full((1, 3), 2.0)),
        Labels(),
    ]
    metrics = error_metrics(predicted, reference, [2, 1, 1], ["b", "a", "c"])
    assert metrics["structures"] == 3 and metrics["atoms"] == 4
    assert (
        metrics["energy_mae"] == 2.0
        and metrics["energy_rmse"] == pytest.approx(np.sqrt(5))
        and metrics["energy_count"] == 2
    )
    assert metrics["forces_mae"] == pytest.approx(8 / 9) and metrics["forces_rmse"] == pytest.approx(np.sqrt(14 / 9))
    assert metrics["stress_mae"] == pytest.approx(1 / 6) and metrics["stress_rmse"] == pytest.approx(np.sqrt(0.5 / 6))
    assert list(metrics["groups"]) == ["a", "b", "c"]
    assert metrics["groups"]["a"]["energy_mae"] == 3.0 and metrics["groups"]["a"]["stress_mae"] is None
    assert metrics["groups"]["c"]["energy_rmse"] is None and metrics["groups"]["c"]["forces_count"] == 0
    json.dumps(metrics, allow_nan=False)


def test_without_groups():
    metrics = error_metrics([Labels(1.0)], [Labels(1.0)], [1])
    assert "groups" not in metrics and metrics["energy_mae"] == 0.0


def test_lengths_must_agree():
    with pytest.raises(ValueError):
        error_metrics([Labels()], [], [1])


def random_pairs(rng, count=12):
    """Predictions, labels and symbols of structures with forces of all sizes; one has no forces, one no energy."""
    predicted, reference, symbols = [], [], []
    for n in range(count):
        atoms = int(rng.integers(1, 7))
        forces = rng.normal(size=(atoms, 3)) * rng.choice([0.03, 0.2, 1.0, 4.0, 20.0], size=(atoms, 1))
        reference.append(Labels(None if n == 1 else rng.normal(), None if n == 2 else forces))
        predicted.append(Labels(rng.normal(), forces + rng.normal(size=(atoms, 3))))
        symbols.append([str(s) for s in rng.choice(["Si", "H", "O"], size=atoms)])
    return predicted, reference, symbols


def test_elements_and_force_sizes_against_loops_over_atoms():
    predicted, reference, symbols = random_pairs(np.random.default_rng(0))
    sizes = [len(names) for names in symbols]
    metrics = error_metrics(predicted, reference, sizes, symbols=symbols)
    rows = [
        (names[i], p.forces[i] - r.forces[i], r.forces[i])
        for p, r, names in zip(predicted, reference, symbols, strict=True)
        if r.forces is not None
        for i in range(len(names))
    ]
    assert list(metrics["elements"]) == ["H", "O", "Si"]
    found = [(metrics["elements"][e], [row for row in rows if row[0] == e]) for e in ("H", "O", "Si")]
    for entry in metrics["force_size"]:
        high = entry["to"] or math.inf
        found.append((entry, [row for row in rows if entry["from"] <= math.sqrt(sum(row[2] ** 2)) < high]))
    for entry, chosen in found:
        assert entry["atoms"] == len(chosen) > 0
        components = [abs(float(c)) for _, difference, _ in chosen for c in difference]
        assert entry["forces_mae"] == pytest.approx(sum(components) / len(components))
        assert entry["forces_rmse"] == pytest.approx(math.sqrt(sum(c**2 for c in components) / len(components)))
        total = sum(float(c) ** 2 for _, _, force in chosen for c in force)
        assert entry["forces_relative"] == pytest.approx(math.sqrt(sum(c**2 for c in components) / total))
    # Every atom with forces is in one range and of one element.
    for entries in (metrics["elements"].values(), metrics["force_size"]):
        assert 3 * sum(entry["atoms"] for entry in entries) == metrics["forces_count"]
    json.dumps(metrics, allow_nan=False)


def test_limits_of_force_sizes():
    forces = np.zeros((4, 3))
    forces[:, 0] = [0.0, 0.1, -0.3, 25.0]
    found = force_size_errors([Labels(None, forces + 0.5)], [Labels(None, forces)])
    assert [(f["from"], f["to"]) for f in found][-2:] == [(3.0, 10.0), (10.0, None)] and len(found) == len(
        FORCE_EDGES
    ) - 1
    assert [f["atoms"] for f in found] == [1, 1, 1, 0, 0, 1]
    assert found[0]["forces_relative"] is None and found[0]["forces_rmse"] == 0.5  # there is nothing to be relative to
    assert found[3]["forces_mae"] is None
    assert found[5]["forces_relative"] == pytest.approx(0.5 * math.sqrt(3) / 25)


def test_worst_by_hand():
    zero = [Labels(0.0, np.zeros((2, 3))) for _ in range(7)]
    predicted = []
    for n, error in enumerate([1.0, -9.0, 3.0, 0.5, -4.0, 2.0, 0.0]):
        forces = np.zeros((2, 3))
        forces[n % 2] = [0, 3 * error, 4 * error]
        predicted.append(Labels(error, forces))
    zero[4] = Labels()
    sources = [("a.xyz", n) for n in range(7)]
    found = worst_errors(predicted, zero, [2] * 7, list("abcdefg"), [["Si", "O"]] * 7, sources)
    assert [f["structure"] for f in found["energy"]] == [1, 2, 5, 0, 3] == [f["structure"] for f in found["forces"]]
    assert found["energy"][0] == {"structure": 1, "group": "b", "file": "a.xyz", "frame": 1, "error": -4.5}
    first = {"structure": 1, "group": "b", "file": "a.xyz", "frame": 1, "atom": 1, "element": "O", "reference": 0.0}
    assert found["forces"][0] == {**first, "error": 45.0}
    bare = worst_errors(predicted, zero, [2] * 7, count=1)
    assert bare["energy"] == [{"structure": 1, "error": -4.5}] and len(bare["forces"]) == 1


@dataclass
class Expecting:
    """A prediction with expected errors, as an Evaluation has them."""

    energy: float
    forces: np.ndarray
    stress: None = None
    energy_spread: float | None = None
    forces_spread: np.ndarray | None = None
    energy_noise: float | None = None
    forces_noise: np.ndarray | None = None


def expecting(rng, spread, noise, factor=1.0):
    """Labels of zero, and predictions whose errors are normal, `factor` times as wide as expected."""
    predicted = []
    for _ in range(1000):
        a = rng.uniform(0.1, 3, size=(4, 3)) if spread else np.zeros((4, 3))
        b = rng.uniform(0.1, 3, size=4) if noise else np.zeros(4)
        sigma = np.sqrt(a**2 + b[:, None] ** 2)
        one = Expecting(factor * rng.normal() * math.hypot(a[0, 0], b[0]), factor * rng.normal(size=(4, 3)) * sigma)
        if spread:
            one.energy_spread, one.forces_spread = a[0, 0], a
        if noise:
            one.energy_noise, one.forces_noise = b[0], b
        predicted.append(one)
    return predicted, [Labels(0.0, np.zeros((4, 3)))] * len(predicted)


@pytest.mark.parametrize(("spread", "noise"), [(True, False), (False, True), (True, True)])
def test_calibration_of_normal_errors(spread, noise):
    for factor in (1.0, 2.0):
        pairs = expecting(np.random.default_rng(1), spread, noise, factor)
        found = calibration(*pairs)
        for name, count in (("energy", 1000), ("forces", 12000)):
            values, tolerance = found[name], 5 / math.sqrt(count)  # some standard deviations of a mean
            assert values["count"] == count
            assert values["z_squared"] == pytest.approx(factor**2, abs=factor**2 * math.sqrt(2) * tolerance)
            for key, width in (("within_one", 1), ("within_two", 2)):
                assert values[key] == pytest.approx(math.erf(width / factor / math.sqrt(2)), abs=0.5 * tolerance)
            assert values["error_rms"] == pytest.approx(factor * values["sigma_rms"], rel=3 * tolerance)
    assert error_metrics(*pairs, [4] * 1000)["calibration"] == found


def test_calibration_only_where_errors_are_expected():
    plain = [Labels(1.0, np.ones((1, 3)))]
    assert calibration(plain, plain) == {} and "calibration" not in error_metrics(plain, plain, [1])
    # A force that vanishes by symmetry does so for all members: nothing is expected of it, and rounding is no error.
    symmetric = Expecting(1.0, np.full((1, 3), 1e-9), energy_spread=0.5, forces_spread=np.full((1, 3), 1e-11))
    found = calibration([symmetric], plain)
    assert list(found) == ["energy"] and found["energy"]["z_squared"] == 0
    half = Expecting(1.0, np.array([[2.0, 1, 1]]), forces_spread=np.array([[0.25, 0, 0]]))
    assert calibration([half], plain) == {
        "forces": {
            "count": 1,
            "z_squared": 16.0,
            "within_one": 0.0,
            "within_two": 0.0,
            "sigma_rms": 0.25,
            "error_rms": 1.0,
        }
    }
