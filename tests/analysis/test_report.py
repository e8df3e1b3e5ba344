import numpy as np
import pytest

from bpjax.analysis.errors import error_metrics
from bpjax.analysis.report import cost_table, detail_tables, force_size_table, markdown
from bpjax.io.labels import Labels


def metrics(symbols, **more):
    forces = np.array([[0.2, 0, 0], [0, 2.0, 0]])
    reference = [Labels(-4.0, forces), Labels(-6.0, forces)]
    predicted = [Labels(-4.1, forces + 0.3), Labels(-6.0, forces - 0.1)]
    return error_metrics(predicted, reference, [2, 2], ["a", "b"], [symbols] * 2, **more)


def test_tables_of_errors():
    found = metrics(["Si", "O"], sources=[("x.xyz", 3), ("y.xyz", 0)])
    tables = {title: rows for title, _, rows in detail_tables("test", found)}
    assert list(tables) == ["test: forces by element", "test: forces by size", "test: largest errors"]
    rmse = pytest.approx(np.sqrt(0.05))
    assert tables["test: forces by element"] == [
        ["O", 2, pytest.approx(0.2), rmse, pytest.approx(np.sqrt(0.3 / 8))],
        ["Si", 2, pytest.approx(0.2), rmse, pytest.approx(np.sqrt(0.3 / 0.08))],
    ]
    assert [row[:2] for row in tables["test: forces by size"]] == [["0.1 to 0.3", 2], ["1 to 3", 2]]
    worst = tables["test: largest errors"]
    assert worst[0] == ["x.xyz: frame 3", "a", "energy (meV/atom)", pytest.approx(-50)]
    assert worst[2][:2] == ["x.xyz: frame 3", "a"] and worst[2][3] == pytest.approx(0.3 * np.sqrt(3))
    assert worst[2][2].startswith("force on atom ") and "eV/A" in worst[2][2]
    for _, header, rows in detail_tables("test", found):
        assert all(len(row) == len(header) for row in rows)
        assert markdown(header, rows).count("\n") == len(rows) + 2


def test_only_tables_that_tell_something():
    titles = [title for title, _, _ in detail_tables("t", metrics(["Si", "Si"]))]
    assert titles == ["t: forces by size", "t: largest errors"]
    energies = error_metrics([Labels(1.0)], [Labels(2.0)], [1])
    assert [title for title, _, _ in detail_tables("t", energies)] == ["t: largest errors"]
    expecting = metrics(["Si", "Si"]) | {
        "calibration": {
            "forces": {
                "count": 6,
                "z_squared": 1.1,
                "within_one": 0.5,
                "within_two": 1.0,
                "sigma_rms": 0.1,
                "error_rms": 0.2,
            }
        }
    }
    _, header, rows = next(table for table in detail_tables("t", expecting) if "expected" in table[0])
    assert rows == [["forces (eV/A)", 6, 0.2, 0.1, 1.1, 0.5, 1.0]] and len(header) == 7


def test_open_range_of_forces():
    forces = np.array([[30.0, 0, 0]])
    found = error_metrics([Labels(0.0, forces + 3)], [Labels(0.0, forces)], [1])
    assert [row[0] for row in force_size_table("t", found)[2]] == ["above 10"]


def test_cost_shows_what_is_known():
    rows = cost_table({"seconds": 3.0, "steps": 0, "device_memory_peak_gb": None, "members": None, "device": "cpu"})[2]
    assert rows == [["seconds in all", 3.0], ["steps", 0], ["device", "cpu"]]
