"""Every notebook runs from top to bottom in an empty folder, one after the other in one kernel."""

import os
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

NOTEBOOKS = sorted((Path(__file__).resolve().parent.parent / "notebooks").glob("*.ipynb"))

AS_NEW = """\
%reset -f
import gc, os, jax, matplotlib.pyplot
matplotlib.pyplot.close("all")
matplotlib.rcdefaults()
jax.config.update("jax_enable_x64", False)
jax.clear_caches()
gc.collect()
os.chdir({folder!r})
os.environ.update({variables!r})
del gc, os, jax, matplotlib
"""
"""What makes a kernel that ran a notebook like one that has just started; what it has imported stays."""


@pytest.fixture(scope="module")
def kernel():
    """Starting one and importing takes as long as a short notebook."""
    client = nbclient.NotebookClient(nbformat.v4.new_notebook(), timeout=900, kernel_name="python3")
    with client.setup_kernel():
        yield client


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path, kernel, request):
    # Notebooks shorten trainings and dynamics under this variable; what they show is the same.
    variables = {"BPJAX_NOTEBOOK_FAST": os.environ.get("BPJAX_NOTEBOOK_FAST", "1")}
    if "n2p2" in path.stem:  # a potential that may not be shipped
        folder = request.getfixturevalue("shared") / "data" / "n2p2" / "H2O_RPBE-D3"
        variables["BPJAX_WATER_POTENTIAL"] = str(folder)
    if "soap_network" in path.stem:  # data that may not be shipped
        file = request.getfixturevalue("shared") / "data" / "ethanol_ccsdt" / "ethanol_ccsdt_train.extxyz"
        variables["BPJAX_ETHANOL"] = str(file)
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(AS_NEW.format(folder=str(tmp_path), variables=variables)))
    kernel.nb = notebook
    kernel.reset_execution_trackers()
    for n, cell in enumerate(notebook.cells):
        kernel.execute_cell(cell, n)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_outputs_are_clean(path):
    """Outputs may be stored, but no errors and no paths of the machine that made them."""
    for cell in nbformat.read(path, as_version=4).cells:
        for output in cell.get("outputs", []):
            assert output.output_type != "error"
            assert "/home/" not in str(output) and "/Users/" not in str(output)
