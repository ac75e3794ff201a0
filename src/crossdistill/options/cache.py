"""Options of the teacher cache: what the teacher says, computed once and kept on disk."""

from dataclasses import dataclass, field
from typing import Literal

from crossdistill.options.facts import FREE_ON_RESUME, TEACHER_ONLY
from crossdistill.options.values import PositiveInt


@dataclass
class CacheOptions:
    """The teacher cache."""

    teacher_cache: str = field(default="", metadata=TEACHER_ONLY | FREE_ON_RESUME)
    """folder of what the teacher says of the training images, as `crossdistill cache` fills it; default: the teacher
    runs in every step."""
    teacher_cache_fill: bool = field(default=False, metadata=TEACHER_ONLY | FREE_ON_RESUME)
    """compute what is missing or damaged in `teacher_cache` before the training."""
    teacher_cache_mode: Literal["replay", "static"] = field(default="replay", metadata=TEACHER_ONLY)
    """replay: outputs for the very batches of this run, augmented and mixed; static: for each image once, without
    augmentation, which is another experiment."""
    teacher_cache_top_k: PositiveInt | None = field(default=None, metadata=TEACHER_ONLY)
    """keep the highest logits only, and spread what is left of the probability evenly over the other classes; default:
    all."""
    teacher_cache_dtype: Literal["exact", "float16"] = field(default="exact", metadata=TEACHER_ONLY)
    """exact: as the teacher computed them; float16: rounded, half the size."""
