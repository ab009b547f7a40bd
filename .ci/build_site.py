"Build the site from the notebooks: with Quarto where it is on PATH, else with smalldocs over nbdev's processed notebooks. `--readme`: only README.md."
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

cfg = get_config()
KATEX = "katex@0.16.22"


def allow_forward_names():
    "Signatures show annotations of classes that a notebook defines further down, as text."
    evaluated = fastcore.docments.signature

    def signature(symbol, **options):
        try: return evaluated(symbol, **options)
        except NameError: return evaluated(symbol)
    fastcore.docments.signature = signature


def run_definitions_only():
    "Pages are made from definitions: an example that begins with an import is not run for them."
    is_run = nbdev.processors._do_eval

    def is_definition(cell):
        example = not cell.directives_.keys() & {"export", "exports", "exporti"}
        trees = cell.parsed_() or []
        mixed = any(not isinstance(tree, (ast.Import, ast.ImportFrom)) for tree in trees)
        return not (example and mixed and "show_doc(" not in cell.source) and is_run(cell)
    nbdev.processors._do_eval = is_definition


def processed() -> Path:
    "nbdev's processed notebooks, in _proc (not by the command of that name: it tries to install Quarto)."
    allow_forward_names()
    run_definitions_only()
    refresh_quarto_yml()
    nbdev.doclinks._build_modidx()
    proc = Path(bare(proc_nbs)(force=True, n_workers=0))  # in this process, which has the two changes
    for nb in proc.rglob("*.ipynb"): nb.write_text(tidied(nb.read_text(encoding="utf-8")), encoding="utf-8")
    return proc


def tidied(text: str) -> str:
    "A processed notebook without links to private names, which have no place on the pages, or within signatures, and without the empty signatures of errors."
    text = re.sub(r"\[(`_\w[^`]*`)\]\([^)]*\)", r"\1", text)
    text = re.sub(r'^ *"(?:    |def |\)).*$', lambda line: re.sub(r"\[(`[^`]*`)\]\([^)]*\)", r"\1", line[0]), text, flags=re.M)
    return re.sub(r'"```python\\n",\s*"def \w+\(\\n",\s*" *\*args, \*\*kwargs\\n",\s*"\):\\n",\s*"```\\n",', "", text)


def plain_names(proc: Path):
    "Number-free page names, as `output-file:` asks for, and links to own pages made relative, so that the built site stands alone."
    names = {}
    for nb in proc.rglob("*.ipynb"):
        m = re.search(r"output-file: ([\w.-]+)\.html", nb.read_text(encoding="utf-8"))
        if m and m[1] != nb.stem: names[nb.name] = nb.rename(nb.with_name(m[1] + ".ipynb")).name
    base = (cfg.doc_host + cfg.doc_baseurl).rstrip("/") + "/"
    for f in [*proc.rglob("*.ipynb"), proc/"sidebar.yml"]:
        text = f.read_text(encoding="utf-8")
        for old, new in names.items(): text = text.replace(old, new)
        f.write_text(text.replace(base, "../" * (len(f.relative_to(proc).parts) - 1)), encoding="utf-8")


def vendor_katex(site: Path):
    "The maths fonts and scripts beside the pages, so that the site needs no other host; left at the public address where npm is not there."
    if not shutil.which("npm"): return print("site: npm is not there, formulas will be set by a script from the network")
    with tempfile.TemporaryDirectory() as tmp:
        subprocess.check_call(["npm", "install", "--silent", "--no-save", "--prefix", tmp, KATEX])
        dist, lib = Path(tmp)/"node_modules/katex/dist", site/"site_libs/katex"
        for f in [*dist.glob("katex.min.*s"), dist/"contrib/auto-render.min.js", *dist.glob("fonts/*.woff2")]:
            to = lib/f.relative_to(dist)
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(f, to)
    for page in site.rglob("*.html"):
        up = "../" * (len(page.relative_to(site).parts) - 1)
        page.write_text(re.sub(r"https://cdn\.jsdelivr\.net/npm/katex@[\d.]+/dist/", up + "site_libs/katex/", page.read_text(encoding="utf-8")), encoding="utf-8")


def point_at_pages(site: Path):
    "Links that nbdev makes of names in code lead to the page where it has no section for the name; links that people wrote stay, and are checked."
    ids = {page.name: set(re.findall(r'id="([^"]+)"', page.read_text(encoding="utf-8"))) for page in site.rglob("*.html")}

    def shorten(link):
        known = link[3] in ids.get(Path(link[2]).name, {link[3]})
        return link[0] if known else f"{link[1]}{link[2]}{link[4]}"
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        page.write_text(re.sub(r'(<a href=")([^"#]+)#([^"]+)("><code>)', shorten, text), encoding="utf-8")


def build() -> Path:
    "The site, in `doc_path`."
    proc = processed()
    if shutil.which("quarto"): subprocess.check_call(["quarto", "render", str(proc), "--no-execute"])
    else:
        plain_names(proc)
        subprocess.check_call([str(Path(sys.executable).parent/"smalldocs"), "render", str(proc)])
        vendor_katex(proc/"_docs")
        point_at_pages(proc/"_docs")
    shutil.rmtree(cfg.doc_path, ignore_errors=True)
    shutil.move(proc/cfg.doc_path.name, cfg.doc_path)
    return Path(cfg.doc_path)


def main():
    (cfg.config_path/"README.md").write_text(readme(), encoding="utf-8")
    if "--readme" in sys.argv: return
    site = build()
    pages = list(site.rglob("*.html"))
    problems = [f"broken link: {b}" for b in broken_links(site)] + [f"larger than 2 MB: {p}" for p in pages if p.stat().st_size > 2_000_000]
    for p in problems: print(p, file=sys.stderr)
    if problems: sys.exit(1)
    print(f"site: {len(pages)} pages, no broken internal link, in {site}")


if __name__ == "__main__": main()
