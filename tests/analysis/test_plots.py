import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from bpjax.analysis import plots
from bpjax.analysis.error_plots import plot_errors
from bpjax.io.labels import Labels
from tests.tiers import exhaustive

V = np.linspace(16, 24, 9)
HISTORY = [
    {"step": 100 * n, "train_loss": 9 / n, "validation_loss": 12 / n, "validation_energy_rmse": 0.1 / n}
    for n in range(1, 6)
]
MEMBERS = [
    {**line, "members": {name: [0.5 * line[name], line[name], 1.5 * line[name]] for name in line if name != "step"}}
    for line in HISTORY
]


def quantities(seed):
    rng = np.random.default_rng(seed)
    return [Labels(-107.0 * n + rng.normal(), rng.normal(size=(n, 3)), rng.normal(size=(3, 3))) for n in (1, 2, 8)]


FIGURES = {
    "learning_curve": lambda path: plots.plot_learning_curve(HISTORY, path=path),
    "members": lambda path: plots.plot_learning_curve(MEMBERS, path=path),
    "errors": lambda path: plot_errors(
        {"train": (quantities(0), quantities(1), [1, 2, 8]), "test": (quantities(2), quantities(3), [1, 2, 8])},
        path=path,
    ),
    "errors_without_labels": lambda path: plot_errors({"test": (quantities(0), [Labels()] * 3, [1, 2, 8])}, path=path),
    "perfect": lambda path: plot_errors({"test": (quantities(0), quantities(0), [1, 2, 8])}, path=path),
    "no_history": lambda path: plots.plot_learning_curve((), path=path),
    "parity": lambda path: plots.plot_parity(
        predicted=quantities(0), reference=quantities(1), groups=["a", "b", "a"], path=path
    ),
    "no_labels": lambda path: plots.plot_parity(quantities(0), [Labels()] * 3, title="test", path=path),
    "energy_volume": lambda path: plots.plot_energy_volume(
        {"diamond": (V, (V - 20) ** 2), "line only": (V, V)}, {"diamond": (V, V), "points only": (V, -V)}, path=path
    ),
    "radial": lambda path: plots.plot_radial_distribution({"crystal": (V, V), "liquid": (V, 1 / V)}, path=path),
    "dynamics": lambda path: plots.plot_dynamics(
        {"nvt": {"time": V, "temperature": V, "energy": V}}, {"nvt": 300.0}, path=path
    ),
}

HEADS = {".png": b"\x89PNG\r\n", ".pdf": b"%PDF-", ".svg": b"<?xml"}


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        *((name, ".png") for name in FIGURES),
        *(("parity", suffix) for suffix in HEADS if suffix != ".png"),
        *exhaustive(*((name, s) for name in FIGURES for s in HEADS if name != "parity" and s != ".png")),
    ],
)
def test_figures_are_written_whole(name, suffix, tmp_path):
    path = tmp_path / f"{name}{suffix}"
    before = dict(matplotlib.rcParams)
    figure = FIGURES[name](path)
    assert isinstance(figure, Figure)
    data = path.read_bytes()
    assert data.startswith(HEADS[suffix]) and len(data) > 4000
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert dict(matplotlib.rcParams) == before


def test_nothing_is_written_without_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for draw in FIGURES.values():
        draw(None)
    assert not list(tmp_path.iterdir())


def test_same_input_gives_the_same_file(tmp_path):
    for suffix in HEADS:
        files = [tmp_path / f"{n}{suffix}" for n in range(2)]
        for path in files:
            FIGURES["radial"](path)
        assert files[0].read_bytes() == files[1].read_bytes(), suffix


def test_errors_in_the_figure_are_right():
    predicted = [Labels(-10.0, np.zeros((2, 3)), None), Labels(-5.0, np.ones((1, 3)), None)]
    reference = [Labels(-10.2, np.full((2, 3), 0.3), None), Labels(-5.0, np.ones((1, 3)), None)]
    figure = plots.plot_parity(predicted, reference, ["liquid", "crystal"])
    titles = [ax.get_title() for ax in figure.axes]
    assert "energy: RMSE 70.7 meV/atom" in titles and "forces: RMSE 0.245 eV/Å" in titles
    entries = [text.get_text() for text in figure.legends[0].get_texts()]
    assert entries == ["crystal: 0, 0", "liquid: 1e+02, 0.3"]


def test_looks_differ():
    cycle = plots.styles()
    assert len({next(cycle) for _ in range(32)}) == 32


def test_learning_curve_of_members_has_a_band():
    """The mean as a line, and the area between the least and the largest member."""
    figure = plots.plot_learning_curve(MEMBERS)
    loss, energy = figure.axes
    for ax, name, unit in ((loss, "train_loss", 1.0), (energy, "validation_energy_rmse", 1e3)):
        line, band = ax.lines[0], ax.collections[0].get_paths()[0].vertices
        for x, y in zip(*line.get_data(), strict=True):
            edges = band[band[:, 0] == x, 1]
            assert (min(edges), max(edges)) == pytest.approx((0.5 * y, 1.5 * y))
        np.testing.assert_allclose(line.get_ydata(), [unit * entry[name] for entry in HISTORY])
    assert not any(ax.collections for ax in plots.plot_learning_curve(HISTORY).axes)


def test_learning_curve_with_a_loss_below_zero():
    history = [{"step": n, "train_loss": 50.0 - 10 * n, "validation_loss": 60.0 - 10 * n} for n in range(9)]
    ax = plots.plot_learning_curve(history).axes[0]
    assert ax.get_yscale() == "symlog" and ax.get_ylim()[0] < -30
    assert plots.plot_learning_curve(HISTORY).axes[0].get_yscale() == "log"


def test_large_energies_have_no_offset_on_their_axes(tmp_path):
    labels = [Labels(-15982.1 + 1e-3 * n, np.zeros((1, 3))) for n in range(5)]
    figure = plots.plot_parity(labels, labels, path=tmp_path / "p.png")
    for ax in figure.axes:
        assert ax.xaxis.get_offset_text().get_text() == ax.yaxis.get_offset_text().get_text() == ""
    assert any("15982.1" in text.get_text() for text in figure.axes[0].get_yticklabels())


def test_error_histograms_count_everything():
    """Bins hold all errors, those beyond the edge too; the curve beside them has the same area and width."""
    rng = np.random.default_rng(0)
    reference = [Labels(0.0, np.zeros((50, 3))) for _ in range(40)]
    predicted = [Labels(rng.normal(), rng.normal(scale=0.1, size=(50, 3))) for _ in reference]
    predicted[0].forces[0, 0] = 50.0
    figure = plot_errors({"test": (predicted, reference, [50] * 40)})
    assert [ax.get_title() for ax in figure.axes] == ["energy", "forces", "forces by their size"]
    errors = np.ravel([p.forces for p in predicted])
    for ax, values in zip(figure.axes, (np.array([1e3 * p.energy / 50 for p in predicted]), errors), strict=False):
        counts, edges, _ = ax.patches[0].get_data()
        assert counts.sum() == len(values) and counts[-1] >= 1
        x, y = ax.lines[0].get_data()
        width = edges[1] - edges[0]
        inside = np.linspace(edges[0], edges[-1], len(x))
        np.testing.assert_allclose(x, inside)
        peak = len(values) * width / (values.std() * np.sqrt(2 * np.pi))
        assert y.max() == pytest.approx(peak, rel=0.02)
    x, y = figure.axes[2].lines[0].get_data()
    assert list(x) == [0] and y[0] == pytest.approx(np.sqrt(np.mean(errors**2)))
