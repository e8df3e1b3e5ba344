"""Networks: from features to atomic energies."""

from bpjax.networks.elemental import MLP as MLP
from bpjax.networks.elemental import PerElement as PerElement
