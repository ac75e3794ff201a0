"""Options of the pair: the two models and the method between them."""

from dataclasses import dataclass, field
from typing import Any

from crossdistill.options.facts import FREE_ON_RESUME, TEACHER_ONLY
from crossdistill.options.values import NonNegativeInt, PositiveInt


@dataclass
class ModelOptions:
    """A model: its timm name (also `hf-hub:...`, `local-dir:...`) or a callable's dotted path, and arguments for it."""

    name: str = ""
    """timm name or dotted path."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """arguments for `timm.create_model` or for the callable, for example `img_size: 32`."""


@dataclass
class MethodOptions:
    """A distillation method: its name or the dotted path of a `Distiller` class, and its hyper-parameters."""

    name: str = "kd"
    """one of `crossdistill methods`, a dotted path, or several with + between, such as kd+fitnet."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """hyper-parameters, as `crossdistill methods NAME` lists them."""


@dataclass
class PairOptions:
    """The pair: the models and the method."""

    student: ModelOptions = field(default_factory=ModelOptions)
    """the model that is trained."""
    student_weights: str = "none"
    """`none`, `pretrained`, or a file."""
    student_new_head: bool = False
    """give the student of a weights file a new classifier for the classes of the data, to train it on them."""
    student_stages: str | None = None
    """comma-separated module paths of the stage ends, for a model that does not name its own."""
    image_size: int | list[int] | None = None
    """side in pixels of the images, or height and width; default: the student's `img_size`, that of a named set of
    small images, or the student's own."""
    stem_stride: PositiveInt | None = None
    """total stride of the student's stem and first stage, lowered for small images; default: as built."""
    teacher: ModelOptions = field(default_factory=ModelOptions, metadata=TEACHER_ONLY)
    """the model that is learnt from; may be left out when the weights file says what it is."""
    teacher_weights: str = field(default="none", metadata=TEACHER_ONLY)
    """`pretrained`, `none`, or a file."""
    teacher_stages: str | None = field(default=None, metadata=TEACHER_ONLY)
    """as `student_stages`."""
    teacher_image_size: int | list[int] | None = field(default=None, metadata=TEACHER_ONLY)
    """side in pixels that the teacher sees, where it differs from the student's."""
    teacher_classes: str | None = field(default=None, metadata=TEACHER_ONLY)
    """a file that maps the classes of the data to outputs of the teacher."""
    allow_weak_teacher: bool = field(default=False, metadata=TEACHER_ONLY | FREE_ON_RESUME)
    """train although the teacher is near chance or its head is new."""
    preflight_images: NonNegativeInt = field(default=512, metadata=TEACHER_ONLY)
    """validation images that the teacher is checked on before training."""
    method: MethodOptions = field(default_factory=MethodOptions, metadata=TEACHER_ONLY)
    """the distillation method."""
