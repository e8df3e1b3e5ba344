"""Which tests run when: every time, in the checks before a change lands (slow), before a release (exhaustive)."""

from typing import Any

import pytest


def slow(*cases: Any, mark=pytest.mark.slow) -> list:
    """Cases for `pytest.mark.parametrize` that the quick run leaves out; a tuple is several values."""
    rows = (case if isinstance(case, tuple) else (case,) for case in cases)
    return [pytest.param(*row, marks=mark) for row in rows]


def exhaustive(*cases: Any) -> list:
    """Cases that only an exhaustive run takes."""
    return slow(*cases, mark=pytest.mark.exhaustive)
