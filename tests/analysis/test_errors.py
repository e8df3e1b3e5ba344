import json

import numpy as np
import pytest

from bpjax.analysis.errors import error_metrics
from bpjax.io.structures import Labels


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
