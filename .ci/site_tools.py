"""What the checks and the site share: the notebooks, the README made from index.ipynb,
the check of links."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from nbdev.config import get_config
from nbdev.doclinks import nbglob

HIDDEN = re.compile(r"^#\|\s*(hide|default_exp|export)", re.M)
WITHOUT_CODE = re.compile(r"^#\|\s*echo:\s*false", re.M)
WRITTEN_LINK = re.compile(r"\]\([\w./-]+\.ipynb[^)]*\)")
MADE = "<!-- made from nbs/index.ipynb by `make sync`: edit that -->\n\n"


def bare(command):
    "The function behind an nbdev command."
    return getattr(command, "__wrapped__", command)


def notebooks() -> list[Path]:
    "All notebooks of the project, in order."
    return sorted(Path(p) for p in nbglob(get_config().nbs_path, as_path=True))


def shown(nb) -> list:
    """The cells that README.md shows: none that are hidden, outputs as text, and code
    that says nothing joined to the code below it."""
    from nbformat.v4 import new_markdown_cell

    cells = []
    for cell in nb.cells:
        if cell.cell_type != "code":
            cells.append(cell)
            continue
        if HIDDEN.search(cell.source):
            continue
        data = [output.get("data", {}) for output in cell.outputs]
        for kinds in data:
            kinds.pop("text/html", None)
        if WITHOUT_CODE.search(cell.source):
            texts = [
                kinds["text/markdown"] for kinds in data if "text/markdown" in kinds
            ]
            cells += map(new_markdown_cell, texts)
            continue
        if cells and cells[-1].cell_type == "code" and not cells[-1].outputs:
            cell.source = f"{cells.pop().source}\n\n{cell.source}"
        cells.append(cell)
    return cells


def readme() -> str:
    """README.md as text: index.ipynb, with links to the notebooks and pictures as they
    lie in the repository."""
    import nbformat  # takes two seconds, and few ask for the README
    from nbconvert import MarkdownExporter

    cfg = get_config()
    nb = nbformat.read(cfg.nbs_path / cfg.readme_nb, as_version=4)
    nb.cells = shown(nb)
    nb.metadata["language_info"] = {"name": "python"}
    text, _ = MarkdownExporter().from_notebook_node(nb)
    text = re.sub(r"\]\((?=[\w/.-]+\.ipynb|images/)", f"]({cfg.nbs_path.name}/", text)
    text = re.sub(r"\n{3,}", "\n\n", text)
    return MADE + text.strip() + "\n"


class _Page(HTMLParser):
    "The links and anchors of one page."

    def __init__(self, text):
        super().__init__()
        self.links, self.ids = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.ids |= {given[key] for key in ("id", "name") if given.get(key)}
        self.links += [given[key] for key in ("href", "src") if given.get(key)]


def find_target(link: str, page: Path, site: Path) -> Path | None:
    "The file of the site that a link of a page leads to; None where it leads away."
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return None
    path = unquote(parts.path)
    if not path:
        return page
    start = site / path.lstrip("/") if path.startswith("/") else page.parent / path
    target = start.resolve()
    return target / "index.html" if target.is_dir() else target


def broken_links(site: Path) -> list[str]:
    """Links of the built site to pages, files or anchors of its own that are not there,
    and links that are shown as they are written."""
    cfg = get_config()
    own = f"{cfg.doc_host}{cfg.doc_baseurl}"
    files = [path.resolve() for path in site.rglob("*.html")]
    texts = {path: path.read_text(encoding="utf-8") for path in files}
    pages = {path: _Page(text) for path, text in texts.items()}
    broken = []
    for path, page in pages.items():
        name = path.relative_to(site.resolve())
        for written in WRITTEN_LINK.findall(texts[path]):
            broken.append(f"{name}: {written} is shown as text")
        for link in page.links:
            if link.startswith(own):
                link = "/" + link[len(own) :].lstrip("/")
            target = find_target(link, path, site)
            if target is None:
                continue
            anchor = unquote(urlsplit(link).fragment)
            if not target.exists():
                broken.append(f"{name}: {link} does not exist")
            elif anchor and target in pages and anchor not in pages[target].ids:
                broken.append(f"{name}: {link} has no such anchor")
    return broken
