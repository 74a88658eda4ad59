"""The notebook runs as it is committed, from the committed results, without a warning."""

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import ROOT

NOTEBOOK = ROOT / "comparison_to_MBR.ipynb"


# Jupyter's own client warns of its paths and of event loops, depending on the version; inside the kernel all warnings
# are errors.
@pytest.mark.filterwarnings("default")
def test_the_notebook_runs_and_shows_what_is_committed() -> None:
    committed = nbformat.read(NOTEBOOK, as_version=4)
    again = nbformat.from_dict({**committed, "cells": [dict(cell) for cell in committed.cells]})
    again.cells.insert(0, nbformat.v4.new_code_cell('import warnings\n\nwarnings.simplefilter("error")'))
    client = NotebookClient(again, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}})
    client.execute()
    for before, after in zip(committed.cells, again.cells[1:], strict=True):
        assert tables(before) == tables(after), "make notebook"


def tables(cell: nbformat.NotebookNode) -> list[str]:
    """What a cell displays as Markdown: tables of numbers that follow from the result files."""
    return [
        output["data"]["text/markdown"]
        for output in cell.get("outputs", [])
        if "text/markdown" in output.get("data", {})
    ]
