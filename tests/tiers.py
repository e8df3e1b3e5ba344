"""Cases that not every run of the tests takes: README.md in this folder has the rules."""

from typing import Any

import pytest


def slow(*cases: Any) -> list:
    """Cases for `pytest.mark.parametrize` that are left out by default; a tuple is several values."""
    return _marked(pytest.mark.slow, cases)


def exhaustive(*cases: Any) -> list:
    """Cases for `pytest.mark.parametrize` that only an exhaustive run takes; a tuple is several values."""
    return _marked(pytest.mark.exhaustive, cases)


def _marked(mark: pytest.MarkDecorator, cases: tuple) -> list:
    rows = (case if isinstance(case, tuple) else (case,) for case in cases)
    return [pytest.param(*row, marks=mark) for row in rows]
