"""A figure as SVG that stands in a page: the page's letters and colours, light or dark, and nothing from outside."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kwarmup.studies.effects.panels import BLUE, GREY, ORANGE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: The colour of letters and axes while it is drawn. Not black: matplotlib leaves that one out of the file.
_INK = "#202124"
#: What stands for each colour in the page; the colour itself remains for readers that know no variables.
_COLOURS = {
    _INK: "currentColor",
    BLUE: f"var(--blue, {BLUE})",
    ORANGE: f"var(--orange, {ORANGE})",
    GREY: f"var(--grey, {GREY})",
}
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "kwarmup",
    "font.size": 11,
    "axes.titlesize": 11,
    "legend.fontsize": 10,
    "savefig.transparent": True,
    "lines.linewidth": 1.8,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _INK),
}


@contextmanager
def look() -> Iterator[None]:
    """Draw with letters and colours that the page can replace."""
    from matplotlib import rc_context

    with rc_context(_SETTINGS):
        yield


def svg(figure: Figure, name: str, title: str) -> str:
    """Return a figure, drawn within `look`, as an element of a page.

    Args:
        figure: what to show.
        name: begins all identifiers, which must differ between the pictures of a page.
        title: what it shows, for readers who do not see it.
    """
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    for colour, variable in _COLOURS.items():
        text = text.replace(colour, variable)
    # The fonts of the machine that drew it are not those of the reader.
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    text = _identified(text.replace("xlink:href", "href"), name)
    found = re.search(r'viewBox="([^"]+)"', text)
    assert found is not None
    head = f'<svg viewBox="{found[1]}" role="img" aria-labelledby="{name}-title">'
    body = text[text.index(">") + 1 :]
    return f'{head}<title id="{name}-title">{html.escape(title)}</title>{body}'


def _identified(text: str, name: str) -> str:
    """Keep the identifiers that something refers to, as the name with a number; matplotlib's differ between runs."""
    used = dict.fromkeys(re.findall(r'(?:url\(|\bhref=")#([^)"]+)', text))
    numbers = {identifier: f"{name}-{number}" for number, identifier in enumerate(used)}
    text = re.sub(r'((?:url\(|\bhref=")#)([^)"]+)', lambda found: found[1] + numbers[found[2]], text)
    return re.sub(
        r' id="([^"]+)"', lambda found: f' id="{numbers[found[1]]}"' if found[1] in numbers else "", text
    )
