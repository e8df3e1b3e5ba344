"""What a training run costs: time, compilation, throughput and memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax

from bpjax.machine import device_memory_peak_gb, memory_peak_gb
from bpjax.progress import Progress, ProgressFn, silent
from bpjax.training.fit import Fit
from bpjax.training.prepare import Structures


@dataclass
class _Stage:
    """What the display was opened for: how long it took in seconds, and which steps."""

    total: int
    start: int
    seconds: float = 0.0
    compile_seconds: float = 0.0


class Watch:
    """Times a run: a display of progress that passes everything on, and a block in which compilation is listened to.

    Args:
      progress: where progress is shown.

    Used so::

        with Watch(progress) as watch:
            result = fit(structures, options, progress=watch)
        cost = watch.cost(result, structures)
    """

    def __init__(self, progress: ProgressFn = silent):
        self._progress = progress
        self._stages: list[_Stage] = []
        self._began = self._seconds = self._compiling = 0.0

    def __enter__(self) -> Watch:
        self._began = time.monotonic()
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        return self

    def __exit__(self, *_: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._listen)
        self._seconds = time.monotonic() - self._began

    def _listen(self, event: str, duration: float, **_: Any) -> None:
        if event.startswith("/jax/core/compile/"):  # tracing, lowering, compilation
            self._compiling += duration

    @contextmanager
    def __call__(self, total: int, description: str, start: int = 0) -> Iterator[Progress]:
        """See `bpjax.progress.ProgressFn`."""
        stage = _Stage(total, start)
        began, compiling = time.monotonic(), self._compiling
        try:
            with self._progress(total, description, start) as bar:
                yield bar
        finally:
            stage.seconds = time.monotonic() - began
            stage.compile_seconds = self._compiling - compiling
            self._stages.append(stage)

    @property
    def total(self) -> int:
        """Steps of a whole run."""
        return self._stages[-1].total

    def cost(self, result: Fit, structures: Structures) -> dict[str, Any]:
        """What the fit in the block has cost; of a run that was resumed, since then.

        Args:
          result: of the fit.
          structures: that it was given.

        Returns: ``seconds`` in all; ``training_seconds`` of the loop, with validation and checkpoints, and ``compile_seconds`` of
          these; ``steps`` made; without compilation ``seconds_per_step``, and ``structures_per_second`` and ``atoms_per_second``
          by how many passes over the training structures were made (None before the first line of metrics); ``members`` that were
          trained at once, each on these structures (None for a single network); ``memory_peak_gb`` of the process and
          ``device_memory_peak_gb`` (None where not known); ``device`` and how many ``devices`` there are.
        """
        stage = self._stages[-1]
        steps, last = result.step - stage.start, result.history[-1] if result.history else None
        working = stage.seconds - stage.compile_seconds
        passes = None if last is None or not steps else steps * last["epoch"] / last["step"]
        sizes = [len(atoms) for atoms in structures.train.frames]
        device = jax.local_devices()[0]
        return {
            "seconds": round(self._seconds, 3),
            "training_seconds": round(stage.seconds, 3),
            "compile_seconds": round(stage.compile_seconds, 3),
            "steps": steps,
            "seconds_per_step": working / steps if steps else None,
            "structures_per_second": None if passes is None else passes * len(sizes) / working,
            "atoms_per_second": None if passes is None else passes * sum(sizes) / working,
            "members": result.model.members,
            "memory_peak_gb": memory_peak_gb(),
            "device_memory_peak_gb": device_memory_peak_gb(device),
            "device": device.device_kind,
            "devices": jax.device_count(),
        }
