"Rooms import downward only: parts in their order, chapters by their number."

import ast
import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

root = Path(__file__).resolve().parent.parent
PARTS = (
    "data features models training evaluation recommenders experiments serving".split()
)
ALLOWED = {"experiments": {"data", "evaluation"}}  # what a part knows beside itself
LIGHT = ("data", "evaluation", "experiments")  # arrays and frames, without torch
EXTRAS = re.compile(
    r"implicit|optuna|sqlalchemy|tea_tasting|statsmodels|openTSNE|pyspark|psycopg"
    r"|fastapi|uvicorn|pydantic|onnx\w*|torchrec|fbgemm_gpu|skops"
    r"|torch\.distributed\.nn"  # a part that some builds of torch lack
)


def number_of(module):
    "The number of the chapter that exports a module."
    notebooks = list((root / "nbs").glob(f"[0-9]*_{module}.ipynb"))
    assert len(notebooks) == 1, f"{module} has the notebooks {notebooks}"
    return notebooks[0].name.split("_")[0]


def rooms():
    "The modules that stand in a part, such as data.splits."
    files = (root / "recsys_nb").glob("*/[!_]*.py")
    return sorted(f"{p.parent.name}.{p.stem}" for p in files)


def tree_of(module):
    path = root / "recsys_nb" / (module.replace(".", "/") + ".py")
    return ast.parse(path.read_text(encoding="utf-8"))


def imported_rooms(module):
    "The rooms that a room imports; a name from a part is looked up in its stub."
    known, found = set(rooms()), set()
    for node in ast.walk(tree_of(module)):
        if not isinstance(node, ast.ImportFrom):
            continue
        source = node.module or ""
        if node.level == 1:
            source = f"{module.split('.')[0]}.{source}"
        elif node.level == 0:
            source = source.removeprefix("recsys_nb").lstrip(".")
        if source in known:
            found.add(source)
        elif source in PARTS and (root / "recsys_nb" / source).is_dir():
            found |= {room_of(source, alias.name) for alias in node.names}
    return found - {module}


def room_of(part, name):
    "The room in which a part's public name, or its module of that name, stands."
    stub = root / "recsys_nb" / part / "__init__.pyi"
    line = re.search(rf"from \.(\w+) import {name} as", stub.read_text("utf-8"))
    return f"{part}.{line[1] if line else name}"


@pytest.mark.parametrize("module", rooms())
def test_arrows_go_downward(module):
    mine = (PARTS.index(module.split(".")[0]), number_of(module))
    for other in imported_rooms(module):
        assert (PARTS.index(other.split(".")[0]), number_of(other)) < mine, other


@pytest.mark.parametrize("part", ALLOWED)
def test_parts_know_few_others(part):
    mine = [module for module in rooms() if module.startswith(f"{part}.")]
    known = {other.split(".")[0] for module in mine for other in imported_rooms(module)}
    assert mine and known <= ALLOWED[part] | {part}


# packages that are asked for by an extra alone, or by those who write notebooks
FORBIDDEN = (
    "fastcore nbdev tea_tasting statsmodels openTSNE implicit optuna fastapi uvicorn "
    "uvloop httptools prometheus_client onnx onnxscript onnxruntime torchrec fbgemm_gpu"
).split()
FRESH = """
import importlib, json, sys
forbidden, steps, modules = json.loads(sys.argv[1])

class Forbid:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in forbidden:
            raise ModuleNotFoundError(name + " must not be imported", name=name)

sys.meta_path.insert(0, Forbid())
import recsys_nb as rn
heavy = "torch", "faiss", "pandas", "numpy"
loaded = {"recsys_nb": [name for name in heavy if name in sys.modules]}
for step, names in steps.items():
    for name in names:
        importlib.import_module("recsys_nb." + name)
    part = importlib.import_module("recsys_nb." + step)
    for name in part.__all__:
        getattr(part, name)
    loaded[step] = [name for name in heavy if name in sys.modules]
missing = [name for name in rn.__all__ if not hasattr(rn, name)]
import recsys_nb.data, recsys_nb.recommenders
assert rn.Dataset is recsys_nb.data.Dataset
assert rn.Recommender is recsys_nb.recommenders.Recommender
for name in modules:
    importlib.import_module("recsys_nb." + name)
print(json.dumps([loaded, len(rn.__all__), missing]))
"""


@pytest.fixture(scope="module")
def fresh():
    """What a fresh process has loaded that imports the package, its light parts, and
    then everything, with nothing of what an extra asks for."""
    steps = {p: [m for m in rooms() if m.startswith(f"{p}.")] for p in LIGHT}
    assert all(steps.values())
    files = (root / "recsys_nb").rglob("[!_]*.py")
    paths = [p.relative_to(root / "recsys_nb").with_suffix("") for p in files]
    modules = sorted(".".join(path.parts) for path in paths)
    words = json.dumps([FORBIDDEN, steps, modules])
    run = [sys.executable, "-c", FRESH, words]
    done = subprocess.run(run, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("part", LIGHT)
def test_light_parts_need_neither_torch_nor_faiss(fresh, part):
    assert not {"torch", "faiss"} & set(fresh[0][part])


def test_the_package_offers_names_of_its_parts(fresh):
    "Each name of `recsys_nb` is the one of its part, and none is loaded before."
    loaded, count, missing = fresh
    assert loaded["recsys_nb"] == []
    assert count > 50 and missing == []


def test_imports_need_only_the_core(fresh):
    "No module needs a package that an extra or a developer asks for."
    assert fresh


@pytest.mark.parametrize("module", rooms())
def test_imports_stand_at_the_top(module):
    "Only an optional extra is imported within a function."
    late = [
        (node.lineno, ast.unparse(node))
        for function in ast.walk(tree_of(module))
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        for node in ast.walk(function)
        if isinstance(node, (ast.Import, ast.ImportFrom))
    ]
    assert not [found for found in late if not EXTRAS.search(found[1])]


HEAVY = re.compile(r"^(torch|faiss|implicit|onnx\w*)(\.|$)")


@pytest.mark.parametrize("module", [m for m in rooms() if m.split(".")[0] in LIGHT])
def test_rooms_of_arrays_and_frames_are_light(module):
    "They also run where there is no torch, such as in a browser."
    found = []
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.ImportFrom):
            found.append(node.module or "")
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    assert not [name for name in found if HEAVY.search(name)]


def defined_names(module):
    "The public names that a module defines at its top level."
    for node in tree_of(module).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.AnnAssign):
            yield node.target.id
        elif isinstance(node, ast.Assign):
            yield from (t.id for t in node.targets if isinstance(t, ast.Name))


def test_a_name_has_one_meaning():
    "No public name is defined in two modules of the package."
    files = (root / "recsys_nb").rglob("[!_]*.py")
    modules = [p.relative_to(root / "recsys_nb").with_suffix("") for p in files]
    homes = {}
    for module in sorted(".".join(path.parts) for path in modules):
        for name in defined_names(module):
            if not name.startswith("_"):
                homes.setdefault(name, set()).add(module)
    assert len(homes) > 1_000
    assert not {name: found for name, found in homes.items() if len(found) > 1}


def cpu_seconds(*words, status=0):
    "What a command costs in a process of its own, all its threads together."
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, *words], cwd=root, capture_output=True)
    assert done.returncode == status, done.stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return used


@pytest.mark.parametrize(
    "words, most",
    [
        (["-c", "import recsys_nb"], 0.1),
        (["-m", "recsys_nb.cli", "--help"], 0.5),
        (["-m", "recsys_nb.cli", "run", "--help"], 0.5),
    ],
)
def test_an_import_and_help_cost_little(words, most):
    empty = min(cpu_seconds("-c", "pass") for _ in range(3))
    assert min(cpu_seconds(*words) for _ in range(3)) - empty < most


def test_tables_are_read_by_the_command_line(say, capfd, tmp_path):
    "Its help names the splits; what is in no table is an error that lists them."
    from recsys_nb.data import SPLITS

    assert {"time", "last", "user", "random"} <= set(SPLITS)
    with pytest.raises(SystemExit):
        say("run", "--help")
    shown = " ".join(capfd.readouterr().out.split())
    assert f"{', '.join(SPLITS)} (keys of SPLITS)" in shown
    out = tmp_path / "never-made"
    for flag, known in (("--split", ", ".join(SPLITS)), ("--baselines", "EASE")):
        words = ["--data", "simulated", "--out", out, flag, "nothing"]
        status, _, wrong = say("run", *words)
        assert status == 2 and f"{flag} nothing is none of" in wrong
        assert known in wrong and not out.exists()


def test_a_wrong_word_is_told_before_anything_is_loaded():
    line = ["-m", "recsys_nb.cli", "run", "--out", "never-made"]
    empty = min(cpu_seconds("-c", "pass") for _ in range(3))
    for words in (
        ["--data", "simulated", "--split", "sesion"],
        ["--data", "simulated", "--baselines", "EAS"],
        ["--data", "no-such.csv"],
        ["--data", "simulated", "--encoding", "utf-99"],
    ):
        spent = min(cpu_seconds(*line, *words, status=2) for _ in range(3))
        assert spent - empty < 0.5, words


def test_threads_are_bounded_before_the_libraries_are_loaded():
    code = (
        "import os, sys; from recsys_nb.cli import bound_threads\n"
        "bound_threads(None); first = os.environ['OMP_NUM_THREADS']\n"
        "bound_threads(3); print(first, os.environ['OMP_NUM_THREADS'])\n"
        "assert 'numpy' not in sys.modules"
    )
    run = [sys.executable, "-c", code]
    env = {n: value for n, value in os.environ.items() if "NUM_THREADS" not in n}
    for given, wanted in (({}, "1 3"), ({"OMP_NUM_THREADS": "2"}, "2 3")):
        options = {"cwd": root, "capture_output": True, "text": True, "check": True}
        done = subprocess.run(run, env=env | given, **options)
        assert done.stdout.strip() == wanted
