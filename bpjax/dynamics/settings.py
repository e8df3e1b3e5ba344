"""Options of a molecular-dynamics run, checked when they are made."""

import math
from dataclasses import dataclass

import numpy as np

from bpjax.errors import ConfigError
from bpjax.precision import name_of_dtype
from bpjax.spec import SEEDS_ALLOWED, is_seed

ENSEMBLES = ("nve", "nvt", "nvt_langevin", "npt")

FASTEST_THERMOSTAT, FASTEST_BAROSTAT = 2, 10
"""Relaxation times in time steps below which integrators fail."""

COLDEST_GUARD = 5000.0
"""Temperature in K below which a run is never called exploding, unless told so."""


@dataclass(frozen=True)
class Settings:
    """Options of a run; `bpjax.dynamics.run_md` describes them.

    Raises:
      ConfigError: an option out of range, with its name and what is allowed.
    """

    ensemble: str = "nve"
    temperature: float = 300.0
    timestep_fs: float = 1.0
    steps: int = 1000
    pressure: float = 0.0
    thermostat_time_fs: float = 100.0
    barostat_time_fs: float = 1000.0
    seed: int = 0
    dtype: str = "float32"
    log_interval: int = 10
    trajectory_interval: int = 100
    chunk_steps: int = 2000
    skin: float | None = None
    capacity: int | None = None
    use_momenta: bool = False
    exact_temperature: bool = True
    max_temperature: float | None = None
    max_extrapolations: int | None = None
    devices: int | None = None

    def __post_init__(self):
        if self.ensemble not in ENSEMBLES:
            _refuse("ensemble", self.ensemble, f"must be one of {', '.join(ENSEMBLES)}")
        for name in ("temperature",):
            if not (_number(self.temperature) and self.temperature >= 0):
                _refuse(name, self.temperature, "must be a finite number of kelvin, at least 0")
        for name in ("timestep_fs", "thermostat_time_fs", "barostat_time_fs"):
            if not (_number(getattr(self, name)) and getattr(self, name) > 0):
                _refuse(name, getattr(self, name), "must be a positive number of femtoseconds")
        for name in ("steps", "log_interval", "trajectory_interval", "chunk_steps"):
            if not (isinstance(getattr(self, name), int | np.integer) and getattr(self, name) >= 1):
                _refuse(name, getattr(self, name), "must be an integer of at least 1")
        if not _number(self.pressure):
            _refuse("pressure", self.pressure, "must be a finite number of GPa")
        if not is_seed(self.seed):
            _refuse("seed", self.seed, SEEDS_ALLOWED)
        self._check_times()
        if self.ensemble != "nve" and self.temperature == 0:
            _refuse("temperature", self.temperature, f"must be positive for {self.ensemble}")
        if self.skin is not None and not (_number(self.skin) and self.skin > 0):
            _refuse("skin", self.skin, "must be a positive length in A, or left out")
        if self.capacity is not None and self.capacity < 1:
            _refuse("capacity", self.capacity, "must be at least 1, or left out")
        if self.max_temperature is not None and not self.max_temperature > self.temperature:
            _refuse("max_temperature", self.max_temperature, f"must be above the temperature, {self.temperature:g} K")
        most = self.max_extrapolations
        if most is not None and (isinstance(most, bool) or not isinstance(most, int | np.integer) or most < 0):
            _refuse("max_extrapolations", most, "must be an integer of at least 0, or left out")
        if self.devices is not None and not (isinstance(self.devices, int | np.integer) and self.devices >= 1):
            _refuse("devices", self.devices, "must be an integer of at least 1, or left out")
        object.__setattr__(self, "dtype", name_of_dtype(self.dtype))

    def _check_times(self):
        """Chains of Nose and Hoover that are faster than the steps explode, whatever the model."""
        for name, steps, ensembles in (
            ("thermostat_time_fs", FASTEST_THERMOSTAT, ("nvt", "npt")),
            ("barostat_time_fs", FASTEST_BAROSTAT, ("npt",)),
        ):
            if self.ensemble in ensembles and getattr(self, name) < steps * self.timestep_fs:
                least = f"must be at least {steps} time steps of {self.timestep_fs:g} fs"
                _refuse(name, getattr(self, name), f"{least}; some hundred are usual")

    @property
    def guard(self) -> float:
        """Temperature in K above which the run has exploded."""
        return max(COLDEST_GUARD, 10 * self.temperature) if self.max_temperature is None else self.max_temperature


def _number(value) -> bool:
    return isinstance(value, int | float | np.number) and math.isfinite(value)


def _refuse(name, value, allowed):
    raise ConfigError(f"{value!r} {allowed}", field=name)
