"""Why a trajectory cannot go on: marks that it carries inside compiled calls, and the words that they become outside."""

from typing import Any, NamedTuple

import numpy as np

from bpjax.errors import DivergedError
from bpjax.excited.hopping_options import HoppingOptions
from bpjax.excited.hopping_watch import NEVER, Watch, why_astray

NOT_FINITE = 1
"""Mark of a trajectory whose energies, forces or amplitudes became infinite or NaN."""

NO_DIRECTION = 2
"""Mark of a trajectory that was to hop, but whose direction of rescaling is zero."""

TOO_STEEP = 3
"""Mark of a trajectory whose energy could be kept only by dividing step after step into very many parts."""

DRIFTED = 4
"""Mark of a trajectory whose total energy would go too far from that at the start."""

ASTRAY = 5
"""Mark of a trajectory that went beyond a limit of `hopping_watch`, where that ends it."""


class Lost(NamedTuple):
    """A trajectory that could not go on, or went astray: its number, the steps that it had done, and why."""

    trajectory: int
    steps: int
    reason: str


def lost(state: Any, options: HoppingOptions, watch: Watch | None = None) -> list[Lost]:
    """The trajectories of a state (`hopping.HoppingState`) that cannot go on, in order."""
    marked = np.flatnonzero(state.mark).tolist()
    return [Lost(n, int(state.step[n]), _reason(state, options, watch, n)) for n in marked]


def astray(state: Any, options: HoppingOptions, watch: Watch | None) -> list[Lost]:
    """The trajectories that went beyond a limit, in order; `steps` is the step in which they first did."""
    if watch is None:
        return []
    gone = np.flatnonzero(np.asarray(state.watched.astray) < NEVER).tolist()
    return [Lost(n, int(state.watched.astray[n]), _why_astray(state, options, watch, n)) for n in gone]


def _why_astray(state: Any, options: HoppingOptions, watch: Watch, number: int) -> str:
    return why_astray(watch, options, np.asarray(state.watched.closest[number]), int(state.watched.outside[number]))


def raise_for_marks(state: Any, options: HoppingOptions, watch: Watch | None = None) -> None:
    """Raises for the first trajectory that cannot go on; with the option lost="leave_out" only if all of them cannot.

    Raises:
      DivergedError: with its number, the step and the reason.
    """
    number, total = int(np.count_nonzero(state.mark)), len(state.mark)
    if not number or (options.lost == "leave_out" and number < total):
        return
    first = int(np.flatnonzero(state.mark)[0])
    others = f" ({number} of {total} trajectories stopped)" if number > 1 else ""
    rest = "" if options.lost == "leave_out" or total == 1 else "; with lost=leave_out the others go on"
    where = f"trajectory {first}, step {int(state.step[first]) + 1}"
    raise DivergedError(f"{where}: {_reason(state, options, watch, first)}{others}{rest}")


def _reason(state: Any, options: HoppingOptions, watch: Watch | None, number: int) -> str:
    mark = int(state.mark[number])
    if mark == NO_DIRECTION:
        names = {"coupling": "coupling vector", "gradients": "difference of the gradients"}
        kind = names.get(options.rescale, "velocity")
        return (
            f"the {kind} is zero, so that no momentum can pay for the hop (option rescale={options.rescale}; "
            "the others are coupling, gradients, velocity, isotropic)"
        )
    if mark == TOO_STEEP:
        return (
            f"the energy can be kept to {options.tolerance_ev(state.R.dtype):g} eV only by steps far shorter than "
            f"{options.timestep_fs:g} fs; it is {_extent(state, number)}: the trajectory has left what the model knows, "
            "or energy_tolerance_ev is too strict"
        )
    if mark == DRIFTED:
        return (
            f"the total energy would go more than max_drift_ev = {options.max_drift_ev:g} eV from that at the start; it is "
            f"{_extent(state, number)}: the time step of {options.timestep_fs:g} fs is too long, or the trajectory has left what "
            "the model knows"
        )
    if mark == ASTRAY and watch is not None:
        return f"it went where the model knows nothing: {_why_astray(state, options, watch, number)}"
    return (
        f"energies, forces or amplitudes are not finite; the last good state is {_extent(state, number)}; "
        f"the model is not finite there, or the time step of {options.timestep_fs:g} fs is too long"
    )


def _extent(state: Any, number: int) -> str:
    R, E = np.asarray(state.R[number]), np.asarray(state.E[number])
    return f"at coordinates of {R.min():.4g} to {R.max():.4g} and energies of {E.min():.4g} to {E.max():.4g}"
