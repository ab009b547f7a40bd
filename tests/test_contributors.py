"""What a contributor meets: JupyterLab, the merge of notebooks, one chapter tested."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from service_client import find_port

root = Path(__file__).resolve().parent.parent
environment = Path(sys.executable).parent.parent
NOTEBOOK = "nbs/02_data.histories.ipynb"


def git(clone, *words, **options):
    who = ["-c", "user.email=a@b.c", "-c", "user.name=A"]
    run = ["git", *who, *words]
    return subprocess.run(run, cwd=clone, capture_output=True, text=True, **options)


@pytest.fixture
def clone(tmp_path):
    "A repository with the scripts, the settings and one notebook."
    folder = tmp_path / "clone"
    for name in (".ci", NOTEBOOK, "settings.ini", ".gitattributes", ".gitignore"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-r", root / name, folder / name], check=True)
    git(folder, "init", "-q", "-b", "main", check=True)
    driver = ".ci/merge_notebook %O %A %B %P"
    git(folder, "config", "merge.nbdev-merge.driver", driver, check=True)
    git(folder, "add", "-A", check=True)
    git(folder, "commit", "-qm", "begin", check=True)
    return folder


def change(clone, branch, number, text):
    "A branch in which one cell has another text."
    git(clone, "checkout", "-q", "main", check=True)
    git(clone, "checkout", "-q", "-b", branch, check=True)
    file = clone / NOTEBOOK
    notebook = json.loads(file.read_text(encoding="utf-8"))
    notebook["cells"][number]["source"] = [text]
    text = json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    file.write_text(text, encoding="utf-8")
    git(clone, "commit", "-qam", branch, check=True)


def merge(clone, venv):
    "Merge the other branch, without the environment on PATH."
    env = {"PATH": "/usr/bin:/bin", "VENV": str(venv), "HOME": str(clone)}
    return git(clone, "merge", "-q", "other", env=env)


@pytest.mark.parametrize("venv", [environment, "/nowhere"])
def test_changes_of_different_cells_are_merged(clone, venv):
    change(clone, "other", 5, "theirs")
    change(clone, "mine", 12, "ours")
    done = merge(clone, venv)
    assert done.returncode == 0, done.stderr
    cells = json.loads((clone / NOTEBOOK).read_text(encoding="utf-8"))["cells"]
    assert ["".join(cells[n]["source"]) for n in (5, 12)] == ["theirs", "ours"]


@pytest.mark.parametrize("venv", [environment, "/nowhere"])
def test_a_conflict_leaves_both_sides_between_markers(clone, venv):
    change(clone, "other", 5, "theirs")
    change(clone, "mine", 5, "ours")
    assert merge(clone, venv).returncode == 1
    assert git(clone, "status", "--short").stdout.startswith("UU")
    text = (clone / NOTEBOOK).read_text(encoding="utf-8")
    pattern = r"<<<<<<<.*\bours\b.*=======.*\btheirs\b.*>>>>>>>"
    assert re.search(pattern, text, re.S)


def test_a_conflict_merged_by_cells_is_still_a_notebook(clone):
    change(clone, "other", 5, "theirs")
    change(clone, "mine", 5, "ours")
    merge(clone, environment)
    cells = json.loads((clone / NOTEBOOK).read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells]
    assert sources[5].startswith("`<<<<<<<") and sources[6:7] == ["ours"]


def test_a_merge_that_fails_leaves_what_git_makes(clone):
    "Also where the program of the environment breaks down half-way."
    broken = clone / "broken" / "bin" / "nbdev_merge"
    broken.parent.mkdir(parents=True)
    broken.write_text('#!/bin/sh\necho "{" > "$2"\nexit 1\n')
    broken.chmod(0o755)
    change(clone, "other", 5, "theirs")
    change(clone, "mine", 5, "ours")
    assert merge(clone, clone / "broken").returncode == 1
    text = (clone / NOTEBOOK).read_text(encoding="utf-8")
    assert "<<<<<<< ours" in text and len(text) > 10_000


def start_lab(clone, home, port):
    "JupyterLab with a home of its own, and its log."
    log = home.parent / "lab.log"
    env = {name: value for name, value in os.environ.items() if "JUPYTER" not in name}
    env |= {"HOME": str(home), "VENV": str(environment)}
    options = ["--no-browser", "--allow-root", "--IdentityProvider.token=x"]
    options += [f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
    with open(log, "w") as file:
        both = {"stdout": file, "stderr": subprocess.STDOUT}
        lab = subprocess.Popen([".ci/lab", *options], cwd=clone, env=env, **both)
    for _ in range(600):
        if "is running at" in log.read_text() or lab.poll() is not None:
            break
        time.sleep(0.1)
    return lab, log


def test_lab_cleans_what_it_saves_and_writes_within_the_clone(clone, tmp_path):
    pytest.importorskip("jupyterlab")
    home, port = tmp_path / "home", find_port()
    home.mkdir()
    lab, log = start_lab(clone, home, port)
    try:
        assert lab.poll() is None, log.read_text()
        name = Path(NOTEBOOK).name
        url = f"http://127.0.0.1:{port}/api/contents/{name}?token=x"
        content = json.load(urllib.request.urlopen(url))["content"]
        content["cells"][2]["metadata"] = {"scrolled": True}
        body = {"type": "notebook", "format": "json", "content": content}
        data, kind = json.dumps(body).encode(), {"Content-Type": "application/json"}
        request = urllib.request.Request(url, data, kind, method="PUT")
        assert urllib.request.urlopen(request).status == 200
    finally:
        lab.terminate()
        lab.wait(30)
    assert "scrolled" not in (clone / NOTEBOOK).read_text(encoding="utf-8")
    assert git(clone, "status", "--short").stdout == ""
    assert list(home.rglob("*")) == []


def test_one_chapter_is_named_by_its_number(tmp_path):
    run = [root / ".ci" / "test_one", "99z"]
    done = subprocess.run(run, capture_output=True, text=True, env={"VENV": "x"})
    assert done.returncode == 2 and "99z names 0 notebooks" in done.stdout


def test_a_chapter_that_ruff_refuses_is_told_the_way_out(clone):
    change(clone, "mine", 3, "#| export\nx=1")
    run = [clone / ".ci" / "test_one", "02"]
    env = os.environ | {"VENV": str(environment)}
    done = subprocess.run(run, cwd=clone, capture_output=True, text=True, env=env)
    assert done.returncode == 1 and ".ci/lint --fix" in done.stdout
