"""The examples in docstrings are right."""

import doctest
import importlib
import pkgutil

import pytest

import bpjax

MODULES = sorted(
    module.name for module in pkgutil.walk_packages(bpjax.__path__, "bpjax.") if "__main__" not in module.name
)


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # examples may write files
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "bpjax").startswith("bpjax"):
            raise
        pytest.skip(f"needs the optional package {error.name}")
    result = doctest.testmod(module)
    assert result.failed == 0
