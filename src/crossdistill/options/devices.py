"""Options of the devices: where and in what precision a run is computed."""

from dataclasses import dataclass, field
from typing import Literal

from crossdistill.options.facts import FOUND_AT_START
from crossdistill.options.values import PositiveInt


@dataclass
class DeviceOptions:
    """Devices."""

    devices: PositiveInt = 1
    """number of devices, as Fabric takes it."""
    nodes: PositiveInt = 1
    """number of machines."""
    strategy: str = "auto"
    """Fabric strategy: auto, ddp, ..."""
    accelerator: str = "auto"
    """auto, cpu, cuda, mps."""
    precision: Literal["32", "bf16-mixed", "16-mixed"] = "32"
    """32, bf16-mixed or 16-mixed."""
    compile: bool = False
    """run the training step through torch.compile."""
    channels_last: Literal["auto", "true", "false"] = field(default="false", metadata=FOUND_AT_START)
    """keep convolution tensors in channels-last memory order; auto: where some timed passes find it faster."""
    sync_batch_norm: bool = False
    """synchronise batch norms over devices."""
