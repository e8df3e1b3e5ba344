"""Chunks of a compiled program: run, checked, and repeated with a larger neighbour list where one overflowed."""

import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bpjax.dynamics.loop import MOST, Plan
from bpjax.dynamics.settings import Settings
from bpjax.errors import CapacityError
from bpjax.precision import precision

ATTEMPTS = 12
"""How often a list may be grown in a row for one chunk."""


class Driver(ABC):
    """State, neighbour list and compiled program of a run; what they are made of is left to `Simulation` and `Replicas`.

    Args:
      settings: options of the run.
      interval: steps per block (see `bpjax.dynamics.loop`).
      blocks_per_frame: blocks from one frame to the next.
      rows: atoms in all, padding included.

    Attributes:
      rebuilds: how often the neighbour list was built anew.
      overflows: how often it had to be grown.
      compile_s, run_s: seconds spent.
      extrapolations: warnings so far, where they are counted.
    """

    bath: Any
    state: Any
    seen: Any
    neighbors: Any

    def __init__(self, settings: Settings, interval: int, blocks_per_frame: int, rows: int):
        self.settings, self.interval, self.blocks_per_frame, self.rows = settings, interval, blocks_per_frame, rows
        self.dtype = jnp.dtype(settings.dtype)
        self.extrapolations = 0
        self.rebuilds, self.overflows, self.compile_s, self.run_s = 0, 0, 0.0, 0.0
        self._program = None

    @abstractmethod
    def _chunk(self, blocks: int, frames: int) -> Callable:
        """What is compiled; see `bpjax.dynamics.loop.chunk_fn`."""

    @abstractmethod
    def _grow(self, attempt: int) -> None:
        """Makes the list larger, from where it was built last."""

    def _placed(self, arguments: Any) -> Any:
        """Arguments where the program wants them."""
        return arguments

    def _results(self, carried: tuple[Any, Any, Any]) -> dict[str, Any]:
        """Options of `jax.jit` that say where a chunk leaves state, what was seen, and list."""
        return {}

    @property
    def _watch(self) -> bool:
        """Whether extrapolation warnings are counted."""
        return self.settings.max_extrapolations is not None

    def advance(self, blocks: int, steps: int, phase: int, dt: float | None = None):
        """Runs a chunk; one with an incomplete neighbour list is discarded, the list grown, the chunk repeated.

        The list is grown from where it was built last, not from where the chunk began: it is then rebuilt at the same steps
        as if it had been large enough from the start.

        Args:
          blocks: number of blocks.
          steps: steps per block.
          phase: blocks since the last frame.
          dt: time step in natural units if it differs from the run's.

        Returns: buffers of the chunk as numpy arrays, the number of blocks done, and whether all is fine.

        Raises:
          CapacityError: the list cannot be grown any further.
        """
        with precision(self.settings.dtype):
            return self._advance(blocks, steps, phase, dt)

    def _advance(self, blocks: int, steps: int, phase: int, dt: float | None):
        bath = self.bath if dt is None else self.bath._replace(dt=jnp.full_like(self.bath.dt, dt))
        lengths = [blocks, steps, self.blocks_per_frame, phase] + ([min(self.left, MOST)] if self._watch else [])
        plan = Plan(*[jnp.asarray(n, jnp.int32) for n in lengths])
        for attempt in range(ATTEMPTS):
            after, neighbors, buffers, done, fine = self._call(bath, plan)
            if not bool(neighbors.did_buffer_overflow):
                self.rebuilds += int(neighbors.rebuilds) - int(self.neighbors.rebuilds)
                self.neighbors = neighbors
                if bool(fine):
                    self.state, self.seen = after
                buffers = jax.tree.map(np.asarray, buffers)
                if buffers.offences is not None:
                    self.extrapolations += int(buffers.offences.count[: int(done)].sum(dtype=np.int64))
                return buffers, int(done), bool(fine)
            self.overflows += 1
            self._grow(attempt)
            self._program = None
        raise CapacityError(
            f"the neighbour list still overflows after it was grown {ATTEMPTS} times; is the system collapsing?"
        )

    @property
    def left(self) -> int:
        """Extrapolation warnings that are still allowed; negative when the limit has been exceeded."""
        return int(self.settings.max_extrapolations or 0) - self.extrapolations

    def _call(self, bath, plan):
        state, seen, neighbors, bath, plan = self._placed((self.state, self.seen, self.neighbors, bath, plan))
        # A list that overflows is built again from where it was built last, so its rows, most of the memory of a large system,
        # are given to the program. State and reference are not: a chunk that must be repeated needs them.
        rows = {name: getattr(neighbors.inner, name, None) for name in ("idx", "shifts")}
        rows = {name: array for name, array in rows.items() if array is not None}
        rest = replace(neighbors, inner=replace(neighbors.inner, **dict.fromkeys(rows)))
        arguments = rows, state, seen, rest, bath, plan
        began = time.perf_counter()
        if self._program is None:
            blocks = self.largest_chunk
            chunk = self._chunk(blocks, -(-blocks // self.blocks_per_frame) + 1)
            with warnings.catch_warnings():  # jax-md sums kinetic energies in float64 where there is float64
                warnings.filterwarnings("ignore", "Explicitly requested dtype", UserWarning)
                warnings.filterwarnings("ignore", "scatter inputs have incompatible types", FutureWarning)
                program = jax.jit(_with_rows(chunk), donate_argnums=0, **self._results((state, seen, neighbors)))
                self._program = program.lower(*arguments).compile()
            self.compile_s += time.perf_counter() - began
            began = time.perf_counter()
        out = jax.block_until_ready(self._program(*arguments))
        self.run_s += time.perf_counter() - began
        return out

    @property
    def largest_chunk(self) -> int:
        """Blocks in the longest chunk: as asked for, but no more frames and offences than fit into 256 MB each."""
        blocks = max(1, self.settings.chunk_steps // self.interval)
        if self._watch:
            blocks = min(blocks, max(1, int(256e6 / ((3 * self.dtype.itemsize + 4) * self.rows))))
        frames = max(1, int(256e6 / (6 * self.dtype.itemsize * self.rows)))
        return min(blocks, frames * self.blocks_per_frame)

    @property
    def program_bytes(self) -> int | None:
        """Memory of the compiled chunk: arguments, results and intermediates, as the compiler says; None before the first."""
        held = None if self._program is None else self._program.memory_analysis()
        if held is None:
            return None
        parts = held.argument_size_in_bytes + held.output_size_in_bytes + held.temp_size_in_bytes
        return parts - held.alias_size_in_bytes


def _with_rows(chunk: Callable) -> Callable:
    """A chunk whose first argument are arrays of the list, which jit may then donate."""

    def donated(rows, state, seen, neighbors, bath, plan):
        return chunk(state, seen, replace(neighbors, inner=replace(neighbors.inner, **rows)), bath, plan)

    return donated
