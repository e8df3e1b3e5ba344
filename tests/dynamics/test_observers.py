import json

import numpy as np
import pytest
from ase.build import bulk

from bpjax.dynamics import LogWriter, PairCorrelation, energy_drift
from bpjax.errors import BpjaxError, ConfigError, OutputExistsError


def test_pair_correlation_of_an_ideal_gas_is_one():
    atoms = bulk("Ar", "fcc", 5.0, cubic=True) * (5, 5, 5)
    rng = np.random.default_rng(0)
    g = PairCorrelation(6.0, 12)
    for _ in range(10):
        atoms.set_scaled_positions(rng.random((len(atoms), 3)))
        g(atoms)
    np.testing.assert_allclose(g.g[2:], 1.0, atol=0.05)
    np.testing.assert_allclose(g.r, np.arange(0.25, 6.0, 0.5))


def test_pair_correlation_counts_neighbours_beyond_the_cell():
    atoms = bulk("Ar", "fcc", 4.0)
    g = PairCorrelation(5.0, 500)
    g(atoms)
    shells = 4 * np.pi / 3 * np.diff(g.edges**3) * len(atoms) / atoms.get_volume()
    counts = g.g * shells
    np.testing.assert_allclose(counts[counts > 0], [12, 6, 24])


def test_partial_pair_correlation():
    atoms = bulk("NaCl", "rocksalt", 5.6)
    partial = {pair: PairCorrelation(3.0, 10, pair) for pair in (("Na", "Cl"), ("Cl", "Na"), ("Na", "Na"))}
    for g in partial.values():
        g(atoms)
    np.testing.assert_allclose(partial["Na", "Cl"].g, partial["Cl", "Na"].g)
    assert partial["Na", "Cl"].g.max() > 0 and partial["Na", "Na"].g.max() == 0


def test_pair_correlation_needs_a_periodic_cell():
    atoms = bulk("Ar", "fcc", 4.0)
    atoms.pbc = (True, True, False)
    with pytest.raises(ConfigError, match="periodic"):
        PairCorrelation()(atoms)
    with pytest.raises(ConfigError, match="positive"):
        PairCorrelation(-1.0)
    assert np.isnan(PairCorrelation().g).all()


def test_drift():
    t = np.linspace(0, 2000, 21)
    E = -1e6 + 0.003 * t / 1000 * 50 + 1e-3 * np.sin(t / 20)
    assert energy_drift(t, E, 50) == pytest.approx(0.003, rel=0.02)
    assert np.isnan(energy_drift(t[:1], E[:1], 50))


def test_log_writer(tmp_path):
    path = tmp_path / "log.jsonl"
    with LogWriter(path) as log:
        log.write([{"step": np.int64(3), "energy": np.float32(0.5)}])
        assert json.loads(path.read_text()) == {"step": 3, "energy": 0.5}
        log.write([{"step": 4, "energy": float("nan")}])
    assert json.loads(path.read_text().splitlines()[1]) == {"step": 4, "energy": None}
    with pytest.raises(OutputExistsError):
        LogWriter(path)
    with pytest.raises(BpjaxError, match="folder does not exist"):
        LogWriter(tmp_path / "no" / "log.jsonl")
