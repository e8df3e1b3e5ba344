"""Progress of long work: a bar on a terminal, plain lines elsewhere, silence by default.

Functions that take long have an argument ``progress: ProgressFn = silent`` and use it so:

>>> def work(progress: ProgressFn = silent) -> None:
...     with progress(3, "baking") as bar:
...         for tray in range(3):
...             bar.update(1, tray=tray, heat=0.1234567)
>>> work()

The command line passes `progress`, which writes to the standard error stream: results on standard output stay clean.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Protocol, TypeVar, runtime_checkable

_Item = TypeVar("_Item")

LINE_INTERVAL = 10.0
"""Seconds between two plain lines."""

PATIENCE = 2.0
"""Seconds that work may take before `patient` shows anything."""


@runtime_checkable
class Progress(Protocol):
    """What the block under ``with progress(...)`` gets."""

    def update(self, steps: int = 1, **values: object) -> None:
        """Says that so many more steps are done, with a few values to show (numbers or text)."""
        ...

    def note(self, text: str) -> None:
        """Shows a line that stays, such as "neighbour list grown"."""
        ...


@runtime_checkable
class ProgressFn(Protocol):
    """What shows progress: `progress`, `silent`, or something of the caller's own."""

    def __call__(self, total: int, description: str, start: int = 0) -> AbstractContextManager[Progress]:
        """Opens the display.

        Args:
          total: number of steps altogether; 0 where it is not known.
          description: a word or two.
          start: steps that were done in an earlier run.
        """
        ...


class _Silent:
    def update(self, steps: int = 1, **values: object) -> None:
        pass

    def note(self, text: str) -> None:
        pass


@contextmanager
def silent(total: int, description: str, start: int = 0) -> Iterator[Progress]:
    """Shows nothing."""
    yield _Silent()


@contextmanager
def progress(total: int, description: str, start: int = 0) -> Iterator[Progress]:
    """A bar with the remaining time on a terminal, a plain line every `LINE_INTERVAL` seconds elsewhere."""
    with _shown_after(0.0, total, description, start) as bar:
        yield bar


@contextmanager
def patient(total: int, description: str, start: int = 0) -> Iterator[Progress]:
    """As `progress`, of what takes longer than `PATIENCE`: for work that is done at once nearly always."""
    with _shown_after(PATIENCE, total, description, start) as bar:
        yield bar


@contextmanager
def _shown_after(patience: float, total: int, description: str, start: int) -> Iterator[Progress]:
    if sys.stderr.isatty():
        with _bar(patience, total, description, start) as bar:
            yield bar
    else:
        lines = _Lines(patience, total, description, start)
        yield lines
        lines.close()


def counted(items: Iterable[_Item], bar: Progress) -> Iterator[_Item]:
    """The items, each of which is a step when the next one is asked for."""
    for item in items:
        yield item
        bar.update()


class _Lines:
    """Plain lines, for log files and pipes; the last state is always shown."""

    def __init__(self, patience: float, total: int, description: str, start: int):
        self._patience, self._total, self._description, self._done = patience, total, description, start
        self._began = self._shown = time.monotonic()
        self._values: dict[str, object] = {}
        self._pending = True

    def update(self, steps: int = 1, **values: object) -> None:
        self._done += steps
        self._values = values or self._values
        self._pending = True
        if time.monotonic() - self._shown >= LINE_INTERVAL:
            self._show()

    def note(self, text: str) -> None:
        print(f"{self._description}: {text}", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._pending and time.monotonic() - self._began >= self._patience:
            self._show()

    def _show(self) -> None:
        self._shown, self._pending = time.monotonic(), False
        share = f"{self._done}/{self._total}" if self._total else str(self._done)
        words = [f"{self._description}: {share}", *_shown(self._values)]
        words.append(f"({self._shown - self._began:.1f} s)")
        print(*words, file=sys.stderr, flush=True)


@contextmanager
def _bar(patience: float, total: int, description: str, start: int) -> Iterator[Progress]:
    """A bar by rich, which is imported only where there is a terminal."""
    from rich import progress as rich_progress
    from rich.console import Console
    from rich.markup import escape

    columns = (
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(bar_width=24),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TimeElapsedColumn(),
        rich_progress.TextColumn("left"),
        rich_progress.TimeRemainingColumn(),
        rich_progress.TextColumn("{task.fields[values]}"),
    )
    display = rich_progress.Progress(*columns, console=Console(stderr=True))
    task: Any = display.add_task(escape(description), total=total or None, completed=start, values="")
    began = time.monotonic()
    with ExitStack() as stack:

        class Bar:
            def __init__(self) -> None:
                self.hidden = True

            def show(self) -> None:
                if self.hidden and time.monotonic() - began >= patience:
                    stack.enter_context(display)
                    self.hidden = False

            def update(self, steps: int = 1, **values: object) -> None:
                self.show()
                shown = {"values": escape(" ".join(_shown(values)))} if values else {}
                display.update(task, advance=steps, **shown)

            def note(self, text: str) -> None:
                display.console.print(escape(text), highlight=False)

        bar = Bar()
        bar.show()
        yield bar


def _shown(values: dict[str, object]) -> list[str]:
    """Each value as ``name=value``, real numbers with four digits."""
    return [f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in values.items()]
