"""Descriptors: functions of one atomic environment, invariant to rotation, reflection and the order of like atoms."""

from bpjax.descriptors.acsf import ACSF as ACSF
from bpjax.descriptors.acsf import Angular as Angular
from bpjax.descriptors.acsf import Radial as Radial
from bpjax.descriptors.base import Descriptor as Descriptor
from bpjax.descriptors.choose import DefaultACSF as DefaultACSF
from bpjax.descriptors.cutoffs import Cutoff as Cutoff
from bpjax.descriptors.function_set import SymmetryFunctions as SymmetryFunctions
from bpjax.descriptors.symmetry import SymmetryFunction as SymmetryFunction
