"""Archives from anybody: what they say of themselves is compared with what they hold, before memory or time is spent."""

import io
import zipfile

import numpy as np
import pytest

from bpjax.errors import BpjaxError, FormatError
from bpjax.io.archive import NUMBERS, REALS, TEXT, WHOLE, Archive, Entry, read_arrays

A = np.arange(6.0).reshape(2, 3)


def header(text: str, data: bytes = b"", version=(1, 0)) -> bytes:
    """An array file with any header."""
    size = (len(text)).to_bytes(2 if version == (1, 0) else 4, "little")
    return b"\x93NUMPY" + bytes(version) + size + text.encode("latin1") + data


def npy(array, **options) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, **options)
    return stream.getvalue()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.npz"


def written(path, compression=zipfile.ZIP_STORED, **members: bytes):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


def error_of(path, **wanted) -> str:
    with pytest.raises(FormatError) as caught:
        read_arrays(path, wanted or {"a": Entry()})
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and "\n" not in text
    return text


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_return_as_they_were(path, save):
    arrays = {
        "a": A,
        "turned": A.T,
        "big": A.astype(">f4"),
        "text": np.array(["å", "bc"]),
        "one": np.array(3),
        "none": A[:0],
    }
    save(path, **arrays, bytes=np.array([b"x"]))
    found = read_arrays(path, {name: Entry(NUMBERS + TEXT) for name in arrays}, {"absent": Entry()})
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        # In the byte order of the machine, the only one that JAX takes.
        assert found[name].dtype == array.dtype.newbyteorder("=") and found[name].flags.writeable
    with Archive(path, "an npz archive") as archive:
        assert set(archive.arrays) == {*arrays, "bytes"} and archive.compressed == (save is np.savez_compressed)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            header("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000), }\n", b"\0" * 64),
            "not its size",
        ),
        (header("{'descr': '<f8', 'fortran_order': False, 'shape': (8,), }\n", b"\0" * 63), "not its size"),
        (header("{'descr': '<f8', 'fortran_order': False, 'shape': (0, 9999999999), }\n"), "of nothing"),
        (header("{'descr': '<f8', 'fortran_order': False, 'shape': (-1, -1), }\n", b"\0" * 8), "cannot be"),
        (header("{'descr': '<U0', 'fortran_order': False, 'shape': (9999999999,), }\n"), "is not known here"),
        (
            header("{'descr': '|O', 'fortran_order': False, 'shape': (), }\n", b"\0" * 8),
            "pickled objects may run any code",
        ),
        (header("{'descr': '<f8', 'fortran_order': False, 'shape': ((((", b"\0" * 8), "damaged"),
        (header("{'descr': ", b"\0" * 8), "damaged"),
        (header("[]\n"), "damaged"),
        (header("x" * 60000), "damaged"),
        (
            header("{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }\n", b"\0" * 8, (3, 0)),
            "unknown version (3, 0)",
        ),
        (header("{'descr': '<U1', 'fortran_order': False, 'shape': (1,), }\n", b"\xff" * 4), "text that is none"),
        (npy(np.array([{"x": 1}]), allow_pickle=True), "pickled objects"),
        (b"", "damaged"),
        (b"\x93NUMPY", "damaged"),
    ],
)
def test_headers_that_cannot_be(path, content, words):
    text = error_of(written(path, a=content), a=Entry(NUMBERS + TEXT))
    assert "field a: " in text and words in text


def test_members_that_cannot_be(path):
    written(path, a=npy(A))
    sound = path.read_bytes()
    directory = sound.index(b"PK\x01\x02")
    huge = bytearray(sound)
    huge[directory + 24 : directory + 28] = b"\xff\xff\xff\x7f"  # the size that the table of contents says
    path.write_bytes(huge)
    assert "a.npy cannot have 2147483647 bytes in a file of" in error_of(path)
    locked = bytearray(sound)
    locked[directory + 8] |= 1
    path.write_bytes(locked)
    assert "a.npy: is encrypted" in error_of(path)
    odd = bytearray(sound)
    odd[directory + 10] = 99
    path.write_bytes(odd)
    assert "a.npy: is compressed in a way that is not known" in error_of(path)
    path.write_bytes(sound[:-4])
    assert "truncated or damaged" in error_of(path)
    flipped = bytearray(sound)
    flipped[sound.index(A.tobytes()) + 3] ^= 1
    path.write_bytes(flipped)
    assert "field a: damaged: Bad CRC" in error_of(path)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("a.npy", npy(A))
    assert "holds a member twice" in error_of(path)


def test_a_compressed_file_is_no_larger_than_its_content(path):
    """A thousand times is what the compression can do: what claims more is refused before it is read."""
    zeros = np.zeros(10**6)
    np.savez_compressed(path, a=zeros)
    np.testing.assert_array_equal(read_arrays(path, {"a": Entry()})["a"], zeros)
    data = bytearray(path.read_bytes())
    assert len(data) < 20_000
    directory = data.index(b"PK\x01\x02")
    data[directory + 24 : directory + 28] = (10**9).to_bytes(4, "little")
    path.write_bytes(data)
    assert "a.npy cannot have 1000000000 bytes" in error_of(path)


def test_what_is_wanted(path):
    np.savez(path, a=A, t=np.array(["x"]), n=np.array([1.0, np.nan]), c=A + 1j, r=np.zeros(2, "i4,f4"))
    record = np.dtype("i4,f4")
    for name, entry, words in (
        ("b", Entry(), "has no field 'b'; there are a, t, n, c, r"),
        ("a", Entry(shape=(3, 2)), "field a: has shape (2, 3), not (3, 2)"),
        ("a", Entry(shape=(None,)), "field a: has shape (2, 3), not (any)"),
        ("a", Entry(WHOLE), "field a: holds float64, not whole numbers"),
        ("a", Entry(TEXT), "field a: holds float64, not text"),
        ("t", Entry(), "field t: holds <U1, not numbers"),
        ("c", Entry(REALS), "field c: holds complex128, not real numbers"),
        ("n", Entry(finite=True), "field n: is not finite at [1]"),
        ("a", Entry(dtype=record), "field a: holds float64, not [('f0', '<i4'), ('f1', '<f4')]"),
    ):
        assert words in error_of(path, **{name: entry})
    assert read_arrays(path, {"n": Entry(), "a": Entry(shape=(None, 3)), "r": Entry(dtype=record)}).keys() == {
        "n",
        "a",
        "r",
    }


def test_files_that_are_none(tmp_path):
    assert error_of(tmp_path / "none.npz").endswith("no such file")
    assert error_of(tmp_path).endswith("is a folder, not an npz archive")
    (tmp_path / "x.npz").write_bytes(b"")
    assert error_of(tmp_path / "x.npz").endswith("is empty")
    (tmp_path / "x.npz").write_bytes(b"hello world, this is no archive")
    assert error_of(tmp_path / "x.npz").endswith("is not an npz archive")
    with pytest.raises(BpjaxError, match="cannot be read"):
        Archive("a\0b", "an npz archive")
