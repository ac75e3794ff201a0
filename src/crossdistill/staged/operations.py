"""What mixes positions in a part of a network, seen from the operations that a run of it performs."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from crossdistill.staged.layout import Grid

# ("attention", 0, 0), ("convolution", 0, 0) or ("linear", last dimension of its input, the one before).
Operation = tuple[str, int, int]

_PRODUCTS = {"matmul", "__matmul__", "__rmatmul__", "bmm", "baddbmm", "einsum"}
_ATTENTIONS = {"scaled_dot_product_attention", "multi_head_attention_forward"}
_CONVOLUTIONS = {"conv1d", "conv2d", "conv3d"}
_POOLS = {"avg_pool2d", "max_pool2d"}


class OperationWatch(TorchFunctionMode):
    """Note the operations of each part of a forward into the set that `operations_of_call` gives at that moment."""

    def __init__(self) -> None:
        super().__init__()
        self.operations_of_call: Callable[[], set[Operation] | None] = lambda: None

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        operations = self.operations_of_call()
        if operations is not None and (operation := _classify(getattr(func, "__name__", ""), args, kwargs)):
            operations.add(operation)
        return func(*args, **kwargs)


def _classify(name: str, args: tuple, kwargs: dict[str, Any]) -> Operation | None:
    if name in _ATTENTIONS:
        return "attention", 0, 0
    if name in _PRODUCTS:
        tensors = [a for a in _flatten(args) if isinstance(a, Tensor)]
        # A product with a parameter is a linear layer, one of two activations is attention.
        activations = [t for t in tensors if not isinstance(t, nn.Parameter)]
        return ("attention", 0, 0) if len(activations) > 1 else None
    if name in _CONVOLUTIONS:
        window, stride = _argument(args, kwargs, 1, "weight").shape[2:], _argument(args, kwargs, 3, "stride") or 1
        return ("convolution", 0, 0) if _overlaps(window, stride) else None
    if name in _POOLS:
        window = _argument(args, kwargs, 1, "kernel_size")
        return ("convolution", 0, 0) if _overlaps(window, _argument(args, kwargs, 2, "stride") or window) else None
    if name == "linear":
        shape = _argument(args, kwargs, 0, "input").shape
        # One image is run: what mixes all its positions is given (1, channels, positions), windows come as (n, ...).
        return ("linear", shape[-1], shape[-2]) if len(shape) == 3 and shape[0] == 1 else None
    return None


def _argument(args: tuple, kwargs: dict[str, Any], position: int, name: str) -> Any:
    return args[position] if len(args) > position else kwargs.get(name)


def _flatten(args: tuple) -> list[Any]:
    return [b for a in args for b in (a if isinstance(a, tuple | list) else (a,))]


def _overlaps(window: Any, stride: Any) -> bool:
    """Whether neighbouring windows share positions; those that do not (patch merging) only lower the resolution."""
    windows = window if isinstance(window, tuple | list) else (window,)
    strides = stride if isinstance(stride, tuple | list) else (stride,) * len(windows)
    return any(w > s for w, s in zip(windows, strides, strict=False))


def mixing_kinds(operations: set[Operation], before: Grid, after: Grid) -> tuple[str, ...]:
    """Sorted kinds of mixing among the operations of a stage between two boundaries."""
    kinds = {kind for kind, _, _ in operations if kind != "linear"}
    lengths = {g.size[0] * g.size[1] + p for g in (before, after) for p in (0, g.prefix_tokens)}
    for kind, last, before_last in operations:
        # Where channels and positions are equally many, a layer over channels looks the same: then it counts only if
        # nothing else mixes.
        if kind == "linear" and last in lengths and (before_last not in lengths or not kinds):
            kinds.add("mlp")
    return tuple(sorted(kinds))
