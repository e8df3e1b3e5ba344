"""scaling.data, weights.NNN.data and whole folders."""

import dataclasses
import itertools
import shutil

import numpy as np
import pytest

from bpjax.errors import BpjaxError, ConfigError, FormatError, OutputExistsError
from bpjax.interop.n2p2 import read_folder, write_folder
from bpjax.networks import MLP
from tests.interop.n2p2.example import INPUT, scaling, weight_count, weights, write_example


@pytest.fixture
def folder(tmp_path):
    return write_example(tmp_path / "nnp")


def change(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def change_line(path, number, function):
    lines = path.read_text().splitlines()
    lines[number - 1] = function(lines[number - 1])
    path.write_text("\n".join(line for line in lines if line is not None) + "\n")


def same(a, b):
    assert a.settings == b.settings
    for element in a.settings.elements:
        np.testing.assert_array_equal(a.scaling[element], b.scaling[element])
        assert a.weights[element].keys() == b.weights[element].keys()
        for name, part in itertools.product(a.weights[element], ("kernel", "bias")):
            np.testing.assert_array_equal(a.weights[element][name][part], b.weights[element][name][part])


def test_numbers_are_where_they_belong(folder):
    found = read_folder(folder)
    assert {e: t.shape for e, t in found.scaling.items()} == {"H": (4, 4), "C": (2, 4), "O": (4, 4)}
    rows = np.loadtxt(folder / "scaling.data")[:, 2:]
    np.testing.assert_array_equal(np.concatenate(list(found.scaling.values())), rows)
    flat = np.loadtxt(folder / "weights.001.data", usecols=0)
    layers = found.weights["H"]
    assert {name: layer["kernel"].shape for name, layer in layers.items()} == {
        "hidden_0": (4, 3),
        "hidden_1": (3, 2),
        "output": (2, 1),
    }
    parts = [layer[part].ravel() for layer in layers.values() for part in ("kernel", "bias")]
    np.testing.assert_array_equal(np.concatenate(parts), flat)
    assert all(p.dtype == np.float64 for p in parts)


@pytest.mark.parametrize("hidden", [(3, 2), (), (1,)])
@pytest.mark.parametrize("columns", [4, 5, 6])
def test_written_folders_return_exactly(tmp_path, columns, hidden):
    layers = f"global_hidden_layers_short {len(hidden)}\n"
    layers += f"global_nodes_short {' '.join(map(str, hidden))}\n" if hidden else ""
    text = INPUT.replace("global_hidden_layers_short 2\nglobal_nodes_short 3 2\n", layers)
    text = text.replace("t p l", " ".join("t" * len(hidden) + "l"))
    if columns == 4:
        text = text.replace("center_symmetry_functions\n", "")
    path = write_example(tmp_path / "a", text=text)
    (path / "scaling.data").write_text(scaling(columns))
    for number, inputs in ((1, 4), (6, 2), (8, 4)):
        (path / f"weights.{number:03d}.data").write_text(weights(inputs, hidden=hidden))
    found = read_folder(path)
    assert np.isnan(found.scaling["H"]).all(axis=0).tolist() == [n >= columns - 2 for n in range(4)]
    write_folder(tmp_path / "b", found, comments=["Units: eV."])
    same(read_folder(tmp_path / "b"), found)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]
    first = (tmp_path / "b" / "weights.001.data").read_text().splitlines()[2].split()
    assert first[1:] == ["a", "1", "0", "1", "1", "1"]  # n2p2's seven columns
    last = (tmp_path / "b" / "weights.001.data").read_text().splitlines()[-1].split()
    assert last[1:] == ["b", str(weight_count(4, hidden)), str(len(hidden) + 1), "1"]


def test_elements_may_have_networks_of_their_own(tmp_path):
    path = write_example(tmp_path / "a", text=INPUT + "element_nodes_short C 1 5\n")
    (path / "weights.006.data").write_text(weights(2, hidden=(5, 2)))
    found = read_folder(path, element_nodes="documented")
    assert found.settings.networks[1] == MLP((5, 2), ("tanh", "softplus"))
    write_folder(tmp_path / "b", found)
    same(read_folder(tmp_path / "b"), found)


def test_widths_of_one_element_as_n2p2_takes_them(tmp_path):
    path = write_example(tmp_path / "a", text=INPUT + "element_nodes_short C 1 5\n")
    (path / "weights.006.data").write_text(weights(2, hidden=(1, 2)))  # trained by n2p2
    assert read_folder(path).settings.networks[1].hidden == (1, 2)
    with pytest.raises(FormatError, match="of the 30 weights of a 2-5-2-1 network"):
        read_folder(path, element_nodes="documented")
    (path / "weights.006.data").write_text(weights(2, hidden=(5, 2)))
    with pytest.warns(UserWarning, match="30 weights fit .* uses the first 10"):
        assert read_folder(path).settings.networks[1].hidden == (1, 2)
    with pytest.raises(ConfigError, match="element_nodes: 'runner' is not one of n2p2, documented"):
        read_folder(path, element_nodes="runner")


def test_the_last_line_of_runner_is_no_scaling(folder):
    expected = read_folder(folder)
    with (folder / "scaling.data").open("a") as file:
        file.write("  -0.2691374625   -0.2381480047\n")
    same(read_folder(folder), expected)
    with (folder / "scaling.data").open("a") as file:
        file.write("  -0.2691374625   -0.2381480047\n")
    with pytest.raises(
        FormatError, match=r"scaling\.data: line 12: surplus line: input\.nn has 4 functions of H, 2 func"
    ):
        read_folder(folder)


@pytest.mark.parametrize(
    ("number", "function", "message"),
    [
        (11, lambda line: None, "line 10: ends before function 4 of O: 9 lines for 10 functions"),
        (11, lambda line: line + "\n3 5 0 1 0.5 0.1", "line 12: surplus line: input.nn has 4 functions of H, 2 functions"),
        (5, lambda line: None, "line 5: has indices 2 1, but function 4 of H (H 9 H H 0.01 -1.0 1.5 6.0 0.8) has 1 4"),
        (5, lambda line: line.replace("1    4", "1    x"), "line 5: expected an index, found 'x'"),
        (5, lambda line: " ".join(line.split()[:3]), "line 5: function 4 of H (H 9 H H 0.01 -1.0 1.5 6.0 0.8) needs 4 to 6"),
        (5, lambda line: line + " 1.0", "line 5: function 4 of H (H 9 H H 0.01 -1.0 1.5 6.0 0.8) needs 4 to 6 columns"),
        (5, lambda line: " ".join(line.split()[:5]), "line 5: has 5 columns, but the lines before it have 6"),
        (5, lambda line: " ".join(line.split()[:4]), "line 5: function 4 of H (H 9 H H 0.01 -1.0 1.5 6.0 0.8): the mean is"),
        (5, lambda line: "1 4 0 nan 0 1", "line 5: expected the maximum, found 'nan'"),
        (5, lambda line: "1 4 0 1 inf 1", "line 5: expected the mean, found 'inf'"),
        (5, lambda line: "1 4 0 1 0.5 x", "line 5: expected the sigma, found 'x'"),
        (5, lambda line: "1 4 0 1 0.5 -1", "line 5: function 4 of H (H 9 H H 0.01 -1.0 1.5 6.0 0.8): sigma -1 is negative"),
        (5, lambda line: "1 4 2 1 1.5 1", "line 5: function 4 of H (H 9 H H 0.01 -1.0 1.5 6.0 0.8): the minimum 2 is greater"),
        (5, lambda line: "1 4 1 1 1 0", "line 5: function 4 of H (H 9 H H 0.01 -1.0 1.5 6.0 0.8): minimum and maximum are "
                                        "both 1, but scaling divides by their difference"),
    ],
)  # fmt: skip
def test_wrong_scaling(folder, number, function, message):
    change_line(folder / "scaling.data", number, function)
    with pytest.raises(FormatError) as caught:
        read_folder(folder)
    assert str(caught.value).startswith(f"{folder}/scaling.data: {message}"), str(caught.value)


def test_what_scaling_needs(folder):
    change(
        folder / "input.nn", "center_symmetry_functions\nscale_symmetry_functions\n", "scale_symmetry_functions_sigma\n"
    )
    change_line(folder / "scaling.data", 7, lambda line: "2 2 0 0 0 0")
    with pytest.raises(FormatError, match=r"line 7: function 2 of C .*: sigma is 0, but scaling divides by it"):
        read_folder(folder)
    (folder / "scaling.data").write_text(scaling(5))
    with pytest.raises(
        FormatError, match=r"line 2: function 1 of H .*: the sigma is missing, but input.nn asks for scal"
    ):
        read_folder(folder)
    change(folder / "input.nn", "scale_symmetry_functions_sigma\n", "center_symmetry_functions\n")
    change_line(folder / "scaling.data", 7, lambda line: "2 2 0 0 0")
    assert read_folder(folder).scaling["C"][1].tolist()[:3] == [0, 0, 0]
    (folder / "scaling.data").write_text(scaling(4))
    with pytest.raises(FormatError, match=r"line 2: function 1 of H .*: the mean is missing"):
        read_folder(folder)
    change(folder / "input.nn", "center_symmetry_functions\n", "")
    read_folder(folder)


@pytest.mark.parametrize(
    ("name", "function", "message"),
    [
        (
            "weights.006.data",
            lambda text: text.rsplit("\n", 3)[0],
            "line 19: ends after 18 of the 20 weights of a 2-3-2-1 netwo",
        ),
        (
            "weights.006.data",
            lambda text: text + "0.1\n\n",
            "line 22: surplus line: a 2-3-2-1 network has 20 weights, found 21",
        ),
        ("weights.006.data", lambda text: "x" + text, "line 1: expected a weight, found 'x'"),
        (
            "weights.006.data",
            lambda text: text.replace("\n", "\nnan\n", 1),
            "line 2: expected a weight, found 'nan'",
        ),
        ("weights.006.data", lambda text: "\n \n", "is empty"),
        ("scaling.data", lambda text: "# nothing\n", "is empty"),
    ],
)
def test_wrong_files(folder, name, function, message):
    (folder / name).write_text(function((folder / name).read_text()))
    with pytest.raises(FormatError) as caught:
        read_folder(folder)
    assert str(caught.value).startswith(f"{folder}/{name}: {message}"), str(caught.value)


@pytest.mark.parametrize("name", ["input.nn", "scaling.data", "weights.008.data"])
def test_missing_files(folder, name):
    (folder / name).unlink()
    with pytest.raises(FormatError, match=rf"{name}: no such file"):
        read_folder(folder)


def test_no_folder(folder, tmp_path):
    with pytest.raises(FormatError, match="none: no such folder"):
        read_folder(tmp_path / "none")
    with pytest.raises(FormatError, match=r"input\.nn: is a file, expected a folder"):
        read_folder(folder / "input.nn")


def test_nothing_is_overwritten_by_accident(folder, tmp_path):
    first = read_folder(folder)
    second = dataclasses.replace(first, weights={e: {**w, "output": w["output"]} for e, w in first.weights.items()})
    second.weights["H"]["output"] = {"kernel": np.array([[1.0], [2.0]]), "bias": np.array([3.0])}
    with pytest.raises(OutputExistsError, match="nnp already exists"):
        write_folder(folder, second)
    same(read_folder(folder), first)
    write_folder(folder, second, overwrite=True)
    same(read_folder(folder), second)
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(
        OutputExistsError, match=r"holds thesis\.tex, which is no part of a potential; it is not replaced"
    ):
        write_folder(folder, first, overwrite=True)
    same(read_folder(folder), second)
    with pytest.raises(OutputExistsError, match="is a file, not a folder"):
        write_folder(folder / "thesis.tex", first, overwrite=True)
    with pytest.raises(BpjaxError, match="the folder does not exist"):
        write_folder(tmp_path / "none" / "nnp", first)
    assert [p.name for p in tmp_path.iterdir()] == ["nnp"]


def test_a_failure_leaves_what_was_there(folder, tmp_path, monkeypatch):
    from bpjax.interop.n2p2 import folder as module

    first = read_folder(folder)

    def fail(path, text):
        if "weights" in str(path):
            raise KeyboardInterrupt
        path.write_text(text)

    monkeypatch.setattr(module, "write_text", fail)
    with pytest.raises(KeyboardInterrupt):
        write_folder(folder, first, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["nnp"]
    same(read_folder(folder), first)


@pytest.mark.slow
@pytest.mark.reference
def test_published_folders_return_exactly(shared, tmp_path):
    folders = sorted((shared / "reference" / "n2p2").glob("*/")) + sorted((shared / "data" / "mlearn_nnp").glob("*/"))
    folders += [shared / "data" / "n2p2" / name for name in ("Cu2S_PBE", "H2O_RPBE-D3")]
    assert len(folders) == 37 + 3 + 2
    for path in folders:
        found = read_folder(path, element_nodes="documented")
        write_folder(tmp_path / "copy", found)
        same(read_folder(tmp_path / "copy"), found)
        shutil.rmtree(tmp_path / "copy")
