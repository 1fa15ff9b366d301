"""A study as one HTML file that needs no network."""

from __future__ import annotations

import contextlib
import os
from importlib import resources
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from kwarmup.errors import value_error
from kwarmup.studies.report.page import content
from kwarmup.studies.result import Study


def write(study: Study, path: str | os.PathLike[str]) -> Path:
    """Write a study as a page, whole or not at all.

    Args:
        study: what to show; pieces may be missing.
        path: the file.

    Returns:
        The path.

    Raises:
        ValueError: if it cannot be written there.
    """
    path = Path(path)
    text = html(study)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise value_error(
            "path", str(path), f"a file that can be written ({reason})", 'study.report("report.html")'
        ) from error
    finally:
        _remove(beside)
    return path


def html(study: Study) -> str:
    """Return the page of a study.

    Args:
        study: what to show.
    """
    # Names of models and metrics may hold anything: all but the style sheet and the pictures is escaped.
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    folder = resources.files("kwarmup.studies.report")
    template = environment.from_string((folder / "report.html").read_text(encoding="utf-8"))
    return template.render(content(study), style=(folder / "report.css").read_text(encoding="utf-8"))


def _remove(path: Path) -> None:
    # It has become the report, or never was.
    with contextlib.suppress(OSError):
        path.unlink()
