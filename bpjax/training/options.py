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

from dataclasses import dataclass, field

from bpjax.descriptors import DefaultACSF, Descriptor, DescriptorSet
from bpjax.networks.elemental import MLP
from bpjax.networks.noise import NoiseModel
from bpjax.spec import register
from bpjax.training.data_options import DataOptions as DataOptions
from bpjax.training.ensemble import Ensemble
from bpjax.training.kalman_options import KalmanFilter
from bpjax.training.losses import LikelihoodLoss
from bpjax.training.optimizers import LBFGS
from bpjax.training.optimizers import OptimizerOptions as OptimizerOptions


@register
@dataclass(frozen=True)
class TrainingOptions:
    """A whole training run; the sections of a training file.

    Attributes:
      data: what to train on.
      descriptor: how an environment is described; its elements may be left out, they are those of the data.
      network: the per-element networks.
      loss: widths of the errors in the likelihood.
      optimizer: how to minimise the loss: `OptimizerOptions` unless `type` says otherwise.
      noise: networks that predict the widths of the errors of the labels, or None.
      ensemble: how many networks are trained at once and how they differ; None for a single one.
    """

    data: DataOptions
    descriptor: Descriptor | DescriptorSet = field(default_factory=DefaultACSF)
    network: MLP = field(default_factory=MLP)
    loss: LikelihoodLoss = field(default_factory=LikelihoodLoss)
    optimizer: OptimizerOptions | LBFGS | KalmanFilter = field(default_factory=OptimizerOptions)
    noise: NoiseModel | None = None
    ensemble: Ensemble | None = None
