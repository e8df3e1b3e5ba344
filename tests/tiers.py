"""Which tests run when: every time, in the checks before a change lands (slow), before a release (exhaustive)."""

from typing import Any

import pytest


def exhaustive(*cases: Any) -> list:
    """Cases for `pytest.mark.parametrize` that only an exhaustive run takes; a tuple is several values."""
    rows = (case if isinstance(case, tuple) else (case,) for case in cases)
    return [pytest.param(*row, marks=pytest.mark.exhaustive) for row in rows]
