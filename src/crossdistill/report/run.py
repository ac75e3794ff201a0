"""The page of a single run."""

from typing import Any

import numpy as np
import torch

from crossdistill.errors import UserError
from crossdistill.report import figures
from crossdistill.report.answered import Answers, Judged, mended
from crossdistill.report.answers import answer_of_run
from crossdistill.report.curves import Lines, curve, term_names
from crossdistill.report.page import Block, Code, Folded, Page, Section, Table, Text
from crossdistill.report.pair import draw_pair
from crossdistill.report.sections import EVALUATED_ONCE, confusions, image_blocks, pick, provenance
from crossdistill.study.metrics import TopK, accuracy_of_classes, agreement, calibration_error
from crossdistill.study.statistics import bootstrap_interval, resampled_images
from crossdistill.training.run_folder import Predictions, RunFolder, load_recipe

_STUDENT, _TEACHER, _BASELINE = 1, 0, 2
# What no page of a run can be written without.
_NEEDED = (
    *("method", "student", "teacher", "data", "device", "epochs", "top1", "teacher_top1"),
    *("student_params", "validation_images", "seconds", "peak_memory_bytes"),
)
# What is drawn of the evaluations.
_CURVES = {
    "top1": ("top-1", _STUDENT),
    "agreement": ("agreement with the teacher", _TEACHER),
    "teacher_cosine": ("cosine to the teacher", 2),
    "knn_top1": ("top-1 of nearest neighbours", 3),
}
_FACTS = (
    ("top1", "top-1, %", "{:.2f}"),
    ("teacher_cosine", "cosine to the teacher, %", "{:.2f}"),
    ("knn_top1", "top-1 of nearest neighbours, %", "{:.2f}"),
    ("best_top1", "best top-1 of all evaluations, %", "{:.2f}"),
    ("top5", "top-5, %", "{:.2f}"),
    ("teacher_top1", "the teacher's top-1, %", "{:.2f}"),
    ("teacher_agreement", "agreement with the teacher, %", "{:.2f}"),
    ("student_params", "parameters of the student", "{:,}"),
    ("teacher_params", "parameters of the teacher", "{:,}"),
    ("extra_params", "further parameters, for training only", "{:,}"),
    ("train_images", "training images", "{:,}"),
    ("validation_images", "validation images", "{:,}"),
    ("epochs", "epochs", "{:,}"),
    ("steps", "steps", "{:,}"),
    ("seconds", "training, s", "{:,.1f}"),
    ("images_per_second", "images/s", "{:,.0f}"),
    ("seed", "seed", "{}"),
    ("evaluated_weights", "evaluated weights", "{}"),
)


def run_page(folder: RunFolder, *, baseline: RunFolder | None = None, images: bool = True) -> Page:
    """The page of a run.

    Args:
        folder: the run.
        baseline: another run on the same images, such as scratch with the same seed, to compare with.
        images: show validation images, which opens the data.

    Raises:
        UserError: a file is damaged, or the two runs were judged on other images.
    """
    metrics = folder.read_metrics()
    training = Section("Training", _training(metrics))
    if not folder.finished:
        recipe = Section("Recipe", _recipe(folder, []))
        return Page(folder.path.name, "The run has not come to its end.", [training, recipe])
    summary = _summary(folder)
    judged = _Judgement(folder, summary, baseline)
    sections = [
        Section("Answer", [Text(one, strong=True) for one in judged.answer()]),
        Section("The pair", _pair(summary)),
        Section("Numbers", [judged.facts()]),
        training,
    ]
    if judged.predictions.labelled:
        sections.append(Section("Classes and calibration", judged.classes()))
    if images and judged.predictions.labelled:
        sections.append(Section("Images", judged.images()))
    sections.append(Section("Recipe and versions", _recipe(folder, [summary])))
    page_title = f"{summary['method']}: {summary['student']}"
    if summary["teacher"]:
        page_title += f" taught by {summary['teacher']}"
    return Page(page_title, f"{summary['data']}, seed {summary.get('seed')}, {folder.path}", sections)


def _summary(folder: RunFolder) -> dict[str, Any]:
    summary = folder.read_summary()
    missing = [name for name in _NEEDED if not isinstance(summary, dict) or name not in summary]
    if missing:
        raise UserError(f"{folder.summary} is damaged: it has no {missing[0]}")
    return summary


def _pair(summary: dict[str, Any]) -> list[Block]:
    return [draw_pair(summary) or Text("The run did not record the stages of its models.")]


def _training(metrics: Lines) -> list[Block]:
    blocks: list[Block] = []
    every = {said: (number, curve([metrics], "evaluation", "epoch", name)) for name, (said, number) in _CURVES.items()}
    evaluated = {said: (number, points) for said, (number, points) in every.items() if points}
    found = {said: (number, points) for said, (number, points) in evaluated.items() if len(points) > 1}
    if found:
        unit = "%" if "cosine to the teacher" in found else "% of the images"
        blocks.append(figures.lines("Validation", found, "epoch", unit))
    elif evaluated:
        blocks.append(Text(EVALUATED_ONCE))
    terms = {name: curve([metrics], "train", "step", name) for name in ("loss", *term_names(metrics))}
    drawn = {name: points for name, points in terms.items() if len(points) > 1}
    if drawn:
        # A loss of one term is drawn once.
        if len(drawn) == 2:
            del drawn["loss"]
        numbered = {name: (k, points) for k, (name, points) in enumerate(drawn.items())}
        blocks.append(figures.lines("Loss terms, as weighted", numbered, "step", "loss", zero=True))
    return blocks or [Text("There are no lines of training yet.")]


def _recipe(folder: RunFolder, summaries: list[dict[str, Any]]) -> list[Block]:
    try:
        text = folder.recipe.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{folder.recipe} is missing or damaged") from error
    return [*([provenance(summaries)] if summaries else []), Folded("The recipe", [Code(text)])]


class _Judgement:
    """What the validation images say of a run, alone and beside its baseline."""

    def __init__(self, folder: RunFolder, summary: dict[str, Any], baseline: RunFolder | None) -> None:
        self.folder = folder
        self.summary = summary
        self.predictions = folder.read_predictions()
        self.judged = Judged.of(self.predictions)
        self.student = _answers(self.predictions) if self.predictions.labelled else Answers()
        self.baseline: Predictions | None = None
        self.baseline_name = ""
        if baseline is not None:
            self.baseline = baseline.read_predictions()
            other = _summary(baseline)
            self.baseline_name = f"{other['method']} (seed {other.get('seed')})"
            if not self.predictions.labelled:
                raise UserError(
                    f"--baseline compares accuracies, and {folder.path} was judged on images without labels"
                )
            if self.baseline.images != self.predictions.images:
                raise UserError(f"--baseline {baseline.path} was judged on other images than {folder.path}")

    def answer(self) -> list[str]:
        sentences = answer_of_run(self.summary, agreement(self.predictions))
        if self.baseline is not None:
            evidence = np.stack([TopK(1).evidence(one) for one in (self.predictions, self.baseline)], axis=1)
            own, other = TopK(1).value(evidence)
            drawn = resampled_images(evidence, TopK(1).value)
            low, high = bootstrap_interval(drawn[:, :1] - drawn[:, 1:])
            beside = f"{abs(own - other):.2f} points {'above' if own >= other else 'below'} {self.baseline_name}"
            sentences.insert(
                1,
                f"That is {beside}, which has {other:.2f} %. The 95 % interval over images, {low:+.2f} to {high:+.2f}, "
                "does not tell what other seeds would give.",
            )
        return sentences

    def facts(self) -> Table:
        rows = [
            [said, shape.format(self.summary[name])]
            for name, said, shape in _FACTS
            if self.summary.get(name) is not None
        ]
        if (parts := agreement(self.predictions)) is not None:
            for part, word in zip(parts[1:], ("right", "wrong"), strict=True):
                if part is not None:
                    rows.append([f"agreement where the teacher is {word}, %", f"{part:.2f}"])
        if self.predictions.labelled:
            rows.append(["expected calibration error, %", f"{self._error(self.predictions.student):.2f}"])
        rows.append(["peak memory, MiB", f"{self.summary['peak_memory_bytes'] / 2**20:,.0f}"])
        return Table([], rows)

    def classes(self) -> list[Block]:
        shown = {"student": (_STUDENT, self.student.reliability(self.judged.labels))}
        errors: dict[str, float | None] = {"student": self._error(self.predictions.student)}
        for name, number, logits in (
            ("teacher", _TEACHER, self.predictions.teacher),
            ("baseline", _BASELINE, self.baseline.student if self.baseline is not None else None),
        ):
            if logits is not None:
                said = Answers()
                said.add(0, Predictions(logits, None, self.judged.labels, [], self.judged.classes))
                shown[name] = (number, said.reliability(self.judged.labels))
                errors[name] = self._error(logits)
        blocks: list[Block] = [figures.calibration(shown, errors)]
        if self.baseline is not None:
            both = (accuracy_of_classes(one).tolist() for one in (self.predictions, self.baseline))
            each = zip(self.judged.classes, *both, strict=True)
            changes = {name: own - other for name, own, other in each if own == own}
            blocks.append(figures.class_changes(changes, f"Beside {self.baseline_name}, by class"))
        assert self.student.confusion is not None
        return blocks + confusions(self.student.confusion, self.judged.classes, "Confusions of the student")

    def images(self) -> list[Block]:
        """Images on which the student and another differ: the baseline, else the teacher; without either, mistakes."""
        judged, labels = self.judged, self.judged.labels
        right = self.student.answers[0] == labels
        confidence = self.student.confidences[0]
        others: dict[str, torch.Tensor] = {}
        if self.baseline is not None:
            before = _answers(self.baseline)
            others["baseline"] = before.answers[0]
            gained = mended(before, self.student, labels, [0]) > 0
            lost = mended(self.student, before, labels, [0]) > 0
            groups = {
                f"Mended: {self.baseline_name} is wrong": pick(gained, confidence, labels),
                f"Broken: {self.baseline_name} is right": pick(lost, confidence, labels),
            }
        elif judged.teacher is not None:
            taught = judged.teacher == labels
            groups = {
                "The teacher is right, the student wrong": pick(taught & ~right, confidence, labels),
                "The student is right, the teacher wrong": pick(right & ~taught, confidence, labels),
            }
        else:
            groups = {"Mistakes of which it is surest, of each class in turn": pick(~right, confidence, labels)}

        def answers(k: int) -> list[str]:
            said = {"student": self.student.answers[0]} | others
            return [f"{name}: {judged.classes[int(one[k])]}" for name, one in said.items()] + judged.teacher_line(k)

        options = load_recipe(self.folder.recipe)
        return image_blocks(options, judged.images, groups, judged.label, answers)

    def _error(self, logits: torch.Tensor) -> float:
        return calibration_error(logits, self.judged.labels)


def _answers(predictions: Predictions) -> Answers:
    answers = Answers()
    answers.add(0, predictions)
    return answers
