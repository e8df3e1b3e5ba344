import numpy as np
import pytest
from matplotlib.figure import Figure

from bpjax.analysis.sweep_plots import plot_parallel, plot_pareto
from bpjax.training.sweep import pareto_front
from bpjax.training.sweep_files import Trial

TRIALS = [
    Trial(
        n,
        {"optimizer.learning_rate": 10.0 ** (-n / 2), "network.hidden": ((8,), (16, 16))[n % 2], "loss.energy": 0.02},
        "complete" if n % 3 else "pruned",
        100,
        1.0 / (n + 1),
        {"loss": 1.0},
        (),
        float(10 + (n * 7) % 5) if n % 3 else None,
    )
    for n in range(8)
] + [Trial(8, {"optimizer.learning_rate": 1.0, "network.hidden": (8,), "loss.energy": 0.02}, "diverged", 4, None, {})]


@pytest.mark.parametrize("trials", [TRIALS, TRIALS[:1], TRIALS[-1:], []])
def test_figures_are_written_whole(trials, tmp_path):
    figures = [
        plot_parallel(trials, "loss", ["optimizer.learning_rate"], path=tmp_path / "parallel.png"),
        plot_pareto(trials, pareto_front(trials), "loss", path=tmp_path / "pareto.png"),
    ]
    assert all(isinstance(figure, Figure) for figure in figures)
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in ("parallel.png", "pareto.png"))


def test_lines_go_through_the_values():
    ax = plot_parallel(TRIALS, "loss", ["optimizer.learning_rate"]).axes[0]
    lines = sorted((line.get_ydata().tolist() for line in ax.lines if len(line.get_xdata()) == 4), key=lambda y: -y[0])
    assert len(lines) == 8  # without the one that diverged
    lines = np.array(lines)
    np.testing.assert_allclose(lines[:, 0], 1 - np.arange(8) / 7)  # logarithmic: equally spaced
    np.testing.assert_allclose(lines[:, 1], np.where(np.arange(8) % 2, 0.25, 0.75))  # names in order: "16-16", "8"
    assert (lines[:, 2] == 0.5).all()
    values = np.log(1 / (np.arange(8) + 1))
    np.testing.assert_allclose(lines[:, 3], (values - values.min()) / np.ptp(values))


def test_pareto_shows_what_was_measured():
    front = pareto_front(TRIALS)
    ax = plot_pareto(TRIALS, front, "forces_rmse", {"forces_rmse": "eV/Å"}).axes[0]
    points, line = ax.lines
    assert len(points.get_xdata()) == sum(t.cost is not None for t in TRIALS)
    np.testing.assert_array_equal(line.get_ydata(), [t.objective for t in front])
    assert ax.get_ylabel() == "forces_rmse (eV/Å)"
