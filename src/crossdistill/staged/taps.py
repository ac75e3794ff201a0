"""Hooks that take tensors out of a running model, without touching its forward.

Classes rather than closures: a deep copy of a hooked model (a moving average of the student, say) then gets a recorder
of its own.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from crossdistill.staged.plan import Further


class Recorder:
    """What the taps of one model write into, while it is entered: a plain call of the model keeps nothing."""

    def __init__(self) -> None:
        self.values: dict[Any, Tensor] = {}
        self.recording = False
        self.stop_at_gate = False
        # Keys whose tensor a later module overwrites in place.
        self.copied: set[Any] = set()

    def __enter__(self) -> None:
        self.recording = True

    def __exit__(self, *exception: object) -> None:
        self.recording = False

    def put(self, key: Any, tensor: Tensor) -> None:
        self.values[key] = tensor.clone() if key in self.copied else tensor

    def take(self) -> dict[Any, Tensor]:
        """What was recorded, which the recorder then forgets: it must not keep a graph alive."""
        values, self.values = self.values, {}
        return values


class OutputTap:
    """Record what a module returns or, where it returns several things, the one at an index."""

    def __init__(self, recorder: Recorder, key: Any, index: int | None = None) -> None:
        self.recorder = recorder
        self.key = key
        self.index = index

    def attach(self, module: nn.Module) -> RemovableHandle:
        return module.register_forward_hook(self)

    def __call__(self, module: nn.Module, args: tuple, output: Any) -> None:
        if self.recorder.recording:
            self.recorder.put(self.key, output if self.index is None else output[self.index])


class InputTap:
    """Record what a module is given."""

    def __init__(self, recorder: Recorder, key: Any) -> None:
        self.recorder = recorder
        self.key = key

    def attach(self, module: nn.Module) -> RemovableHandle:
        return module.register_forward_pre_hook(self)

    def __call__(self, module: nn.Module, args: tuple) -> None:
        if self.recorder.recording:
            self.recorder.put(self.key, args[0])


class FurtherTap:
    """Keep what a module was last given beside the tensor, for runs in segments.

    No graph hangs on it: the probe refuses models that learn it. Tensors of inference mode cannot take part in one.
    """

    def __init__(self, kept: dict[str, Further], path: str) -> None:
        self.kept = kept
        self.path = path

    def attach(self, module: nn.Module) -> RemovableHandle:
        return module.register_forward_pre_hook(self, with_kwargs=True)

    def __call__(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        if not torch.is_inference_mode_enabled():
            self.kept[self.path] = Further(args[1:], kwargs)


class Entered(Exception):
    """Raised where the first stage begins: the stem has run, and nothing behind it needs to."""

    def __init__(self, tensor: Tensor) -> None:
        super().__init__()
        self.tensor = tensor


class Gate:
    """End a forward where a module is called, if the recorder says so."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def attach(self, module: nn.Module) -> RemovableHandle:
        return module.register_forward_pre_hook(self)

    def __call__(self, module: nn.Module, args: tuple) -> None:
        if self.recorder.stop_at_gate:
            raise Entered(args[0])
