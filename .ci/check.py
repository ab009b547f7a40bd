"""The modules are the export of the notebooks, the notebooks are clean and executed,
the README is index.ipynb: else name what differs. Changes nothing."""

from __future__ import annotations

import json
import re
import shutil
import sys
import tempfile
from pathlib import Path

from docstrings import write_help
from nbdev.clean import nbdev_clean
from nbdev.config import get_config
from nbdev.doclinks import _build_modidx
from nbdev.export import nb_export
from parts import write_parts, write_top
from site_tools import bare, notebooks, readme

cfg = get_config()
root, lib = cfg.config_path, cfg.lib_path.name
LARGEST = 2_000_000  # bytes of a notebook
MADE = (".py", ".pyi", ".txt")  # files of the package that notebooks give
RERUN = "run `make run-notebooks`"


def remade(to: Path) -> Path:
    "The notebooks cleaned and the modules exported from them, in the folder `to`."
    (to / lib / "_help").mkdir(parents=True)
    shutil.copy(cfg.lib_path / "_help/__init__.py", to / lib / "_help")  # no notebook's
    shutil.copy(cfg.lib_path / "__init__.py", to / lib)  # for the version, read there
    for nb in notebooks():
        copy = to / nb.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(nb, copy)
        bare(nbdev_clean)(str(copy))
        nb_export(copy, lib_path=to / lib)
    write_parts(to / lib)
    write_top(to / lib, cfg.version)
    write_help(to / lib)
    _build_modidx(dest=to / lib, nbs_path=to / cfg.nbs_path.name)
    return to


def read(path: Path) -> bytes | None:
    "What a file holds; None where there is none."
    return path.read_bytes() if path.exists() else None


def differing(to: Path) -> list[str]:
    """Notebooks and modules that are not as remade in `to`, modules that no notebook
    exports, and exports that are no module yet."""
    names = {nb.relative_to(root) for nb in notebooks()}
    for folder in (root, to):
        made = [p for p in (folder / lib).rglob("*") if p.suffix in MADE]
        names |= {path.relative_to(folder) for path in made}
    problems = []
    for name in sorted(names):
        if read(root / name) != read(to / name):
            notebook = name.suffix == ".ipynb"
            what = "clean" if notebook else "the export of the notebooks"
            problems.append(f"{name} is not {what}: run `make sync`")
    return problems


def source_of(cell: dict) -> str:
    "The code or text of a cell."
    return "".join(cell["source"])


def shows_figure(cell: dict) -> bool:
    "Whether a cell holds a picture."
    kinds = [
        kind for output in cell.get("outputs", []) for kind in output.get("data", {})
    ]
    return "image/png" in kinds or "image/svg+xml" in kinds


def changes_all_warnings(cell: dict) -> bool:
    "Whether a cell sets the warnings of all that is tested after it."
    lines = source_of(cell).splitlines()
    return any(line.startswith("warnings.simplefilter") for line in lines)


def is_error(outputs: list, runs: list) -> bool:
    return any(output["output_type"] == "error" for output in outputs)


def is_noisy(outputs: list, runs: list) -> bool:
    return any(output.get("name") == "stderr" for output in outputs)


def never_ran(outputs: list, runs: list) -> bool:
    return len(runs) > 3 and not outputs


def lacks_figure(outputs: list, runs: list) -> bool:
    figures = [cell for cell in runs if "#| fig-cap" in source_of(cell)]
    return not all(map(shows_figure, figures))


def names_temporary(outputs: list, runs: list) -> bool:
    "Whether an output holds the name of a temporary folder, which changes each time."
    return re.search(r"/tmp\w{8}\b", json.dumps(outputs)) is not None


def mutes_warnings(outputs: list, runs: list) -> bool:
    return any(map(changes_all_warnings, runs))


DAMAGES = {
    is_error: f"holds an error output: {RERUN}",
    is_noisy: "holds a warning or other text on stderr: mend its cause, then "
    "`make run-notebooks`",
    never_ran: f"was never executed: {RERUN}",
    lacks_figure: f"has a figure cell without its figure: {RERUN}",
    names_temporary: "shows the name of a temporary folder, another one in each run: "
    "give the value a name, or print its last part",
    mutes_warnings: "changes all warnings for the notebooks that are tested after it: "
    "use `with warnings.catch_warnings()` or a message",
}  # test of the outputs of a notebook and of the cells that run -> what is wrong


def damaged(nb: Path) -> list[str]:
    """What is wrong with a notebook by itself: unreadable, a stored error, code that
    never ran, too large."""
    name = nb.relative_to(root)
    try:
        cells = json.loads(nb.read_text(encoding="utf-8"))["cells"]
    except (ValueError, KeyError) as error:
        return [f"{name} is not a notebook: {type(error).__name__}: {error}"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    runs = [cell for cell in code if "eval: false" not in source_of(cell)]
    found = [
        f"{name} {what}"
        for is_wrong, what in DAMAGES.items()
        if is_wrong(outputs, runs)
    ]
    if nb.stat().st_size > LARGEST:
        found.append(f"{name} is larger than {LARGEST / 1e6:g} MB")
    return found


def unlisted() -> list[str]:
    "Pages that the sidebar does not lead to, and entries without a page."
    folder = root / cfg.nbs_path.name
    pages = {nb.relative_to(folder).as_posix() for nb in notebooks()}
    lines = (folder / "sidebar.yml").read_text(encoding="utf-8").splitlines()
    words = [line.strip().removeprefix("- ") for line in lines]
    entries = {word for word in words if word.endswith(".ipynb")}
    return [
        *(f"{page} is not in sidebar.yml: name it" for page in sorted(pages - entries)),
        *(
            f"sidebar.yml names {page}, which is not"
            for page in sorted(entries - pages)
        ),
    ]


def main() -> None:
    problems = [problem for nb in notebooks() for problem in damaged(nb)]
    if not any("is not a notebook" in problem for problem in problems):
        with tempfile.TemporaryDirectory() as folder:
            problems += differing(remade(Path(folder)))
        if (root / "README.md").read_text(encoding="utf-8") != readme():
            problems.append("README.md is not index.ipynb: run `make sync`")
    problems += unlisted()
    for problem in problems:
        print("check:", problem, file=sys.stderr)
    if problems:
        sys.exit(1)
    flags = ", ".join(cfg.tst_flags.split())
    print(
        f"check: {len(notebooks())} notebooks are clean, executed and exported; "
        f"cells flagged {flags} are skipped by the tests"
    )


if __name__ == "__main__":
    main()
