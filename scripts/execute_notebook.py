"""Execute the notebook in this folder, and save its outputs in it.

    python scripts/execute_notebook.py

Progress bars and warnings are left out. Outputs with a picture or an HTML page are saved without their plain text,
which contains paths of this machine.
"""

import argparse
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).with_name("instruction_sft_dataset.ipynb")
RICH = {"image/svg+xml", "text/html"}


def main() -> None:
    """Execute the notebook in a temporary folder, and write it with its outputs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=NOTEBOOK, help="File to write. Default: the notebook itself.")
    arguments = parser.parse_args()
    notebook = nbformat.read(NOTEBOOK, nbformat.NO_CONVERT)
    try:
        with tempfile.TemporaryDirectory() as folder:
            execute(notebook, Path(folder))
    finally:  # after an error too: the failed cell's output has the traceback
        for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
            cell.metadata.pop("execution", None)
            cell["outputs"] = [shortened(output) for output in cell.outputs if output.get("name") != "stderr"]
        nbformat.write(notebook, arguments.output)


def execute(notebook: nbformat.NotebookNode, folder: Path) -> None:
    """Execute a notebook in a folder, and add its outputs to it. A cell may take 20 minutes."""
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=1200, kernel_name="python3", resources=resources).execute()


def shortened(output: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return an output without its plain text, if it has a picture or HTML as well."""
    if RICH & set(output.get("data", ())):
        output["data"].pop("text/plain", None)
    return output


if __name__ == "__main__":
    main()
