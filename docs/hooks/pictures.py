"""What the site shows, made while it is built: none of it is kept beside the text, or can be older than the code.

In a page, `<!-- picture: what it shows -->` behind a block of Python stands for the picture of its last line: a plan,
a profile over the page's `clock`, or a figure. The words in it are the picture's text for those who do not see it.
`<!-- examples -->` stands for the programs of examples/.
"""

from __future__ import annotations

import ast
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import matplotlib
import numpy as np
from matplotlib.figure import Figure

import kwarmup as kw
from kwarmup.plot import plot_curve

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

LOOKS = Path(__file__).parents[1] / "images" / "matplotlibrc"
BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```\n(?:\n*<!-- picture: (?P<words>[^>]+) -->)?", re.M | re.S)


def pictures(markdown: str, name: str) -> list[tuple[str, str, str]]:
    """Return, for each comment of a page, its address, its words and its SVG.

    All blocks of a page run in one namespace, except a training.

    Raises:
        ValueError: if a comment stands behind no block, or its last line is no plan, profile or figure.
    """
    space: dict[str, Any] = {"kw": kw, "keras": keras, "np": np}
    found = []
    for match in BLOCK.finditer(markdown) if "<!-- picture:" in markdown else ():
        if match["words"] is None and "plan.fit" in match["code"]:
            continue  # a training is for the reader
        line = markdown[: match.start()].count("\n") + 2
        with matplotlib.rc_context(fname=str(LOOKS)):
            value = evaluate("\n" * (line - 1) + match["code"], f"{name}.md", space)
        if match["words"] is not None:
            if not isinstance(value, kw.Plan | kw.Profile | Figure):
                raise ValueError(
                    f"{name}.md:{line}: a picture needs a plan, a profile or a figure in the last line, not {value!r}"
                )
            found.append(
                (f"pictures/{name}-{len(found) + 1}.svg", match["words"], draw(value, space.get("clock")))
            )
    if len(found) != markdown.count("<!-- picture:"):
        raise ValueError(
            f"{name}.md: a comment that asks for a picture stands right behind a block of Python"
        )
    return found


def evaluate(code: str, path: str, space: dict[str, Any]) -> Any:
    """Run the code; return the value of its last line, an expression or an assignment, or else nothing."""
    tree = ast.parse(code, path)
    last = tree.body[-1]
    if isinstance(last, ast.Expr):
        tree.body[-1] = ast.copy_location(ast.Assign([ast.Name("_last", ast.Store())], last.value), last)
    elif isinstance(last, ast.Assign):
        last.targets.append(ast.Name("_last", ast.Store()))
    space["_last"] = None
    exec(compile(ast.fix_missing_locations(tree), path, "exec"), space)
    return space["_last"]


def draw(value: kw.Plan | kw.Profile | Figure, clock: kw.Clock | None) -> str:
    with matplotlib.rc_context(fname=str(LOOKS)):
        if isinstance(value, Figure):
            figure = value
        elif isinstance(value, kw.Plan):
            figure = value.plot()
        else:
            curve = kw.Curve(value, clock)
            figure = plot_curve(curve, clock.steps if clock is not None else curve.end + 1)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def on_files(files: Files, config: MkDocsConfig) -> Files:
    from mkdocs.structure.files import File

    for file in list(files.documentation_pages()):
        for address, _, svg in pictures(file.content_string, Path(file.src_uri).stem):
            files.append(File.generated(config, address, content=svg))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    counted = 0

    def image(match: re.Match[str]) -> str:
        nonlocal counted
        counted += 1
        return f"![{match[1]}](pictures/{Path(page.file.src_uri).stem}-{counted}.svg)"

    markdown = re.sub(r"<!-- picture: ([^>]+) -->", image, markdown)
    markdown = markdown.replace(
        "<!-- examples -->", examples(Path(config.config_file_path).parent / "examples")
    )
    return re.sub(r"^::: kwarmup\.(\w+)$", lambda match: f"::: {home(match[1])}", markdown, flags=re.M)


def examples(folder: Path) -> str:
    """Return a section for each program of a folder: what it does, from its docstring, and its code."""
    sections = []
    for path in sorted(folder.glob("*.py"), key=lambda path: (path.stem != "quickstart", path.stem)):
        code = path.read_text()
        what = (ast.get_docstring(ast.parse(code)) or "").split("\n\n")[0]
        sections.append(f"## {path.stem}\n\n{what}\n\n```python\n{code}```\n")
    return "\n".join(sections)


def home(name: str) -> str:
    """Return where a public name is defined: `kwarmup.curve` is a module too, and would be taken for it."""
    value = getattr(kw, name)
    return f"{value.__module__}.{name}" if hasattr(value, "__module__") else f"kwarmup.{name}"
