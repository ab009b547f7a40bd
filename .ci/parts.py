"""The packages of the parts: for each folder of modules an `__init__.pyi` that names
their public names, and an `__init__.py` that loads them when they are first used
(lazy_loader, SPEC 1: https://scientific-python.org/specs/spec-0001/)."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

from docstrings import write_help
from nbdev.config import get_config

HEAD = "# made by `make sync` from the modules' __all__: do not edit\n"
INIT = '''"""{title}"""

{head}
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
'''
TITLES = {
    "data": "Logs of interactions: reading, checking, splitting, simulating.",
    "features": "Columns and events as numbers and codes.",
    "models": "Networks: towers, history encoders, the ranker, their losses.",
    "training": "The loop, its optimizers, checkpoints and processes.",
    "evaluation": "Metrics, reports and comparisons.",
    "recommenders": "Recommenders that answer in raw ids.",
    "experiments": "A/B tests, from the plan to the decision.",
    "serving": "Trained models behind HTTP.",
}


# what `import recsys_nb as rn` offers: the names that a user of the package needs
PUBLIC = {
    "data": """Dataset load read_frame split_by_time split_leave_last_out split_by_user
        split_random Warehouse read_table DataError simulate World Shop""",
    "features": """user_features item_features Feature Features point_in_time
        FeatureEncoder""",
    "models": "TwoTowerConfig TwoTowerModel DLRMConfig DLRM",
    "training": "train Trainer DLRMTable ParquetStream",
    "evaluation": """evaluate compare compare_all ranker_metrics compute_metrics
        reliability tsne_map""",
    "recommenders": """Recommender TwoTowerRetriever RetrieverSettings DLRMRanker
        LogisticRanker BoostedRanker Popularity Repeats ItemKNN EASE GraphFilter ALS BPR
        BASELINES Diversity tune why""",
    "experiments": """analyze two_proportion_test power srm_test monitor duration
        group_sequential beta_binomial team_draft interleaving_test off_policy""",
}
TOP = '''"""From the event log to the A/B test: `import recsys_nb as rn`, then
`rn.Dataset`, `rn.Recommender`, ...; each name is loaded when it is first used."""

{head}
import lazy_loader

from . import _help  # noqa: F401  what `help` says of parameters

__version__ = "{version}"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
'''


def write_top(library: Path, version: str) -> None:
    "Write both files of the package itself."
    lines = [HEAD, "__version__: str\n"]
    for part, names in PUBLIC.items():
        lines += [f"from .{part} import {name} as {name}\n" for name in names.split()]
    (library / "__init__.pyi").write_text("".join(lines), encoding="utf-8")
    text = TOP.format(head=HEAD, version=version)
    (library / "__init__.py").write_text(text, encoding="utf-8")


def public_names(module: Path) -> list[str]:
    "What `__all__` of a module says, in its order."
    for node in ast.parse(module.read_text(encoding="utf-8")).body:
        names = [t.id for t in getattr(node, "targets", []) if isinstance(t, ast.Name)]
        if names == ["__all__"]:
            return ast.literal_eval(node.value)
    return []


def stub(folder: Path) -> str:
    "The `__init__.pyi` of a part."
    lines, owner = [HEAD], {}
    for module in sorted(folder.glob("[!_]*.py")):
        for name in public_names(module):
            if name in owner:
                raise SystemExit(f"{name} stands in {owner[name]} and in {module}")
            owner[name] = module
            lines.append(f"from .{module.stem} import {name} as {name}\n")
    return "".join(lines)


def write_parts(library: Path) -> list[Path]:
    "Write both files of each part; what was written."
    written = []
    for folder in sorted(p for p in library.iterdir() if any(p.glob("[!_]*.py"))):
        text = INIT.format(title=TITLES[folder.name], head=HEAD)
        for path, content in (("__init__.py", text), ("__init__.pyi", stub(folder))):
            (folder / path).write_text(content, encoding="utf-8")
            written.append(folder / path)
    return written


if __name__ == "__main__":
    library = Path(sys.argv[1]) if len(sys.argv) > 1 else get_config().lib_path
    write_parts(library)
    write_top(library, get_config().version)
    write_help(library)
