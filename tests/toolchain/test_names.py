"""Every name that the code uses is defined: linters cannot say so here, as shapes in annotations look like names to them."""

import builtins
import symtable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OF_MODULES = {"__file__", "__name__", "__doc__", "__annotations__"}


def undefined(text: str, path: str) -> set[str]:
    """Names that are looked for among those of the module, where they are not."""
    module = symtable.symtable(text, path, "exec")
    known = {symbol.get_name() for symbol in module.get_symbols() if symbol.is_assigned() or symbol.is_imported()}
    known |= {table.get_name() for table in module.get_children()} | set(dir(builtins)) | OF_MODULES
    found, tables = set(), [module]
    while tables:
        table = tables.pop()
        tables += table.get_children()
        for symbol in table.get_symbols():
            of_module = symbol.is_global() or table is module
            if of_module and symbol.is_referenced() and symbol.get_name() not in known:
                found.add(symbol.get_name())
            if symbol.is_declared_global() and symbol.is_assigned():
                known.add(symbol.get_name())
    return found


@pytest.mark.parametrize("folder", ["bpjax", "tests"])
def test_names_are_defined(folder):
    wrong = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        if names := undefined(path.read_text(), str(path)):
            wrong[str(path.relative_to(ROOT))] = sorted(names)
    assert not wrong


def test_a_name_that_is_not_there_is_found():
    text = 'import os\ndef f(x: "N 3", y=os):\n    def g():\n        return x + missing\n'
    text += "    return [z for z in g()] + later\nlater = 1\n"
    assert undefined(text, "a.py") == {"missing"}
