"""What `help` says of a module's names, from the comments of parameters."""

import sys
from importlib.machinery import PathFinder, SourceFileLoader
from pathlib import Path

MARK = "%% "  # begins the text of a name
PACKAGE = __name__.partition(".")[0] + "."


def file_of(module: str) -> Path:
    "Where the texts of a module stand."
    return Path(__file__).with_name(module.removeprefix(PACKAGE) + ".txt")


def describe(module) -> None:
    "Give the functions, classes and methods of a module the texts of its file."
    names = vars(module)
    text = file_of(module.__name__).read_text(encoding="utf-8")
    for entry in ("\n" + text).split("\n" + MARK)[1:]:
        path, _, text = entry.partition("\n")
        owner, _, method = path.partition(".")
        target = names[owner]
        if method:
            target = vars(target)[method]
            target = getattr(target, "__func__", target)
        target.__doc__ = text


class DescribedLoader(SourceFileLoader):
    "Runs a module, then gives its names their texts."

    def exec_module(self, module):
        super().exec_module(module)
        describe(module)


class DescribedFinder:
    "Finds the modules that have texts: an import hook, see `sys.meta_path`."

    @staticmethod
    def find_spec(name, path=None, target=None):
        if not name.startswith(PACKAGE) or not file_of(name).exists():
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = DescribedLoader(name, spec.origin)
        return spec


sys.meta_path.insert(0, DescribedFinder)
