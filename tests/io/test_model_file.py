import io
import json
import os
import zipfile

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from bpjax.errors import BpjaxError, ModelFileError
from bpjax.io.model_file import FORMAT, META_FIELDS, VERSION, read_model_file, write_model_file

META = {
    "spec": {"type": "Potential", "cutoff": 0.1 + 0.2},
    "elements": ["Si", "O"],
    "units": {"energy": "eV", "length": "A"},
    "provenance": {"note": "å"},
}
ARRAYS = {
    "params": {"Si": {"Dense_0": {"kernel": np.arange(6.0).reshape(2, 3)}}, "O": np.float32(3)},
    "n": np.arange(2),
}


@pytest.fixture
def path(tmp_path):
    write_model_file(tmp_path / "m.bpjax", META, ARRAYS)
    return tmp_path / "m.bpjax"


def members(path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rewrite(path, content: dict[str, bytes], compression=zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in content.items():
            archive.writestr(name, data)


def change_header(path, **fields) -> None:
    content = members(path)
    header = {**json.loads(content["model.json"]), **fields}
    content["model.json"] = json.dumps({k: v for k, v in header.items() if v is not ...}).encode()
    rewrite(path, content)


def assert_same(a, b):
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    else:
        assert a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def test_round_trip(path):
    meta, arrays = read_model_file(path)
    assert meta == META
    assert arrays["params"]["O"].shape == () and arrays["params"]["O"].dtype == np.float32
    np.testing.assert_array_equal(arrays["params"]["Si"]["Dense_0"]["kernel"], np.arange(6.0).reshape(2, 3))
    arrays["n"][0] = 5  # not a view on something read-only


dtypes = st.sampled_from(["?", "<i4", "<i8", "<u2", "<f2", "<f4", "<f8", "<c16"])
leaves = dtypes.flatmap(lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0, max_side=3)))
names = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"], exclude_characters="/\\"), min_size=1)
keys = names.filter(lambda name: name not in (".", ".."))
trees = st.dictionaries(keys, st.recursive(leaves, lambda t: st.dictionaries(keys, t, min_size=1), max_leaves=6))


@given(trees)
@pytest.mark.slow
def test_arrays_return_bit_by_bit(tmp_path_factory, tree):
    path = tmp_path_factory.mktemp("m") / "m.bpjax"
    write_model_file(path, META, tree)
    _, arrays = read_model_file(path)
    assert_same(arrays, tree)


def test_other_byte_orders_are_written_as_that_of_the_machine(tmp_path):
    write_model_file(tmp_path / "m", META, {"a": np.arange(3.0, dtype=">f8")})
    assert_same(read_model_file(tmp_path / "m")[1], {"a": np.arange(3.0)})


def test_transposed_arrays_return(tmp_path):
    tree = {"a": np.arange(6.0).reshape(2, 3).T, "b": np.arange(6.0)[::2]}
    write_model_file(tmp_path / "m", META, tree)
    _, arrays = read_model_file(tmp_path / "m")
    assert_same(arrays, tree)


def test_bytes_depend_on_the_content_only(path, tmp_path):
    reordered = {"n": ARRAYS["n"], "params": dict(reversed(ARRAYS["params"].items()))}
    write_model_file(tmp_path / "b.bpjax", META, reordered)
    assert path.read_bytes() == (tmp_path / "b.bpjax").read_bytes()


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"a": np.array([object()])}, "array 'a': dtype object"),
        ({"a": "text"}, "array 'a': dtype"),
        ({"a": None}, "array 'a': dtype object"),
        ({"a/b": np.zeros(1)}, "without '/'"),
        ({"": np.zeros(1)}, "non-empty"),
        ({"a": {}}, "'a' is empty"),
    ],
)
def test_what_cannot_be_stored_is_refused(tmp_path, tree, message):
    with pytest.raises(ModelFileError, match=message):
        write_model_file(tmp_path / "m.bpjax", META, tree)
    assert not (tmp_path / "m.bpjax").exists()


@pytest.mark.parametrize("meta", [{}, {**META, "extra": 1}, {**META, "spec": np.zeros(2)}, {**META, "spec": np.nan}])
def test_wrong_meta_is_refused(tmp_path, meta):
    with pytest.raises(ModelFileError, match="meta"):
        write_model_file(tmp_path / "m.bpjax", meta, {})


def error_of(path) -> str:
    with pytest.raises(ModelFileError) as caught:
        read_model_file(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and "\n" not in text
    return text


def test_missing_empty_and_foreign_files(tmp_path):
    assert error_of(tmp_path / "none.bpjax").endswith("no such file")
    assert "is a folder" in error_of(tmp_path)
    file = tmp_path / "m.bpjax"
    file.touch()
    assert error_of(file).endswith("is empty")
    file.write_text("hello")
    assert error_of(file).endswith("not a bpjax model file")
    rewrite(file, {"hello.txt": b""})
    assert "not a bpjax model file: a zip without model.json" in error_of(file)
    rewrite(file, {"model.json": b'{"format": "other"}'})
    assert "not a bpjax model file" in error_of(file)
    rewrite(file, {"model.json": b"[1, 2"})
    assert "damaged model file" in error_of(file)


def test_every_truncation_is_noticed(path):
    data = path.read_bytes()
    for length in range(1, len(data), 37):
        path.write_bytes(data[:length])
        assert "truncated" in error_of(path) or "not a bpjax" in error_of(path)


def test_flipped_byte_in_the_data_is_noticed(path):
    data = bytearray(path.read_bytes())
    position = bytes(data).index(np.arange(6.0).tobytes())
    data[position + 9] ^= 1
    path.write_bytes(data)
    assert "damaged" in error_of(path)


def test_future_version_asks_for_an_upgrade(path):
    change_header(path, version=VERSION + 1, unheard_of=1)
    text = error_of(path)
    assert "format version 3" in text and "reads up to version 2" in text and "upgrade bpjax" in text


@pytest.mark.parametrize("version", [0, -1, "1", 1.0, True, None])
def test_nonsense_version(path, version):
    change_header(path, version=version)
    assert "version must be a positive integer" in error_of(path)


def test_unknown_and_missing_fields(path):
    change_header(path, colour="red")
    assert "unknown field 'colour'; allowed: format, version, spec" in error_of(path)
    for field in META_FIELDS:
        write_model_file(path, META, ARRAYS)
        change_header(path, **{field: ...})
        assert f"missing field '{field}'" in error_of(path)


def test_missing_and_unexpected_arrays(path):
    content = members(path)
    del content["arrays/params/O.npy"]
    rewrite(path, content)
    assert "array 'params/O' is missing" in error_of(path)
    write_model_file(path, META, ARRAYS)
    rewrite(path, {**members(path), "evil.pkl": b"x"})
    assert "unexpected member 'evil.pkl'" in error_of(path)


def npy(array, **options) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version=(1, 0), **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.array([{"a": 1}], dtype=object), "pickled objects may run any code"),
        (np.array(["x"]), "holds <U1, not numbers"),
        (np.zeros(2, "i4,f4"), "holds [('f0', '<i4'), ('f1', '<f4')], not numbers"),
    ],
)
def test_objects_are_never_loaded(path, array, words):
    content = members(path)
    content["arrays/n.npy"] = npy(array, allow_pickle=True)
    rewrite(path, content)
    assert f"field arrays/n: {words}" in error_of(path)


def test_arrays_must_be_what_the_table_says(path):
    content = members(path)
    rewrite(path, {**content, "arrays/n.npy": npy(np.zeros(3))})
    assert "array 'n' is not what model.json says" in error_of(path)
    rewrite(path, {**content, "arrays/n.npy": content["arrays/n.npy"][:-1]})
    assert "field arrays/n: its header says int64 (2,), which is not its size" in error_of(path)
    header = json.loads(content["model.json"])
    header["arrays"]["n"]["shape"] = [10**12, 10**12]
    huge = content["arrays/n.npy"].replace(b"(2,), }                        ", b"(1000000000000, 1000000000000)}")
    rewrite(path, {**content, "model.json": json.dumps(header).encode(), "arrays/n.npy": huge})
    assert "which is not its size" in error_of(path)


def test_what_was_changed_since_is_noticed(path):
    """The zip has checksums of its own for each member, which a program that edits one of them makes anew."""
    for field, value in (
        ("units", {"energy": "hartree", "length": "A"}),
        ("elements", ["O", "Si"]),
        ("provenance", {}),
    ):
        write_model_file(path, META, ARRAYS)
        change_header(path, **{field: value})
        assert "was changed after it was written" in error_of(path)
    write_model_file(path, META, ARRAYS)
    rewrite(path, {**members(path), "arrays/n.npy": npy(np.array([0, 2]))})
    assert "was changed after it was written" in error_of(path)


def test_files_of_version_1_have_no_checksum(path):
    change_header(path, version=1)
    assert "unknown field 'checksum'" in error_of(path)
    change_header(path, checksum=...)
    meta, arrays = read_model_file(path)
    assert meta == META and arrays["params"]["O"] == np.float32(3)
    np.testing.assert_array_equal(arrays["n"], ARRAYS["n"])
    change_header(path, version=2)
    assert "missing field 'checksum'" in error_of(path)


def test_compressed_members_are_refused(path):
    rewrite(path, members(path), zipfile.ZIP_DEFLATED)
    assert "compressed" in error_of(path)


def test_twice_the_same_member(path):
    content = members(path)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("model.json", content["model.json"])
    assert "twice" in error_of(path)


def test_name_that_is_group_and_array(path):
    content = members(path)
    header = json.loads(content["model.json"])
    header["arrays"]["n/a"] = header["arrays"]["n"]
    rewrite(
        path,
        {**content, "model.json": json.dumps(header).encode(), "arrays/n/a.npy": content["arrays/n.npy"]},
    )
    assert "a group and an array" in error_of(path)


@given(st.binary(max_size=300), st.booleans())
def test_random_bytes_are_never_anything_but_a_model_file_error(tmp_path_factory, data, signature):
    path = tmp_path_factory.mktemp("m") / "m.bpjax"
    path.write_bytes((b"PK\x03\x04" if signature else b"") + data)
    error_of(path)


@given(st.data())
def test_mutated_files_are_read_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("m") / "m.bpjax"
    write_model_file(path, META, ARRAYS)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        read_model_file(path)
    except ModelFileError as error:
        assert str(path) in str(error)


@given(st.sampled_from(["model.json", "arrays/n.npy"]), st.data())
def test_mutated_members_are_read_or_refused(tmp_path_factory, name, data):
    """As above, with checksums that fit: what a hostile author would do."""
    path = tmp_path_factory.mktemp("m") / "m.bpjax"
    write_model_file(path, META, ARRAYS)
    content = members(path)
    member = bytearray(content[name])
    for _ in range(data.draw(st.integers(1, 4))):
        member[data.draw(st.integers(0, len(member) - 1))] = data.draw(st.integers(0, 255))
    rewrite(path, {**content, name: bytes(member)})
    try:
        read_model_file(path)
    except ModelFileError as error:
        assert str(path) in str(error)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_any_json_is_read_or_refused(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("m") / "m.bpjax"
    for header in (value, {"format": FORMAT, "version": 1, **META, "arrays": value}):
        rewrite(path, {"model.json": json.dumps(header).encode()})
        try:
            read_model_file(path)
        except ModelFileError as error:
            assert str(path) in str(error)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_full_disk():
    with pytest.raises(BpjaxError, match="cannot write /dev/full: the disk is full"):
        write_model_file("/dev/full", META, ARRAYS)
