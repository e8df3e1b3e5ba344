"""A RuNNer data file with all that the format has, and the comparison of what is read from two of them."""

import numpy as np
from ase import Atoms

from bpjax.io.labels import labels
from bpjax.io.runner import read_runner

# Each line in its own place, so that the cases below can say which line is wrong. The units are ev-angstrom.
TEXT = """begin set=train
comment the first
comment
comment  and the last
lattice 5.0 0.0 0.0
lattice 1.0 5.5 0.0
lattice 0.0 0.0 6.0
atom 0.0 0.0 0.5 Si 0.25 0.0 0.1 -0.2 0.3
atom 2.0 0.0 0.0 O -0.25 0.0 -0.1 0.2 -0.3
energy -1.5
charge 1.0
end

begin
atom 0.0 0.0 0.0 H 0.0 0.0 0.0 0.0 0.0
atom 0.0 0.0 0.75 H 0.0 0.0 0.0 0.0 0.0
energy 0.0
end
"""


def read(folder, text, units="ev-angstrom", index=":"):
    path = folder / "input.data"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_runner(path, units, index)


def assert_same(a: Atoms, b: Atoms, rtol=0.0):
    """All that the format holds is the same."""

    def same(x, y):
        assert (x is None) == (y is None)
        if x is not None:
            np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-300 if rtol else 0)

    assert a.numbers.tolist() == b.numbers.tolist() and a.pbc.tolist() == b.pbc.tolist()
    same(a.positions, b.positions)
    same(a.cell.array, b.cell.array)
    same(labels(a).energy, labels(b).energy)
    same(labels(a).forces, labels(b).forces)
    for name in ("initial_charges", "runner_unused"):
        same(a.arrays.get(name), b.arrays.get(name))
    assert a.info == b.info
