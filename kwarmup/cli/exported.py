"""What `kwarmup show` shows of a version that was exported: its endpoints, and where it comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kwarmup.cli import terminal
from kwarmup.cli.errors import UserError

if TYPE_CHECKING:
    from kwarmup.cli.subject import Subject


@dataclass(frozen=True)
class Exported:
    """A version in a folder, and its plan where it has one.

    Args:
        folder: the version's.
        run: its plan, history and metrics; `None` where it was exported without a plan.
        metrics: numbers by name.
        signatures: endpoints by name, as the process saw them that checked the version.
        provenance: the model, its optimizer, and the time of the export.
        packages: versions of packages by name.
        class_names: of the model's outputs, if they have names.
    """

    folder: Path
    run: Subject | None
    metrics: Mapping[str, Any]
    signatures: Mapping[str, Any]
    provenance: Mapping[str, Any]
    packages: Mapping[str, str]
    class_names: list[str]

    @property
    def json(self) -> str:
        """The plan as JSON."""
        return self._planned.json

    def plot(self, path: Path) -> None:
        """Draw the training into a file."""
        self._planned.plot(path)

    def parts(self, width: int) -> Iterator[Any]:
        """Return what is printed, from above to below."""
        yield str(self.folder)
        if self.run is not None:
            yield from self.run.parts(width)
        if self.signatures:
            yield terminal.table(("endpoint", "takes", "returns"), list(_rows(self.signatures)))
        if self.metrics:
            rows = [(name, _shown(value)) for name, value in self.metrics.items()]
            yield terminal.table(("metric", "value"), rows)
        if self.class_names:
            yield f"Classes: {', '.join(self.class_names)}"
        if self.provenance:
            yield _sentence(self.provenance)
        if self.packages:
            yield "Made with " + ", ".join(f"{name} {version}" for name, version in self.packages.items())

    @property
    def _planned(self) -> Subject:
        if self.run is None:
            raise UserError(
                f"{self.folder} was exported without a plan: there is nothing to draw, and no JSON."
            )
        return self.run


def _rows(signatures: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for name, signature in signatures.items():
        # The alias under which TensorFlow Serving finds the first endpoint.
        if name != "serving_default":
            yield name, _tensors(signature["inputs"]), _tensors(signature["outputs"])


def _tensors(tensors: Mapping[str, Any]) -> str:
    return "\n".join(f"{name} {tensor['dtype']}{_shape(tensor['shape'])}" for name, tensor in tensors.items())


def _shape(shape: list[int | None] | None) -> str:
    if shape is None:
        return " (of any shape)"
    return f" ({', '.join('any' if size is None else str(size) for size in shape)})" if shape else ""


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else "not finite" if value is None else str(value)


def _sentence(about: Mapping[str, Any]) -> str:
    model = f"{about['model']}: {about['weights']:,} weights"
    trained = f", {about['updates']:,} updates by {about['optimizer']}" if about["optimizer"] else ""
    return f"{model}{trained}, exported {about['exported']}"
