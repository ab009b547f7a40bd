"""What `help` says of parameters. The comments beside them (docments) are written as
numpydoc sections into `recsys_nb/_help/<module>.txt`, one file per module. The package
`recsys_nb._help` gives them to the names of a module when it is imported: the modules
stay as nbdev exports them."""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from dataclasses import dataclass
from pathlib import Path

from nbdev.config import get_config

FOLDER = "_help"
OURS = re.compile(r"^(Parameters|Returns)\n-+\n(?:.*\n?)*?(?=^\w[^\n]*\n-+\n|\Z)", re.M)
SECTION = re.compile(r"^\w[^\n]*\n-+$", re.M)


@dataclass(frozen=True)
class Parameter:
    "A parameter as a help text shows it."

    name: str  # with the stars of *args and **kwargs
    type: str  # as annotated, or ""
    default: str  # as written, or ""
    comment: str  # what stands beside it, or ""

    def render(self) -> str:
        "The entry of the section."
        head = self.name
        if self.type:
            head += f" : {self.type}"
        if self.default:
            head += f", default {self.default}"
        return f"{head}\n{indent(self.comment)}".rstrip()


def indent(text: str) -> str:
    "The text as the body of an entry."
    return "\n".join(f"    {line}" for line in text.splitlines())


class Module:
    "One module: its definitions and comments."

    def __init__(
        self,
        path: Path,  # the .py file
    ):
        text = path.read_text(encoding="utf-8")
        self.tree = ast.parse(text)
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        self.comments = {
            token.start[0]: token.string.lstrip("#").strip()
            for token in tokens
            if token.type == tokenize.COMMENT
        }
        definitions = [node for node in self.tree.body if hasattr(node, "name")]
        self.definitions = {node.name: node for node in definitions}

    def comment_of(
        self,
        line: int,  # where the parameter stands
        taken: set[int],  # lines of parameters, and where the definition begins
    ) -> str:
        "What stands beside a parameter, else in the lines of comment above it."
        if line in self.comments:
            return self.comments[line]
        above = []
        start = min(taken)
        while start < line - 1 and line - 1 in self.comments and line - 1 not in taken:
            line -= 1
            above.insert(0, self.comments[line])
        return "\n".join(above)

    def parameters_of(self, function: ast.FunctionDef) -> list[Parameter]:
        "The parameters of a function but self and cls."
        spec = function.args
        plain = [*spec.posonlyargs, *spec.args]
        defaults = [None] * (len(plain) - len(spec.defaults)) + list(spec.defaults)
        rows = [("", arg, value) for arg, value in zip(plain, defaults, strict=True)]
        rows += [("*", spec.vararg, None)] if spec.vararg else []
        named = zip(spec.kwonlyargs, spec.kw_defaults, strict=True)
        rows += [("", arg, value) for arg, value in named]
        rows += [("**", spec.kwarg, None)] if spec.kwarg else []
        last = {arg.lineno: arg for _, arg, _ in rows}
        if function.returns:  # what stands on the line of both is said of the result
            last[function.returns.lineno] = function.returns
        taken = {function.lineno, *last}
        found = []
        for stars, arg, value in rows:
            if arg.arg in ("self", "cls"):
                continue
            ends = last[arg.lineno] is arg  # the last one of its line
            comment = self.comment_of(arg.lineno, taken) if ends else ""
            name = stars + arg.arg
            found.append(Parameter(name, write(arg.annotation), write(value), comment))
        return found

    def fields_of(self, owner: ast.ClassDef) -> list[Parameter]:
        "The annotated names of a class that its constructor takes."
        rows = [node for node in owner.body if isinstance(node, ast.AnnAssign)]
        taken = {owner.lineno, *(node.lineno for node in rows)}
        return [
            Parameter(
                node.target.id,
                write(node.annotation),
                write_default(node.value),
                self.comment_of(node.lineno, taken),
            )
            for node in rows
            if "ClassVar" not in write(node.annotation) and is_taken(node.value)
        ]

    def returned_by(self, function: ast.FunctionDef) -> Parameter | None:
        "What a function returns, where a comment says what it is."
        if function.returns is None:
            return None
        arguments = [
            node for node in ast.walk(function.args) if hasattr(node, "lineno")
        ]
        taken = {function.lineno, *(node.lineno for node in arguments)}
        comment = self.comment_of(function.returns.lineno, taken)
        if not comment:
            return None
        return Parameter(write(function.returns), "", "", comment)


def write(node: ast.AST | None) -> str:
    "Code as text; without the quotes around an annotation."
    if node is None:
        return ""
    return ast.unparse(node)


def write_default(value: ast.AST | None) -> str:
    "The default of a field, also of `field(default=...)`."
    if isinstance(value, ast.Call) and write(value.func).endswith("field"):
        given = {keyword.arg: write(keyword.value) for keyword in value.keywords}
        if "default_factory" in given:
            return f"{given['default_factory']}()"
        return given.get("default", "")
    return write(value)


def is_taken(value: ast.AST | None) -> bool:
    "Whether the constructor takes the field."
    return "init=False" not in write(value)


def decorators(owner: ast.ClassDef) -> str:
    "The decorators of a class as text."
    return " ".join(map(write, owner.decorator_list))


class Library:
    "All modules, where bases of classes are looked up."

    def __init__(
        self,
        folder: Path,  # of the package
    ):
        paths = sorted(p for p in folder.rglob("*.py") if not p.stem.startswith("_"))
        self.modules = {
            ".".join(path.relative_to(folder).with_suffix("").parts): Module(path)
            for path in paths
        }
        self.homes = {
            name: module
            for module in self.modules.values()
            for name, node in module.definitions.items()
            if isinstance(node, ast.ClassDef)
        }

    def constructor(self, module: Module, owner: ast.ClassDef) -> list[Parameter]:
        "What the constructor of a class takes, inherited parameters included."
        bases = [base.id for base in owner.bases if isinstance(base, ast.Name)]
        known = [base for base in bases if base in module.definitions | self.homes]
        homes = [module if b in module.definitions else self.homes[b] for b in known]
        inherited: dict[str, Parameter] = {}
        for base, home in zip(known, homes, strict=True):
            definition = home.definitions[base]
            inherited |= {p.name: p for p in self.constructor(home, definition)}
        methods = [node for node in owner.body if isinstance(node, ast.FunctionDef)]
        for method in methods:
            if method.name == "__init__":
                return module.parameters_of(method)
        if "dataclass" in decorators(owner) or "NamedTuple" in bases:
            own = {field.name: field for field in module.fields_of(owner)}
            return list((inherited | own).values())
        return list(inherited.values())

    def texts(self, module: Module) -> dict[str, str]:
        "Help texts by name, of what has comments beside its parameters."
        found = {}
        for name, node in module.definitions.items():
            if name.startswith("_"):
                continue
            if isinstance(node, ast.ClassDef):
                found[name] = write_text(node, self.constructor(module, node), None)
                functions = [f for f in node.body if isinstance(f, FUNCTIONS)]
                functions = [f for f in functions if not f.name.startswith("_")]
                pairs = [(f"{name}.{f.name}", f) for f in functions]
            else:
                pairs = [(name, node)]
            for path, function in pairs:
                parameters = module.parameters_of(function)
                returned = module.returned_by(function)
                found[path] = write_text(function, parameters, returned)
        return {path: text for path, text in found.items() if text}


FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def write_text(node, parameters: list[Parameter], returned: Parameter | None) -> str:
    "The docstring with the sections Parameters and Returns before all others."
    if not any(p.comment for p in parameters) and not returned:
        return ""
    said = OURS.sub("", ast.get_docstring(node) or "").rstrip()
    begin = SECTION.search(said)
    story, others = (
        (said[: begin.start()], said[begin.start() :]) if begin else (said, "")
    )
    entries = "\n".join(p.render() for p in parameters)
    parts = [story.rstrip()]
    if parameters:
        parts.append(f"Parameters\n----------\n{entries}")
    if returned:
        parts.append(f"Returns\n-------\n{returned.render()}")
    return "\n\n".join(part for part in (*parts, others.rstrip()) if part) + "\n"


def write_help(folder: Path) -> None:
    "Write the texts of all modules of a package."
    shelf = folder / FOLDER
    shelf.mkdir(exist_ok=True)
    everything = Library(folder)
    written = set()
    for name, module in everything.modules.items():
        texts = everything.texts(module)
        if not texts:
            continue
        file = shelf / f"{name}.txt"
        written.add(file)
        entries = [f"%% {path}\n{text}" for path, text in texts.items()]
        file.write_text("\n".join(entries), encoding="utf-8")
    for file in set(shelf.glob("*.txt")) - written:
        file.unlink()


if __name__ == "__main__":
    write_help(Path(sys.argv[1]) if len(sys.argv) > 1 else get_config().lib_path)
