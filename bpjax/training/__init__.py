"""Training of potentials on energies, forces and stresses."""

from bpjax.training.baselines import fit_ridge as fit_ridge
from bpjax.training.baselines import fit_sparse_gp as fit_sparse_gp
from bpjax.training.fit import Fit as Fit
from bpjax.training.fit import fit as fit
from bpjax.training.losses import LikelihoodLoss as LikelihoodLoss
from bpjax.training.options import DataOptions as DataOptions
from bpjax.training.options import OptimizerOptions as OptimizerOptions
from bpjax.training.options import TrainingOptions as TrainingOptions
from bpjax.training.prepare import prepare as prepare
