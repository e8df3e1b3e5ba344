"""The space of a sweep: values, points, and one clear line for each mistake."""

import dataclasses

import numpy as np
import pytest

from bpjax.errors import ConfigError
from bpjax.spec import from_spec, to_spec
from bpjax.training import DataOptions, OptimizerOptions, TrainingOptions
from bpjax.training.sweep_options import SweepOptions
from bpjax.training.sweep_space import (
    Choice,
    Interval,
    TrainingFile,
    check_space,
    grid_points,
    random_point,
    read_space,
)

FILE = TrainingFile(
    {"data": {"train": ["a.xyz"]}, "descriptor": {"type": "ACSF", "cutoff": 4.0, "g2": [{"eta": 1.0}, {"eta": 2.0}]}},
    ("Al", "Cu"),
    "sweep.toml",
)


def test_log_interval_is_uniform_in_the_logarithm():
    axis = Interval(1e-4, 1e-2, log=True)
    values = np.array([axis.at(u) for u in np.linspace(0, 1, 101)])
    np.testing.assert_allclose(np.diff(np.log(values)), np.log(100) / 100, rtol=1e-9)
    assert (values[0], values[-1]) == pytest.approx((1e-4, 1e-2))


@pytest.mark.parametrize("log", [False, True])
def test_integers_at_the_ends_are_as_likely_as_others(log):
    axis = Interval(1.0, 4.0, integer=True, log=log)
    u = (np.arange(100000) + 0.5) / 100000
    found, counts = np.unique([axis.at(x) for x in u], return_counts=True)
    assert found.tolist() == [1, 2, 3, 4] and all(isinstance(axis.at(x), int) for x in (0.0, 1.0))
    edges = np.array([0.5, 1.5, 2.5, 3.5, 4.5])
    wanted = np.diff(np.log(edges)) / np.log(9) if log else np.full(4, 0.25)
    np.testing.assert_allclose(counts / 100000, wanted, atol=2e-5)


def test_random_points_depend_on_seed_and_number_alone():
    space = read_space({"optimizer.learning_rate": {"low": 1e-4, "high": 1e-2}, "network.activation": ["tanh", "silu"]})
    points = [random_point(space, 0, n) for n in range(200)]
    assert points[7] == random_point(space, 0, 7) != random_point(space, 1, 7)
    rates = [p["optimizer.learning_rate"] for p in points]
    assert len(set(rates)) == 200
    # Mean of 200 uniform numbers: five standard deviations.
    assert np.mean(rates) == pytest.approx(5.05e-3, abs=5 * 9.9e-3 / np.sqrt(12 * 200))
    assert 60 < [p["network.activation"] for p in points].count("tanh") < 140


def test_grid():
    space = read_space({"a": {"low": 1, "high": 100, "log": True, "points": 3}, "b": ["x", "y"]})
    found = [tuple(p.values()) for p in grid_points(space)]
    assert [(pytest.approx(a), b) for a in (1, 10, 100) for b in "xy"] == found
    with pytest.raises(ConfigError, match="space.c: a grid needs to know how many points"):
        grid_points(read_space({"c": {"low": 0, "high": 1}}))


def test_names_may_be_tables():
    nested = {"optimizer": {"learning_rate": {"low": 1e-4, "high": 1e-2}}, "network": {"hidden": [[8, 8], [16, 16]]}}
    flat = {"optimizer.learning_rate": Interval(1e-4, 1e-2), "network.hidden": Choice(((8, 8), (16, 16)))}
    assert read_space(nested) == read_space(flat) == flat


def test_points_change_the_file():
    point = {
        "descriptor.g2[1].eta": 3.0,
        "optimizer.learning_rate": 2e-3,
        "network.hidden[1]": 7,
        "data.weights.bulk": 2.0,
    }
    options = FILE.options(point)
    assert [p.eta for p in options.descriptor.g2] == [1.0, 3.0] and options.descriptor.elements == ("Al", "Cu")
    assert options.optimizer == OptimizerOptions(learning_rate=2e-3)
    assert options.network.hidden == (32, 7) and options.data.weights == {"bulk": 2.0}
    assert FILE.options().network.hidden == (32, 32)  # the file is as it was
    python = TrainingFile(to_spec(TrainingOptions(DataOptions(("a.xyz",)))), ("Al",))
    assert python.options({"descriptor.cutoff": 5.0}).descriptor.cutoff == 5.0


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"optimizer.lerning_rate": [0.1]}, r"lerning_rate: unknown option; did you mean 'learning_rate'\?"),
        ({"optimizr.steps": [1]}, r"unknown option; did you mean 'optimizer'"),
        ({"optimizer.learning_rate": [0.1, -1.0]}, "learning_rate=-1.0: must be positive"),
        ({"optimizer.batch_size": {"low": 1, "high": 4}}, "must be an integer, got 1.0"),
        ({"optimizer.seed": [1, 2]}, "take optimizer.start_seed"),
        ({"data.train": [["b.xyz"]]}, "only data.weights may differ"),
        ({"descriptor.g2[5].eta": [1.0]}, "there are 2 entries, counted from 0"),
        ({"descriptor.g2[0].width": [1.0]}, "unknown option"),
        ({"network.hidden": [[8], ["x"]]}, r"must be an integer, got 'x'"),
        ({"network.hidden.x": [1]}, "no such option|must be a list"),
        ({"network..x": [1]}, "must look like section.option"),
    ],
)
def test_options_that_cannot_differ_so(space, message):
    with pytest.raises(ConfigError, match=r"^sweep.toml: .*" + message) as error:
        check_space(FILE, read_space(space))
    assert next(iter(space)) in str(error.value)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "space: names no option"),
        ({"a": []}, r"space.a: values=\(\): at least one"),
        ({"a": [1, 1]}, "space.a: .*each once"),
        ({"a": 3}, "space.a: must be a list of values"),
        ({"a": {"low": 2, "high": 1}}, "space.a: low=2.0: must be below high=1.0"),
        ({"a": {"low": 1}}, "space.a.high: missing"),
        ({"a": {"low": 0, "high": 1, "log": True}}, "space.a: low=0.0: must be positive"),
        ({"a": {"low": 0.5, "high": 2, "integer": True}}, "space.a: .*must be integers"),
        ({"a": {"low": 0, "high": 1, "points": 1}}, "space.a: points=1"),
        ({"a": {"low": 0, "hig": 1}}, "space.a.hig: unknown option"),
    ],
)
def test_bad_spaces(space, message):
    with pytest.raises(ConfigError, match=message):
        SweepOptions(space=space)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sampler": "bayes"}, "sampler='bayes': allowed are random, grid, tpe"),
        ({"objective": "energy"}, "objective='energy': allowed are loss, energy_mae"),
        ({"trials": 0}, "trials=0"),
        ({"members": 0}, "members=0"),
        ({"halving": 1}, "halving=1"),
        ({"rungs": 0}, "rungs=0"),
        ({"study": ""}, "study=''"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(ValueError, match=message):
        SweepOptions(space={"a": [1]}, **change)


def test_settings_survive_a_round_trip():
    settings = SweepOptions(space={"a": {"low": 0, "high": 1}, "b": [[1], [2]]}, trials=3)
    again = from_spec(SweepOptions, to_spec(settings))
    assert again == dataclasses.replace(settings)
