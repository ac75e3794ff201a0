"""The whole story in minutes on a CPU: a Vision Transformer taught to a small CNN, on images inside the package.

It is the shipped study of the same name, in folders of its own. The teachers' weights ship with the package;
recipes/quickstart_teacher.yaml, quickstart_teacher_longer.yaml and fashion_cnn_teacher.yaml made them. The student
sees 2,000 images of Fashion-MNIST and is judged on all 10,000 validation images. CSKD, which learns from a CNN, is
shown on a second pair, a CNN and a Vision Transformer.
"""

from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console

from crossdistill.study.comparison import Comparison, compare
from crossdistill.study.estimate import estimate
from crossdistill.study.files import read_study
from crossdistill.study.study import Row, Study

_PAIR, _PAIR_OF_CSKD = "vit-cnn", "cnn-vit"
# CSKD has its own baselines, or its gain would mean nothing.
_ROWS_OF_CSKD = ("scratch", "kd", "cskd")


def run(
    methods: Sequence[str] = ("scratch", "kd", "pat"), output: str = "runs/quickstart", seed: int = 0
) -> list[tuple[str, Comparison]]:
    """Train the student with each method and compare.

    A method that was run already is not trained again, and one that was interrupted goes on.

    Args:
        methods: names of methods.
        output: each method's run folder is made in this one, or in one named after the second pair.
        seed: of everything random.

    Returns:
        The folder and the comparison of each pair.
    """
    console = Console()
    rows = {_PAIR: [name for name in methods if name != "cskd"]}
    rows[_PAIR_OF_CSKD] = list(_ROWS_OF_CSKD) if "cskd" in methods else []
    study = read_study("quickstart")
    parts = {pair: _part(study, pair, names, seed) for pair, names in rows.items() if names}
    estimates = [one for part in parts.values() for one in estimate(part)]
    minutes = max(1, round(sum(one.seconds for one in estimates) / 60))
    console.print(
        f"{len(estimates)} runs: {', '.join(one.row for one in estimates)}; about {minutes} min on this machine"
    )
    folders = {_PAIR: output, _PAIR_OF_CSKD: f"{output}/{_PAIR_OF_CSKD}"}
    return [(folders[pair], compare(part, folders[pair], console=console)) for pair, part in parts.items()]


def _part(study: Study, pair: str, rows: Sequence[str], seed: int) -> Study:
    """One pair of the study, in folders that are named after the methods alone."""
    chosen = {name: replace(study.rows.get(name, Row(name)), only=None) for name in rows}
    return replace(study, pairs={pair: study.pairs[pair]}, rows=chosen, seeds=(seed,), folders="{row}")
