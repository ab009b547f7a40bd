"""Build the site from the notebooks: with Quarto where it is on PATH, else with
smalldocs over nbdev's processed notebooks. `--readme`: only README.md."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import fastcore.docments
import nbdev.doclinks
import nbdev.processors
from nbdev.config import get_config
from nbdev.quarto import refresh_quarto_yml
from nbdev.serve import proc_nbs
from site_tools import bare, broken_links, readme

import recsys_nb._help

cfg = get_config()
KATEX = "katex@0.16.22"
LARGEST = 2_000_000  # bytes of a page
EXPORTED = {"export", "exports", "exporti"}
EMPTY_SIGNATURE = re.compile(
    r'"```python\\n",\s*"def \w+\(\\n",\s*" *\*args, \*\*kwargs\\n",\s*"\):\\n",'
    r'\s*"```\\n",'
)
LINK_IN_LINK = re.compile(r"\[([^][]*)\[(`[^`]*`)\]\([^)]*\)([^][]*)\](?=\()")
LINK_OF_CODE = re.compile(r"\[(`[^`]*`)\]\([^)]*\)")


def allow_forward_names() -> None:
    """Signatures show annotations of classes that a notebook defines further down, as
    text."""
    evaluated = fastcore.docments.signature

    def signature(symbol, **options):
        try:
            return evaluated(symbol, **options)
        except NameError:
            return evaluated(symbol)

    fastcore.docments.signature = signature


def show_parameters_once() -> None:
    "The pages have a table of the comments: no help texts beside it."
    recsys_nb._help.describe = lambda module: None


def run_definitions_only() -> None:
    """Pages are made from definitions: an example that begins with an import is not run
    for them."""
    is_run = nbdev.processors._do_eval

    def is_definition(cell):
        example = not cell.directives_.keys() & EXPORTED
        trees = cell.parsed_() or []
        imports = (ast.Import, ast.ImportFrom)
        mixed = any(not isinstance(tree, imports) for tree in trees)
        if example and mixed and "show_doc(" not in cell.source:
            return False
        return is_run(cell)

    nbdev.processors._do_eval = is_definition


def processed() -> Path:
    """nbdev's processed notebooks, in _proc (not by the command of that name: it tries
    to install Quarto)."""
    allow_forward_names()
    show_parameters_once()
    run_definitions_only()
    refresh_quarto_yml()
    nbdev.doclinks._build_modidx()
    # in this process, which has the changes above
    proc = Path(bare(proc_nbs)(force=True, n_workers=0))
    for nb in proc.rglob("*.ipynb"):
        nb.write_text(tidied(nb.read_text(encoding="utf-8")), encoding="utf-8")
    return proc


def tidied(text: str) -> str:
    """A processed notebook without links to private names, which have no place on the
    pages, within other links or within signatures, and without the empty signatures of
    errors."""

    def without_links(line):
        return LINK_OF_CODE.sub(r"\1", line[0])

    text = re.sub(r"\[(`_\w[^`]*`)\]\([^)]*\)", r"\1", text)
    text = LINK_IN_LINK.sub(r"[\1\2\3]", text)
    text = re.sub(r'^ *"(?:    |def |\)).*$', without_links, text, flags=re.M)
    return EMPTY_SIGNATURE.sub("", text)


def plain_names(proc: Path) -> None:
    """Number-free page names, as `output-file:` asks for, and links to own pages made
    relative, so that the built site stands alone."""
    names = {}
    for nb in proc.rglob("*.ipynb"):
        text = nb.read_text(encoding="utf-8")
        wanted = re.search(r"output-file: ([\w.-]+)\.html", text)
        if wanted and wanted[1] != nb.stem:
            names[nb.name] = nb.rename(nb.with_name(wanted[1] + ".ipynb")).name
    base = (cfg.doc_host + cfg.doc_baseurl).rstrip("/") + "/"
    for file in [*proc.rglob("*.ipynb"), proc / "sidebar.yml"]:
        text = file.read_text(encoding="utf-8")
        for old, new in names.items():
            text = text.replace(old, new)
        up = "../" * (len(file.relative_to(proc).parts) - 1)
        file.write_text(text.replace(base, up), encoding="utf-8")


def vendor_katex(site: Path) -> None:
    """The maths fonts and scripts beside the pages, so that the site needs no other
    host; left at the public address where npm is not there."""
    if not shutil.which("npm"):
        print("site: no npm here: formulas will be set by a script from the network")
        return
    with tempfile.TemporaryDirectory() as folder:
        quiet = ["--silent", "--no-save", "--prefix", folder]
        subprocess.check_call(["npm", "install", *quiet, KATEX])
        dist = Path(folder) / "node_modules/katex/dist"
        lib = site / "site_libs/katex"
        scripts = [*dist.glob("katex.min.*s"), dist / "contrib/auto-render.min.js"]
        for file in [*scripts, *dist.glob("fonts/*.woff2")]:
            copy = lib / file.relative_to(dist)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, copy)
    public = re.compile(r"https://cdn\.jsdelivr\.net/npm/katex@[\d.]+/dist/")
    for page in site.rglob("*.html"):
        up = "../" * (len(page.relative_to(site).parts) - 1)
        text = page.read_text(encoding="utf-8")
        page.write_text(public.sub(up + "site_libs/katex/", text), encoding="utf-8")


def point_at_pages(site: Path) -> None:
    """Links that nbdev makes of names in code lead to the page where it has no section
    for the name; links that people wrote stay, and are checked."""
    texts = {page: page.read_text(encoding="utf-8") for page in site.rglob("*.html")}
    ids = {page.name: set(re.findall(r'id="([^"]+)"', t)) for page, t in texts.items()}

    def shorten(link):
        known = link[3] in ids.get(Path(link[2]).name, {link[3]})
        return link[0] if known else f"{link[1]}{link[2]}{link[4]}"

    made = re.compile(r'(<a href=")([^"#]+)#([^"]+)("><code>)')
    for page, text in texts.items():
        page.write_text(made.sub(shorten, text), encoding="utf-8")


PRINTED = re.compile(r"<pre>(<code>.*?</code></pre>)", re.S)
COLUMNS = re.compile(r"\S(?:  |\t)")  # what tables have and sentences have not


def mark_sentences(site: Path) -> None:
    """Printed output without columns gets a class of its own: on a phone its lines may
    break, and those of tables may not."""

    def mark(printed):
        is_table = COLUMNS.search(printed[1])
        return printed[0] if is_table else f'<pre class="sentences">{printed[1]}'

    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        page.write_text(PRINTED.sub(mark, text), encoding="utf-8")


def build() -> Path:
    "The site, in `doc_path`."
    proc = processed()
    if shutil.which("quarto"):
        subprocess.check_call(["quarto", "render", str(proc), "--no-execute"])
    else:
        plain_names(proc)
        smalldocs = Path(sys.executable).parent / "smalldocs"
        subprocess.check_call([str(smalldocs), "render", str(proc)])
        vendor_katex(proc / "_docs")
        point_at_pages(proc / "_docs")
    shutil.rmtree(cfg.doc_path, ignore_errors=True)
    shutil.move(proc / cfg.doc_path.name, cfg.doc_path)
    mark_sentences(Path(cfg.doc_path))
    return Path(cfg.doc_path)


def main() -> None:
    (cfg.config_path / "README.md").write_text(readme(), encoding="utf-8")
    if "--readme" in sys.argv:
        return
    site = build()
    pages = list(site.rglob("*.html"))
    problems = [f"broken link: {link}" for link in broken_links(site)]
    large = [page for page in pages if page.stat().st_size > LARGEST]
    problems += [f"larger than {LARGEST / 1e6:g} MB: {page}" for page in large]
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        sys.exit(1)
    print(f"site: {len(pages)} pages, no broken internal link, in {site}")


if __name__ == "__main__":
    main()
