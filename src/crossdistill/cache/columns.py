"""What is kept of a teacher's outputs: one column, a tensor with a row per image, for every word of `Needs`."""

import math
from collections.abc import Iterable, Mapping, Set
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from crossdistill.errors import UserError
from crossdistill.staged import Outputs, StagedModel

# What the teacher gives only while it runs, beside its plain outputs. It is still run for this, and only for this.
_ONLINE = frozenset({"segments"})
# What a method cannot take from plain outputs at all, and why.
_REFUSED = {
    "attention": "reads queries, keys and values of the teacher's last attention block, which its outputs do not hold",
    "views": "shows the teacher other images than those of the batch",
}


def columns_of(needs: Set[str], teacher: StagedModel, method: str) -> list[str]:
    """The columns that serve a method, sorted: "logits", "head_logits.class", "features.3", "prefix.3", ...

    Args:
        needs: what the method reads of the teacher, in the words of `Needs`.
        teacher: says which stages, tokens and heads there are.
        method: its name, for the error.

    Raises:
        UserError: the method reads what is not in a teacher's plain outputs.
    """
    for word, reason in _REFUSED.items():
        if word in needs:
            raise UserError(f"--teacher_cache: {method} cannot be served by one, it {reason}: leave it out")
    columns: set[str] = set()
    stages = {str(number): stage for number, stage in enumerate(teacher.stages, start=1)}
    for word in needs - _ONLINE:
        field, _, stage = word.partition(".")
        if field == "head_logits":
            columns |= {f"head_logits.{head}" for head in teacher.heads}
        elif field in ("features", "prefix"):
            chosen = [stage] if stage else list(stages)
            columns |= {f"{field}.{k}" for k in chosen if field == "features" or stages[k].prefix_tokens}
        else:
            columns.add(word)
    return sorted(columns)


@dataclass(frozen=True)
class Form:
    """How columns are written.

    Args:
        top_k: how many of the highest logits are kept, None for all.
        dtype: "exact", as computed, or "float16".
    """

    top_k: int | None = None
    dtype: Literal["exact", "float16"] = "exact"

    def as_key(self) -> dict[str, Any]:
        """The options that it comes from, by name."""
        return {f"--teacher_cache_{name}": value for name, value in asdict(self).items()}

    def stored(self, columns: Iterable[str]) -> list[str]:
        """The names under which columns are stored: a top-k column is three."""
        return [
            name
            for column in columns
            for name in ([f"{column}.{part}" for part in _TOP_K_PARTS] if self._is_cut(column) else [column])
        ]

    def encode(self, outputs: Outputs, columns: Iterable[str]) -> dict[str, Tensor]:
        """Columns of a batch by the names of `stored`, on the host, with a row per image.

        Raises:
            UserError: fewer classes than `top_k`, or values beyond what float16 holds.
        """
        encoded: dict[str, Tensor] = {}
        for column in columns:
            values = _read(outputs, column)
            if self._is_cut(column):
                assert self.top_k is not None
                encoded |= {f"{column}.{part}": tensor for part, tensor in _cut(values, self.top_k).items()}
            else:
                encoded[column] = values
        return {name: self._rounded(name, values).cpu() for name, values in encoded.items()}

    def decode(self, stored: Mapping[str, Tensor], columns: Iterable[str], teacher: StagedModel) -> Outputs:
        """The inverse of `encode`: outputs that hold these columns and None elsewhere."""
        stages = len(teacher.stages)
        fields: dict[str, Any] = {"features": [None] * stages, "prefix": [None] * stages}
        for column in columns:
            if self._is_cut(column):
                values = _restore({part: stored[f"{column}.{part}"] for part in _TOP_K_PARTS}, teacher.num_classes)
            else:
                values = stored[column]
                values = values.float() if self.dtype == "float16" else values
            field, _, part = column.partition(".")
            if field in ("features", "prefix"):
                fields[field][int(part) - 1] = values
            elif part:
                fields.setdefault(field, {})[part] = values
            else:
                fields[field] = values
        return Outputs(**fields)

    def _is_cut(self, column: str) -> bool:
        return self.top_k is not None and column.partition(".")[0] in ("logits", "head_logits")

    def _rounded(self, name: str, values: Tensor) -> Tensor:
        if self.dtype == "exact" or not values.is_floating_point():
            return values
        rounded = values.half()
        if not torch.isfinite(rounded).all():
            raise UserError(
                f"--teacher_cache_dtype float16: the teacher's {name} reach {values.abs().max().item():.3g}, beyond "
                "what float16 holds: use exact"
            )
        return rounded


_TOP_K_PARTS = ("values", "classes", "rest")


def _read(outputs: Outputs, column: str) -> Tensor:
    field, _, part = column.partition(".")
    values = getattr(outputs, field)
    if field in ("features", "prefix"):
        return values[int(part) - 1]
    return values[part] if part else values


def _cut(logits: Tensor, top_k: int) -> dict[str, Tensor]:
    """The highest logits (B, k), their classes (B, k), and the one logit (B, 1) that each of the others is given.

    That logit leaves them together the probability that they have.
    """
    classes = logits.shape[1]
    if top_k >= classes:
        raise UserError(f"--teacher_cache_top_k {top_k}: the teacher has {classes} classes: give less, or leave it out")
    logits = logits.float()
    highest, where = logits.topk(top_k, dim=1)
    rest = logits.scatter(1, where, -torch.inf).logsumexp(dim=1, keepdim=True) - math.log(classes - top_k)
    return {"values": highest, "classes": where.int(), "rest": rest}


def _restore(cut: Mapping[str, Tensor], classes: int) -> Tensor:
    """Logits (B, K), float32, from what `_cut` gave."""
    everywhere = cut["rest"].float().repeat(1, classes)
    return everywhere.scatter(1, cut["classes"].long(), cut["values"].float())
