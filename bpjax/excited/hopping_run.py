"""Ensembles of trajectories: starting them, running them in compiled calls, what they leave behind.

>>> import numpy as np
>>> from bpjax.excited.models import TullySimple
>>> options = HoppingOptions(timestep_fs=0.2, decoherence="none", region=(-10.0, 10.0))
>>> hopping = Hopping(TullySimple(), np.array([2000.0]), options)
>>> state = hopping.start(np.full((50, 1), -10.0), np.full((50, 1), 20 / 2000), state=0, seed=1)
>>> run = hopping.run(state, steps=300, interval=300)
>>> run.outcomes().unfinished
0.0
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from bpjax.errors import ConfigError, DivergedError
from bpjax.excited import populations as averages
from bpjax.excited.adiabatic import Diabatic, require_real
from bpjax.excited.frames import frame, mean_gradient, state_gradient
from bpjax.excited.hopping import (
    HopLog,
    HoppingState,
    attempt,
    potential_energy,
    running,
)
from bpjax.excited.hopping_marks import TOO_STEEP, Lost, astray, lost, raise_for_marks
from bpjax.excited.hopping_options import HoppingOptions
from bpjax.excited.hopping_velocities import kinetic_energy
from bpjax.excited.hopping_watch import Watch, begun
from bpjax.precision import name_of_dtype, precision
from bpjax.progress import ProgressFn, silent
from bpjax.spec import check_seed

BLOCK = 64
"""Trajectories that a processor works on at a time: their arrays stay in its cache, and steps without any hop are cheaper."""

FEW, MANY = 32, 1000
"""Parts of steps that the steps between two records may take with an energy tolerance: so many each, and so many more.

The passage of a cone takes some dozens. A trajectory that needs more all the time falls into a hole of the model.
"""

HOP = np.dtype(
    [
        ("trajectory", int),
        ("step", int),
        ("time_fs", float),
        ("source", int),
        ("target", int),
        ("gap", float),
        ("accepted", bool),
    ]
)
"""An attempted hop: gap in the units of the model, `accepted` False for a frustrated one."""


class Records(NamedTuple):
    """What is kept at every record of every trajectory.

    Attributes:
      active: state.
      adiabatic, diabatic: populations, see `bpjax.excited.populations`.
      potential, kinetic: energies in the units of the model.
      R, v: coordinates and velocities, None unless asked for.
    """

    active: Any
    adiabatic: Any
    diabatic: Any
    potential: Any
    kinetic: Any
    R: Any = None
    v: Any = None


@dataclass
class HoppingRun:
    """What a run leaves behind.

    Attributes:
      times_fs: of the records, the start included.
      records: arrays with leading axes (records, trajectories).
      hops: attempted hops in order of time, with the fields of `HOP`.
      state: where the trajectories are; hand it, or the whole run, to `Hopping.run` to go on.
      options: those of the run.
      interval: steps between records.
      identity: what the run is of, such as hashes of its model and its start, for whoever resumes it; set by who starts it.
      watch: what was looked at in its geometries, None if nobody looked.
    """

    times_fs: np.ndarray
    records: Records
    hops: np.ndarray
    state: HoppingState
    options: HoppingOptions = field(repr=False)
    interval: int = 1
    identity: dict[str, str] = field(default_factory=dict)
    watch: Watch | None = field(default=None, repr=False)

    def populations(self, counted: np.ndarray | None = None) -> averages.Populations:
        """Populations with errors at every record; of trajectories that are `counted` (records, trajectories), or that go on.

        ``run.populations(run.sound)`` leaves out those that have gone astray by then; NaN where there are none.
        """
        counted = self.going if counted is None else counted
        return averages.populations(self.records.active, self.records.adiabatic, self.records.diabatic, counted)

    def outcomes(self) -> averages.Outcomes:
        """Shares of trajectories that were reflected and transmitted; with the option `region`."""
        state, kept = self.state, np.asarray(self.state.mark) == 0
        return averages.outcomes(np.asarray(state.outcome)[kept], np.asarray(state.active)[kept], state.E.shape[1])

    @property
    def lost(self) -> list[Lost]:
        """Trajectories that could not go on; with the option `lost` at "leave_out"."""
        return lost(self.state, self.options, self.watch)

    @property
    def astray(self) -> list[Lost]:
        """Trajectories that went where the model knows nothing, by the limits of the options, and the step in which they did."""
        return astray(self.state, self.options, self.watch)

    @property
    def going(self) -> np.ndarray:
        """Which trajectories count at which record (records, trajectories): those not lost by then, the others stand still."""
        return (np.asarray(self.state.mark) == 0) | (self._steps[:, None] <= np.asarray(self.state.step))

    @property
    def sound(self) -> np.ndarray:
        """Which trajectories count and have kept to the limits up to which record (records, trajectories)."""
        return self.going & (self._steps[:, None] < np.asarray(self.state.watched.astray))

    @property
    def _steps(self) -> np.ndarray:
        return np.rint(self.times_fs / self.options.timestep_fs).astype(int)

    @property
    def drift(self) -> np.ndarray:
        """Largest deviation of the total energy of each trajectory from that at its start, at any step."""
        return np.asarray(self.state.drift)


class Hopping:
    """Surface hopping of one model with one set of options; compiled once.

    Args:
      model: diabatic model, a function from coordinates, in the units of the options, to a matrix (S, S).
      masses: of the coordinates, an array that broadcasts to them: (D,), or (N, 1) for atoms.
      options: see `HoppingOptions`.
      block: trajectories worked on at a time; None chooses: `BLOCK` on a processor, all of its share on an accelerator.
      watch: what to look at in the geometries of a molecule; None for nothing. `DiabaticPotential.watch` makes it.
      dtype: "float64" or "float32", whatever the precision of JAX outside.

    Trajectories are shared among all devices of the process, in blocks.

    Raises:
      ConfigError: masses that are not positive, or another dtype.
    """

    def __init__(
        self,
        model: Diabatic,
        masses: Any,
        options: HoppingOptions,
        block: int | None = None,
        watch: Watch | None = None,
        dtype: Any = "float64",
    ):
        self.model, self.options, self.block, self.watch = model, options, block, watch
        self.dtype = name_of_dtype(dtype)
        self.masses = np.asarray(masses, float)
        if not (np.isfinite(self.masses).all() and (self.masses > 0).all()):
            raise ConfigError("must be positive and finite", field="masses")
        self._advance = jax.jit(self._advanced, static_argnames=("records", "interval", "keep"))
        self._started = jax.jit(jax.vmap(self._start_one))

    # ------------------------------------------------------------------------------------------- start

    def start(
        self,
        positions: Any,
        velocities: Any,
        state: int | Sequence[int] | np.ndarray,
        seed: int = 0,
        basis: str = "adiabatic",
    ) -> HoppingState:
        """Trajectories at their beginning.

        Args:
          positions, velocities: arrays (T, *R), a row for each trajectory.
          state: where they begin, one number for all or one for each, counted from 0 in order of energy.
          seed: of all random numbers.
          basis: "adiabatic", or "diabatic": the number is that of a diabatic state, the amplitudes begin there, and the
            active state is drawn with the probabilities of the adiabatic ones.

        Raises:
          ConfigError: shapes, states or a model that do not fit.
          ValueError: a complex model where a real one is needed.
          DivergedError: the model is not finite at the start of a trajectory.
        """
        with precision(self.dtype):
            return self._started_at(positions, velocities, state, seed, basis)

    def _started_at(self, positions, velocities, state, seed: int, basis: str) -> HoppingState:
        R, v = (jnp.asarray(np.asarray(x, self.dtype)) for x in (positions, velocities))
        if R.shape != v.shape or R.ndim < 2 or not len(R):
            shapes = f"{R.shape} and {v.shape}"
            raise ConfigError(
                f"must be of one shape, a row for each trajectory, got {shapes}", field="positions, velocities"
            )
        try:
            np.broadcast_shapes(self.masses.shape, R.shape[1:])
        except ValueError:
            raise ConfigError(
                f"shape {self.masses.shape} does not fit coordinates {R.shape[1:]}", field="masses"
            ) from None
        H = jax.eval_shape(self.model, jax.ShapeDtypeStruct(R.shape[1:], R.dtype))
        self._check_model(H)
        first = np.broadcast_to(np.asarray(state, np.int32), (len(R),))
        if first.min() < 0 or first.max() >= H.shape[0]:
            raise ConfigError(f"{state}: the model has states 0 to {H.shape[0] - 1}", field="state")
        check_seed(seed)
        if basis not in ("adiabatic", "diabatic"):
            raise ConfigError(f"{basis!r}: must be adiabatic or diabatic", field="basis")
        keys = jax.random.key_data(jax.random.split(jax.random.key(seed, impl="threefry2x32"), len(R)))
        begun = self._started(R, v, jnp.asarray(first), keys, jnp.full(len(R), basis == "diabatic"))
        bad = ~(np.isfinite(begun.energy) & np.isfinite(begun.force).reshape(len(R), -1).all(axis=1))
        if bad.any():
            raise DivergedError(f"trajectory {int(bad.argmax())}: energy or force is not finite at the start")
        return begun

    def _check_model(self, H) -> None:
        if H.ndim != 2 or H.shape[0] != H.shape[1]:
            raise ConfigError(f"must return a square matrix (S, S), got shape {H.shape}", field="diabatic model")
        if self.options.amplitudes == "coupling":
            require_real(H, 'surface hopping with amplitudes="coupling" (take "local_diabatisation", or a model that)')
        if self.options.method == "landau_zener":
            require_real(H, "Landau-Zener hopping, which knows no gaps between components of one state,")

    def _start_one(self, R, v, state, key, diabatic) -> HoppingState:
        at = frame(self.model, R)
        unit = jnp.eye(at.E.shape[0], dtype=at.U.dtype)[state]
        C = jnp.where(diabatic, unit, at.U[:, state]).astype(jnp.result_type(at.U, 1j))
        weight = jnp.cumsum(jnp.abs(at.U[state]) ** 2)
        random_key = jax.random.fold_in(jax.random.wrap_key_data(key, impl="threefry2x32"), 2**31)
        drawn = jnp.argmax(jax.random.uniform(random_key, dtype=R.dtype) * weight[-1] < weight)
        k = jnp.where(diabatic, drawn, state).astype(jnp.int32)
        ehrenfest = self.options.method == "ehrenfest"
        force = -(mean_gradient(at, C) if ehrenfest else state_gradient(at, k))
        zero = jnp.zeros((), jnp.int32)
        slots = jnp.zeros(self.options.hop_capacity, jnp.int32)
        log = HopLog(zero, slots, slots, slots, jnp.zeros(slots.shape, R.dtype), slots > 0)
        drift = jnp.zeros((), R.dtype)
        seen = begun(self.watch, self.options, R)
        s = HoppingState(
            R, v, at.E, at.U, at.E, force, C, k, key, zero, zero, zero, zero, zero, at.E[0], drift, seen, log
        )
        total = kinetic_energy(v, self._masses(R)) + potential_energy(s, self.options)
        return s._replace(energy=total)

    def _masses(self, R):
        return jnp.broadcast_to(jnp.asarray(self.masses, R.dtype), R.shape)

    # --------------------------------------------------------------------------------------------- run

    def run(
        self,
        start: HoppingState | HoppingRun,
        steps: int,
        interval: int = 1,
        keep: bool = False,
        chunk: int | None = None,
        progress: ProgressFn = silent,
    ) -> HoppingRun:
        """Runs trajectories on.

        Args:
          start: from `start`, or an earlier run, whose records then come first. Pieces are bit for bit the run as a whole.
          steps: how many more.
          interval: steps between records; it must divide `steps`.
          keep: record coordinates and velocities as well.
          chunk: records per compiled call; None does all in one.
          progress: what shows it; see `bpjax.progress`.

        Raises:
          ConfigError: numbers of steps that do not fit.
          DivergedError: a trajectory that cannot go on, with its number and step; if left out (option `lost`), the last one.
        """
        if steps < 1 or interval < 1 or steps % interval:
            raise ConfigError(f"{steps}: must be a positive multiple of the interval, {interval}", field="steps")
        R = (start.state if isinstance(start, HoppingRun) else start).R
        if R.dtype != self.dtype:
            raise ConfigError(f"{self.dtype}, but the trajectories are in {R.dtype}", field="dtype")
        with precision(self.dtype):
            return self._run(start, steps, interval, keep, chunk, progress)

    def _run(self, start, steps: int, interval: int, keep: bool, chunk: int | None, progress: ProgressFn) -> HoppingRun:
        if isinstance(start, HoppingRun):
            state, pieces, hops = start.state, [start.records], [start.hops]
            keep = start.records.R is not None
        else:
            state, hops = start, []
            pieces = [jax.tree.map(np.asarray, self._record(jax.tree.map(lambda x: x[None], start), keep))]
        records = steps // interval
        with progress(records * interval, "hopping") as bar:
            while records:
                now = min(chunk or records, records)
                state, found = self._one_call(state, now, interval, keep)
                hops.append(self._hops(state.log))
                pieces.append(found)
                state = state._replace(log=state.log._replace(count=jnp.zeros_like(state.log.count)))
                records -= now
                bar.update(now * interval, running=int(np.sum(running(state))))
        joined = jax.tree.map(lambda *parts: np.concatenate(parts), *pieces)
        times = self._times(start, interval, len(joined.active))
        identity = start.identity if isinstance(start, HoppingRun) else {}
        return HoppingRun(times, joined, np.concatenate(hops), state, self.options, interval, identity, self.watch)

    def _times(self, start, interval, number):
        if not isinstance(start, HoppingRun):
            return self._fs(int(np.max(start.step)) + interval * np.arange(number))
        # From whole numbers of steps, so that a run in pieces has the times of the whole.
        begun, new = round(start.times_fs[-1] / self.options.timestep_fs), number - len(start.times_fs)
        return np.concatenate([start.times_fs, self._fs(begun + interval * np.arange(1, new + 1))])

    def _fs(self, steps):
        return steps * self.options.timestep_fs

    def _one_call(self, state: HoppingState, records: int, interval: int, keep: bool):
        """One compiled call; repeated with a longer log where a trajectory tried more hops than it has room for."""
        before = state
        while True:
            state, found = self._advance(before, records=records, interval=interval, keep=keep)
            room, most = before.log.step.shape[1], int(np.max(np.asarray(state.log.count)))
            if most <= room:
                raise_for_marks(state, self.options, self.watch)
                return state, jax.tree.map(np.asarray, found)
            before = before._replace(log=_longer(before.log, 2 ** int(np.ceil(np.log2(most)))))

    def _advanced(self, state: HoppingState, records: int, interval: int, keep: bool):
        T, devices = len(state.step), jax.local_devices()
        block = self.block or (BLOCK if jax.default_backend() == "cpu" else -(-T // len(devices)))
        block = min(block, T)
        devices = devices[: -(-T // block)]
        blocks = -(-T // (block * len(devices))) * len(devices)
        # The last blocks are filled up with copies of the last trajectory, which are thrown away.
        index = jnp.minimum(jnp.arange(blocks * block), T - 1).reshape(blocks, block)
        masses = self._masses(state.R[0])

        def one_record(s, _):
            until = s.step + interval

            def behind(s):
                return running(s) & (s.step < until)

            s, _ = jax.lax.while_loop(
                lambda c: jnp.any(behind(c[0])) & (c[1] < FEW * interval + MANY),
                lambda c: (attempt(self.model, masses, self.options, self.watch, c[0], until), c[1] + 1),
                (s, 0),
            )
            s = s._replace(mark=jnp.where(behind(s), TOO_STEEP, s.mark).astype(s.mark.dtype))
            return s, self._record(s, keep)

        def some_blocks(state):
            return jax.lax.map(lambda s: jax.lax.scan(one_record, s, None, length=records), state)

        if len(devices) > 1:  # trajectories do not know of each other: every device takes its share of the blocks
            shares, mesh = PartitionSpec("trajectories"), Mesh(np.array(devices), ("trajectories",))
            some_blocks = jax.shard_map(some_blocks, mesh=mesh, in_specs=shares, out_specs=shares, check_vma=False)
        final, found = some_blocks(jax.tree.map(lambda x: x[index], state))
        final = jax.tree.map(lambda x: x.reshape(blocks * block, *x.shape[2:])[:T], final)

        def by_time(x):  # (blocks, records, block, ...) to (records, T, ...)
            x = jnp.moveaxis(x, 0, 1)
            return x.reshape(records, blocks * block, *x.shape[3:])[:, :T]

        return final, jax.tree.map(by_time, found)

    def _record(self, s: HoppingState, keep: bool) -> Records:
        """Of trajectories with any leading axes: (T,) inside a call, (1, T) at the start."""
        axes = s.active.ndim
        over = partial(_vmapped, times=axes)
        adiabatic, diabatic = over(averages.recorded)(s.U, s.C, s.active)
        masses = self._masses(s.R[(0,) * axes])
        kinetic = over(lambda v: kinetic_energy(v, masses))(s.v)
        potential = over(lambda s: potential_energy(s, self.options))(s._replace(log=None))
        return Records(s.active, adiabatic, diabatic, potential, kinetic, *((s.R, s.v) if keep else (None, None)))

    # ------------------------------------------------------------------------------------ on the host

    def _hops(self, log: HopLog) -> np.ndarray:
        arrays = jax.tree.map(np.asarray, log)
        rows, slots = np.nonzero(np.arange(arrays.step.shape[1]) < arrays.count[:, None])
        found = np.zeros(len(rows), HOP)
        found["trajectory"] = rows
        for name in ("step", "source", "target", "gap", "accepted"):
            found[name] = getattr(arrays, name)[rows, slots]
        found["time_fs"] = self._fs(found["step"])
        return found[np.argsort(found["step"], kind="stable")]


def _longer(log: HopLog, slots: int) -> HopLog:
    def pad(x):
        return jnp.pad(x, [(0, 0), (0, slots - x.shape[1])])

    return HopLog(log.count, *(pad(x) for x in log[1:]))


def _vmapped(f, times: int):
    for _ in range(times):
        f = jax.vmap(f)
    return f


def run_hopping(
    model: Diabatic,
    positions: Any,
    velocities: Any,
    masses: Any,
    state: int | Sequence[int] | np.ndarray,
    steps: int,
    options: HoppingOptions | None = None,
    *,
    interval: int = 1,
    seed: int = 0,
    basis: str = "adiabatic",
    keep: bool = False,
    watch: Watch | None = None,
    dtype: Any = "float64",
    **changes: Any,
) -> HoppingRun:
    """Starts and runs trajectories in one go; `changes` are single options. See `Hopping`, `Hopping.start`, `Hopping.run`."""
    options = replace(options or HoppingOptions(), **changes)
    hopping = Hopping(model, masses, options, watch=watch, dtype=dtype)
    return hopping.run(hopping.start(positions, velocities, state, seed, basis), steps, interval, keep)
