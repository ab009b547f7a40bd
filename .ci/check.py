"The modules are the export of the notebooks, the notebooks are clean and executed, the README is index.ipynb: else name what differs. Changes nothing."
from __future__ import annotations

import filecmp
import json
import shutil
import sys
import tempfile
from pathlib import Path

from nbdev.clean import nbdev_clean
from nbdev.config import get_config
from nbdev.export import nb_export

from site_tools import bare, notebooks, readme

cfg = get_config()
root = cfg.config_path


def export_differs() -> list[str]:
    "Modules that are not what their notebook exports, or that no notebook exports."
    with tempfile.TemporaryDirectory() as tmp:
        for nb in notebooks(): nb_export(nb, lib_path=tmp)
        names = {p.name for p in Path(tmp).glob("*.py")} | {p.name for p in cfg.lib_path.glob("*.py")} - {"__init__.py", "_modidx.py"}
        same = lambda n: (Path(tmp)/n).exists() and (cfg.lib_path/n).exists() and filecmp.cmp(Path(tmp)/n, cfg.lib_path/n, shallow=False)
        return [f"recsys_nb/{n} is not the export of its notebook: run `make sync`" for n in sorted(names) if not same(n)]


def unclean() -> list[str]:
    "Notebooks that nbdev_clean would change or cannot read, and those with a stored error or with code that never ran."
    out = []
    for nb in notebooks():
        rel = nb.relative_to(root)
        try: cells = json.loads(nb.read_text(encoding="utf-8"))["cells"]
        except (ValueError, KeyError) as e:
            out.append(f"{rel} is not a notebook: {e}")
            continue
        with tempfile.TemporaryDirectory() as tmp:
            copy = Path(tmp)/nb.name
            shutil.copy(nb, copy)
            bare(nbdev_clean)(str(copy))
            if not filecmp.cmp(nb, copy, shallow=False): out.append(f"{rel} is not clean: run `make sync`")
        outputs = [o for c in cells for o in c.get("outputs", [])]
        if any(o["output_type"] == "error" for o in outputs): out.append(f"{rel} holds an error output: run `make run-notebooks`")
        if len(cells) > 5 and not outputs: out.append(f"{rel} was never executed: run `make run-notebooks`")
        if nb.stat().st_size > 2_000_000: out.append(f"{rel} is larger than 2 MB")
    return out


def main():
    problems = unclean()
    problems += export_differs() if not problems else []
    if (root/"README.md").read_text(encoding="utf-8") != readme(): problems.append("README.md is not index.ipynb: run `make sync`")
    for p in problems: print("check:", p, file=sys.stderr)
    if problems: sys.exit(1)
    print(f"check: {len(notebooks())} notebooks are clean, executed and exported; cells flagged {', '.join(cfg.tst_flags.split())} are skipped by the tests")


if __name__ == "__main__": main()
