"""`help` of every public name says what each parameter means, as its comment does."""

import importlib
import inspect
import pydoc
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fastcore.docments import docments

root = Path(__file__).resolve().parent.parent
library = root / "recsys_nb"
modules = sorted(
    ".".join(path.relative_to(library).with_suffix("").parts)
    for path in library.rglob("*.py")
    if not path.stem.startswith("_")
)


def public_names(module):
    "The functions and classes that a module offers."
    found = [(name, getattr(module, name)) for name in getattr(module, "__all__", ())]
    return [(n, obj) for n, obj in found if inspect.isclass(obj) or callable(obj)]


def documented_functions(name, obj):
    "A function; of a class its constructor and its public methods."
    if not inspect.isclass(obj):
        return [(name, obj, obj)]
    found = [(name, obj, obj)]
    for method, value in vars(obj).items():
        function = getattr(value, "__func__", value)
        if inspect.isfunction(function) and not method.startswith("_"):
            found.append((f"{name}.{method}", function, function))
    return found


def comments_of(function):
    "The comment of each parameter, as fastcore reads it."
    said = docments(function, full=True, args_kwargs=True)
    comments = {name: (doc.docment or "").strip() for name, doc in said.items()}
    return {n: c for n, c in comments.items() if n not in ("self", "cls", "return")}


def parameters_of(obj):
    "The parameters that its signature shows."
    if inspect.isclass(obj) and issubclass(obj, BaseException):
        return []
    try:
        shown = list(inspect.signature(obj).parameters)
    except ValueError:  # a class without a constructor of its own
        return []
    return [name for name in shown if name not in ("self", "cls")]


@pytest.mark.parametrize("name", modules)
def test_help_says_what_each_parameter_means(name):
    module = importlib.import_module(f"recsys_nb.{name}")
    missing = []
    for public, obj in public_names(module):
        for where, function, target in documented_functions(public, obj):
            text = inspect.getdoc(target) or ""
            comments = comments_of(function)
            for parameter in parameters_of(function):
                comment = comments.get(parameter, "")
                entry = text.partition("Parameters\n---")[2]
                if not comment:
                    continue
                lines = [line.strip() for line in comment.splitlines()]
                if parameter not in entry or any(line not in entry for line in lines):
                    missing.append(f"{where}({parameter}): {comment}")
    assert not missing


def test_there_is_a_text_for_most_names():
    "So that the test above has something to look at."
    files = list((library / "_help").glob("*.txt"))
    texts = "".join(file.read_text(encoding="utf-8") for file in files)
    assert len(files) > 0.8 * len(modules)
    assert texts.count("%% ") > 800 and texts.count("Parameters\n-----") > 600
    assert "ipynb #" not in texts


def test_help_of_a_function_and_of_a_class():
    rn = importlib.import_module("recsys_nb")
    text = pydoc.plain(pydoc.render_doc(rn.evaluate))
    assert "n_boot : int, default 1000\n" in text
    assert "resamples of the users for the intervals" in text
    assert "Returns\n    -------\n    Report\n" in text
    text = pydoc.plain(pydoc.render_doc(rn.Dataset))
    assert "positive : Sequence | float | None, default None" in text


def test_texts_are_written_once(tmp_path):
    "Written again they are the same, and nothing is left of names that are gone."
    copy = tmp_path / "recsys_nb"
    shutil.copytree(library, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "_help" / "gone.txt").write_text("%% nothing\n")
    code = "from docstrings import *; write_help(Path(sys.argv[1]))"
    run = [sys.executable, "-c", code, str(copy)]
    subprocess.run(run, cwd=root / ".ci", check=True)
    files = [p for p in copy.rglob("*") if p.suffix in (".py", ".txt")]
    assert len(files) > 2 * len(modules) - 10
    for path in files:
        assert path.read_bytes() == (library / path.relative_to(copy)).read_bytes()


def test_sections_stand_before_what_a_docstring_says_itself(tmp_path):
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "room.py").write_text(
        '''
def count(
    # how many rows
    # are looked at
    n: int = 3,
    *words: str,  # what is counted
) -> int:  # how often
    """Count words.

    Slowly.

    Raises
    ------
    ValueError
        Where n is negative.
    """
'''
    )
    code = "from docstrings import *; write_help(Path(sys.argv[1]))"
    run = [sys.executable, "-c", code, str(tmp_path)]
    subprocess.run(run, cwd=root / ".ci", check=True)
    text = (tmp_path / "_help" / "part.room.txt").read_text()
    assert text.splitlines() == [
        "%% count",
        "Count words.",
        "",
        "Slowly.",
        "",
        "Parameters",
        "----------",
        "n : int, default 3",
        "    how many rows",
        "    are looked at",
        "*words : str",
        "    what is counted",
        "",
        "Returns",
        "-------",
        "int",
        "    how often",
        "",
        "Raises",
        "------",
        "ValueError",
        "    Where n is negative.",
    ]
