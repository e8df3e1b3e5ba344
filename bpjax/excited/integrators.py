r"""Symplectic integrators of the nuclei on one electronic state, as kicks and drifts.

A step of length h is :math:`v \mathrel{+}= b_0 h F/m`, and then for each stage :math:`R \mathrel{+}= a_i h v`, a new force, and
:math:`v \mathrel{+}= b_i h F/m`. The force at the end of a step is the one at the beginning of the next.

"velocity_verlet" is of second order with one force in a step. "omelyan" is of fourth order with four: the error of the energy
falls with the fourth power of the step. At equal cost it is the better choice where the energy must be kept to better than some
meV, because hydrogens then force velocity Verlet to steps of some hundredths of a femtosecond.

References: L. Verlet, Phys. Rev. 159, 98 (1967), doi:10.1103/PhysRev.159.98; I. P. Omelyan, I. M. Mryglod, R. Folk, Comput. Phys.
Commun. 146, 188 (2002), doi:10.1016/S0010-4655(02)00451-4 (the optimised velocity version of Forest and Ruth's scheme).
"""

from typing import Literal, NamedTuple

Integrator = Literal["velocity_verlet", "omelyan"]


class Scheme(NamedTuple):
    """Kicks b and drifts a in units of the step; there is one kick more than drifts."""

    kicks: tuple[float, ...]
    drifts: tuple[float, ...]


_XI, _LAMBDA, _CHI = 0.1644986515575760, -0.02094333910398989, 1.235692651138917

SCHEMES = {
    "velocity_verlet": Scheme((0.5, 0.5), (1.0,)),
    "omelyan": Scheme(
        (_XI, _CHI, 1 - 2 * (_CHI + _XI), _CHI, _XI),
        (0.5 * (1 - 2 * _LAMBDA), _LAMBDA, _LAMBDA, 0.5 * (1 - 2 * _LAMBDA)),
    ),
}
"""The integrators by name."""
