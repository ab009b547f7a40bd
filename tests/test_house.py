"""The house: what is packaged, what an import pulls in, and that the checks of the
notebooks and of the site find what they are for."""

import ast
import importlib
import importlib.util
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest

root = Path(__file__).resolve().parent.parent
modules = sorted(
    ".".join(p.relative_to(root / "recsys_nb").with_suffix("").parts)
    for p in (root / "recsys_nb").rglob("*.py")
    if not p.stem.startswith("_")
)
parts = sorted({m.split(".")[0] for m in modules if "." in m})
config = ConfigParser(delimiters=["="], interpolation=None)
config.read(root / "settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]


def run(*args, cwd=root, **env):
    return subprocess.run(
        [sys.executable, *map(str, args)],
        cwd=cwd,
        env=os.environ | env,
        capture_output=True,
        text=True,
        timeout=300,
    )


# What is packaged


@pytest.mark.skipif(
    importlib.util.find_spec("setuptools") is None,
    reason="the wheel is built offline, which needs setuptools here",
)
def test_wheel_holds_the_modules_and_says_what_it_needs(tmp_path):
    src = tmp_path / "src"
    shutil.copytree(
        root,
        src,
        ignore=lambda d, names: [
            n
            for n in names
            if n in ("tests", "nbs", "benchmarks", "build")
            or n.startswith((".", "_d", "_proc"))
            or n.endswith(".egg-info")
        ],
    )
    r = run(
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--disable-pip-version-check",
        "-w",
        tmp_path,
        src,
    )
    assert r.returncode == 0, r.stderr
    with zipfile.ZipFile(next(tmp_path.glob("recsys_nb-*.whl"))) as wheel:
        names = set(wheel.namelist())
        meta = {
            Path(n).name: wheel.read(n).decode()
            for n in names
            if ".dist-info/" in n and "licenses" not in n
        }
    assert {
        f"recsys_nb/{m.replace('.', '/')}.py" for m in [*modules, "__init__", "_modidx"]
    } | {f"recsys_nb/{p}/__init__.pyi" for p in parts} <= names
    assert "recsys_nb/py.typed" in names
    texts = {f"recsys_nb/_help/{p.name}" for p in (root / "recsys_nb").glob("_help/*")}
    assert len(texts) > 50 and texts - {"recsys_nb/_help/__pycache__"} <= names
    static = (root / "recsys_nb" / "serving" / "static").iterdir()
    pages = {f"recsys_nb/serving/static/{path.name}" for path in static}
    assert len(pages) > 5 and pages <= names
    assert not [n for n in names if n.startswith(("tests", "nbs"))]
    assert (
        f"Requires-Python: >={cfg['min_python']}" in meta["METADATA"]
        and f"Version: {cfg['version']}" in meta["METADATA"]
    )
    assert all(
        f"Provides-Extra: {e}" in meta["METADATA"]
        for e in ["abtest", "viz", "als", "tune", "serve", "all", "dev"]
    )
    assert "recsys-nb = recsys_nb.cli:main" in meta["entry_points.txt"]


def test_version_is_that_of_settings():
    assert importlib.import_module("recsys_nb").__version__ == cfg["version"]


# What stands in settings.ini and constraints.txt


def names(lines):
    return {
        re.sub(r"[-_.]+", "-", m[0].lower()): line
        for line in lines
        if (m := re.match(r"[\w.-]+", line))
    }


def test_requirements_have_lower_bounds():
    asked = [
        r
        for key in cfg
        if key.endswith("requirements") and key != "dev_requirements"
        for r in cfg[key].split()
    ]
    assert asked and not [r for r in asked if ">=" not in r]


def test_everything_asked_for_is_pinned():
    pins = names((root / "constraints.txt").read_text(encoding="utf-8").splitlines())
    asked = names(
        r for key in cfg if key.endswith("requirements") for r in cfg[key].split()
    )
    assert not sorted(asked.keys() - pins.keys()), (
        "run by a developer, but not in constraints.txt"
    )
    assert not [line for line in pins.values() if "==" not in line]
    assert not [
        r
        for n, r in asked.items()
        if (m := re.search(r"==([^;]+)", r)) and f"=={m[1]}" not in pins[n]
    ], "pinned differently in settings.ini"


# What every public name says of itself


def public(module):
    return [
        (n, getattr(module, n))
        for n in getattr(module, "__all__", ())
        if inspect.isclass(getattr(module, n)) or inspect.isfunction(getattr(module, n))
    ]


def functions(name, obj):
    """The functions whose parameters a reader meets: `obj`, or the constructor (of
    dataclasses the fields) and public methods of a class."""
    if not inspect.isclass(obj):
        return [(name, obj)]
    fields = getattr(
        obj, "__dataclass_fields__", {}
    )  # a function may be the default of one
    own = [
        (f"{name}.{n}", getattr(f, "__func__", f))
        for n, f in vars(obj).items()
        if not n.startswith("_")
        and n not in fields
        and (inspect.isfunction(f) or isinstance(f, (classmethod, staticmethod)))
    ]
    if getattr(obj, "_is_protocol", False):
        return own  # nobody makes one
    constructor = (
        []
        if issubclass(obj, BaseException)
        else [(name, obj)]
        if hasattr(obj, "__dataclass_fields__")
        else [(name, vars(obj)["__init__"])]
        if "__init__" in vars(obj)
        else []
    )
    return constructor + own


def undocumented(where, f):
    "Parameters of f without a comment; `ax` is always the axes to draw on."
    from fastcore.docments import docments

    said = docments(f, full=True, args_kwargs=True)
    if hasattr(f, "__dataclass_fields__"):
        said = {
            p: d for p, d in said.items() if p in vars(f).get("__annotations__", {})
        }  # what is inherited is documented where it is defined
    return [
        f"{where}({p})"
        for p, d in said.items()
        if p not in ("self", "cls", "return", "ax") and not (d.docment or "").strip()
    ]


@pytest.mark.parametrize("name", modules)
def test_public_names_are_documented(name):
    module, missing = importlib.import_module(f"recsys_nb.{name}"), []
    for n, obj in public(module):
        if not (vars(obj).get("__doc__") if inspect.isclass(obj) else obj.__doc__):
            missing.append(f"{n} has no docstring")
        for where, f in functions(n, obj):
            missing += undocumented(where, f)
    assert not missing


@pytest.mark.parametrize("name", modules)
def test_annotations_resolve(name):
    """The site shows signatures with their annotations evaluated: a name that is
    imported in a function cannot stand in one."""
    module, wrong = importlib.import_module(f"recsys_nb.{name}"), []
    for n, obj in public(module):
        for where, f in functions(n, obj):
            try:
                inspect.signature(f, eval_str=True)
            except NameError as e:
                wrong.append(f"{where}: {e}")
    assert not wrong


def test_no_exception_is_swallowed():
    "No bare `except:` and no `except ...: pass` in the modules."
    found = []
    for m in modules:
        for node in ast.walk(
            ast.parse(
                (root / f"recsys_nb/{m.replace('.', '/')}.py").read_text(
                    encoding="utf-8"
                )
            )
        ):
            if isinstance(node, ast.ExceptHandler) and (
                node.type is None or all(isinstance(s, ast.Pass) for s in node.body)
            ):
                found.append(f"{m}.py:{node.lineno}")
    assert not found


def test_subtitles_fit_into_a_line():
    "nbdev writes the subtitle of a chapter as the first line of its module."
    long = []
    for name in modules:
        file = root / f"recsys_nb/{name.replace('.', '/')}.py"
        first = file.read_text(encoding="utf-8").splitlines()[0]
        if len(first) > 88:
            long.append(f"{name}: {first}")
    assert not long


# The checks find what they are for


def copy_house(to):
    "The notebooks, modules and settings copied into a folder, to be broken there."
    unwanted = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
    for n in [".ci", "nbs", "recsys_nb"]:
        shutil.copytree(root / n, to / n, symlinks=True, ignore=unwanted)
    for n in ["settings.ini", "README.md", "_quarto.yml"]:
        shutil.copy(root / n, to / n)
    return to


@pytest.fixture
def house(tmp_path):
    return copy_house(tmp_path)


def replace_in(file, old, new):
    "Replace the first of a text that is in a file."
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")


def complain(house):
    "What the check of a broken house complains of, without its prefix."
    r = run(".ci/check.py", cwd=house)
    assert r.returncode == 1, r.stderr
    lines = r.stderr.splitlines()
    assert all(line.startswith("check: ") for line in lines), r.stderr
    return [line.removeprefix("check: ") for line in lines]


# notebook, what is replaced by what, and the complaint of it
UNCLEAN = [
    (
        "22_training.settings",
        '"metadata": {}',
        '"metadata": {"scrolled": true}',
        "is not clean: run `make sync`",
    ),
    (
        "24c_evaluation.beyond",
        '"output_type": "stream"',
        '"output_type": "error"',
        "holds an error output: ",
    ),
    (
        "25_evaluation.intervals",
        '"name": "stdout"',
        '"name": "stderr"',
        "holds a warning or other text on stderr: ",
    ),
    (
        "26_evaluation.protocol",
        '"from fastcore',
        r'"warnings.simplefilter(\"ignore\")\n", "from fastcore',
        "changes all warnings ",
    ),
    (
        "28_evaluation.classification",
        '"image/png"',
        '"image/none"',
        "has a figure cell without its figure: ",
    ),
    (
        "29_evaluation.calibration",
        '"text/plain": [',
        '"text/plain": ["/tmp/tmp3k_x9a2b/model", ',
        "shows the name of a temporary folder",
    ),
]


@pytest.fixture(scope="module")
def complaints(tmp_path_factory):
    "All that the check says, once, of a house with each of the faults below."
    house = copy_house(tmp_path_factory.mktemp("broken"))
    module = house / "recsys_nb/recommenders/baselines.py"
    replace_in(module, "# %%", "# edited\n# %%")
    (house / "recsys_nb/stray.py").write_text("x = 1\n", encoding="utf-8")
    for name, old, new, _ in UNCLEAN:
        replace_in(house / f"nbs/{name}.ipynb", old, new)
    (house / "README.md").write_text("old", encoding="utf-8")
    page = "45_experiments.analysis.ipynb"
    replace_in(house / "nbs/sidebar.yml", page, "45_nothing.ipynb")
    return complain(house)


def test_check_finds_a_module_edited_by_hand(complaints):
    module = "recsys_nb/recommenders/baselines.py"
    said = [line for line in complaints if line.startswith(module)]
    assert len(said) == 1 and f"{module} is not the export" in said[0]


def test_check_finds_a_module_without_a_notebook(complaints):
    said = [line for line in complaints if "stray" in line]
    assert len(said) == 1 and "recsys_nb/stray.py is not the export" in said[0]


@pytest.mark.parametrize("name, old, new, says", UNCLEAN)
def test_check_finds_an_unclean_notebook(complaints, name, old, new, says):
    said = [line for line in complaints if line.startswith(f"nbs/{name}.ipynb")]
    assert [line for line in said if f"nbs/{name}.ipynb {says}" in line], said


def test_check_finds_what_is_no_notebook(house):
    name = "nbs/26_evaluation.protocol.ipynb"
    replace_in(house / name, '"cells": [', '"cells": [,')
    assert f"{name} is not a notebook: JSONDecodeError" in complain(house)[0]


def test_check_finds_a_stale_readme(complaints):
    assert [line for line in complaints if "README.md is not index.ipynb" in line]


def test_check_finds_a_page_that_the_sidebar_lacks(complaints):
    page = "45_experiments.analysis.ipynb"
    assert f"{page} is not in sidebar.yml: name it" in complaints
    assert "sidebar.yml names 45_nothing.ipynb, which is not" in complaints


def test_check_complains_of_nothing_else(complaints):
    faults = [rf"nbs/{re.escape(name)}\.ipynb " for name, *_ in UNCLEAN]
    faults += ["recsys_nb/recommenders/baselines.py", "recsys_nb/stray.py", "README.md"]
    faults += ["45_experiments.analysis.ipynb", "sidebar.yml names 45_nothing.ipynb"]
    wrong = [line for line in complaints if not re.match("|".join(faults), line)]
    assert not wrong and len(complaints) >= len(faults)


def test_links_are_checked(house):
    site = house / "site"
    (site / "sub").mkdir(parents=True)
    (site / "a.html").write_text(
        '<a href="sub/b.html#there"><a href="https://elsewhere.org/x">'
        '<a href="#top"><p id="top">[<a href="a.html">load</a>](sub.b.ipynb)',
        encoding="utf-8",
    )
    (site / "sub/b.html").write_text(
        '<p id="there"><a href="../a.html"><img src="../gone.png">'
        '<a href="../a.html#gone"><a href="/recsys_nb/c.html">',
        encoding="utf-8",
    )
    code = f"""
import sys
sys.path.insert(0, '.ci')
from pathlib import Path
from site_tools import broken_links
print(*broken_links(Path('{site}')), sep='\\n')
"""
    r = run("-c", code, cwd=house)
    assert r.returncode == 0, r.stderr
    assert r.stdout.splitlines() == [
        "a.html: ](sub.b.ipynb) is shown as text",
        "sub/b.html: ../gone.png does not exist",
        "sub/b.html: ../a.html#gone has no such anchor",
        "sub/b.html: /recsys_nb/c.html does not exist",
    ]


def test_links_of_the_readme_lead_somewhere():
    text = (root / "README.md").read_text(encoding="utf-8")
    gone = [
        link
        for link in re.findall(r"\]\(([^)#\s]+)|src=\"([^\"]+)", text)
        for link in link
        if link
        and not re.match(r"https?:|mailto:", link)
        and not (root / link).exists()
    ]
    assert not gone


def test_the_tables_of_results_are_those_of_the_rows():
    "The first page and the results show what the benchmark has measured last."
    results = root / "benchmarks" / "results"
    rows = json.loads((results / "real_logs.json").read_text(encoding="utf-8"))
    text = (results / "real_logs_outcomes.json").read_text(encoding="utf-8")
    pages = [
        (root / name).read_text(encoding="utf-8")
        for name in ("README.md", "nbs/results.ipynb")
    ]
    assert len(json.loads(text)) > 5
    for found in json.loads(text):
        ours = [
            row["metrics"]["ndcg@10"][0]
            for row in rows
            if row["model"] == "Recommender" and row["data"] == found["data"]
        ]
        assert found["seeds"] == len(ours), found["data"]
        assert found["ndcg"][0] == pytest.approx(sum(ours) / len(ours))
        for rival, shown_by in ((found["other"], pages), (found["tower"], pages[1:])):
            if rival is None:  # the towers were not run alone on this log
                continue
            mean, low, high = rival["difference"]
            shown = f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]"
            assert all(shown in page for page in shown_by), (found["data"], shown)


# Errors, and classes as deep as a base and its kinds


def own_classes():
    "Our classes by name, each with the names of its bases."
    found = {}
    for path in (root / "recsys_nb").rglob("[!_]*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                found[node.name] = [ast.unparse(base) for base in node.bases]
    return found


def test_classes_are_a_base_and_its_kinds():
    classes = own_classes()
    parents = {
        name: [base for base in bases if base in classes]
        for name, bases in classes.items()
    }
    deep = [name for name, own in parents.items() if any(parents[b] for b in own)]
    assert len(classes) > 100 and not deep


@pytest.mark.parametrize(
    "raised, caught",
    [
        ("evaluation.ProtocolError", "evaluation.MetricsError"),
        ("evaluation.RecommendationsError", "evaluation.MetricsError"),
        ("evaluation.IdsDifferError", "evaluation.MetricsError"),
        ("evaluation.IdsDifferError", "data.IdMismatchError"),
        ("evaluation.MetricsError", "data.DataError"),
        ("data.IdMismatchError", "data.UnknownIdError"),
        ("data.UnknownIdError", "data.DataError"),
        ("experiments.ExperimentError", "data.DataError"),
        ("data.DataError", None),
    ],
)
def test_who_catches_an_error_catches_its_kinds(raised, caught):
    def find(name):
        part, kind = name.split(".")
        return getattr(importlib.import_module(f"recsys_nb.{part}"), kind)

    wanted = find(caught) if caught else ValueError
    with pytest.raises(wanted, match="what is wrong"):
        raise find(raised)("what is wrong")
