"""Molecular dynamics: adapters to jax-md, a driver, and what watches a run."""

from bpjax.dynamics.divided import divided_potential as divided_potential
from bpjax.dynamics.jaxmd import multi_image_potential as multi_image_potential
from bpjax.dynamics.jaxmd import neighbor_list_potential as neighbor_list_potential
from bpjax.dynamics.jaxmd import prediction_fn as prediction_fn
from bpjax.dynamics.observers import LogWriter as LogWriter
from bpjax.dynamics.observers import PairCorrelation as PairCorrelation
from bpjax.dynamics.observers import energy_drift as energy_drift
from bpjax.dynamics.replicas import run_replicas as run_replicas
from bpjax.dynamics.run import MDDivergedError as MDDivergedError
from bpjax.dynamics.run import MDResult as MDResult
from bpjax.dynamics.run import run_md as run_md
from bpjax.dynamics.together import systems_potential as systems_potential
