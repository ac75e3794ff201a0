"""How `predict` prints its answers: a table, JSON lines or CSV."""

import csv
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from jsonargparse import Namespace


@dataclass
class Answer:
    """What a model says of a file.

    Attributes:
        file: its path, as it was given or found.
        classes: names and probabilities, best first.
    """

    file: str
    classes: list[tuple[str, float]]


@contextmanager
def writer(options: Namespace) -> Iterator[Callable[[Answer], None]]:
    """What to call with each answer.

    JSON lines and CSV are printed at once; a table at the end, when the widths of its columns are known.

    Args:
        options: with `json` and `csv`.
    """
    if options.json:
        yield _print_json
    elif options.csv:
        rows = csv.writer(sys.stdout, lineterminator="\n")
        rows.writerow(["file", "rank", "class", "probability"])

        def print_csv(answer: Answer) -> None:
            rows.writerows(
                [answer.file, rank, name, f"{value:.6f}"] for rank, (name, value) in enumerate(answer.classes, start=1)
            )

        yield print_csv
    else:
        answers: list[Answer] = []
        yield answers.append
        _print_table(answers)


def _print_json(answer: Answer) -> None:
    classes = [{"name": name, "probability": value} for name, value in answer.classes]
    print(json.dumps({"file": answer.file, "classes": classes}))


def _print_table(answers: list[Answer]) -> None:
    from rich.table import Table
    from rich.text import Text

    from crossdistill.cli.tables import show

    if not answers:
        return
    table = Table()
    table.add_column("file", overflow="fold")
    for rank in range(1, len(answers[0].classes) + 1):
        table.add_column(str(rank))
    for answer in answers:
        # As text: a file or a class may be called like a style of the table's.
        cells = [answer.file, *(f"{name} {100 * value:.1f} %" for name, value in answer.classes)]
        table.add_row(*map(Text, cells))
    show(table)
