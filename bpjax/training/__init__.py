"""Training of potentials on energies, forces and stresses."""

from bpjax.training.baselines import fit_ridge as fit_ridge
from bpjax.training.baselines import fit_sparse_gp as fit_sparse_gp
from bpjax.training.ensemble import Ensemble as Ensemble
from bpjax.training.fit import Fit as Fit
from bpjax.training.fit import fit as fit
from bpjax.training.kalman_options import KalmanFilter as KalmanFilter
from bpjax.training.losses import LikelihoodLoss as LikelihoodLoss
from bpjax.training.optimizers import LBFGS as LBFGS
from bpjax.training.optimizers import OptimizerOptions as OptimizerOptions
from bpjax.training.options import DataOptions as DataOptions
from bpjax.training.options import TrainingOptions as TrainingOptions
from bpjax.training.prepare import prepare as prepare
from bpjax.training.sanity import sanity as sanity
from bpjax.training.sanity_report import SanityReport as SanityReport
from bpjax.training.sweep import SweepResult as SweepResult
from bpjax.training.sweep import sweep as sweep
from bpjax.training.sweep_options import SweepOptions as SweepOptions
