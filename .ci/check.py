"The modules are the export of the notebooks, the notebooks are clean and executed, the README is index.ipynb: else name what differs. Changes nothing."
from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

from nbdev.clean import nbdev_clean
from nbdev.config import get_config
from nbdev.doclinks import _build_modidx
from nbdev.export import nb_export

from parts import write_parts, write_top
from site_tools import bare, notebooks, readme

cfg = get_config()
root, lib = cfg.config_path, cfg.lib_path.name
LARGEST = 2_000_000  # bytes of a notebook


def remade(to: Path) -> Path:
    "The notebooks cleaned and the modules exported from them, in the folder `to`."
    (to/lib).mkdir()
    shutil.copy(cfg.lib_path/"__init__.py", to/lib)  # for the export, which reads the version there
    for nb in notebooks():
        copy = to/nb.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(nb, copy)
        bare(nbdev_clean)(str(copy))
        nb_export(copy, lib_path=to/lib)
    write_parts(to/lib)
    write_top(to/lib, cfg.version)
    _build_modidx(dest=to/lib, nbs_path=to/cfg.nbs_path.name)
    return to


def differing(to: Path) -> list[str]:
    "Notebooks and modules that are not as remade in `to`, modules that no notebook exports, and exports that are no module yet."
    names = {p.relative_to(d) for d in (root, to) for p in (d/lib).rglob("*.py*") if p.suffix in (".py", ".pyi")} | {nb.relative_to(root) for nb in notebooks()}
    text = lambda p: p.read_bytes() if p.exists() else None
    what = lambda n: "is not clean" if n.suffix == ".ipynb" else "is not the export of the notebooks"
    return [f"{n} {what(n)}: run `make sync`" for n in sorted(names) if text(root/n) != text(to/n)]


def damaged(nb: Path) -> list[str]:
    "What is wrong with a notebook by itself: unreadable, a stored error, code that never ran, too large."
    name = nb.relative_to(root)
    try: cells = json.loads(nb.read_text(encoding="utf-8"))["cells"]
    except (ValueError, KeyError) as e: return [f"{name} is not a notebook: {type(e).__name__}: {e}"]
    outputs, out = [o for c in cells for o in c.get("outputs", [])], []
    if any(o["output_type"] == "error" for o in outputs): out.append(f"{name} holds an error output: run `make run-notebooks`")
    if any(o.get("name") == "stderr" for o in outputs): out.append(f"{name} holds a warning or other text on stderr: mend its cause, then `make run-notebooks`")
    runs = [c for c in cells if c["cell_type"] == "code" and "eval: false" not in "".join(c["source"])]
    if len(runs) > 3 and not outputs: out.append(f"{name} was never executed: run `make run-notebooks`")
    shows = lambda c: any("image/png" in o.get("data", {}) or "image/svg+xml" in o.get("data", {}) for o in c.get("outputs", []))
    if [c for c in runs if "#| fig-cap" in "".join(c["source"]) and not shows(c)]: out.append(f"{name} has a figure cell without its figure: run `make run-notebooks`")
    if [c for c in runs if any(line.startswith("warnings.simplefilter") for line in "".join(c["source"]).splitlines())]:
        out.append(f"{name} changes all warnings for the notebooks that are tested after it: use `with warnings.catch_warnings()` or a message")
    if nb.stat().st_size > LARGEST: out.append(f"{name} is larger than {LARGEST / 1e6:g} MB")
    return out


def main():
    problems = [p for nb in notebooks() for p in damaged(nb)]
    if not any("is not a notebook" in p for p in problems):
        with tempfile.TemporaryDirectory() as tmp: problems += differing(remade(Path(tmp)))
        if (root/"README.md").read_text(encoding="utf-8") != readme(): problems.append("README.md is not index.ipynb: run `make sync`")
    for p in problems: print("check:", p, file=sys.stderr)
    if problems: sys.exit(1)
    print(f"check: {len(notebooks())} notebooks are clean, executed and exported; cells flagged {', '.join(cfg.tst_flags.split())} are skipped by the tests")


if __name__ == "__main__": main()
