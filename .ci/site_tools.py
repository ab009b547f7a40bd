"What the checks and the site share: the notebooks, the README made from index.ipynb, the check of links."
from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
from nbformat.v4 import new_markdown_cell
from nbconvert import MarkdownExporter
from nbdev.config import get_config
from nbdev.doclinks import nbglob


def bare(f): return getattr(f, "__wrapped__", f)  # the function behind an nbdev command


def notebooks() -> list[Path]:
    "All notebooks of the project, in order."
    return sorted(Path(p) for p in nbglob(get_config().nbs_path, as_path=True))


def shown(nb) -> list:
    "The cells that README.md shows: none that are hidden, outputs as text, and code that says nothing joined to the code below it."
    out = []
    for c in nb.cells:
        if c.cell_type == "code":
            if re.search(r"^#\|\s*(hide|default_exp|export)", c.source, re.M): continue
            for o in c.outputs: o.get("data", {}).pop("text/html", None)
            if re.search(r"^#\|\s*echo:\s*false", c.source, re.M):
                out += [new_markdown_cell(o["data"]["text/markdown"]) for o in c.outputs if "text/markdown" in o.get("data", {})]
                continue
            if out and out[-1].cell_type == "code" and not out[-1].outputs: c.source = out.pop().source + "\n\n" + c.source
        out.append(c)
    return out


def readme() -> str:
    "README.md as text: index.ipynb, with links to the notebooks and pictures as they lie in the repository."
    cfg = get_config()
    nb = nbformat.read(cfg.nbs_path/cfg.readme_nb, as_version=4)
    nb.cells, nb.metadata["language_info"] = shown(nb), {"name": "python"}
    text, _ = MarkdownExporter().from_notebook_node(nb)
    text = re.sub(r"\]\((?=[\w/.-]+\.ipynb|images/)", f"]({cfg.nbs_path.name}/", text)
    text = re.sub(r"\n{3,}", "\n\n", text)
    return "<!-- made from nbs/index.ipynb by `make sync`: edit that -->\n\n" + text.strip() + "\n"


class _Page(HTMLParser):
    "The links and anchors of one page."
    def __init__(self, text):
        super().__init__()
        self.links, self.ids = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        self.ids |= {a[k] for k in ("id", "name") if a.get(k)}
        self.links += [a[k] for k in ("href", "src") if a.get(k)]


def broken_links(site: Path) -> list[str]:
    "Links of the built site to pages, files or anchors of its own that are not there."
    cfg = get_config()
    own = f"{cfg.doc_host}{cfg.doc_baseurl}"
    pages = {p.resolve(): _Page(p.read_text(encoding="utf-8")) for p in site.rglob("*.html")}
    out = []
    for p, page in pages.items():
        for link in page.links:
            if link.startswith(own): link = "/" + link[len(own):].lstrip("/")
            u = urlsplit(link)
            if u.scheme or u.netloc: continue
            path = unquote(u.path)
            target = (site/path.lstrip("/") if path.startswith("/") else p.parent/path).resolve() if path else p
            if target.is_dir(): target = target/"index.html"
            if not target.exists(): out.append(f"{p.relative_to(site.resolve())}: {link} does not exist")
            elif u.fragment and target in pages and unquote(u.fragment) not in pages[target].ids: out.append(f"{p.relative_to(site.resolve())}: {link} has no such anchor")
    return out
