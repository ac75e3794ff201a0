"""One traced run of a model: the calls of its units in order, with what each was given and returned."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from crossdistill.errors import UserError
from crossdistill.staged.operations import Operation, OperationWatch
from crossdistill.staged.plan import Further


@dataclass(eq=False)
class Call:
    """One call of a unit."""

    path: str
    module: nn.Module
    given: object
    # Arguments beyond the tensor that carry a value: such a unit cannot be called with a tensor alone.
    further: Further
    returned: object = None
    output: Tensor | None = None
    # Which part of what it returned `output` is; None: all of it.
    index: int | None = None
    # Of the output when it was returned; a higher one afterwards means that it was overwritten in place.
    version: int = 0
    operations: set[Operation] = field(default_factory=set)

    @property
    def input(self) -> Tensor | None:
        """What it was given, if that is one tensor."""
        return self.given if isinstance(self.given, Tensor) else None


@dataclass
class Trace:
    """The calls of one forward in order; `features` is what `forward_features` returned, after `split` calls."""

    calls: list[Call]
    output: Tensor
    features: object = None
    split: int | None = None

    def last_call(self, path: str) -> int | None:
        """Index of the last call of a unit, or None."""
        return next((i for i in reversed(range(len(self.calls))) if self.calls[i].path == path), None)


def trace_run(model: nn.Module, name: str, image: Tensor, marks: Sequence[str]) -> Trace:
    """Run a model's own forward on an image and record the calls of its units.

    Units are the modules that the model consists of once every container of a mark is opened, and every container that
    has no forward of its own.

    Args:
        model: a copy that may be written to.
        name: for messages.
        image: (1, 3, H, W).
        marks: module paths that must be units.

    Raises:
        UserError: the model refuses images of this size, or returns no (B, K).
    """
    opened = {"", *(".".join(path.split(".")[:i]) for path in marks for i in range(path.count(".") + 1))}
    units: list[tuple[str, nn.Module]] = []
    for path, module in model.named_modules():
        if path in opened or path.rpartition(".")[0] not in opened:
            continue
        if type(module).forward is nn.Module.forward:
            opened.add(path)
        else:
            units.append((path, module))
    trace = Trace(calls=[], output=image)
    with _recording(trace, units), _noting_features(trace, model), OperationWatch() as watch:
        watch.operations_of_call = lambda: trace.calls[-1].operations if trace.calls else None
        try:
            trace.output = model(image)
        except (RuntimeError, AssertionError, ValueError) as error:
            size = "x".join(map(str, image.shape[2:]))
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"{name} does not run on images of {size} pixels: {reason[:200]}") from error
    if not isinstance(trace.output, Tensor) or trace.output.ndim != 2:
        raise UserError(f"{name} is no image classifier: its forward does not return one tensor (B, K)")
    return trace


@contextmanager
def _recording(trace: Trace, units: list[tuple[str, nn.Module]]) -> Iterator[None]:
    def before(path: str) -> Callable[[nn.Module, tuple, dict], None]:
        def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
            trace.calls.append(Call(path, module, args[0] if args else None, Further(args[1:], kwargs)))

        return hook

    def after(module: nn.Module, args: tuple, output: object) -> None:
        call = next(call for call in reversed(trace.calls) if call.module is module)
        call.returned = output
        if isinstance(output, Tensor):
            call.output, call.version = output, output._version

    handles = [module.register_forward_pre_hook(before(path), with_kwargs=True) for path, module in units]
    handles += [module.register_forward_hook(after) for _, module in units]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _noting_features(trace: Trace, model: Any) -> Iterator[None]:
    """Note where `forward_features` ends, for forwards that are `forward_head(forward_features(x))`, as timm's are."""
    if not (hasattr(model, "forward_features") and hasattr(model, "forward_head")):
        yield
        return
    own = model.forward_features

    def noting(*args: object, **kwargs: object) -> object:
        trace.features = own(*args, **kwargs)
        trace.split = len(trace.calls)
        return trace.features

    model.forward_features = noting
    try:
        yield
    finally:
        del model.forward_features
