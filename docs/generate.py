"""Write the pages that programs and docstrings know best.

python -m docs.generate            rewrite them
python -m docs.generate --check    only name the pages that would change
"""

import argparse
import importlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from docs.api import reference
from docs.docstrings import markdown

DOCS = Path(__file__).parent
FORMATS = {
    "Prepared ratings": "data_prep.ratings.interactions",
    "Splits for NCF that others made": "data_prep.ratings.ncf_files",
    "Prepared images: arrays": "data_prep.images.image_arrays",
    "Prepared images: files": "data_prep.images.image_files",
    "A run folder": "ppt_core.runs.run",
    "A study folder": "ppt_core.study.study",
    "A packed recommender": "ncf_ppt.packed.file",
    "A packed image network": "vision_ppt.packed.file",
    "Exported vectors: what they mean": "ncf_ppt.export.embeddings",
    "Exported vectors: the files": "ncf_ppt.export.vector_files",
    "ONNX": "ncf_ppt.export.onnx_file",
    "Whole or absent": "ppt_core.runs.files",
}
"""Sections of `formats.md`, and the modules whose first lines say what they hold."""

_WRITTEN = "<!-- Written by `python -m docs.generate`; do not edit. -->"


def formats() -> str:
    """Write `formats.md` from the first docstrings of the modules that read and write the files."""
    parts = [
        _WRITTEN,
        "# File formats",
        "Whatever is written carries a format version, and a reader refuses one that it does not know. Each section\n"
        "is the first docstring of the module that it names. `.npy` files can be mapped into memory.",
    ]
    for title, module in FORMATS.items():
        parts += [f"## {title}", markdown(importlib.import_module(module).__doc__ or "").strip(), f"(`{module}`)"]
    return "\n\n".join(parts) + "\n"


def commands() -> str:
    """Write `commands.md` from the help of every command."""
    from cli import main, vision

    parts = [
        _WRITTEN,
        "# Commands",
        "Every command has `--help` with examples. `--json` prints one JSON object on standard output and nothing\n"
        "else there. Errors are one line; the exit code is 2 for a wrong option and 1 for any other error.",
    ]
    helps = []
    for program, group in (("ppt-ncf", main), ("ppt-vision", vision)):
        found = list(_commands(program, group))
        lines = ["| command | does |", "|---|---|"]
        lines += [
            f"| [`{_usage(name, command)}`](#{name.replace(' ', '-')}) | {_first(command)} |" for name, command in found
        ]
        parts.append("\n".join(lines))
        for name, command in found:
            above = click.Context(group, **group.context_settings)
            context = click.Context(command, above, info_name=name, terminal_width=100)
            helps += [f"## {name}", f"```text\n{command.get_help(context)}\n```"]
    return "\n\n".join(parts + helps) + "\n"


def _commands(program: str, group: click.Group) -> Iterator[tuple[str, click.Command]]:
    for name in sorted(group.commands):
        command = group.commands[name]
        if isinstance(command, click.Group):
            yield from _commands(f"{program} {name}", command)
        else:
            yield f"{program} {name}", command


def _usage(name: str, command: click.Command) -> str:
    """Write a command with what it needs."""
    needed = []
    for each in command.params:
        if isinstance(each, click.Argument) and each.required:
            needed.append(str(each.make_metavar(click.Context(command))))
        elif each.required:
            needed.append(f"{each.opts[-1]} {each.opts[-1].strip('-').upper()}")
    return " ".join([name, *needed]).replace("|", "\\|")


def _first(command: click.Command) -> str:
    """Return the first paragraph of a command's help."""
    paragraph = inspect.cleandoc(command.help or "").split("\n\n")[0]
    return " ".join(paragraph.split()).replace("|", "\\|")


def api() -> str:
    """Write `api.md` from the docstrings of whatever a Python user imports."""
    intro = (
        "What `import ncf_ppt` and `import vision_ppt` offer, what of the core is for networks of your own, and the\n"
        "settings of every training. Examples are under [from Python](python.md)."
    )
    return "\n\n".join([_WRITTEN, "# Python reference", intro, reference()]) + "\n"


PAGES = {"commands.md": commands, "formats.md": formats, "api.md": api}


def main() -> None:
    """Rewrite the pages, or name those that are out of date."""
    parser = argparse.ArgumentParser(description="Write the pages that programs and docstrings know best.")
    parser.add_argument("--check", action="store_true", help="change nothing; name the pages that would change")
    check, changed = parser.parse_args().check, False
    for name, page in PAGES.items():
        text, path = page(), DOCS / name
        if not path.exists() or path.read_text("utf-8") != text:
            changed = True
            sys.stdout.write(f"docs/{name}\n")
            if not check:
                path.write_text(text, "utf-8")
    sys.exit(1 if check and changed else 0)


if __name__ == "__main__":
    main()
