"""Descriptors: functions of one atomic environment, invariant to rotation, reflection and the order of like atoms."""

from bpjax.descriptors.acsf import ACSF as ACSF
from bpjax.descriptors.acsf import Angular as Angular
from bpjax.descriptors.acsf import Radial as Radial
from bpjax.descriptors.ani import ANI as ANI
from bpjax.descriptors.base import Descriptor as Descriptor
from bpjax.descriptors.choose import DefaultACSF as DefaultACSF
from bpjax.descriptors.choose import DescriptorSet as DescriptorSet
from bpjax.descriptors.cutoffs import Cutoff as Cutoff
from bpjax.descriptors.function_set import SymmetryFunctions as SymmetryFunctions
from bpjax.descriptors.published_sets import GasteggerACSF as GasteggerACSF
from bpjax.descriptors.published_sets import ImbalzanoACSF as ImbalzanoACSF
from bpjax.descriptors.reduced import Chosen as Chosen
from bpjax.descriptors.reduced import Projected as Projected
from bpjax.descriptors.reduced import choose_features as choose_features
from bpjax.descriptors.soap import SOAP as SOAP
from bpjax.descriptors.soap import Weighting as Weighting
from bpjax.descriptors.symmetry import SymmetryFunction as SymmetryFunction
