"""Excited states: diabatic matrices, adiabatic states, couplings, geometric phases, exact dynamics of small models.

Conventions in README.md of this folder.
"""

from bpjax.excited.adiabatic import Adiabatic as Adiabatic
from bpjax.excited.adiabatic import adiabatic as adiabatic
from bpjax.excited.adiabatic import energies as energies
from bpjax.excited.adiabatic import gradients as gradients
from bpjax.excited.adiabatic import hessians as hessians
from bpjax.excited.adiabatic import to_adiabatic as to_adiabatic
from bpjax.excited.adiabatic import to_diabatic as to_diabatic
from bpjax.excited.couplings import BranchingPlane as BranchingPlane
from bpjax.excited.couplings import branching_plane as branching_plane
from bpjax.excited.couplings import derivative_couplings as derivative_couplings
from bpjax.excited.couplings import orthogonalised as orthogonalised
from bpjax.excited.couplings import second_order_couplings as second_order_couplings
from bpjax.excited.diabatic import DiabaticPotential as DiabaticPotential
from bpjax.excited.diabatic import MultiStatePotential as MultiStatePotential
from bpjax.excited.dipoles import diabatic_dipoles as diabatic_dipoles
from bpjax.excited.eigen import eigh as eigh
from bpjax.excited.intersections import Intersection as Intersection
from bpjax.excited.intersections import IntersectionOptions as IntersectionOptions
from bpjax.excited.intersections import minimum_energy_intersection as minimum_energy_intersection
from bpjax.excited.lvc import LinearVibronic as LinearVibronic
from bpjax.excited.models import JahnTeller as JahnTeller
from bpjax.excited.models import LandauZener as LandauZener
from bpjax.excited.models import TullyDual as TullyDual
from bpjax.excited.models import TullyExtended as TullyExtended
from bpjax.excited.models import TullySimple as TullySimple
from bpjax.excited.odd import Chirality as Chirality
from bpjax.excited.odd import Lean as Lean
from bpjax.excited.odd import SignedVolume as SignedVolume
from bpjax.excited.odd import Torsion as Torsion
from bpjax.excited.odd import Twist as Twist
from bpjax.excited.sharc import VibronicMolecule as VibronicMolecule
from bpjax.excited.sharc import read_lvc_template as read_lvc_template
from bpjax.excited.spin import SpinStates as SpinStates
from bpjax.excited.state_losses import StatesLoss as StatesLoss
from bpjax.excited.states_data import StatesData as StatesData
from bpjax.excited.states_data import StatesFormat as StatesFormat
from bpjax.excited.states_data import read_states as read_states
from bpjax.excited.states_store import load_states as load_states
from bpjax.excited.states_store import save_states as save_states
from bpjax.excited.train import StatesTraining as StatesTraining
from bpjax.excited.train import train_states as train_states
