"Execute notebooks in place and clean them, so that the stored outputs are those of the code as it is: all, or those named."
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


def execute(path: Path):
    "Run every cell but those whose flag the tests skip; nothing is written unless all of them ran."
    nb = nbformat.read(path, as_version=4)
    flags = re.compile(r"^#\|\s*(%s|eval:\s*false)\s*$" % "|".join(get_config().tst_flags.split()), re.M)
    whole, nb.cells = nb.cells, [c for c in nb.cells if not flags.search(c.source)]
    NotebookClient(nb, timeout=1800, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}).execute()
    nb.cells = whole
    for c in nb.cells: c.metadata = {}
    nbformat.write(nb, path)
    bare(nbdev_clean)(str(path))


def main():
    os.environ.pop("MPLBACKEND", None)  # the kernel's own, which stores the figures
    for path in [Path(p).absolute() for p in sys.argv[1:]] or notebooks():
        t = time.time()
        execute(path)
        print(f"{path.name}: {time.time() - t:.0f} s", flush=True)


if __name__ == "__main__": main()
