"""Execute notebooks in place and clean them, so that the stored outputs are those of
the code as it is: all, or those named."""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbdev.clean import nbdev_clean
from nbdev.config import get_config
from site_tools import bare, notebooks


def execute(path: Path) -> None:
    """Run every cell but those whose flag the tests skip; nothing is written unless all
    of them ran."""
    nb = nbformat.read(path, as_version=4)
    flags = "|".join(get_config().tst_flags.split())
    skipped = re.compile(rf"^#\|\s*({flags}|eval:\s*false)\s*$", re.M)
    whole = nb.cells
    nb.cells = [cell for cell in whole if not skipped.search(cell.source)]
    here = {"metadata": {"path": str(path.parent)}}
    client = NotebookClient(nb, timeout=1800, kernel_name="python3", resources=here)
    client.execute()
    nb.cells = whole
    for cell in nb.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = join_streams(cell.outputs)
    nbformat.write(nb, path)
    bare(nbdev_clean)(str(path))


def join_streams(outputs: list) -> list:
    "Outputs in which what was printed in a row is one: a kernel cuts it by the clock."
    joined = []
    for output in outputs:
        last = joined[-1] if joined else None
        is_stream = output.output_type == "stream"
        if is_stream and last is not None and last.get("name") == output.name:
            last.text += output.text
        else:
            joined.append(output)
    return joined


def main() -> None:
    os.environ.pop("MPLBACKEND", None)  # the kernel's own, which stores the figures
    named = [Path(word).absolute() for word in sys.argv[1:]]
    for path in named or notebooks():
        start = time.time()
        execute(path)
        print(f"{path.name}: {time.time() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
