"""All options of a training run: those of every owner, joined flat, as the command line and recipes have them."""

import dataclasses
from dataclasses import dataclass
from typing import Any, TypeVar

from crossdistill.options.cache import CacheOptions
from crossdistill.options.data import DataOptions
from crossdistill.options.detection import DetectionOptions
from crossdistill.options.devices import DeviceOptions
from crossdistill.options.optimization import OptimizationOptions
from crossdistill.options.pair import MethodOptions, ModelOptions, PairOptions
from crossdistill.options.reporting import ReportingOptions

Part = TypeVar("Part")


@dataclass
class TrainingOptions(
    ReportingOptions, DeviceOptions, OptimizationOptions, CacheOptions, DataOptions, DetectionOptions, PairOptions
):
    """A training run: the pair, the data, the optimisation, the devices, and what is written down.

    The fields are those of the seven owners. An owner is given its `part`, not all of them.
    """

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TrainingOptions":
        """From plain values, as a recipe or a parser has them.

        Raises:
            TypeError: a name that is no option.
        """
        kinds: dict[str, Any] = {"student": ModelOptions, "teacher": ModelOptions, "method": MethodOptions}
        return cls(**{name: kinds[name](**value) if name in kinds else value for name, value in values.items()})

    @property
    def stream_seed(self) -> int:
        """Of order, augmentation and mixing: `data_seed`, else `seed`."""
        return self.seed if self.data_seed is None else self.data_seed

    def part(self, kind: type[Part]) -> Part:
        """The options of one owner, one of `PARTS`."""
        names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
        return kind(**{name: getattr(self, name) for name in names})


# In the order of `--help`.
PARTS = (PairOptions, DetectionOptions, DataOptions, CacheOptions, OptimizationOptions, DeviceOptions, ReportingOptions)
