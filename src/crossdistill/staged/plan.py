"""What the probe finds out about a model: paths, shapes and layouts, so that it holds for every copy of the model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from crossdistill.staged.layout import Glue, Grid


@dataclass(frozen=True)
class Stage:
    """One stage of a model: from the end of the stage before it to its own.

    Args:
        path: module path of the stage's end.
        channels: C at its end.
        size: (H, W) of the grid at its end.
        entry_channels: C of what enters it.
        entry_size: (H, W) of what enters it.
        layout: native layout at its end: NCHW, NHWC or NLC (tokens).
        prefix_tokens: class and register tokens in front of the patch tokens at its end; 0 for maps.
        mixing: what mixes positions within the stage, sorted: "attention" (products of activations), "convolution"
            (overlapping windows, those of a pooling too), "mlp" (a linear layer over positions); empty where it is none
            of these, as in a recurrent network.
    """

    path: str
    channels: int
    size: tuple[int, int]
    entry_channels: int
    entry_size: tuple[int, int]
    layout: str
    prefix_tokens: int
    mixing: tuple[str, ...]


@dataclass
class Further:
    """What a unit is given beside the tensor: rotary embeddings, the size of the grid."""

    args: tuple = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return any(value is not None and value is not False for value in (*self.args, *self.kwargs.values()))


_NOTHING = Further()


@dataclass(frozen=True)
class Step:
    """One unit of a chain (path "" for none), and what is done to the tensor before it (glue None: nothing).

    `shape` is what the unit was given in the probe, without the batch.
    """

    path: str
    glue: Glue | None = None
    shape: tuple[int, ...] = ()


@dataclass
class Plan:
    """How to take features from a model, and how to run it in segments.

    Args:
        stages: the stages.
        boundaries: native layouts of what enters stage 0 and of what each stage ends with.
        picks: units that return several things -> which of them is the feature map.
        further: units that are given more than a tensor; what that is, their own model's last forward tells.
        overwritten: units whose output a later one overwrites in place, so that it must be copied to be kept.
        first_unit: path of the unit that begins stage 0.
        segments: the units of each stage.
        tail: the units behind the last stage, up to what `forward_head` takes or else to the logits.
        own_head: the model has `forward_features` and `forward_head`, as timm's have.
        refusal: why it cannot be run in segments; "" if it can.
        final_path: the unit whose output is pooled.
        final: native layout of that output.
        num_classes: K; 0 for a model without a head.
        pooled_size: D of what the classifier reads.
        pools_mean: the vector behind the pooling is the mean of the final map over positions.
        classifiers: name of a head -> path of its linear layer or 1x1 convolution.
        head_chains: name of a head -> the units between pooling and logits.
        dense_refusal: why the head cannot be applied at every position; "" if it can.
    """

    stages: list[Stage] = field(default_factory=list)
    boundaries: list[Grid] = field(default_factory=list)
    picks: dict[str, int] = field(default_factory=dict)
    further: set[str] = field(default_factory=set)
    overwritten: set[str] = field(default_factory=set)
    first_unit: str = ""
    segments: list[list[Step]] = field(default_factory=list)
    tail: list[Step] = field(default_factory=list)
    own_head: bool = False
    refusal: str = ""
    final_path: str = ""
    final: Grid = field(default_factory=lambda: Grid("NCHW", 0, (0, 0)))
    num_classes: int = 0
    pooled_size: int = 0
    pools_mean: bool = False
    classifiers: dict[str, str] = field(default_factory=dict)
    head_chains: dict[str, list[Step]] = field(default_factory=dict)
    dense_refusal: str = ""


def run_steps(model: nn.Module, steps: list[Step], x: Tensor, further: Mapping[str, Further]) -> Tensor:
    """Run units of a model one after another, each looked up by its path: it may have been replaced since the probe.

    Args:
        model: whose units they are.
        steps: the chain.
        x: what enters it.
        further: what some units are given beside the tensor, by path.
    """
    for step in steps:
        if step.glue is not None:
            x = step.glue(x, step.shape)
        if step.path:
            more = further.get(step.path, _NOTHING)
            x = model.get_submodule(step.path)(x, *more.args, **more.kwargs)
    return x
