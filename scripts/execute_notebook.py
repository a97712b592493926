"""Execute the notebook of this folder, and keep its outputs in it.

    python scripts/execute_notebook.py

Progress bars and warnings are left out, and so is the plain text of what is shown as a picture or a page: it names
folders of the machine.
"""

import argparse
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).with_name("instruction_sft_dataset.ipynb")
RICH = {"image/svg+xml", "text/html"}


def main() -> None:
    """Execute the notebook in a temporary folder, and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=NOTEBOOK, help="File to write. Default: the notebook itself.")
    arguments = parser.parse_args()
    notebook = nbformat.read(NOTEBOOK, nbformat.NO_CONVERT)
    try:
        with tempfile.TemporaryDirectory() as folder:
            execute(notebook, Path(folder))
    finally:  # of a cell that fails, the output says why
        for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
            cell.metadata.pop("execution", None)
            cell["outputs"] = [shortened(output) for output in cell.outputs if output.get("name") != "stderr"]
        nbformat.write(notebook, arguments.output)


def execute(notebook: nbformat.NotebookNode, folder: Path) -> None:
    """Execute a notebook in a folder, a cell in at most 20 minutes; its outputs are written into it."""
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=1200, kernel_name="python3", resources=resources).execute()


def shortened(output: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return an output without its plain text, if a browser shows something else."""
    if RICH & set(output.get("data", ())):
        output["data"].pop("text/plain", None)
    return output


if __name__ == "__main__":
    main()
