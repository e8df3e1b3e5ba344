"""Figures of excited states show the numbers they are given."""

import numpy as np
import pytest
import scipy.stats

from bpjax.analysis.excited_plots import plot_double_cone, plot_path, plot_populations, plot_spectrum
from bpjax.excited.populations import binomial_error, outcomes, populations
from bpjax.excited.spectrum import absorption_spectrum


def example():
    rng = np.random.default_rng(0)
    active = rng.integers(0, 2, (5, 40))
    weights = rng.dirichlet([1, 1], (5, 40))
    return active, populations(active, weights, weights[..., ::-1])


def test_populations_and_their_errors():
    active, found = example()
    np.testing.assert_allclose(found.counts[:, 1], active.mean(axis=1))
    hops = active.sum(axis=1).astype(int)
    level = scipy.stats.norm.cdf(1) - scipy.stats.norm.cdf(-1)
    intervals = [scipy.stats.binomtest(k, 40).proportion_ci(level, method="wilson") for k in hops]
    np.testing.assert_allclose(found.errors[:, 1], [(x.high - x.low) / 2 for x in intervals], rtol=1e-9)
    assert binomial_error(np.array([0.0, 1.0]), 10) == pytest.approx([0.5 / 11, 0.5 / 11])
    np.testing.assert_allclose(found.diabatic[:, 0], found.amplitudes[:, 1])
    np.testing.assert_allclose(found.inconsistency, np.abs(found.counts - found.amplitudes)[:, 0])
    # The error is the spread of repeated draws.
    draws = np.random.default_rng(1).binomial(50, 0.3, 20000) / 50
    assert draws.std() == pytest.approx(binomial_error(np.array(0.3), 50), rel=0.03)
    shares = outcomes(np.array([1, 1, -1, 0]), np.array([0, 1, 1, 0]), 2)
    assert shares.transmitted.tolist() == [0.25, 0.25] and shares.reflected.tolist() == [0, 0.25]
    assert shares.unfinished == 0.25
    assert shares.errors[1][0] == pytest.approx(np.sqrt(0.25 * 0.75 / 4 + 1 / 64) / 1.25)


def test_figures(tmp_path):
    _, found = example()
    t = np.arange(5.0)
    figure = plot_populations(t, found, {"exact": (t, t / 5)}, path=tmp_path / "p.png")
    left, right = figure.axes
    np.testing.assert_allclose(left.lines[0].get_ydata(), found.counts[:, 0])
    np.testing.assert_allclose(left.lines[1].get_ydata(), found.amplitudes[:, 0])
    np.testing.assert_allclose(right.lines[-1].get_ydata(), t / 5)
    spectrum = absorption_spectrum(np.linspace(3, 7, 50), [[4.0, 5.0]], [[0.1, 0.2]])
    line = plot_spectrum({"all": spectrum}, path=tmp_path / "s.pdf").axes[0].lines[0]
    np.testing.assert_allclose(line.get_ydata(), spectrum.cross_section)
    x = np.linspace(-1, 1, 7)
    r = np.hypot(*np.meshgrid(x, x))
    cone = plot_double_cone(x, x, np.stack([-r, r], axis=-1), path=tmp_path / "c.png")
    assert len(cone.axes[0].collections) == 2
    path = plot_path(x, {"model": np.stack([x, x**2], 1), "reference": np.stack([x, x**2], 1)}, path=tmp_path / "l.svg")
    np.testing.assert_allclose(path.axes[0].lines[1].get_ydata(), x**2)
    assert {file.name for file in tmp_path.iterdir()} == {"p.png", "s.pdf", "c.png", "l.svg"}
