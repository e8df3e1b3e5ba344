"""The `[sweep]` section of a training file: many trainings at once.

.. code-block:: toml

    [sweep]
    trials = 256
    members = 64
    sampler = "tpe"

    [sweep.space]
    "optimizer.learning_rate" = { low = 1e-4, high = 1e-2, log = true }
    "network.hidden" = [[16, 16], [32, 32]]
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from bpjax.errors import ConfigError
from bpjax.spec import check, check_seed, from_spec, from_toml, register
from bpjax.training.losses import KINDS
from bpjax.training.options import TrainingOptions
from bpjax.training.prepare import Structures, named_in, prepare
from bpjax.training.sweep_space import Space, TrainingFile, check_space, read_space

SAMPLERS = ("random", "grid", "tpe", "cmaes", "gp", "qmc", "sobol", "halton")
"""Ways to choose points. All but the first two are those of Optuna; "qmc" is "sobol"."""

OBJECTIVES = ("loss", *(f"{kind}_{norm}" for kind in KINDS for norm in ("mae", "rmse")))
"""What may be minimised: validation errors."""


@register
@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """What differs between the runs of a sweep, how points are chosen, and which runs are given up early.

    A batch of `members` points is trained at a time. All that can be an array of one compiled program is: learning rate, weight
    decay, widths of the loss, seeds of the first parameters, activation, widths of the layers (as masks of the widest, which sets
    the cost of all), and eta, r_s and kappa of symmetry functions that lie in an interval (the features of each member are then
    computed in every step). Points that differ in anything else, or in a list of descriptors, are sorted into one program for
    each combination. See `bpjax.training.sweep_program`.

    With successive halving each run of a batch gets a share of its steps first, then the best 1 / `halving` of them get `halving`
    times as many, and so on; the last ones are trained to the end. The schedule of the learning rate is that of the full run. The
    programs are compiled for each number of members that is left, `rungs` + 1 times.

    Attributes:
      space: options that differ, see `bpjax.training.sweep_space`.
      trials: points altogether, over all processes that share a study.
      members: points that are trained at once.
      sampler: one of `SAMPLERS`.
      seed: of the sampler.
      halving: the best 1 / `halving` of the runs go on after each rung; 0 for all.
      rungs: how often runs are given up; at `steps` / `halving`^n, n = rungs, ..., 1.
      objective: one of `OBJECTIVES`, of the best parameters of a run on the validation structures. "loss" is that of the training
        file, whatever widths a point has.
      storage: file (a journal of Optuna's) or URL of a database, for several processes to share one study; None for no other.
      study: name of the study in the storage.

    Raises:
      ValueError, ConfigError: an option out of range.

    References: Jamieson and Talwalkar, AISTATS 2016 (successive halving).
    """

    space: dict[str, Any]
    trials: int = 64
    members: int = 64
    sampler: str = "random"
    seed: int = 0
    halving: int = 4
    rungs: int = 2
    objective: str = "loss"
    storage: str | None = None
    study: str = "sweep"

    def __post_init__(self):
        object.__setattr__(self, "space", read_space(self.space))
        for name in ("trials", "members"):
            check(getattr(self, name) >= 1, name, getattr(self, name), "must be at least 1")
        check(self.sampler in SAMPLERS, "sampler", repr(self.sampler), f"allowed are {', '.join(SAMPLERS)}")
        check(self.objective in OBJECTIVES, "objective", repr(self.objective), f"allowed are {', '.join(OBJECTIVES)}")
        check_seed(self.seed)
        check(self.halving == 0 or self.halving >= 2, "halving", self.halving, "must be at least 2, or 0 for none")
        check(self.rungs >= 1, "rungs", self.rungs, "must be at least 1")
        check(bool(self.study), "study", repr(self.study), "needs a name")

    @property
    def prunings(self) -> int:
        """How often runs are given up."""
        return self.rungs if self.halving else 0


class SweepRun(NamedTuple):
    """What a sweep file says, and the structures that it names."""

    settings: SweepOptions
    file: TrainingFile
    structures: Structures


def read_sweep(path: Path) -> SweepRun:
    """Reads a training file with a `[sweep]` section, and its structures.

    Raises:
      FormatError, StructureError: a file or structure that cannot be used.
      ConfigError: an option that is unknown, missing, of the wrong type or out of range.
    """
    spec = from_toml(dict[str, Any], path)
    section = spec.pop("sweep", None)
    if section is None:
        raise ConfigError("missing; a sweep needs at least [sweep.space]", str(path), "sweep")
    try:
        settings = from_spec(SweepOptions, section, str(path))
    except ConfigError as error:
        field = ".".join(filter(None, ("sweep", error.field)))
        raise ConfigError(error.message, str(path), field) from error
    storage = settings.storage
    if storage is not None and "://" not in storage:
        settings = replace(settings, storage=str(path.parent / storage))
    # The elements of a descriptor are those of the data, which are read first.
    options = from_spec(TrainingOptions, {k: v for k, v in spec.items() if k != "descriptor"}, str(path))
    batch_size = getattr(options.optimizer, "batch_size", None)
    with named_in(path, path.parent):
        structures = prepare(options.data, path.parent, options.optimizer.seed, batch_size)
    file = TrainingFile(spec, structures.elements, str(path), path.parent)
    check_sweep(file, settings.space)
    return SweepRun(settings, file, structures)


def check_sweep(file: TrainingFile, space: Space) -> TrainingOptions:
    """The options of the file, if a sweep over the space can be made of them.

    Raises:
      ConfigError: it cannot.
    """
    options = file.options()
    if options.ensemble is not None:
        raise ConfigError("a sweep trains single networks", file.where, "ensemble")
    check_space(file, space)
    return options
