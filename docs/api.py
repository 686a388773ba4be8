"""The reference of the Python API: signatures as they stand in the source, and docstrings."""

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from docs.docstrings import markdown

PACKAGES = ("ncf_ppt", "vision_ppt")
CORE = {
    "ppt_core.plan": ("plan_binarization", "convert"),
    "ppt_core.layers": ("set_precision", "alpha_penalty"),
    "ppt_core.schedule": ("PhaseSchedule", "Constant", "Step", "Cosine"),
    "ppt_core.train": ("train_steps",),
    "ppt_core.runs.config": ("TrainingConfig",),
}
"""What of the core is for networks of one's own, and the settings that every training shares."""


def reference() -> str:
    """Write a section for each package, functions first, and one for the core."""
    parts, written = [], set()
    for name in PACKAGES:
        package = importlib.import_module(name)
        homes = {each: home for each, home in package._HOMES.items() if (home, each) not in written}
        written |= {(home, each) for each, home in homes.items()}
        entries = [(each, *home.partition(":")[::2]) for each, home in homes.items()]
        parts.append(f"## {name}")
        parts += [_entry(name, each, home, own or each) for each, home, own in sorted(entries, key=_functions_first)]
    parts.append("## ppt_core")
    for home, names in CORE.items():
        parts += [_entry(home, each, home, each) for each in names]
    return "\n\n".join(parts)


def _functions_first(entry: tuple[str, str, str]) -> tuple[bool, str]:
    return not entry[0].islower(), entry[0]


def _entry(package: str, name: str, home: str, own: str) -> str:
    module = importlib.import_module(home)
    node, source = _definition(module, own)
    if isinstance(node, ast.ClassDef):
        made = node.decorator_list or any(isinstance(each, ast.FunctionDef) for each in node.body)
        parts = [_signature(name, _fields(node, source)) if made else "", _docstring(node), *_members(node, source)]
    elif isinstance(node, ast.FunctionDef):
        parts = [_signature(name, _arguments(node, source)), _docstring(node)]
    else:
        parts = [f"```text\n{name}\n```", markdown(_text_below(module, node)).strip()]
    return "\n\n".join([f"### {package}.{name}", *filter(None, parts)])


def _definition(module: ModuleType, name: str) -> tuple[ast.stmt, str]:
    """Find what a module calls ``name``: a class, a function or an assignment, and the module's source."""
    source = Path(str(module.__file__)).read_text("utf-8")
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return node, source
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == name:
            return node, source
    raise KeyError(f"{module.__name__} defines no {name}")


def _text_below(module: ModuleType, node: ast.stmt) -> str:
    """Return the string behind an assignment."""
    body = ast.parse(Path(str(module.__file__)).read_text("utf-8")).body
    behind = next(each for each in body if each.lineno > node.lineno)
    assert isinstance(behind, ast.Expr)
    return str(ast.literal_eval(behind.value))


def _docstring(node: ast.ClassDef | ast.FunctionDef) -> str:
    return markdown(ast.get_docstring(node) or "").strip()


def _source(node: ast.expr, source: str) -> str:
    """Return an expression as it is written, on one line: `ast.unparse` differs between versions of Python."""
    return " ".join((ast.get_source_segment(source, node) or "").split())


def _arguments(node: ast.FunctionDef, source: str) -> list[str]:
    """Return a function's arguments as they are written, without self."""
    given = node.args
    plain = [*given.posonlyargs, *given.args]
    defaults = [None] * (len(plain) - len(given.defaults)) + list(given.defaults)
    found = [_argument(each, default, source) for each, default in zip(plain, defaults, strict=True)]
    if given.vararg:
        found.append("*" + _argument(given.vararg, None, source))
    elif given.kwonlyargs:
        found.append("*")
    pairs = zip(given.kwonlyargs, given.kw_defaults, strict=True)
    found += [_argument(each, default, source) for each, default in pairs]
    if given.kwarg:
        found.append("**" + _argument(given.kwarg, None, source))
    return [each for each in found if each not in ("self", "cls")]


def _argument(node: ast.arg, default: ast.expr | None, source: str) -> str:
    kind = f": {_source(node.annotation, source)}" if node.annotation else ""
    return f"{node.arg}{kind}" + (f" = {_source(default, source)}" if default is not None else "")


def _fields(node: ast.ClassDef, source: str) -> list[str]:
    """Return what a class is made with: the fields of a dataclass, or the arguments of ``__init__``."""
    for each in node.body:
        if isinstance(each, ast.FunctionDef) and each.name == "__init__":
            return _arguments(each, source)
    fields = [each for each in node.body if isinstance(each, ast.AnnAssign)]
    return [_source_of_field(each, source) for each in fields if "ClassVar" not in _source(each.annotation, source)]


def _source_of_field(node: ast.AnnAssign, source: str) -> str:
    text = f"{_source(node.target, source)}: {_source(node.annotation, source)}"
    return text + (f" = {_source(node.value, source)}" if node.value is not None else "")


def _members(node: ast.ClassDef, source: str) -> Iterator[str]:
    """Public methods and properties that have a docstring."""
    for each in node.body:
        if isinstance(each, ast.FunctionDef) and not each.name.startswith("_") and ast.get_docstring(each):
            kinds = {_source(decorator, source) for decorator in each.decorator_list}
            if kinds & {"property", "cached_property"}:
                head = f"`{node.name}.{each.name}`"
            else:
                head = f"`{node.name}.{each.name}({', '.join(_arguments(each, source))})`"
            yield f"**{head}** " + _docstring(each)


def _signature(name: str, arguments: list[str]) -> str:
    """Write a call, one argument a line where one line does not hold it."""
    line = f"{name}({', '.join(arguments)})"
    if len(line) > 100:
        line = "\n".join([f"{name}(", *(f"    {each}," for each in arguments), ")"])
    return f"```text\n{line}\n```"
