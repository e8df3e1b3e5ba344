import numpy as np
import pytest

from bpjax import datasets
from bpjax.analysis.silicon import (
    PHASES,
    consistent_stress,
    liquid_volume,
    phase_order,
    phase_properties,
    read_silicon,
    volume_series,
)
from bpjax.io.labels import labels
from bpjax.io.structures import read_structures
from bpjax.units import GPA

FRAMES = read_structures(datasets.path("silicon") / "silicon_train.extxyz")


def test_stress_correction_matches_the_finite_differences_of_the_readme():
    # Three structures of data/silicon/README.md: pressure from energies minus printed pressure, in GPa.
    found = {a.info["name"]: a for s in ("train", "val", "test") for a in read(s)}
    for name, difference in (("thermal16_00", 0.374), ("betatin_strain_00", 0.464), ("liquid_00", 0.374)):
        atoms = found[name]
        change = labels(consistent_stress(atoms)).stress - labels(atoms).stress
        assert -np.trace(change) / 3 / GPA == pytest.approx(difference, abs=0.06)
        np.testing.assert_allclose(change, change[0, 0] * np.eye(3), atol=1e-15)


def read(split):
    return read_structures(datasets.path("silicon") / f"silicon_{split}.extxyz")


def test_stress_follows_the_energies_of_the_volume_series():
    # At the diamond minimum the corrected pressure must vanish; the printed one is off by the Pulay stress.
    atoms = min((a for a in FRAMES if a.info["name"].startswith("diamond2_volume")), key=lambda a: labels(a).energy)
    corrected, printed = (-np.trace(labels(a).stress) / 3 / GPA for a in (consistent_stress(atoms), atoms))
    expected = 86.7 * (20.54 / 20.46 - 1)  # bulk modulus times the distance from the minimum
    assert corrected == pytest.approx(expected, abs=0.1) and abs(printed - expected) > 0.25


def test_other_labels_are_kept():
    atoms, mended = FRAMES[3], consistent_stress(FRAMES[3])
    before, after = labels(atoms), labels(mended)
    assert after.energy == before.energy and mended.info["config_type"] == atoms.info["config_type"]
    np.testing.assert_array_equal(after.forces, before.forces)


def test_read_silicon():
    data = read_silicon()
    assert (len(data.train), len(data.validation), len(data.test)) == (176, 27, 24)
    assert data.isolated["Si"] == pytest.approx(-102.5587, abs=1e-3)
    assert 16 < liquid_volume(data.train.frames) < 20.3


def test_volume_series_of_all_phases():
    series = volume_series([a for s in ("train", "val", "test") for a in read(s)])
    assert list(series) == list(PHASES)
    sizes = {phase: len(s.volumes) for phase, s in series.items()}
    assert sizes["diamond"] == 9 and sizes["bc8"] == sizes["lonsdaleite"] == 4
    for s in series.values():
        assert np.all(np.diff(s.volumes) > 0)
        assert labels(s.atoms).energy / len(s.atoms) == pytest.approx(s.energies.min())


def test_phase_properties():
    V = np.linspace(15, 25, 7)
    volumes = {"a": V, "b": V, "short": V[:4], "no minimum": V}
    energies = {
        "a": 1e-2 * (V - 20) ** 2 - 5,
        "b": 1e-2 * (V - 18) ** 2 - 4.9,
        "short": np.full(4, -4.5),
        "no minimum": V - 15 - 4.4,
    }
    found = phase_properties(volumes, energies)
    assert found["a"]["energy"] == 0 and found["b"]["energy"] == pytest.approx(0.1, abs=0.01)
    assert found["b"]["volume"] == pytest.approx(18, abs=0.2)
    assert found["short"] == {"energy": pytest.approx(0.5, abs=0.01), "volume": None, "bulk_modulus": None}
    assert found["no minimum"]["volume"] is None
    assert phase_order(found) == ["a", "b", "short", "no minimum"]
