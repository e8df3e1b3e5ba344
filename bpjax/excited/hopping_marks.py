"""Why a trajectory cannot go on: marks that it carries inside compiled calls, and the errors that they become outside."""

from typing import Any

import numpy as np

from bpjax.errors import DivergedError
from bpjax.excited.hopping_options import HoppingOptions

NOT_FINITE = 1
"""Mark of a trajectory whose energies, forces or amplitudes became infinite or NaN."""

NO_DIRECTION = 2
"""Mark of a trajectory that was to hop, but whose direction of rescaling is zero."""

TOO_STEEP = 3
"""Mark of a trajectory whose energy could be kept only by dividing step after step into very many parts."""


def raise_for_marks(state: Any, options: HoppingOptions) -> None:
    """Raises for the first trajectory of a state (`hopping.HoppingState`) that cannot go on.

    Raises:
      DivergedError: with its number, the step and the reason.
    """
    marks = np.asarray(state.mark)
    if not marks.any():
        return
    number = int((marks > 0).argmax())
    where = f"trajectory {number}, step {int(state.step[number]) + 1}"
    others = f" ({int((marks > 0).sum())} of {len(marks)} trajectories stopped)" if (marks > 0).sum() > 1 else ""
    mark = int(marks[number])
    if mark == NO_DIRECTION:
        names = {"coupling": "coupling vector", "gradients": "difference of the gradients"}
        kind = names.get(options.rescale, "velocity")
        raise DivergedError(
            f"{where}: the {kind} is zero, so that no momentum can pay for the hop (option rescale={options.rescale}; "
            f"the others are coupling, gradients, velocity, isotropic){others}"
        )
    if mark == TOO_STEEP:
        raise DivergedError(
            f"{where}: the energy can be kept to {options.energy_tolerance_ev:g} eV only by steps far shorter than "
            f"{options.timestep_fs:g} fs; it is {_extent(state, number)}: the trajectory has left what the model knows, "
            f"or energy_tolerance_ev is too strict{others}"
        )
    assert mark == NOT_FINITE
    raise DivergedError(
        f"{where}: energies, forces or amplitudes are not finite; the last good state is {_extent(state, number)}; "
        f"the model is not finite there, or the time step of {options.timestep_fs:g} fs is too long{others}"
    )


def _extent(state: Any, number: int) -> str:
    R, E = np.asarray(state.R[number]), np.asarray(state.E[number])
    return f"at coordinates of {R.min():.4g} to {R.max():.4g} and energies of {E.min():.4g} to {E.max():.4g}"
