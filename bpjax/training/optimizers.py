"""The `[optimizer]` section of a training file: how to minimise the loss."""

import math
from dataclasses import dataclass

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from bpjax.spec import check, check_seed, register

INPUTS = ("auto", "stored", "features", "environments", "disk")
KEPT = ("best", "last")


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What all optimisers have in common.

    Attributes:
      batch_size: structures per update.
      average: decay of the exponential moving average of the parameters, which is what is validated and kept; 0 for none.
      keep: "best", the parameters with the lowest validation loss, or "last", those of the last evaluation. Where few structures
        are validated, some of them decide which step is best, and another one on another machine; the end of a schedule that
        takes the learning rate to zero is the same everywhere. For regularised networks it is the better choice then.
      evaluate_every: steps between two evaluations of the validation set (lines of `metrics.jsonl`).
      checkpoint_every: steps between two checkpoints, a multiple of `evaluate_every`.
      patience: stop after so many evaluations without a better validation loss; 0 for never.
      seed: of the first parameters, the split and the order of the structures.
      start_seed: of the first parameters alone; None for `seed`.
      precondition: whether the output layers are scaled at the start so that the energies of the atoms that are trained on have
        zero mean and unit spread, in units of the energy scale of the model.
      inputs: what is kept of the descriptors. "stored": features and their derivatives; "features": features alone, enough where
        only energies are fitted; "environments": nothing, they are computed anew in every step; "disk": as stored, in a file,
        from which batches are read; "auto": the fastest that fits into `memory_gb`.
      memory_gb: memory for what is kept, in GB.
    """

    batch_size: int = 8
    average: float = 0.995
    keep: str = "best"
    evaluate_every: int = 500
    checkpoint_every: int = 2000
    patience: int = 0
    seed: int = 0
    start_seed: int | None = None
    precondition: bool = False
    inputs: str = "auto"
    memory_gb: float = 4.0

    def __post_init__(self):
        for name in ("batch_size", "evaluate_every", "checkpoint_every"):
            check(getattr(self, name) >= 1, name, getattr(self, name), "must be at least 1")
        check(self.patience >= 0, "patience", self.patience, "must be at least 0")
        check_seed(self.seed)
        if self.start_seed is not None:
            check_seed(self.start_seed, "start_seed")
        check(math.isfinite(self.memory_gb) and self.memory_gb > 0, "memory_gb", self.memory_gb, "must be positive")
        check(0 <= self.average < 1, "average", self.average, "must be in [0, 1)")
        multiple = self.checkpoint_every % self.evaluate_every == 0
        check(multiple, "checkpoint_every", self.checkpoint_every, f"must be a multiple of {self.evaluate_every}")
        check(self.keep in KEPT, "keep", repr(self.keep), f"allowed are {', '.join(KEPT)}")
        check(self.inputs in INPUTS, "inputs", repr(self.inputs), f"allowed are {', '.join(INPUTS)}")

    @property
    def starts_from(self) -> int:
        """Seed of the first parameters."""
        return self.seed if self.start_seed is None else self.start_seed


METHODS = ("adamw", "adam", "amsgrad", "muon")
SCHEDULES = ("cosine", "constant", "plateau")


@register
@dataclass(frozen=True, kw_only=True)
class OptimizerOptions(RunOptions):
    """Stochastic gradient descent on batches, with a warm-up, a schedule, gradient clipping and averaged parameters.

    Attributes:
      steps: number of parameter updates.
      method: "adamw" or "adam" (Kingma and Ba 2015; the same here but for `weight_decay`, which adam leaves out), "amsgrad"
        (Reddi et al. 2018), or "muon" (Jordan et al. 2024: orthogonalised momentum for matrices, adam for the rest).
      learning_rate: at its highest, after the warm-up.
      schedule: "cosine" to `final_learning_rate`, "constant", or "plateau": times `plateau_factor` after `plateau_patience`
        evaluations without a better validation loss.
      final_learning_rate: at the last step, as a fraction of `learning_rate`.
      plateau_factor, plateau_patience: see `schedule`.
      warmup: steps of linear growth of the learning rate.
      weight_decay: decoupled weight decay (Loshchilov and Hutter 2019).
      clip: largest norm of a gradient; longer ones are shortened to it.
    """

    steps: int = 30000
    method: str = "adamw"
    learning_rate: float = 3e-3
    schedule: str = "cosine"
    final_learning_rate: float = 1e-3
    plateau_factor: float = 0.5
    plateau_patience: int = 5
    warmup: int = 100
    weight_decay: float = 0.03
    clip: float = 10.0

    def __post_init__(self):
        super().__post_init__()
        check(self.steps >= 1, "steps", self.steps, "must be at least 1")
        check(self.warmup >= 0, "warmup", self.warmup, "must be at least 0")
        check(self.plateau_patience >= 1, "plateau_patience", self.plateau_patience, "must be at least 1")
        check(0 < self.plateau_factor < 1, "plateau_factor", self.plateau_factor, "must be between 0 and 1")
        for name in ("learning_rate", "clip"):
            value = getattr(self, name)
            check(math.isfinite(value) and value > 0, name, value, "must be positive")
        check(0 <= self.final_learning_rate <= 1, "final_learning_rate", self.final_learning_rate, "must be in [0, 1]")
        check(self.weight_decay >= 0, "weight_decay", self.weight_decay, "must be at least 0")
        check(self.method in METHODS, "method", repr(self.method), f"allowed are {', '.join(METHODS)}")
        check(self.schedule in SCHEDULES, "schedule", repr(self.schedule), f"allowed are {', '.join(SCHEDULES)}")

    def shape(self, step: Int[Array, ""] | int) -> Float[Array, ""]:
        """Learning rate of a step, counted from 0, relative to `learning_rate`; without the effect of plateaus."""
        if self.schedule == "cosine":
            schedule = optax.warmup_cosine_decay_schedule(
                init_value=1 / max(1, self.warmup),
                peak_value=1.0,
                warmup_steps=min(self.warmup, self.steps - 1),
                decay_steps=max(2, self.steps),
                end_value=self.final_learning_rate,
            )
            return jnp.asarray(schedule(step))
        return jnp.minimum(1.0, (1 + jnp.asarray(step, jnp.float32)) / max(1, self.warmup))

    def direction(self) -> optax.GradientTransformation:
        """The method with a learning rate of one and without weight decay, behind gradient clipping."""
        methods = {"adamw": optax.adam, "adam": optax.adam, "amsgrad": optax.amsgrad, "muon": optax.contrib.muon}
        return optax.chain(optax.clip_by_global_norm(self.clip), methods[self.method](1.0))


@register
@dataclass(frozen=True, kw_only=True)
class LBFGS(RunOptions):
    """Limited-memory BFGS with a zoom line search on the loss of all training structures (Nocedal and Wright, ch. 3 and 7).

    For small sets and small networks: a step costs one evaluation of the whole set for each try of the line search.

    Attributes:
      steps: number of parameter updates.
      history: pairs of steps and gradients that are remembered.
      line_search: most evaluations in one line search.
    """

    steps: int = 300
    history: int = 20
    line_search: int = 20
    average: float = 0.0
    evaluate_every: int = 5
    checkpoint_every: int = 20

    def __post_init__(self):
        super().__post_init__()
        for name in ("steps", "history", "line_search"):
            check(getattr(self, name) >= 1, name, getattr(self, name), "must be at least 1")

    def direction(self) -> optax.GradientTransformationExtraArgs:
        """The method as optax has it."""
        search = optax.scale_by_zoom_linesearch(max_linesearch_steps=self.line_search, initial_guess_strategy="one")
        return optax.lbfgs(memory_size=self.history, linesearch=search)
