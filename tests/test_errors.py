import pickle

import pytest

from bpjax import errors
from bpjax.errors import BpjaxError, ConfigError, FormatError, ModelFileError, StructureError

EXAMPLES = [
    (BpjaxError("wrong"), "wrong"),
    (BpjaxError("two\n  lines"), "two lines"),
    (FormatError("a.xyz", "bad"), "a.xyz: bad"),
    (FormatError("a.xyz", "bad", 3), "a.xyz: line 3: bad"),
    (ModelFileError("m.bpjax", "bad"), "m.bpjax: bad"),
    (ConfigError("bad"), "bad"),
    (ConfigError("bad", "c.toml", "a.b"), "c.toml: a.b: bad"),
    (StructureError("bad"), "bad"),
    (StructureError("bad", "a.xyz", 0, "forces"), "a.xyz: frame 0: forces: bad"),
]


@pytest.mark.parametrize(("error", "text"), EXAMPLES)
def test_text_is_one_line_with_the_place(error, text):
    assert str(error) == text


@pytest.mark.parametrize(("error", "text"), EXAMPLES)
def test_errors_survive_a_process_boundary(error, text):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error) and str(copy) == text


def test_all_errors_have_one_base():
    classes = [x for x in vars(errors).values() if isinstance(x, type) and issubclass(x, Exception)]
    assert len(classes) >= 10 and all(issubclass(x, BpjaxError) for x in classes)
