"""What came out of an export: one measured card, as JSON, as a table, and as the README of a model folder."""

import hashlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table

from crossdistill.export.judge import Judgement
from crossdistill.export.measure import BATCHES, Measurement


@dataclass
class CardRow:
    """One form of a model: the teacher or the student before export, or an exported file.

    Attributes:
        name: `teacher`, `student`, or the backend, with `int8` behind it where it is that.
        model: its name.
        runtime: name and version of what runs it.
        path: of the file or the folder, below the output; empty of what was not exported.
        sha256: of each file that counts, by its name.
        bytes: of these files together.
        parameters: of the model.
        macs: multiply-accumulate operations of one image.
        judgement: what it says of real images.
        measurement: what it costs to run.
    """

    name: str
    model: str
    runtime: str
    path: str
    sha256: dict[str, str]
    bytes: int
    parameters: int
    macs: int
    judgement: Judgement
    measurement: Measurement


@dataclass
class ExportCard:
    """All rows, and what they are of.

    Attributes:
        student: name of the model.
        data: what it was judged on.
        classes: names of its outputs.
        image_size: (height, width) that it sees.
        input: what goes into the files whose graph normalises, in words.
        output: what comes out.
        notes: what must be known, such as that the run was stopped.
        calibration: training images that int8 forms were calibrated with, and the seed of their choice; or empty.
        max_drop: points of top-1 that were allowed to be lost.
        machine: what it was measured on.
        rows: teacher, student, and what was exported.
        recipe: of the run, where it was one.
    """

    student: str
    data: str
    classes: list[str]
    image_size: tuple[int, int]
    input: str
    output: str
    notes: list[str]
    calibration: str
    max_drop: float
    machine: str
    rows: list[CardRow]
    recipe: dict[str, Any] | None = field(default=None)

    def row(self, name: str) -> CardRow:
        """The row of a name; a `KeyError` where there is none."""
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON has them."""
        return asdict(self)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = Table(title=f"{self.student} on {self.data}")
        for number, column in enumerate(_COLUMNS):
            table.add_column(column, justify="right" if number else "left")
        for row in self.rows:
            table.add_row(*_cells(row))
        yield table
        measurement = self.rows[0].measurement
        yield f"{self.machine}, threads: {measurement.threads}; ms: median / 95th percentile of a batch"
        for note in self.notes:
            yield f"note: {note}"

    def to_markdown(self, licence: str, data_licence: str, teacher_licence: str) -> str:
        """The README of a folder for the hub.

        Args:
            licence: of the weights, in the hub's words; or empty.
            data_licence: of the training images, or empty.
            teacher_licence: of the teacher's weights, or empty.
        """
        front: dict[str, Any] = {"library_name": "timm", "tags": ["image-classification", "timm", "crossdistill"]}
        if licence:
            front["license"] = licence
        teacher = next((row.model for row in self.rows if row.name == "teacher"), None)
        lines = ["---", yaml.safe_dump(front).strip(), "---", f"# {self.student}, {len(self.classes)} classes", ""]
        lines += [f"Judged on {self.data}." + (f" Learnt from {teacher}." if teacher else ""), ""]
        lines += [f"{note[0].upper()}{note[1:]}.\n" for note in self.notes]
        lines += ["```python", 'model = timm.create_model("local-dir:FOLDER", pretrained=True)', "```", ""]
        lines += ["| " + " | ".join(_COLUMNS) + " |", "|---" * len(_COLUMNS) + "|"]
        lines += ["| " + " | ".join(_cells(row)) + " |" for row in self.rows]
        lines += ["", f"Measured on {self.machine} with {self.rows[0].measurement.threads} thread(s).", ""]
        licences = {"weights": licence, "training images": data_licence, "teacher": teacher_licence}
        lines += ["## Licences", ""] + [f"- {what}: {text or 'not told'}" for what, text in licences.items()]
        lines += ["", "## Classes", "", ", ".join(self.classes), ""]
        if self.recipe is not None:
            lines += ["## Recipe", "", "What differs from the defaults of crossdistill:", ""]
            lines += ["```yaml", yaml.safe_dump(self.recipe, sort_keys=False).strip(), "```", ""]
        return "\n".join(lines)


_COLUMNS = (
    "form",
    "MB",
    "parameters",
    "MACs",
    "top-1 %",
    "as student %",
    "as teacher %",
    "difference",
    *(f"ms, batch {batch}" for batch in BATCHES),
    "peak MB",
    "runtime",
)


def _cells(row: CardRow) -> list[str]:
    judged, measured = row.judgement, row.measurement
    return [
        row.name if row.path else f"{row.name} ({row.model})",
        f"{row.bytes / 1e6:.2f}",
        f"{row.parameters / 1e6:.2f} M",
        f"{row.macs / 1e6:.1f} M",
        f"{judged.top1:.2f}",
        f"{judged.student_agreement:.2f}",
        "-" if judged.teacher_agreement is None else f"{judged.teacher_agreement:.2f}",
        "-" if row.name == "teacher" else f"{judged.relative_difference:.1e}",
        *(f"{measured.median_ms[batch]:.2f} / {measured.p95_ms[batch]:.2f}" for batch in BATCHES),
        f"{measured.peak_memory_bytes / 1e6:.0f}",
        row.runtime,
    ]


def weights_files(path: Path) -> list[Path]:
    """The files that an exported form consists of: what `Backend.write` returned, and what belongs to it."""
    if path.is_dir():
        return sorted(path.iterdir())
    return [file for file in sorted(path.parent.iterdir()) if file.stem == path.stem]


def sha256(path: Path) -> str:
    """Of a file's content, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
