"""Lightning Fabric as the options ask for it, and what all processes are asked together."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins import MixedPrecision
from lightning.fabric.strategies import DDPStrategy
from torch import Tensor

from crossdistill.errors import UserError
from crossdistill.options import DeviceOptions
from crossdistill.process import peak_memory_of_process


class _Autocast(MixedPrecision):
    """Autocast that leaves the inputs alone: Fabric would round the images and the soft labels to half precision."""

    def convert_input(self, data: Any) -> Any:
        return data


def make_fabric(options: DeviceOptions) -> Fabric:
    """Devices, strategy and precision, as the options ask for.

    Raises:
        UserError: Fabric refuses the combination.
    """
    strategy: Any = options.strategy
    on_cpu = options.accelerator == "cpu" or (options.accelerator == "auto" and not torch.accelerator.is_available())
    # On the CPU a device is a process, and Fabric would start any number of them.
    if on_cpu and options.devices > (os.cpu_count() or 1):
        raise UserError(f"--devices {options.devices}: this machine has {os.cpu_count()} CPU cores, and no GPU is used")
    if strategy in ("ddp", "auto") and options.devices * options.nodes > 1:
        # Buffers that differ between processes on purpose (a method's feedback, for one) must not be overwritten.
        strategy = DDPStrategy(broadcast_buffers=False)
    plugins: list[Any] = []
    if options.precision != "32":
        on_gpu = options.accelerator != "cpu" and torch.cuda.is_available()
        plugins.append(_Autocast(options.precision, "cuda" if on_gpu else "cpu"))
    try:
        return Fabric(
            accelerator=options.accelerator,
            devices=options.devices,
            num_nodes=options.nodes,
            strategy=strategy,
            plugins=plugins,
        )
    except (ValueError, RuntimeError, TypeError, ImportError) as error:
        raise UserError(f"these devices cannot be used: {' '.join(str(error).split())}") from error


def over_processes(fabric: Fabric, value: Tensor, operation: Literal["mean", "sum"]) -> Tensor:
    """The mean or the sum of a tensor over all processes."""
    reduced = fabric.all_reduce(value, reduce_op=operation)
    assert isinstance(reduced, Tensor)
    return reduced


def any_process(fabric: Fabric, here: bool) -> bool:
    """Whether it is true in at least one process; all of them wait for each other."""
    return over_processes(fabric, torch.tensor(float(here), device=fabric.device), "sum").item() > 0


def forget_peak_memory(device: torch.device) -> None:
    """Let `peak_memory` count from here on, where the system can: a process may train several times."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> int:
    """Bytes: of the device where it counts them, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_memory_of_process()
