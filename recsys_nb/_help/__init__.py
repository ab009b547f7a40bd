"""What `help` says of a module's names, from the comments of parameters."""

# made by `make sync`: do not edit

import sys
from pathlib import Path

MARK = "%% "  # begins the text of a name


def describe(module: str) -> None:
    "Give the functions, classes and methods of a module the texts of its file."
    names = vars(sys.modules[module])
    file = Path(__file__).with_name(module.partition(".")[2] + ".txt")
    for entry in ("\n" + file.read_text(encoding="utf-8")).split("\n" + MARK)[1:]:
        path, _, text = entry.partition("\n")
        owner, _, method = path.partition(".")
        target = names[owner]
        if method:
            target = vars(target)[method]
            target = getattr(target, "__func__", target)
        target.__doc__ = text
