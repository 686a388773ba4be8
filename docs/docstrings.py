"""Docstrings as Markdown."""

import inspect
import re
from collections.abc import Iterator


def markdown(docstring: str) -> str:
    """Turn a docstring into Markdown: what is indented becomes a fenced block, arguments become a list."""
    lines: list[str] = []
    for block in _blocks(inspect.cleandoc(docstring)):
        if block[0].startswith("=="):
            lines += [*_table(block), ""]
        elif re.match(r"(Args|Attributes|Raises|Returns|Yields):$", block[0]):
            lines += [*_list(block), ""]
        elif block[0].startswith("    "):
            lines += ["```text", *inspect.cleandoc("\n".join(block)).replace("``", "").splitlines(), "```", ""]
        else:
            text = "\n".join(block).replace("``", "`")
            lines += [re.sub(r"(?<!:)::$", ":", text), ""]
    text = "\n".join(line for line in lines if line not in ("::", ":"))
    return re.sub(r"\n{3,}", "\n\n", text)


def _blocks(text: str) -> Iterator[list[str]]:
    """Paragraphs; what is indented stays with its empty lines."""
    block: list[str] = []
    for line in text.splitlines():
        if not line and block and not block[0].startswith("    "):
            yield block
            block = []
        elif block and block[0].startswith("    ") and line and not line.startswith("    "):
            yield block[:-1] if not block[-1] else block
            block = [line]
        elif line or block:
            block.append(line)
    if block:
        yield block


def _list(block: list[str]) -> list[str]:
    """Turn ``Args:`` and the like into a list with an item for each name."""
    items: list[str] = []
    for line in inspect.cleandoc("\n".join(block[1:])).splitlines():
        found = re.match(r"(\w+): (.*)", line)
        if found:
            items.append(f"* `{found[1]}`: {found[2]}")
        elif items:
            items[-1] += f" {line.strip()}"
        else:
            items.append(line)
    title = [] if block[0] in ("Args:", "Attributes:") else [block[0], ""]
    return [line.replace("``", "`") for line in (*title, *items)]


def _table(block: list[str]) -> list[str]:
    """Turn a table of two columns between lines of ``=`` into one of Markdown."""
    edge = block[0].index(" ")
    found: list[list[str]] = []
    for line in block[1:-1]:
        name, text = line[:edge].strip(), line[edge:].strip()
        if name:
            found.append([name, text])
        else:
            found[-1][1] += f" {text}"
    rows = [f"| {name} | {text} |".replace("``", "`") for name, text in found]
    return ["| | |", "|---|---|", *rows]
