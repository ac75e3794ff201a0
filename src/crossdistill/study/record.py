"""What a study's folder says of the study: `study.yaml`, and what was found out when it began."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from crossdistill.errors import UserError
from crossdistill.files import written_whole
from crossdistill.study.files import read_yaml
from crossdistill.study.layers import first_difference
from crossdistill.study.study import Study

STUDY_FILE = "study.yaml"
_FACTS = "study.json"
_NAMES = ("inputs", "same_time", "tuned", "memory_orders")


@dataclass
class Record:
    """The study of a folder.

    Attributes:
        study: all that was ever asked for.
        inputs: of each `PAIR/ROW`, the fingerprints of the `data` and of the `teacher`.
        same_time: of each pair, how long its control of that name trains: `epochs`, `max_steps`, the `factor` on
            scratch's steps, and the row that it takes `as_long_as`.
        tuned: of each `PAIR/ROW` whose hyper-parameters were chosen, the `values`, the number of `trials`, and the
            accuracy on the held-out images: the `best`, and that of the `recipe` as it was given.
        memory_orders: of each student that was measured, what `--channels_last auto` stands for.
    """

    study: Study
    inputs: dict[str, dict[str, str | None]] = field(default_factory=dict)
    same_time: dict[str, dict[str, Any]] = field(default_factory=dict)
    tuned: dict[str, dict[str, Any]] = field(default_factory=dict)
    memory_orders: dict[str, str] = field(default_factory=dict)


def has_record(folder: Path) -> bool:
    """Whether a study was begun in a folder."""
    return (folder / STUDY_FILE).exists()


def read_record(folder: Path) -> Record:
    """The record of a folder.

    Raises:
        UserError: there is none, or it is damaged.
    """
    if not has_record(folder):
        raise UserError(f"{folder} holds no study: there is no {STUDY_FILE} in it")
    study = Study.from_dict(read_yaml(folder / STUDY_FILE), str(folder / STUDY_FILE))
    file = folder / _FACTS
    try:
        facts = json.loads(file.read_text()) if file.exists() else {}
        return Record(study, **{name: facts.get(name, {}) for name in _NAMES})
    except (ValueError, AttributeError) as error:
        raise UserError(f"{file} is damaged: delete it, and compare again") from error


def write_record(record: Record, folder: Path) -> None:
    """Write the record into a folder, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        STUDY_FILE: yaml.safe_dump(record.study.to_dict(), sort_keys=False, allow_unicode=True),
        _FACTS: json.dumps({name: getattr(record, name) for name in _NAMES}, indent=2) + "\n",
    }
    for name, text in texts.items():
        with written_whole(folder / name) as beside:
            beside.write_text(text)


def join(there: Study, wanted: Study, folder: Path) -> Study:
    """The study of a folder with what is asked for in addition: rows, pairs, seeds.

    Raises:
        UserError: they have no row in common, or differ in one that they have.
    """
    shared = [(pair, row) for pair in wanted.pairs if pair in there.pairs for row in wanted.rows_of(pair)]
    known = {(pair, row.name): row for pair in there.pairs for row in there.rows_of(pair)}
    shared = [(pair, row) for pair, row in shared if (pair, row.name) in known]
    if not shared:
        asked = there.question or ", ".join(there.rows)
        raise UserError(f"{folder} holds another study ({asked}): choose another --output")
    for pair, row in shared:
        name, now, then = first_difference(
            wanted.options(pair, row), there.options(pair, known[pair, row.name]), leave_out=set()
        )
        if name:
            raise UserError(
                f"{folder} was begun with --{name} {then} for {pair}/{row.name}, not {now}: choose another --output, "
                "or another name for the row"
            )
    for name in ("tune_trials", "tune_search"):
        now, then = getattr(wanted, name), getattr(there, name)
        if now != then:
            raise UserError(f"{folder} was begun with {name} {_told(then)}, not {_told(now)}: choose another --output")
    seeds = tuple(dict.fromkeys((*there.seeds, *wanted.seeds)))
    # What both have is equal in effect, so that the newer wording may stand for it.
    joined = dataclasses.replace(
        wanted,
        seeds=seeds,
        pairs=there.pairs | wanted.pairs,
        rows=there.rows | wanted.rows,
        controls=tuple(dict.fromkeys((*there.controls, *wanted.controls))),
        budget=tuple(dict.fromkeys((*there.budget, *wanted.budget))),
        folders=there.folders,
        published=wanted.published or there.published,
    )
    for (pair, name), row in known.items():
        after = {one.name: one for one in joined.rows_of(pair)}
        if name not in after or first_difference(
            joined.options(pair, after[name]), there.options(pair, row), leave_out=set()
        ) != ("", None, None):
            raise UserError(f"{folder} was begun with another recipe for {pair}/{name}: choose another --output")
    return joined


def _told(value: int | tuple[str, ...]) -> str:
    return str(value) if isinstance(value, int) else " ".join(value) or "of everything"
