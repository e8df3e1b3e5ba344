"""Networks: from features to atomic energies."""

from bpjax.networks.elemental import MLP as MLP
from bpjax.networks.elemental import NetworkChoices as NetworkChoices
from bpjax.networks.elemental import PerElement as PerElement
from bpjax.networks.elemental import precondition as precondition
from bpjax.networks.kernel import GaussianKernel as GaussianKernel
from bpjax.networks.kernel import LinearKernel as LinearKernel
from bpjax.networks.kernel import PolynomialKernel as PolynomialKernel
from bpjax.networks.kernel import SparseGP as SparseGP
from bpjax.networks.noise import NoiseModel as NoiseModel
