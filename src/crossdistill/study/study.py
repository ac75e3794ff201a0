"""A study as data: which pairs, rows and seeds, under which recipe. Nothing here imports torch."""

import dataclasses
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crossdistill.errors import UserError, nearest
from crossdistill.methods import check_method, is_method
from crossdistill.options import TrainingOptions
from crossdistill.study.fields import Pair, Row, laid_over, read_fields
from crossdistill.study.layers import GROUPS, Layer, merge, nested, to_options, without_arguments
from crossdistill.study.published import Published

# What a pair is called where a study has one and names none.
PAIR = "pair"
# Controls by name: the row that each is a change of.
CONTROLS = {
    "same-time": "scratch",
    "label-smoothing": "scratch",
    "random-teacher": "kd",
    "shuffled-teacher": "kd",
    "self-teacher": "kd",
}
_SMOOTHING = 0.1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]*")


@dataclass(frozen=True)
class Study:
    """Pairs x rows x seeds under one recipe.

    Attributes:
        question: what it is to answer.
        metric: by which it judges; one of `metrics.METRICS`.
        seeds: each sets `seed` and `data_seed`.
        recipe: options of every run.
        pairs: by name.
        rows: by name.
        controls: names from `CONTROLS`.
        budget: factors on the steps, one row for each.
        baselines: the rows that the others are compared with.
        folders: of a run within the study's, with {pair}, {row} and {seed}.
        tune_trials: trials of each row's hyper-parameters, on held-out training images, before its seeds run; 0: none.
        share_teacher: whether what a teacher says of a seed's images is computed once, for all rows that read only its
            logits or pooled vectors.
        tune_search: names of what is searched; empty: all that a method has ranges for, and the optimiser's.
        published: what a publication says of these runs; None: nothing.
    """

    question: str = ""
    metric: str = "top1"
    seeds: tuple[int, ...] = ()
    recipe: Layer = field(default_factory=dict)
    pairs: dict[str, Pair] = field(default_factory=lambda: {PAIR: Pair()})
    rows: dict[str, Row] = field(default_factory=dict)
    controls: tuple[str, ...] = ()
    budget: tuple[float, ...] = (1.0,)
    baselines: tuple[str, ...] = ("scratch", "kd")
    folders: str = "{pair}/{row}/{seed}"
    tune_trials: int = 0
    tune_search: tuple[str, ...] = ()
    share_teacher: bool = False
    published: Published | None = None

    @classmethod
    def from_dict(cls, values: dict[str, Any], where: str = "the study") -> "Study":
        """From plain values, as YAML has them.

        Args:
            values: the fields; `docs/studies.md` lists them.
            where: the study's name, for errors.

        Raises:
            UserError: an unknown field, a wrong value, no rows, or a control without its row.
        """
        return cls.from_layers([(values, where)])

    @classmethod
    def from_layers(cls, layers: Sequence[tuple[dict[str, Any], str]]) -> "Study":
        """From the plain values of a study and of what it is based on.

        Args:
            layers: fields, and where they stand, for errors; a later one overrules.

        Raises:
            UserError: as `from_dict`.
        """
        names = [one.name for one in dataclasses.fields(cls)]
        fields: dict[str, Any] = {}
        for values, where in layers:
            fields = laid_over(fields, read_fields(values, names, where))
        study = cls(**fields)
        study.check(where)
        return study

    def to_dict(self) -> dict[str, Any]:
        """What `from_dict` reads, with nothing that is at its default."""
        rows: dict[str, Any] = {}
        for name, row in self.rows.items():
            rows[name] = nested(row.changes) | ({"only": list(row.only)} if row.only is not None else {})
        pairs: dict[str, Any] = {}
        for name, pair in self.pairs.items():
            own = {row: nested(changes) for row, changes in pair.rows.items()}
            pairs[name] = nested(pair.changes) | ({"rows": own} if own else {})
        values = {
            "question": self.question,
            "metric": self.metric,
            "seeds": list(self.seeds),
            "recipe": nested(self.recipe),
            "pairs": pairs,
            "rows": rows,
            "controls": list(self.controls),
            "budget": list(self.budget),
            "baselines": list(self.baselines),
            "folders": self.folders,
            "tune_trials": self.tune_trials,
            "tune_search": list(self.tune_search),
            "share_teacher": self.share_teacher,
            "published": None if self.published is None else self.published.to_dict(),
        }
        always = ("metric", "seeds", "recipe", "pairs", "rows")
        default = Study()
        return {
            name: value
            for name, value in values.items()
            if name in always or value != (list(own) if isinstance(own := getattr(default, name), tuple) else own)
        }

    def check(self, where: str) -> None:
        """Refuse what no study can be.

        Raises:
            UserError: no rows, names that cannot be folders, pairs or rows or controls that there are not.
        """
        try:
            self.folder("a", "b", 0)
        except (KeyError, IndexError, ValueError) as error:
            raise UserError(
                f"{where}: folders: '{self.folders}' may have {{pair}}, {{row}} and {{seed}} only"
            ) from error
        for kind, names in (("pair", self.pairs), ("row", self.rows)):
            for name in names:
                if not _NAME.fullmatch(name):
                    raise UserError(f"{where}: {kind} '{name}': give a name of letters, digits, '.', '+', '_' and '-'")
        for pair_name, pair in self.pairs.items():
            _known(pair.rows, self.rows, f"{where}: pair {pair_name}: rows")
        for row in self.rows.values():
            _known(row.only or (), self.pairs, f"{where}: row {row.name}: only")
        if self.published is not None:
            _known((*self.published.top1, *self.published.teachers), self.pairs, f"{where}: published")
            for pair_name, numbers in self.published.top1.items():
                rows_there = [row.name for row in self.rows.values() if row.only is None or pair_name in row.only]
                _known(numbers, rows_there, f"{where}: published: top1: {pair_name}")
        _known(self.controls, CONTROLS, f"{where}: controls")
        for control in self.controls:
            if CONTROLS[control] not in self.rows:
                raise UserError(f"{where}: the control {control} needs a row {CONTROLS[control]}: add it to the rows")
        for pair_name in self.pairs:
            rows = self.rows_of(pair_name)
            planned = [row.name for row in rows]
            if twice := {name for name in planned if planned.count(name) > 1}:
                raise UserError(f"{where}: two rows of {pair_name} would be called '{min(twice)}': rename one")
            for row in rows:
                try:
                    check_method(self.layer(pair_name, row)["method.name"])
                except UserError as error:
                    raise UserError(f"{where}: row {row.name}: {error}") from error

    def override(self, layer: Layer) -> "Study":
        """This study with options that overrule the recipe's, the pairs' and the rows'."""

        def without(changes: Layer) -> Layer:
            for group in ("student", "teacher", "method"):
                if f"{group}.name" in layer:
                    changes = without_arguments(changes, group)
            return {name: value for name, value in changes.items() if name not in layer}

        return dataclasses.replace(
            self,
            recipe=merge(self.recipe, layer),
            pairs={
                name: Pair(without(pair.changes), {row: without(changes) for row, changes in pair.rows.items()})
                for name, pair in self.pairs.items()
            },
            rows={name: dataclasses.replace(row, changes=without(row.changes)) for name, row in self.rows.items()},
        )

    def rows_of(self, pair: str) -> list[Row]:
        """The rows of a pair, with those of other budgets and the controls, in the order of the table."""
        rows = [row for row in self.rows.values() if row.only is None or pair in row.only]
        planned = [
            row
            if factor == 1
            else dataclasses.replace(row, name=f"{row.name}-x{factor:g}", budget=factor, base=row.name)
            for factor in self.budget
            for row in rows
        ]
        names = {row.name for row in rows}
        return planned + [_control(self.rows[CONTROLS[c]], c) for c in self.controls if CONTROLS[c] in names]

    def layer(self, pair: str, row: Row) -> Layer:
        """Everything that is said of the runs of a row."""
        base = row.base or row.name
        changes = self.pairs[pair].rows.get(base, {})
        below = merge(self.recipe, self.pairs[pair].changes)
        # A row that is named as a method is, and names none, has that; others have what lies below them.
        method = base if is_method(base) else below.get("method.name", base)
        layer = merge(below, {"method.name": row.changes.get("method.name", method)}, row.changes, changes)
        if row.control == "shuffled-teacher":
            if layer["method.name"] != "kd":
                raise UserError(f"the control shuffled-teacher is one of kd, and row {base} has {layer['method.name']}")
            if layer.get("repeated_augmentation", 1) != 1:
                # It gives an image the answer to its neighbour in the batch, which would be another view of it.
                raise UserError(
                    "the control shuffled-teacher wants different images in a batch: no repeated_augmentation"
                )
            layer["method.name"] = "crossdistill.study.shuffled.ShuffledKD"
        return layer

    def options(self, pair: str, row: Row, seed: int = 0) -> TrainingOptions:
        """The options of a run, without its folder, and with what `teacher_weights` says in a study's words.

        This is the one place where a run's options come from.
        """
        layer = self.layer(pair, row)
        options = to_options(layer, f"{pair}/{row.name}")
        if row.budget != 1:
            options = lengthened(options, row.budget)
        # Judged once, at the end, so that nothing is chosen by what is reported.
        if "evaluate_every" not in layer:
            options.evaluate_every = options.epochs
        options.seed = options.data_seed = seed
        return options

    def recipe_of(self, pair: str, row: Row, seed: int = 0) -> dict[str, Any]:
        """The options of a run that are not at their defaults, by name, as `distill --config` takes them.

        Raises:
            UserError: what only a study can say of a run: a teacher that another run makes.
        """
        options, default = dataclasses.asdict(self.options(pair, row, seed)), dataclasses.asdict(TrainingOptions())
        weights = options["teacher_weights"]
        if weights == "random" or weights.startswith(("row:", "asset:")):
            raise UserError(
                f"{pair}/{row.name}: no recipe can say teacher_weights: {weights}; `compare` makes this run"
            )
        changed = {name: value for name, value in options.items() if value != default[name] or name == "method"}
        for name in GROUPS:
            if name in changed and not changed[name]["kwargs"]:
                changed[name] = changed[name]["name"]
        return changed

    def folder(self, pair: str, row: str, seed: int) -> Path:
        """The folder of a run within that of the study."""
        return Path(self.folders.format(pair=pair, row=row, seed=seed))

    def baselines_of(self, pair: str, row: Row) -> list[str]:
        """Names of the rows that a row is compared with: those of its own budget."""
        suffix = f"-x{row.budget:g}" if row.budget != 1 else ""
        there = {one.name for one in self.rows_of(pair)}
        names = [f"{name}{suffix}" for name in self.baselines]
        # A baseline is compared with those before it: the other way round it would be the same number.
        if row.name in names:
            names = names[: names.index(row.name)]
        return [name for name in names if name in there]


def lengthened(options: TrainingOptions, factor: float) -> TrainingOptions:
    """The same run with so many times the steps."""
    epochs = max(1, round(options.epochs * factor))
    max_steps = None if options.max_steps is None else max(1, round(options.max_steps * factor))
    return dataclasses.replace(options, epochs=epochs, max_steps=max_steps)


def _control(row: Row, control: str) -> Row:
    changes: Layer = {}
    if control == "label-smoothing":
        changes = {"label_smoothing": _SMOOTHING}
    elif control == "random-teacher":
        changes = {"teacher_weights": "random", "allow_weak_teacher": True}
    elif control == "self-teacher":
        # It is a control whatever scratch has come to.
        changes = {"teacher_weights": "row:scratch", "allow_weak_teacher": True}
    return dataclasses.replace(
        row, name=f"{row.name}-{control}", changes=row.changes | changes, control=control, base=row.name
    )


def _known(names: Iterable[str], known: Iterable[str], where: str) -> None:
    known = list(known)
    for name in names:
        if name not in known:
            raise UserError(f"{where}: there is no '{name}'{nearest(name, known)}; there are {', '.join(known)}")
