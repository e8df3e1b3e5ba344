"""Potentials: the sum of atomic energies and its derivatives."""

from bpjax.potential.energy import Potential as Potential
from bpjax.potential.energy import energy as energy
from bpjax.potential.energy import init as init
from bpjax.potential.forces import energy_and_forces as energy_and_forces
from bpjax.potential.forces import predict as predict
from bpjax.potential.store import load as load
from bpjax.potential.store import save as save
