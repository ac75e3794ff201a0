"""Find out how a classifier is built: one traced run of a copy in float64, and a check that segments add up to it.

From the calls of the model's units follow the stages, the map that is pooled, the chain of modules that makes up each
stage, and whether the calls form a chain at all: a forward that computes something between two units cannot be run in
segments, nor can one whose units are given further arguments (rotary embeddings, grid sizes) that differ between images
or are learnt; the reason is kept.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from crossdistill.errors import UserError
from crossdistill.staged.head import describe_head
from crossdistill.staged.layout import Grid, find_glue, from_map, possible_grids, to_map
from crossdistill.staged.operations import mixing_kinds
from crossdistill.staged.plan import Plan, Stage, Step, run_steps
from crossdistill.staged.trace import Call, Trace, trace_run

# Largest relative difference, in float64, between a run in segments and the model's own forward. An attention that lost
# its rotary embedding behind a LayerScale of 1e-5 differs by 1e-8, and that must not pass.
TOLERANCE = 1e-9

# How the blocks of an isotropic network are dealt out: 2-2-6-2 of 12, as the papers on cross-architecture pairs do.
STAGE_PROPORTION = (1, 1, 3, 1)


def probe(
    model: nn.Module,
    name: str,
    image_size: tuple[int, int],
    stage_ends: Sequence[str] | None,
    proportion: Sequence[int],
) -> Plan:
    """Trace a copy of the model in float64 and describe it.

    The model itself, its buffers, its mode and the random state are left alone.

    Raises:
        UserError: the model refuses the image size, or its stages give no feature maps.
    """
    levels = stage_levels(model, name, stage_ends, proportion)
    classifiers = classifier_layers(model)
    marks = [*(level["module"] for level in levels), *classifiers.values()]
    plan = Plan()
    with torch.no_grad():
        model, image, trace = _traced_copy(model, name, image_size, marks)
        ends = _describe_stages(plan, trace, name, levels, image_size)
        _check_token_order(plan, trace.calls[ends[1]], model, image, name)
        describe_head(plan, trace, classifiers, getattr(model, "num_classes", None), ends[-1])
        if image.dtype != torch.float64:
            plan.refusal = "its forward does not run in float64, in which segments are checked"
        else:
            plan.refusal = _find_segments(plan, trace, ends) or _check_segments(plan, trace, model, ends, trace)
            if not plan.refusal and plan.further:
                # What units are given beside the tensor must not depend on the image, for it is another's when the
                # units are run on foreign features: it is taken from the first image, and the second is run with it.
                other = torch.randn(image.shape, generator=torch.Generator().manual_seed(1), dtype=image.dtype)
                with torch.enable_grad():
                    second = trace_run(model.requires_grad_(True), name, other.to(image.device), marks)
                plan.refusal = _learnt(plan, second) or _check_segments(plan, second, model, ends, trace)
    return plan


def _traced_copy(
    model: nn.Module, name: str, image_size: tuple[int, int], marks: Sequence[str]
) -> tuple[nn.Module, Tensor, Trace]:
    """A copy of the model, the random image that it ran on, and the trace: in float64 if the forward allows that."""
    parameter = next(model.parameters())
    image = torch.randn(1, 3, *image_size, generator=torch.Generator().manual_seed(0)).to(parameter.device)
    for dtype in (torch.float64, parameter.dtype):
        probed = copy.deepcopy(model).eval().to(dtype)
        try:
            return probed, image.to(dtype), trace_run(probed, name, image.to(dtype), marks)
        except UserError as error:
            refusal = error
    raise refusal


def stage_levels(
    model: nn.Module, name: str, stage_ends: Sequence[str] | None, proportion: Sequence[int]
) -> list[dict[str, Any]]:
    """The levels that end a stage, as timm's `feature_info` has them; before them the one where stage 0 begins, if any.

    The first entry has `module` "" where stage 0 begins with its own container.
    """
    paths = {path for path, _ in model.named_modules()}
    levels = [level for level in getattr(model, "feature_info", None) or [] if level.get("module") in paths]
    if stage_ends is not None:
        missing = [path for path in stage_ends if path not in paths]
        if missing or not stage_ends:
            raise UserError(f"{name} has no module '{', '.join(missing)}' to end a stage: see its named_modules()")
        known = {level["module"]: level for level in levels}
        return [{"module": ""}, *(known.get(path, {"module": path}) for path in stage_ends)]
    if not levels:
        raise UserError(
            f"{name} does not say where its stages end: name them (--student_stages or --teacher_stages layer2,layer3)"
        )
    if len({level["reduction"] for level in levels}) == 1:
        return [{"module": ""}, *(levels[i] for i in cut_isotropic(len(levels), proportion))]
    return [{"module": ""}, *levels] if len(levels) <= 4 else levels[-5:]


def cut_isotropic(depth: int, proportion: Sequence[int]) -> list[int]:
    """Indices of the blocks that end the stages of a network whose blocks are all alike.

    >>> cut_isotropic(12, (1, 1, 3, 1))
    [1, 3, 9, 11]
    """
    count = min(depth, len(proportion))
    ends = [0]
    for k in range(1, count):
        ideal = round(depth * sum(proportion[:k]) / sum(proportion))
        # At least one block for this stage and for each that follows.
        ends.append(max(ends[-1] + 1, min(ideal, depth - (count - k))))
    return [end - 1 for end in (*ends[1:], depth)]


def classifier_layers(model: Any) -> dict[str, str]:
    """Name of a head -> path of its linear layer or 1x1 convolution; empty for a model without a head."""
    layers = [(path, m) for path, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    if hasattr(model, "get_classifier"):
        found = model.get_classifier()
        inside = {id(m) for head in (found if isinstance(found, tuple) else (found,)) for m in head.modules()}
        paths = [path for path, m in layers if id(m) in inside and len(m.weight) == model.num_classes]
    else:
        # The last layer is the classifier, if `describe_head` finds that the logits are its output.
        paths = [path for path, _ in layers[-1:]]
    if len(paths) == 2 and "dist" in paths[1]:
        return {"class": paths[0], "distillation": paths[1]}
    return {"class": paths[0]} if len(paths) == 1 else {}


def _describe_stages(
    plan: Plan, trace: Trace, name: str, levels: list[dict[str, Any]], image_size: tuple[int, int]
) -> list[int]:
    """Fill in stages and boundaries; return the index of the call before stage 0 and of those that end the stages."""
    positions: list[int] = []
    for level in levels[1:]:
        index = trace.last_call(level["module"])
        if index is None:
            raise UserError(f"{name} gives no feature map: its forward does not call its stage '{level['module']}'")
        positions.append(index)
    if positions != sorted(set(positions)):
        order = ", ".join(level["module"] for level in levels[1:])
        raise UserError(f"{name} gives no feature map: it does not run its stages one after another as {order}")
    begin = _first_call(trace, levels[0]["module"], levels[1]["module"])
    ends = [begin - 1, *positions]
    ending = [trace.calls[index] for index in positions]
    plan.first_unit = trace.calls[begin].path
    plan.boundaries = _read_grids(trace.calls[begin].given, ending, levels[1:], image_size, name)
    for k, (start, end) in enumerate(pairwise(ends)):
        before, after = plan.boundaries[k : k + 2]
        operations = set().union(*(call.operations for call in trace.calls[start + 1 : end + 1]))
        plan.stages.append(
            Stage(
                path=ending[k].path,
                channels=after.channels,
                size=after.size,
                entry_channels=before.channels,
                entry_size=before.size,
                layout=after.layout,
                prefix_tokens=after.prefix_tokens,
                mixing=mixing_kinds(operations, before, after),
            )
        )
    plan.picks = {call.path: call.index for call in ending if call.index is not None}
    plan.overwritten = {c.path for c in trace.calls if c.output is not None and c.output._version != c.version}
    return ends


def _first_call(trace: Trace, former: str, end: str) -> int:
    """Index of the call that begins stage 0.

    It follows the level before it where both lie in one container (`blocks.0`, `blocks.1`); otherwise the stage is as
    much of its own container as is called before its end: all first blocks of a transformer, and a stage module that
    stands for itself (`layer1`) alone, with what timm calls before it in the stem.
    """
    container = end.rpartition(".")[0]
    index = trace.last_call(former) if former and former.rpartition(".")[0] == container else None
    if index is not None:
        return index + 1
    inside = f"{container}." if container else end
    return next(i for i, call in enumerate(trace.calls) if call.path.startswith(inside))


def _read_grids(
    entry: object, ending: list[Call], levels: list[dict[str, Any]], image_size: tuple[int, int], name: str
) -> list[Grid]:
    """Native layouts of what enters stage 0 and of what each stage ends with.

    A stage that returns several things ends with the first of them that can be its map; `Call.output` becomes that.
    """
    options: list[list[Grid]] = []
    for call, level in zip(ending, levels, strict=True):
        maps = _maps_in(call.returned, image_size, level.get("num_chs"), level.get("reduction"))
        if not maps:
            raise UserError(f"{name} gives no feature map: its stage '{call.path}' returns {_shape(call.returned)}")
        call.index, call.output, grids = maps[0]
        options.append(grids)
    maps = _maps_in(entry, image_size)
    if not maps:
        raise UserError(f"{name} gives no feature map: its first stage is given {_shape(entry)}")
    _, tensor, grids = maps[0]
    end = ending[0].output
    if end is not None and tensor.ndim == end.ndim == 3 and tensor.shape[1] == end.shape[1]:
        grids = [replace(options[0][0], channels=tensor.shape[2])]
    options.insert(0, grids)
    # Where the numbers allow two layouts, the model's other stages tell which one is meant.
    certain = [found[0].layout for found in options if len(found) == 1]
    return [next((grid for grid in found if grid.layout in certain), found[0]) for found in options]


def _maps_in(
    value: object, image_size: tuple[int, int], channels: int | None = None, reduction: float | None = None
) -> list[tuple[int | None, Tensor, list[Grid]]]:
    """The tensors of a value (itself, or a part with its index) that can be feature maps, and how they can be read."""
    parts = enumerate(value) if isinstance(value, tuple | list) else [(None, value)]
    return [
        (index, part, grids)
        for index, part in parts
        if isinstance(part, Tensor) and (grids := possible_grids(tuple(part.shape), image_size, channels, reduction))
    ]


def _shape(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return "several things and none of them is a map" if isinstance(value, tuple | list) else type(value).__name__


def _check_token_order(plan: Plan, end: Call, model: Any, image: Tensor, name: str) -> None:
    """Refuse tokens that do not lie row by row, such as Hiera's unrolled ones, by timm's own map of the first stage."""
    stage, grid = plan.stages[0], plan.boundaries[1]
    paths = [level.get("module") for level in getattr(model, "feature_info", None) or []]
    if grid.layout != "NLC" or stage.path not in paths or not hasattr(model, "forward_intermediates"):
        return
    (theirs,) = model.forward_intermediates(
        image, indices=[paths.index(stage.path)], stop_early=True, output_fmt="NCHW", intermediates_only=True
    )
    assert end.output is not None
    ours = to_map(end.output, grid)[0]
    if ours.shape != theirs.shape or torch.allclose(ours, theirs):
        return
    # Another order has the same tokens; other values are another feature, not a wrong order.
    if torch.allclose(*(tokens.flatten(2).norm(dim=1).sort().values for tokens in (ours, theirs))):
        raise UserError(f"{name} gives no feature map: its tokens do not lie row by row behind '{stage.path}'")


def _find_segments(plan: Plan, trace: Trace, ends: list[int]) -> str:
    """Fill in the steps of every stage and of the tail, or say why the calls are no chain."""
    plan.own_head = trace.split is not None
    stop = len(trace.calls) if trace.split is None else trace.split
    target = trace.output if trace.split is None else trace.features
    if ends[-1] >= stop:
        return "its last stage is part of its forward_head"
    if not isinstance(target, Tensor):
        return "its forward_features returns no tensor"
    previous: Tensor | None = trace.calls[ends[0] + 1].input
    steps: list[Step] = []
    for call in trace.calls[ends[0] + 1 : stop]:
        if call.further:
            plan.further.add(call.path)
        if call.input is None or call.output is None or call.index is not None:
            return f"'{call.path}' does not take and return one tensor"
        step = _connect(previous, call.input, call.path)
        if step is None:
            return f"its forward computes something before '{call.path}' that is no module"
        steps.append(step)
        previous = call.output
    last = _connect(previous, target, "")
    if last is None:
        return "its forward computes something after its last module that is no module"
    if last.glue is not None:
        steps.append(last)
    bounds = [end - ends[0] for end in ends]
    plan.segments = [steps[a:b] for a, b in pairwise(bounds)]
    plan.tail = steps[bounds[-1] :]
    return ""


def _connect(before: Tensor | None, after: Tensor, path: str) -> Step | None:
    if before is after:
        return Step(path)
    glue = None if before is None else find_glue(before, after)
    return None if glue is None else Step(path, glue, tuple(after.shape[1:]))


def _learnt(plan: Plan, trace: Trace) -> str:
    """Refuse what units are given beside the tensor if it follows the weights: what was kept of it would be stale."""
    for call in trace.calls:
        given = (*call.further.args, *call.further.kwargs.values()) if call.path in plan.further else ()
        if any(isinstance(value, Tensor) and value.requires_grad for value in given):
            return f"what '{call.path}' is given beside the tensor is learnt"
    return ""


def _check_segments(plan: Plan, trace: Trace, model: Any, ends: list[int], arguments: Trace) -> str:
    """Run the copy in segments, through (B, C, H, W) at every boundary, against what its own forward gave.

    `arguments` is the run that tells what units are given beside the tensor.
    """
    further = {call.path: call.further for call in arguments.calls if call.path in plan.further}
    x = trace.calls[ends[0] + 1].input
    assert x is not None
    for k, steps in enumerate(plan.segments):
        x = from_map(*to_map(x, plan.boundaries[k]), plan.boundaries[k])
        x = run_steps(model, steps, x, further)
    x = from_map(*to_map(x, plan.boundaries[-1]), plan.boundaries[-1])
    x = run_steps(model, plan.tail, x, further)
    own = trace.output if trace.split is None else trace.features
    assert isinstance(own, Tensor)
    error = float((x - own).abs().max() / own.abs().max().clamp_min(torch.finfo(own.dtype).tiny))
    if not error <= TOLERANCE:
        return f"running it in segments differs from its own forward (relative error {error:.1e} in float64)"
    if plan.own_head:
        logits = model.forward_head(x)
        if not torch.allclose(logits, trace.output, rtol=TOLERANCE, atol=TOLERANCE):
            return "its forward does more than forward_head(forward_features(x))"
    return ""
