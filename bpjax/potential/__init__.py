"""Potentials: the sum of atomic energies and its derivatives."""

from bpjax.potential.energy import Potential as Potential
from bpjax.potential.energy import energy as energy
from bpjax.potential.energy import init as init
from bpjax.potential.extrapolation import Extrapolation as Extrapolation
from bpjax.potential.extrapolation import extrapolations as extrapolations
from bpjax.potential.extrapolation import format_extrapolation as format_extrapolation
from bpjax.potential.forces import energy_and_forces as energy_and_forces
from bpjax.potential.forces import predict as predict
from bpjax.potential.forces import predict_members as predict_members
from bpjax.potential.store import load as load
from bpjax.potential.store import save as save
