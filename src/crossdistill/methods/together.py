"""Several methods together: `--method kd+fitnet`.

Each model runs once for a batch, and every method takes its terms from what both say. The labels count once:

    L = w_label CE(s, y) + sum over methods m, sum over their terms k of L_m,k

w_label is 1, whatever the methods have alone (KD has 0.1, Foundation 0): the weight of a method's own terms beside the
labels is then as large as its own hyper-parameters say. The label terms are the student's own, or those of the first
method that has its own (DeiT and CSKD let the head of the class token learn the labels).

A term keeps its name where no other of the methods has one of that name; else the method's stands before it:
`fitnet.stage4` and `at.stage4`. So it is with validation metrics and with what is measured before training.

Not every two go together. Of methods that show the models something else than the images, or run them in another way,
there is one at most, whose pass the others read; so it is with a critic.
"""

import functools
import inspect
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from docstring_parser import parse as parse_docstring
from torch import Tensor, nn

from crossdistill.data import Batch
from crossdistill.distiller import Distiller, Needs
from crossdistill.errors import UserCaution, UserError
from crossdistill.staged import Outputs, StagedModel


class Together(Distiller):
    """Several methods on one pass of each model. `load_method("kd+fitnet")` gives the class of those two.

    Args:
        student: the model that is trained.
        teacher: the model that is learnt from.
        label_weight: weight of the label terms, which count once.
        train_size: number of training images, for those methods that ask for it.
        arguments: `kd.temperature`, ...: hyper-parameters of the methods, behind the method's name and a dot.

    Raises:
        UserError: two of the methods change the pass or have a critic, or one does not fit the pair.
    """

    # By the name under which its hyper-parameters are set.
    methods: ClassVar[Mapping[str, type[Distiller]]] = {}

    def __init__(
        self,
        student: StagedModel,
        teacher: StagedModel | None = None,
        label_weight: float = 1.0,
        train_size: int | None = None,
        **arguments: Any,
    ) -> None:
        _check_passes(self.methods)
        parts = {}
        for name, method in self.methods.items():
            own = {key.partition(".")[2]: value for key, value in arguments.items() if key.startswith(f"{name}.")}
            if "train_size" in inspect.signature(method).parameters:
                own["train_size"] = train_size
            # No method of the package has a constructor like the base's: each adds hyper-parameters of its own.
            parts[name] = method(student, teacher, **own)  # type: ignore[arg-type]
        super().__init__(student, teacher, label_weight)
        for part in parts.values():
            part.give_back_models()
            self.declare(teacher=part.needs.teacher, student=part.needs.student)
        for part in parts.values():
            # One that runs the models runs them for all.
            part.needs = self.needs
        self.parts = nn.ModuleDict(parts)
        self.rank_local = tuple(f"parts.{name}.{buffer}" for name, part in parts.items() for buffer in part.rank_local)
        adversaries = [name for name, part in parts.items() if part.critic is not None]
        if len(adversaries) > 1:
            raise UserError(f"{' and '.join(adversaries)} have a critic each: one method with a critic at most")
        self._adversary = adversaries[0] if adversaries else None
        if self._adversary is not None:
            self.critic = parts[self._adversary].critic
            self.critic_every = parts[self._adversary].critic_every
        self._say_label_weight(parts)

    def run_models(self, batch: Batch, teacher_outputs: Outputs | None) -> tuple[Outputs, Outputs]:
        for part in self._each():
            if changes_pass(type(part)):
                return part.run_models(batch, teacher_outputs)
        return super().run_models(batch, teacher_outputs)

    def label_terms(self, student: Outputs, labels: Tensor) -> dict[str, Tensor]:
        for part in self._each():
            if type(part).label_terms is not Distiller.label_terms:
                return part.label_terms(student, labels)
        return super().label_terms(student, labels)

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        terms = merge({name: part.terms(student, teacher, batch) for name, part in self._named()})
        if self._adversary is not None:
            self.critic_batch = self._part(self._adversary).critic_batch
        return terms

    def set_progress(self, steps: float, epochs: float | None = None) -> None:
        super().set_progress(steps, epochs)
        for part in self._each():
            part.set_progress(steps, epochs)

    def prepare(self, batches: Iterable[Tensor]) -> dict[str, float]:
        return merge({name: part.prepare(batches) for name, part in self._named()})

    def validation_metrics(self, batch: Batch, model: StagedModel, outputs: Outputs) -> dict[str, Tensor]:
        return merge({name: part.validation_metrics(batch, model, outputs) for name, part in self._named()})

    def critic_optimizer(self) -> torch.optim.Optimizer:
        assert self._adversary is not None
        return self._part(self._adversary).critic_optimizer()

    def no_weight_decay(self) -> set[str]:
        own = {f"parts.{name}.{parameter}" for name, part in self._named() for parameter in part.no_weight_decay()}
        return super().no_weight_decay() | {name for name in own if name.split(".")[2] != "student"}

    def _named(self) -> list[tuple[str, Distiller]]:
        return [(name, self._part(name)) for name in self.methods]

    def _each(self) -> list[Distiller]:
        return [part for _, part in self._named()]

    def _part(self, name: str) -> Distiller:
        part = self.parts[name]
        assert isinstance(part, Distiller)
        return part

    def _say_label_weight(self, parts: Mapping[str, Distiller]) -> None:
        others = [f"{part.label_weight:g} in {name}" for name, part in parts.items() if part.label_weight != 1]
        if others and self.label_weight == 1:
            warnings.warn(
                f"{type(self).__name__}: the labels count once, with weight 1 ({', '.join(others)} alone): "
                "--method.kwargs.label_weight sets it",
                UserCaution,
                stacklevel=2,
            )


def changes_pass(method: type[Distiller]) -> bool:
    """Whether a method shows the models something else than the images, or runs them in another way."""
    return method.run_models is not Distiller.run_models


@functools.cache
def together(*methods: tuple[str, type[Distiller]]) -> type[Together]:
    """The class of several methods.

    Args:
        methods: (name, class) of each, in order; of a dotted path the name is what stands behind the last dot.

    Raises:
        UserError: two of one name.
    """
    names = [name for name, _ in methods]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"'{'+'.join(names)}' names {twice} twice: name each method once")
    parts = dict(methods)
    title = "+".join(method.__name__ for method in parts.values())
    attributes: dict[str, Any] = {
        "methods": parts,
        "needs": Needs(
            teacher=frozenset().union(*(method.needs.teacher for method in parts.values())),
            student=frozenset().union(*(method.needs.student for method in parts.values())),
            labels=any(method.needs.labels for method in parts.values()),
        ),
        # Whatever the labels weigh, the others' weights are searched beside them.
        "ranges": {
            f"{name}.{key}": range_
            for name, method in parts.items()
            for key, range_ in method.ranges.items()
            if key != "label_weight"
        },
        "__doc__": _docstring(title, parts),
        "__module__": __name__,
    }
    return type(title, (Together,), attributes)


def merge(values: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What each method says by name, in one dictionary: names that two of them have get the method's in front."""
    every = [name for own in values.values() for name in own]
    return {
        f"{method}.{name}" if every.count(name) > 1 else name: value
        for method, own in values.items()
        for name, value in own.items()
    }


def _check_passes(methods: Mapping[str, type[Distiller]]) -> None:
    if len(changing := [name for name, method in methods.items() if changes_pass(method)]) > 1:
        raise UserError(
            f"{' and '.join(changing)} do not go together: each of them runs the models in a way of its own; "
            "take one of them, and any others beside it"
        )


def _docstring(title: str, methods: Mapping[str, type[Distiller]]) -> str:
    """The text of a class, with the hyper-parameters of all its methods."""
    lines = [f"{title} on one pass of each model.", "", "Args:"]
    lines.append("    label_weight: weight of the label terms, which count once.")
    for name, method in methods.items():
        for entry in parse_docstring(inspect.getdoc(method) or "").params:
            if entry.arg_name not in ("student", "teacher", "label_weight"):
                lines.append(f"    {name}.{entry.arg_name}: {' '.join((entry.description or '').split())}")
    return "\n".join(lines)
