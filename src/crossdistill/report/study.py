"""The page of a study."""

from pathlib import Path

import torch

from crossdistill.report import figures
from crossdistill.report.answered import Answers, Judged, mended
from crossdistill.report.answers import answer_of_study, leader, note_on_leaders
from crossdistill.report.curves import CurvePoint, Lines, curve
from crossdistill.report.page import Block, Code, Figure, Folded, Page, Section, Table, Text
from crossdistill.report.pair import draw_pair
from crossdistill.report.sections import EVALUATED_ONCE, confusions, image_blocks, pick, provenance
from crossdistill.study.collection import collect
from crossdistill.study.record import STUDY_FILE
from crossdistill.study.results import PairResult, Results, RowResult
from crossdistill.study.tables import LEGEND, cells, details, title
from crossdistill.training.run_folder import RunFolder, load_recipe

_SCRATCH = "scratch"
# Of those that are not finished.
_NAMED_RUNS = 20


def study_page(folder: Path, *, images: bool, live: bool) -> Page:
    """The page of a study's folder, from all that is in it.

    Args:
        folder: where `compare` wrote.
        images: show validation images, which opens the data.
        live: the study is running.

    Raises:
        UserError: a run in it is damaged.
    """
    results = collect(folder)
    finished = sum(len(row.runs) for pair in results.pairs for row in pair.rows)
    total = finished + len(results.missing)
    state = f"{finished} of {total} runs are finished" + ("; the page follows the study" if live else "")
    answer: list[Block] = []
    if not results.pairs:
        answer.append(Text("No run is finished yet.", strong=True))
    for pair in results.pairs:
        if len(results.pairs) > 1:
            answer.append(Text(f"{title(pair)}:"))
        answer += [Text(sentence, strong=True) for sentence in answer_of_study(results, pair)]
        if note := note_on_leaders(pair):
            answer.append(Text(note))
    sections = [Section("Answer", answer)]
    for pair in results.pairs:
        shown = _PairPage(folder, results, pair)
        before = f"{pair.name}: " if len(results.pairs) > 1 else ""
        sections += [Section(before + name, blocks) for name, blocks in shown.sections(images) if blocks]
    sections.append(Section("Recipe and versions", _recipe(folder, results)))
    return Page(results.question or "Comparison", state, sections, live)


class _PairPage:
    """What a page says of one pair."""

    def __init__(self, folder: Path, results: Results, pair: PairResult) -> None:
        self.folder = folder
        self.results = results
        self.pair = pair
        self.rows = [row for row in pair.rows if row.runs]
        self.number = {row.name: k for k, row in enumerate(pair.rows)}
        self.best = leader(pair) or self.rows[0]
        # What is looked at more closely: the best of the methods, where training alone is better still.
        self.shown = leader(pair, but=_SCRATCH) or self.best
        self.answers: dict[str, Answers] = {}
        self.metrics: dict[str, list[Lines]] = {}
        self.judged: Judged | None = None
        for row in self.rows:
            self._read(row)

    def _read(self, row: RowResult) -> None:
        answers = self.answers[row.name] = Answers()
        self.metrics[row.name] = []
        for run in row.runs:
            folder = RunFolder(self.folder / run.folder)
            predictions = folder.read_predictions()
            self.judged = Judged.of(predictions, self.judged)
            if predictions.labelled:
                answers.add(run.seed, predictions)
            self.metrics[row.name].append(folder.read_metrics())

    def sections(self, images: bool) -> list[tuple[str, list[Block]]]:
        """Titles and content, in order."""
        return [
            ("The pair", self._pair()),
            ("Table", self._table()),
            ("Seeds, time and training", self._charts()),
            ("Classes and calibration", self._classes()),
            ("Images", self._images() if images else []),
        ]

    def _pair(self) -> list[Block]:
        drawn = draw_pair(self.shown.runs[0].summary)
        said: list[Block] = [Text(f"{title(self.pair)}. Drawn for {self.shown.name}.")]
        return [*said, drawn or Text("The runs did not record the stages of the models.")]

    def _table(self) -> list[Block]:
        header, *rows = cells(self.results, self.pair)
        blocks: list[Block] = [Table(header, rows, marked=self.number[self.best.name])]
        header, *rows = details(self.pair)
        blocks.append(Table(header, rows, marked=self.rows.index(self.best), caption=LEGEND))
        return blocks + [Text(f"{row.name}: {row.note}.") for row in self.pair.rows if row.note]

    def _charts(self) -> list[Block]:
        metric = self.results.metric_title
        blocks: list[Block] = [figures.each_seed(self.pair.rows, metric)]
        baselines = dict.fromkeys(one.baseline.partition("-x")[0] for row in self.rows for one in row.differences)
        drawn = [figures.differences(self.pair.rows, baseline) for baseline in baselines]
        blocks += [figure for figure in drawn if figure is not None]
        blocks.append(figures.value_by_time(self.pair.rows, metric))
        labelled = bool(self.answers[self.shown.name].answers)
        value, what = (
            ("top1", "Accuracy") if labelled else (self.results.metric, metric.removesuffix(" %").capitalize())
        )
        unit = "top-1, %" if labelled else metric
        blocks += self._curves("evaluation", "epoch", value, f"{what} during training", unit)
        blocks += self._curves("train", "step", "labels", "Label term, as weighted", "label term of the loss")
        if self.pair.curves:
            blocks.append(self._budget(metric))
        return blocks

    def _curves(self, kind: str, x: str, value: str, what: str, unit: str) -> list[Block]:
        curves = {row.name: (self.number[row.name], curve(self.metrics[row.name], kind, x, value)) for row in self.rows}
        found = {name: (k, points) for name, (k, points) in curves.items() if len(points) > 1}
        if found:
            caption = "Mean over seeds; the band is from the least to the greatest."
            return [figures.lines(what, found, x, unit, caption)]
        return [Text(EVALUATED_ONCE)] if kind == "evaluation" else []

    def _budget(self, metric: str) -> Figure:
        number: dict[str, int] = {}
        for k, row in enumerate(self.pair.rows):
            number.setdefault(row.base, k)
        found = {
            name: (number[name], [CurvePoint(x, y, y, y) for x, y in points])
            for name, points in self.pair.curves.items()
        }
        return figures.lines("Accuracy against budget", found, "factor on the steps", metric)

    def _classes(self) -> list[Block]:
        assert self.judged is not None
        judged = self.judged
        if not self.answers[self.shown.name].answers:
            return []
        bins = {
            row.name: (self.number[row.name], self.answers[row.name].reliability(judged.labels)) for row in self.rows
        }
        blocks: list[Block] = [figures.calibration(bins, {row.name: row.calibration_error for row in self.rows})]
        if self.shown.class_changes:
            blocks.append(
                figures.class_changes(self.shown.class_changes, f"{self.shown.name} beside scratch, by class")
            )
        counts = self.answers[self.shown.name].confusion
        if counts is not None:
            blocks += confusions(counts, judged.classes, f"Confusions of {self.shown.name}, all seeds")
        others = [self._further(row) for row in self.rows if row is not self.shown]
        return blocks + [one for one in others if one is not None]

    def _further(self, row: RowResult) -> Folded | None:
        assert self.judged is not None
        blocks: list[Block] = []
        if row.class_changes:
            blocks.append(figures.class_changes(row.class_changes, f"{row.name} beside scratch, by class"))
        counts = self.answers[row.name].confusion
        if counts is not None:
            blocks += confusions(counts, self.judged.classes, f"Confusions of {row.name}, all seeds")
        return Folded(f"Classes of {row.name}", blocks) if blocks else None

    def _images(self) -> list[Block]:
        """Images that the leading row answers otherwise than scratch of the same seed."""
        assert self.judged is not None
        judged, best = self.judged, self.answers[self.shown.name]
        if not best.answers:
            return []
        alike = (row for row in self.rows if row.base == _SCRATCH and row.budget == self.shown.budget)
        row = next((row for row in alike if not row.control), None)
        if row is None or row is self.shown:
            return [Text("Images that a method mends or breaks are shown beside scratch, and there is no such row.")]
        scratch = self.answers[row.name]
        seeds = [seed for seed in best.answers if seed in scratch.answers]
        if not seeds:
            return []
        groups, counts = {}, {}
        for word, before, after in (("mended", scratch, best), ("broken", best, scratch)):
            count = counts[word] = mended(before, after, judged.labels, seeds)
            # The mean confidence orders those of as many seeds.
            order = count + 0.99 * torch.stack([after.confidences[seed] for seed in seeds]).mean(dim=0)
            groups[f"{word.capitalize()} by {self.shown.name}, of each class those of most seeds"] = pick(
                count > 0, order, judged.labels
            )
        first = seeds[0]
        means = {word: count.sum().item() / len(seeds) for word, count in counts.items()}
        said = (
            f"Of {len(judged.labels):,} images {self.shown.name} mends {means['mended']:.0f} and breaks "
            f"{means['broken']:.0f} beside scratch of the same seed (means of {len(seeds)}). The answers below are of "
            f"seed {first}."
        )
        run = next(run for run in self.shown.runs if run.seed == first)

        def answers(k: int) -> list[str]:
            lines = [
                f"scratch: {judged.classes[int(scratch.answers[first][k])]}",
                f"{self.shown.name}: {judged.classes[int(best.answers[first][k])]}",
                *judged.teacher_line(k),
            ]
            if len(seeds) > 1:
                lines += [f"{word} in {int(count[k])} of {len(seeds)}" for word, count in counts.items() if count[k]]
            return lines

        options = load_recipe(RunFolder(self.folder / run.folder).recipe)
        return [Text(said), *image_blocks(options, judged.images, groups, judged.label, answers)]


def _recipe(folder: Path, results: Results) -> list[Block]:
    blocks: list[Block] = [Text(f"{line[:1].upper()}{line[1:]}.") for line in results.notes]
    if results.missing:
        more = len(results.missing) - _NAMED_RUNS
        names = [*results.missing[:_NAMED_RUNS], *([f"{more} more"] if more > 0 else [])]
        blocks.append(Text(f"Not finished: {', '.join(names)}."))
    blocks.append(provenance([run.summary for pair in results.pairs for row in pair.rows for run in row.runs]))
    blocks.append(Folded("The study", [Code((folder / STUDY_FILE).read_text(encoding="utf-8"))]))
    for pair in results.pairs:
        best = leader(pair)
        if best is not None:
            run = best.runs[0]
            text = RunFolder(folder / run.folder).recipe.read_text(encoding="utf-8")
            blocks.append(Folded(f"The recipe of {run.folder}", [Code(text)]))
    return blocks
