r"""What an ensemble of trajectories says: populations with errors, internal consistency, where trajectories went.

Three populations of adiabatic states or of diabatic ones, averages over N trajectories:

* counts of the active state :math:`\Pi_i = N_i/N`, with the error of Wilson's interval, which for many trajectories is
  :math:`\sqrt{\Pi_i (1 - \Pi_i)/N}`;
* amplitudes, :math:`\langle |c_i|^2 \rangle`: where these differ from the counts, the method is not consistent with itself;
* diabatic, from the active state and the coherences of the amplitudes,

.. math:: P_a = \Big\langle |U_{ak}|^2 + |C_a|^2 - \sum_i |U_{ai}|^2 |c_i|^2 \Big\rangle .

Host code in numpy but for `recorded`, which runs inside jit.

References: B. R. Landry, M. J. Falk, J. E. Subotnik, J. Chem. Phys. 139, 211101 (2013), doi:10.1063/1.4837795.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact, Int


def recorded(
    U: Inexact[Array, "S S"], C: Inexact[Array, " S"], k: Int[Array, ""]
) -> tuple[Float[Array, " S"], Float[Array, " S"]]:
    """Adiabatic populations of the amplitudes and diabatic ones from active state and coherences, of one trajectory."""
    adiabatic = jnp.abs(U.conj().T @ C) ** 2
    weight = jnp.abs(U) ** 2
    return adiabatic, weight[:, k] + jnp.abs(C) ** 2 - weight @ adiabatic


class Populations(NamedTuple):
    """Averages at every record over the trajectories that go on there.

    Attributes:
      counts: share of trajectories on each adiabatic state.  errors: their binomial errors, one standard deviation.
      amplitudes: mean squared amplitudes of the adiabatic states.
      diabatic: from active state and coherences, see the module; without bounds of 0 and 1 for a single trajectory.
      diabatic_errors: standard deviations of these means.
      number: of trajectories.
    """

    counts: Float[np.ndarray, "T S"]
    errors: Float[np.ndarray, "T S"]
    amplitudes: Float[np.ndarray, "T S"]
    diabatic: Float[np.ndarray, "T S"]
    diabatic_errors: Float[np.ndarray, "T S"]
    number: Int[np.ndarray, " T"]

    @property
    def inconsistency(self) -> Float[np.ndarray, " T"]:
        """Largest difference of counts and amplitudes at each record."""
        return np.abs(self.counts - self.amplitudes).max(axis=1)


def binomial_error(share: np.ndarray, number: Any) -> Any:
    r"""Half of Wilson's interval of one standard deviation for a share p of N trajectories; not zero where p is 0 or 1.

    .. math:: \frac{1}{1 + 1/N} \sqrt{\frac{p (1 - p)}{N} + \frac{1}{4 N^2}}

    References: E. B. Wilson, J. Am. Stat. Assoc. 22, 209 (1927), doi:10.1080/01621459.1927.10502953.
    """
    return np.sqrt(np.clip(share * (1 - share), 0, None) / number + 0.25 / number**2) / (1 + 1 / number)


def populations(
    active: np.ndarray, adiabatic: np.ndarray, diabatic: np.ndarray, going: np.ndarray | None = None
) -> Populations:
    """Averages over trajectories of what was recorded, (T, N), (T, N, S), (T, N, S); `going` (T, N): which of them count."""
    going = np.ones(active.shape, bool) if going is None else going
    number = going.sum(axis=1)
    N = np.where(number, number, np.nan)[:, None]  # of none there is no average

    def mean(values):
        return np.where(going[..., None], values, 0).sum(axis=1) / N

    counts, P = mean(active[..., None] == np.arange(adiabatic.shape[2])), mean(diabatic)
    variance = mean((diabatic - P[:, None]) ** 2) * N / np.maximum(N - 1, 1)
    return Populations(counts, binomial_error(counts, N), mean(adiabatic), P, np.sqrt(variance / N), number)


@dataclass(frozen=True)
class Outcomes:
    """Where trajectories of a scattering run went, as shares of all that were not lost.

    Attributes:
      reflected, transmitted: share that left at the lower and at the upper end, by adiabatic state.
      unfinished: share still inside.
      number: of trajectories.
    """

    reflected: np.ndarray
    transmitted: np.ndarray
    unfinished: float
    number: int

    @property
    def errors(self) -> tuple[np.ndarray, np.ndarray]:
        """Binomial errors of `reflected` and `transmitted`."""
        return binomial_error(self.reflected, self.number), binomial_error(self.transmitted, self.number)


def outcomes(outcome: np.ndarray, active: np.ndarray, states: int) -> Outcomes:
    """Shares from the outcome (-1, 0, 1) and the final state of every trajectory that was not lost."""
    on = np.asarray(active)[:, None] == np.arange(states)
    reflected, transmitted = (((np.asarray(outcome) == side)[:, None] & on).mean(axis=0) for side in (-1, 1))
    return Outcomes(reflected, transmitted, float(np.mean(np.asarray(outcome) == 0)), len(outcome))
