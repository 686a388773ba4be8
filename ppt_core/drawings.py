"""Figures as this project draws them: for pages in light and dark, wide and narrow, and for files on white."""

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart with any colour vision; each curve has a marker and a label of its own, too.
COLORS = {"full": "#0072b2", "ppt": "#d55e00", "low": "#009e73"}
"""Colours that a page has by these names, so that they can be others in the dark."""
MORE_COLORS = ("#cc79a7", "#b08d00", "#56b4e9")
INK = "#1c1d1f"
WIDE, NARROW = 7.6, 3.9
"""Inches: of a figure on a page for a screen, and for a telephone."""
STYLE: Any = {
    "font.size": 10,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "ppt",  # the same report gives the same bytes
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}


def to_svg(figure: "Figure", name: str) -> str:
    """The figure for a page: its ink is the page's text colour, its curves are CSS variables, its ids its own."""
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    svg = text[text.index("<svg") :]
    svg = svg.replace(INK, "currentColor")
    for method, color in COLORS.items():
        svg = svg.replace(color, f"var(--{method})")
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font: \1 system-ui, sans-serif", svg)
    return re.sub(r'<svg ([^>]*?)height="[^"]*"([^>]*?)width="[^"]*"', r"<svg \1\2", svg, count=1)


def save(figure: "Figure", path: Path) -> None:
    """Write a figure on white, as PNG or SVG."""
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        figure.savefig(path, dpi=200, metadata={"Date": None} if path.suffix == ".svg" else None)


def drawn(draw: Callable[[float], dict[str, "Figure"]]) -> dict[str, str]:
    """What ``draw`` draws at `WIDE` and at `NARROW`, by name: two SVGs, of which a page shows the one that fits."""
    kinds = {"wide": draw(WIDE), "narrow": draw(NARROW)}
    return {
        name: "".join(
            to_svg(figures[name], f"{name}-{kind}").replace("<svg ", f'<svg class="{kind}" role="img" ', 1)
            for kind, figures in kinds.items()
        )
        for name in kinds["wide"]
    }


def axes(width: float, ratio: float) -> tuple["Figure", "Axes"]:
    """A figure ``width`` inches wide and ``ratio`` times as high, with its one pair of axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, width * ratio), layout="constrained")
    found = figure.add_subplot()
    lay_grid(found)
    return figure, found


def lay_grid(axes: "Axes") -> None:
    """Draw thin lines behind the curves, at the marks of the upright axis."""
    axes.grid(axis="y", color=INK, alpha=0.12, linewidth=0.8)
    axes.set_axisbelow(True)
