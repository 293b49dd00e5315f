"""Runs a notebook of the cells in a JSON file, and prints what each cell printed: ``notebook.py CELLS.json``."""

# ruff: noqa: T201

from __future__ import annotations

import json
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

cells = json.loads(Path(sys.argv[1]).read_text())
notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
# The kernel is ended as by "Restart": nothing in the notebook needs to clean up.
NotebookClient(notebook, timeout=60, kernel_name="python3", resources={"metadata": {"path": str(Path.cwd())}}).execute()
print(json.dumps([[o.get("text", o) for o in cell["outputs"]] for cell in notebook.cells]))
