"""Every notebook runs from top to bottom in an empty folder."""

import os
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

NOTEBOOKS = sorted((Path(__file__).resolve().parent.parent / "notebooks").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path, monkeypatch, request):
    if "n2p2" in path.stem:  # a potential that may not be shipped
        folder = request.getfixturevalue("shared") / "data" / "n2p2" / "H2O_RPBE-D3"
        monkeypatch.setenv("BPJAX_WATER_POTENTIAL", str(folder))
    if "soap_network" in path.stem:  # data that may not be shipped
        file = request.getfixturevalue("shared") / "data" / "ethanol_ccsdt" / "ethanol_ccsdt_train.extxyz"
        monkeypatch.setenv("BPJAX_ETHANOL", str(file))
    # Notebooks shorten trainings and dynamics under this variable; what they show is the same.
    if "BPJAX_NOTEBOOK_FAST" not in os.environ:
        monkeypatch.setenv("BPJAX_NOTEBOOK_FAST", "1")
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    client = nbclient.NotebookClient(
        notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_outputs_are_clean(path):
    """Outputs may be stored, but no errors and no paths of the machine that made them."""
    for cell in nbformat.read(path, as_version=4).cells:
        for output in cell.get("outputs", []):
            assert output.output_type != "error"
            assert "/home/" not in str(output) and "/Users/" not in str(output)
