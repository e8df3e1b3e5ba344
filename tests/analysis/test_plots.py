import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from bpjax.analysis import plots
from bpjax.io.structures import Labels

V = np.linspace(16, 24, 9)
HISTORY = [
    {"step": 100 * n, "train_loss": 9 / n, "validation_loss": 12 / n, "validation_energy_rmse": 0.1 / n}
    for n in range(1, 6)
]


def quantities(seed):
    rng = np.random.default_rng(seed)
    return [Labels(-107.0 * n + rng.normal(), rng.normal(size=(n, 3)), rng.normal(size=(3, 3))) for n in (1, 2, 8)]


FIGURES = {
    "learning_curve": lambda path: plots.plot_learning_curve(HISTORY, path=path),
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


@pytest.mark.parametrize("suffix", HEADS)
@pytest.mark.parametrize("name", FIGURES)
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
