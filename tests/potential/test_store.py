"""Model files that say what their model cannot be; round trips are tested with the models."""

import copy
from pathlib import Path

import jax
import numpy as np
import pytest

from bpjax.cli.main import main
from bpjax.errors import ModelFileError
from bpjax.excited import load_states
from bpjax.io.model_file import read_model_file, write_model_file
from bpjax.potential import load, save
from bpjax.training.checkpoint import read_checkpoint, write_checkpoint
from tests.small_model import MODEL, small_params

DIABATIC = Path(__file__).parents[2] / "data" / "methaniminium" / "diabatic.bpjax"


@pytest.fixture
def path(tmp_path):
    save(tmp_path / "m.bpjax", MODEL, small_params())
    return tmp_path / "m.bpjax"


def first(arrays):
    """Name and place of an array of a network."""
    name = "networks"
    while isinstance(arrays[name], dict):
        arrays = arrays[name]
        name = next(iter(arrays))
    return arrays, name


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: a.astype(int), "holds int64, the model needs numbers like float32"),
        (lambda a: a + 1j, "holds complex64, the model needs"),
        (lambda a: a > 0, "holds bool, the model needs"),
        (lambda a: a * np.nan, "holds numbers that are not finite"),
        (lambda a: a + np.inf, "holds numbers that are not finite"),
        (lambda a: a[..., :1], "the model needs shape"),
    ],
)
def test_arrays_that_do_not_fit(path, change, words):
    meta, arrays = read_model_file(path)
    arrays = copy.deepcopy(arrays)
    group, name = first(arrays)
    group[name] = change(np.asarray(group[name]))
    write_model_file(path, meta, arrays)
    with pytest.raises(ModelFileError, match=words) as caught:
        load(path)
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("elements", ["Si", "O"], r"elements are \['Si', 'O'\], those of its options \['O', 'Si'\]"),
        ("elements", [], "elements are"),
        ("elements", None, "elements are None"),
        ("units", {"energy": "hartree", "length": "bohr"}, "units are .*hartree.*; models are in"),
        ("units", {}, "units are {}"),
    ],
)
def test_what_stands_beside_the_options(path, field, value, words):
    meta, arrays = read_model_file(path)
    write_model_file(path, {**meta, field: value}, arrays)
    with pytest.raises(ModelFileError, match=words):
        load(path)


def test_ranges_that_are_not_known_are_infinite(path):
    model, params = load(path)
    own = params["scaling"]["Si"]
    unknown = {**params, "scaling": {**params["scaling"], "Si": {**own, "max": np.full_like(own["max"], np.inf)}}}
    save(path, model, unknown)
    assert np.isinf(load(path)[1]["scaling"]["Si"]["max"]).all()


def test_states_of_the_wrong_file(tmp_path, path):
    meta, arrays = read_model_file(DIABATIC)
    write_model_file(tmp_path / "d.bpjax", {**meta, "elements": meta["elements"][::-1]}, arrays)
    with pytest.raises(ModelFileError, match="elements are"):
        load_states(tmp_path / "d.bpjax")
    with pytest.raises(ModelFileError, match="holds a model of kind Potential, not one of several states"):
        load_states(path)
    for kind in ([], "Sum", None):  # a list is no key of a table
        write_model_file(tmp_path / "odd.bpjax", {**meta, "spec": {**meta["spec"], "type": kind}}, arrays)
        with pytest.raises(ModelFileError, match="holds a model of no known kind, not one of several states"):
            load_states(tmp_path / "odd.bpjax")


@pytest.mark.parametrize("command", ["predict", "evaluate", "md", "convert"])
def test_a_model_of_several_states_is_for_hop(tmp_path, capsys, command):
    out = ["-o", "out.extxyz"] if command in ("predict", "md") else []
    words = [command, str(DIABATIC), str(tmp_path / ("nnp" if command == "convert" else "in.xyz")), *out]
    assert main(words) == 2
    assert (
        "is a potential of several states; bpjax hop and bpjax.excited.load_states take it" in capsys.readouterr().err
    )


def test_checkpoints_of_other_types(tmp_path, path):
    state = {"a": np.zeros(3, np.float32), "b": np.int32(2)}
    write_checkpoint(tmp_path / "c.bpjax", state, {})
    found = read_checkpoint(tmp_path / "c.bpjax", state, {})
    assert jax.tree.all(jax.tree.map(np.array_equal, found, state))
    with pytest.raises(ModelFileError, match="do not fit this run"):
        read_checkpoint(tmp_path / "c.bpjax", {**state, "b": np.float32(2)}, {})
    with pytest.raises(ModelFileError, match="is the checkpoint of a run, not its model"):
        load(tmp_path / "c.bpjax")
    with pytest.raises(ModelFileError, match="is a model, not a checkpoint"):
        read_checkpoint(path, state, {})
