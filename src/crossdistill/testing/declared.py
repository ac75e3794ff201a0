"""Models and methods that are given nothing but what the method declares, to see whether it reads anything else."""

import dataclasses
from collections.abc import Set
from typing import Any

from torch import Tensor

from crossdistill.data import Batch
from crossdistill.distiller import Distiller
from crossdistill.staged import Outputs, StagedModel


def only_declared(outputs: Outputs, declared: Set[str]) -> Outputs:
    """The declared fields of a model's outputs; the others, and the stages that are not declared, are None.

    Args:
        outputs: what a model said.
        declared: words of `Needs`.
    """
    hidden: dict[str, Any] = {}
    for field in dataclasses.fields(outputs):
        values = getattr(outputs, field.name)
        if field.name in declared or values is None:
            continue
        stages = {int(word.partition(".")[2]) for word in declared if word.startswith(f"{field.name}.")}
        kept = [value if stage in stages else None for stage, value in enumerate(values, start=1)] if stages else None
        hidden[field.name] = kept
    return dataclasses.replace(outputs, **hidden)


def hide_undeclared(distiller: Distiller) -> None:
    """Let a method see of its models what its `needs` name, however it runs them. It changes the method in place.

    The student's logits stay, for its label terms read them.
    """
    ours, theirs = distiller.needs.student | {"logits"}, distiller.needs.teacher
    _hide(distiller.student, ours)
    if distiller.teacher is not None:
        _hide(distiller.teacher, theirs)
    whole = distiller.terms

    # What a tap adds to the outputs comes behind the model's own forward.
    def terms(student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        return whole(only_declared(student, ours), only_declared(teacher, theirs), batch)

    distiller.terms = terms  # type: ignore[method-assign]


def _hide(model: StagedModel, declared: Set[str]) -> None:
    forward, run_head = model.forward, model.run_head
    model.forward = lambda images: only_declared(forward(images), declared)  # type: ignore[method-assign]
    if "segments" in declared:
        # `run_from` ends in it; which stages were run, and so are in its outputs, is the method's own choice.
        segment = declared | {"features", "prefix"}
        model.run_head = lambda *entry: only_declared(run_head(*entry), segment)  # type: ignore[method-assign]
        return

    def refuse(*arguments: object) -> Any:
        raise AssertionError(f"{model.name} is run in segments, and `needs` do not name them")

    for segment_run in ("enter", "run_stage", "run_head", "run_from"):
        setattr(model, segment_run, refuse)
