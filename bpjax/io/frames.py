"""Which frames of a file: ASE's notation, and their numbers."""

from __future__ import annotations

import ase

from bpjax.errors import ConfigError


def frame_selection(index: str | int | slice) -> int | slice:
    """ASE's notation of frames ("3", "-1", ":", "::10") as a number or slice.

    Raises:
      ConfigError: it is no such notation.
    """
    if not isinstance(index, str):
        return index
    try:
        numbers = [int(part) if part else None for part in index.split(":")]
        if len(numbers) == 1 and numbers[0] is not None:
            return numbers[0]
        if 2 <= len(numbers) <= 3:
            return slice(*numbers)
    except ValueError:
        pass
    raise ConfigError(f"{index!r} selects no frames; use a number or START:STOP:STEP, as in '0', '-1', ':', '::10'")


def frame_numbers(selection: int | slice, count: int) -> list[int]:
    """Number of each frame in the file, or in the selection where it is counted from the end."""
    if isinstance(selection, int):
        return [max(selection, 0)]
    start, step = selection.start or 0, selection.step or 1
    if start < 0 or step < 0:
        return list(range(count))
    return [start + step * i for i in range(count)]


def chosen(frames: list[ase.Atoms], selection: int | slice) -> list[ase.Atoms]:
    """The frames of a selection; none where a number is beyond them."""
    if isinstance(selection, slice):
        return frames[selection]
    return [frames[selection]] if -len(frames) <= selection < len(frames) else []
