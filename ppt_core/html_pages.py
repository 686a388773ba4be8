"""Parts of an HTML page that needs nothing else: its style, in light and dark, its head, and tables."""

from collections.abc import Iterable, Sequence
from html import escape

from ppt_core.drawings import COLORS

STYLE = """
:root { color-scheme: light dark; --full: #0072b2; --ppt: #c35400; --low: #00805d; --line: #8884; --soft: #8881; }
@media (prefers-color-scheme: dark) { :root { --full: #6cc3f5; --ppt: #ff9a56; --low: #3fd3a5; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 860px; padding: 28px 20px 60px; font: 16px/1.55 system-ui, sans-serif;
  color: light-dark(#1c1d1f, #e8e6e3); background: light-dark(#fdfdfc, #17181b); overflow-wrap: break-word; }
h1 { font-size: clamp(1.5rem, 5vw, 2.1rem); line-height: 1.2; margin: 0 0 .4em; }
h2 { font-size: 1.2rem; margin: 2.4em 0 .3em; }
p { margin: .5em 0; } small, figcaption, .about { color: light-dark(#55575c, #a9abb0); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(210px, 1fr)); gap: 12px; margin: 22px 0; }
.card { border: 1px solid var(--line); border-radius: 10px; padding: 12px 16px; background: var(--soft); }
.card b { display: block; font-size: 2rem; line-height: 1.25; color: var(--ppt); font-variant-numeric: tabular-nums; }
figure { margin: 12px 0; } figure svg { display: block; width: 100%; height: auto; overflow: visible; }
figure svg.narrow { display: none; }
.table { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 4px 12px 4px 0; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; } thead th { font-weight: 600; vertical-align: bottom; }
th:last-child, td:last-child { padding-right: 0; } th:first-child, td:first-child { white-space: nowrap; }
.table + .table { margin-top: 18px; } .lists th, .lists td { text-align: left; vertical-align: top; }
.lists td + td { min-width: 8em; } .series { white-space: nowrap; margin-right: 1em; }
@media (max-width: 620px) { figure svg.narrow { display: block; } figure svg.wide { display: none; }
  table { font-size: .8rem; } th, td { padding-right: 8px; } }
details { margin: 6px 0; } summary { cursor: pointer; } code { font-size: .88em; }
.about li { margin: .3em 0; }
"""
"""CSS of every page."""


def html_page(title: str, parts: Iterable[str]) -> str:
    """A whole page of ``parts``, which are HTML."""
    head = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>",
    ]
    return "\n".join([*head, *parts, "</main></body></html>"]) + "\n"


def card(value: str, what: str, about: str) -> str:
    """A figure that leads: the value, what it is, and in small print what it rests on. Plain text."""
    return f'<div class="card"><b>{escape(value)}</b>{escape(what)}<br><small>{escape(about)}</small></div>'


def cards(each: Iterable[str]) -> str:
    """Cards beside each other."""
    return f'<div class="cards">{"".join(each)}</div>'


def figure(title: str, drawing: str, caption: str) -> str:
    """A drawing below its title and above its caption."""
    return f"<h2>{escape(title)}</h2><figure>{drawing}<figcaption>{escape(caption)}</figcaption></figure>"


def legend(entries: Iterable[tuple[str, str, str]]) -> str:
    """Which marker is what: a colour of `ppt_core.drawings`, the marker as a letter, and the name of each."""
    names = {color: f"var(--{name})" for name, color in COLORS.items()}
    items = [
        f'<span class="series"><span style="color:{names.get(color, color)}">{letter}</span> {escape(name)}</span>'
        for color, letter, name in entries
    ]
    return f"<p>{' '.join(items)}</p>"


def details(summary: str, content: str) -> str:
    """Content that opens on a click."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def preformatted(text: str) -> str:
    """Text as it is, such as JSON."""
    return f"<div class=table><pre>{escape(text)}</pre></div>"


def note(text: str) -> str:
    """A paragraph in small print."""
    return f"<p><small>{escape(text)}</small></p>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of plain text, which scrolls for itself where it is too wide."""
    titles = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="table"><table><thead><tr>{titles}</tr></thead><tbody>{lines}</tbody></table></div>'
