"""Options of a training run, as they stand in its TOML file.

.. code-block:: toml

    [data]
    train = ["train.extxyz"]
    validation = ["val.extxyz"]

    [descriptor]
    type = "DefaultACSF"
    cutoff = 5.5

    [network]
    hidden = [32, 32]

    [loss]
    energy = 0.005

    [optimizer]
    steps = 20000
"""

import math
from dataclasses import dataclass, field

from bpjax.descriptors import DefaultACSF, Descriptor, DescriptorSet
from bpjax.networks.elemental import MLP
from bpjax.spec import register
from bpjax.training.losses import LikelihoodLoss
from bpjax.units import SYSTEMS


def _check(condition: bool, name: str, value: object, allowed: str) -> None:
    if not condition:
        raise ValueError(f"{name}={value}: {allowed}")


@register
@dataclass(frozen=True)
class DataOptions:
    """What to train on.

    Attributes:
      train: files of structures with energies and forces (and stresses): anything ASE reads, or data files of RuNNer and n2p2.
      validation: files to watch while training; empty to set a share of the training structures aside.
      test: files that the finished model is measured on.
      validation_fraction: share of each group that is set aside when `validation` is empty.
      weights: weight of each group (`config_type` or `group` of a structure) in the loss; `default` for those not named.
      isolated: energy of the isolated atom of each element in eV. An isolated atom among the training structures (one atom,
        not periodic or `config_type` isolated_atom) serves as well and is not trained on.
      units: "hartree-bohr" or "ev-angstrom", of data files of RuNNer and n2p2, which do not say; None if there are none.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    validation_fraction: float = 0.1
    weights: dict[str, float] = field(default_factory=dict)
    isolated: dict[str, float] = field(default_factory=dict)
    units: str | None = None

    def __post_init__(self):
        _check(len(self.train) > 0, "train", self.train, "name at least one file")
        fraction = self.validation_fraction
        _check(0 < fraction < 1, "validation_fraction", fraction, "must be between 0 and 1")
        _check(self.units is None or self.units in SYSTEMS, "units", self.units, f"must be {' or '.join(SYSTEMS)}")
        for group, weight in self.weights.items():
            _check(math.isfinite(weight) and weight >= 0, f"weights.{group}", weight, "must be at least 0")


@register
@dataclass(frozen=True)
class OptimizerOptions:
    """How to minimise the loss: AdamW with a warm-up and a cosine schedule, gradient clipping and averaged parameters.

    Attributes:
      steps: number of parameter updates.
      batch_size: structures per update.
      learning_rate: at its highest, after the warm-up.
      final_learning_rate: at the last step, as a fraction of `learning_rate`.
      warmup: steps of linear growth of the learning rate.
      weight_decay: decoupled weight decay of AdamW.
      clip: largest norm of a gradient; longer ones are shortened to it.
      average: decay of the exponential moving average of the parameters, which is what is validated and kept; 0 for none.
      evaluate_every: steps between two evaluations of the validation set (lines of `metrics.jsonl`).
      checkpoint_every: steps between two checkpoints, a multiple of `evaluate_every`.
      patience: stop after so many evaluations without a better validation loss; 0 for never.
      seed: of the first parameters, the split and the order of the structures.
      inputs: "stored" keeps features and their derivatives in memory, "environments" computes them anew in every step,
        "auto" stores them if they fit into `memory_gb`.
      memory_gb: memory for stored features, in GB.
    """

    steps: int = 30000
    batch_size: int = 8
    learning_rate: float = 3e-3
    final_learning_rate: float = 1e-3
    warmup: int = 100
    weight_decay: float = 0.03
    clip: float = 10.0
    average: float = 0.995
    evaluate_every: int = 500
    checkpoint_every: int = 2000
    patience: int = 0
    seed: int = 0
    inputs: str = "auto"
    memory_gb: float = 4.0

    def __post_init__(self):
        for name in ("steps", "batch_size", "evaluate_every", "checkpoint_every"):
            _check(getattr(self, name) >= 1, name, getattr(self, name), "must be at least 1")
        for name in ("warmup", "patience", "seed"):
            _check(getattr(self, name) >= 0, name, getattr(self, name), "must be at least 0")
        for name in ("learning_rate", "clip", "memory_gb"):
            value = getattr(self, name)
            _check(math.isfinite(value) and value > 0, name, value, "must be positive")
        _check(0 <= self.final_learning_rate <= 1, "final_learning_rate", self.final_learning_rate, "must be in [0, 1]")
        _check(0 <= self.average < 1, "average", self.average, "must be in [0, 1)")
        _check(self.weight_decay >= 0, "weight_decay", self.weight_decay, "must be at least 0")
        multiple = self.checkpoint_every % self.evaluate_every == 0
        _check(multiple, "checkpoint_every", self.checkpoint_every, f"must be a multiple of {self.evaluate_every}")
        inputs = ("auto", "stored", "environments")
        _check(self.inputs in inputs, "inputs", repr(self.inputs), f"allowed are {', '.join(inputs)}")


@register
@dataclass(frozen=True)
class TrainingOptions:
    """A whole training run; the sections of a training file.

    Attributes:
      data: what to train on.
      descriptor: how an environment is described; its elements may be left out, they are those of the data.
      network: the per-element networks.
      loss: widths of the errors in the likelihood.
      optimizer: how to minimise the loss.
    """

    data: DataOptions
    descriptor: Descriptor | DescriptorSet = field(default_factory=DefaultACSF)
    network: MLP = field(default_factory=MLP)
    loss: LikelihoodLoss = field(default_factory=LikelihoodLoss)
    optimizer: OptimizerOptions = field(default_factory=OptimizerOptions)
