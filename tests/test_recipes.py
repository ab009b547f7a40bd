"""The recipes of CONTRIBUTING.md, as they stand there: pasted into a copy of the
notebooks, exported, and run as the chapter's test and by the tests that go through the
table."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from recsys_nb.cli import make_parser

root = Path(__file__).resolve().parent.parent
environment = Path(sys.executable).parent.parent
COPIED = (".ci", "nbs", "recsys_nb", "tests", "benchmarks/results", "README.md")
COPIED += ("settings.ini", "pyproject.toml", "CONTRIBUTING.md")
TABLES = {
    "A metric": "ACCURACY: dict",
    "A split": "SPLITS = {",
    "A baseline": "BASELINES: dict",
    "A loss": "def sampled_softmax_loss(",
}  # recipe -> what the cell of its table has
# of the tests that the recipe names, those that are quick and know of its entry
CHEAP = {
    "A metric": (
        "test_every_user_as_in_trec_eval[1-0]",
        "evaluation_of_its_own[0]",
    ),
    "A split": ("do_not_depend_on_the_order_of_rows", "tables_are_read"),
    "A baseline": ("RandomItems",),
    "A loss": ("hinge_loss",),
}


def read_recipes():
    "Heading -> the text below it, of the section Recipes."
    text = (root / "CONTRIBUTING.md").read_text(encoding="utf-8")
    text = text.split("\n## Recipes\n")[1].split("\n## ")[0]
    parts = re.split(r"^### (.+)$", text, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


RECIPES = read_recipes()


def find_blocks(recipe, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", RECIPES[recipe], re.M | re.S)


def find_notebook(recipe):
    (name,) = set(re.findall(r"`(nbs/\S+\.ipynb)`", RECIPES[recipe].split("```")[0]))
    return name


def make_cell(text, number):
    cell = {"cell_type": "code", "execution_count": None, "id": f"recipe{number}"}
    return cell | {"metadata": {}, "outputs": [], "source": text.rstrip("\n")}


def find_end_of_section(cells, start):
    "The number of the next cell with a heading."
    for number in range(start + 1, len(cells)):
        cell = cells[number]
        is_heading = "".join(cell["source"]).startswith("#")
        if cell["cell_type"] == "markdown" and is_heading:
            return number
    return len(cells)


def paste(recipe, folder):
    "Put the blocks of a recipe where it says."
    path = folder / find_notebook(recipe)
    notebook = json.loads(path.read_text(encoding="utf-8"))
    cells = notebook["cells"]
    sources = ["".join(cell["source"]) for cell in cells]
    (place,) = (n for n, text in enumerate(sources) if TABLES[recipe] in text)
    code, *entries, test = find_blocks(recipe, "python")
    assert code.startswith("#| export\n") and test.startswith("#| hide\n")
    cells.insert(find_end_of_section(cells, place), make_cell(test, 2))
    for entry in entries:
        cells[place]["source"] = sources[place].replace(
            "\n}", f"\n{entry.rstrip()}\n}}"
        )
    cells.insert(place if entries else place + 1, make_cell(code, 1))
    text = json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    path.write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    "A copy of the package in which each recipe is followed."
    folder = tmp_path_factory.mktemp("recipes")
    for name in COPIED:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if (root / name).is_dir():
            hidden = shutil.ignore_patterns("__pycache__", ".*cache", "_*_files")
            shutil.copytree(root / name, folder / name, ignore=hidden)
        else:
            shutil.copy(root / name, folder / name)
    for recipe in TABLES:
        paste(recipe, folder)
    return folder


def test_each_recipe_has_its_line_in_the_table():
    text = (root / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for recipe in TABLES:
        (line,) = (
            x for x in text.splitlines() if x.startswith(f"| [{recipe.lower()}]")
        )
        (shell,) = find_blocks(recipe, "sh")
        tests = re.search(r'TESTS="([^"]+)"', shell)[1]
        assert f"| `{tests}` |" in line
        assert all((root / name).is_file() for name in tests.split())


def read_command(recipe):
    "The chapter that a recipe tests, and the files of tests."
    (shell,) = find_blocks(recipe, "sh")
    pattern = r'make test-one NB=(\S+) TESTS="(.+)"\n'
    number, tests = re.fullmatch(pattern, shell).groups()
    return number, tests.split()


@pytest.fixture(scope="module")
def said(clone):
    "What `make test-one` says of the chapters and tests of all recipes, in one run."
    commands = [read_command(recipe) for recipe in TABLES]
    words = " or ".join(word for words in CHEAP.values() for word in words)
    env = os.environ | {"VENV": str(environment), "PYTHONPATH": str(clone)}
    env["TESTS"] = " ".join(file for _, files in commands for file in files)
    env["PYTEST_ADDOPTS"] = f'-vv -p no:cacheprovider -k "{words}"'
    run = [clone / ".ci" / "test_one", *(number for number, _ in commands)]
    done = subprocess.run(run, cwd=clone, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("recipe", TABLES)
def test_a_recipe_passes_as_it_stands(said, recipe):
    chapter, files = Path(find_notebook(recipe)).name, read_command(recipe)[1]
    assert re.search(rf"^{re.escape(chapter)}: \d+ secs$", said, re.M)
    passed = re.findall(r"^(tests/\w+\.py)(::.*) PASSED", said, re.M)
    names = [name for file, name in passed if file in files]
    assert all(any(word in name for name in names) for word in CHEAP[recipe]), names


def test_commands_can_be_typed():
    "Those of both pages are whole, and have no flag that there is not."
    texts = [
        (root / f"{name}.md").read_text("utf-8") for name in ("README", "CONTRIBUTING")
    ]
    pattern = r"\.venv/bin/recsys-nb ([^`\n]+)|\| `((?:run|evaluate) [^`\n]+)` \|"
    found = [a or b for text in texts for a, b in re.findall(pattern, text)]
    assert len(found) >= 5
    for words in found:
        make_parser().parse_args(shlex.split(words))
    assert not re.search(r"`recsys-nb run|recsys-nb \w+ (?:…|\.\.\.)", texts[1])


def test_the_code_of_the_readme_makes_what_it_uses():
    text = (root / "README.md").read_text("utf-8")
    code = "".join(re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S))
    assert "Dataset.from_frame(" in code
    ruff = [
        environment / "bin" / "ruff",
        "check",
        "--isolated",
        "--select",
        "F821",
        "-",
    ]
    done = subprocess.run(ruff, input=code, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
