"""Every option of a training run, as typed data: what the command line parses and `recipe.yaml` records.

Nothing here imports torch, so that `crossdistill distill --help` answers at once.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from crossdistill.errors import UserError, check_range


@dataclass
class ModelOptions:
    """A model: its timm name (also `hf-hub:...`, `local-dir:...`) or a callable's dotted path, and arguments for it.

    Args:
        name: timm name or dotted path.
        kwargs: arguments for `timm.create_model` or for the callable, for example `img_size: 32`.
    """

    name: str = ""
    kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass
class MethodOptions:
    """A distillation method: its name or the dotted path of a `Distiller` class, and its hyper-parameters.

    Args:
        name: one of `crossdistill methods`, or a dotted path.
        kwargs: hyper-parameters, as `crossdistill methods NAME` lists them.
    """

    name: str = "kd"
    kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass
class TrainingOptions:
    """A training run: the models, the method, the data and the recipe.

    Args:
        output: run folder; a folder that holds another run is refused.
        data: an image folder with train/ and val/ (or test/), the name of a built-in set, or the dotted path of a
            function that gives both.
        student: the model that is trained.
        student_weights: `none`, `pretrained`, or a file.
        student_stages: comma-separated module paths of the stage ends, for a model that does not name its own.
        teacher: the model that is learnt from; may be left out when the weights file says what it is.
        teacher_weights: `pretrained`, `none`, or a file.
        teacher_stages: as `student_stages`.
        teacher_image_size: side in pixels that the teacher sees, where it differs from the student's.
        teacher_classes: a file that maps the classes of the data to outputs of the teacher.
        allow_weak_teacher: train although the teacher is near chance or its head is new.
        method: the distillation method.
        image_size: side in pixels of the images, or height and width; default: the student's
            `img_size`, that of a named set of small images, or the student's own.
        stem_stride: total stride of the student's stem and first stage, lowered for small images; default: as built.
        epochs: passes over the training set.
        max_steps: stop after so many optimiser steps, whatever the epochs; the schedule ends there.
        batch_size: images of one optimiser step, over all devices and accumulation steps.
        evaluate_every: epochs between evaluations.
        optimizer: name of a timm optimiser (sgd, adamw, lamb, ...).
        learning_rate: peak learning rate; not scaled with the batch size.
        min_learning_rate: where the cosine schedule ends.
        weight_decay: weight decay; vectors and biases have none.
        momentum: momentum of SGD and its kin.
        schedule: learning-rate schedule.
        step_epochs: epochs between drops of the `step` schedule.
        step_decay: factor of a drop of the `step` schedule.
        warmup_epochs: epochs of linear warm-up; default: a twentieth of the training.
        warmup_learning_rate: where the warm-up starts.
        clip_gradient: largest global norm of the gradient; 0 does not clip.
        accumulate: forward and backward passes of one optimiser step.
        ema_decay: decay of a moving average of the student, which is then what is evaluated and saved; 0: none.
        label_smoothing: share of a label that is spread over all classes.
        mixup: alpha of mixup; 0 is off.
        cutmix: alpha of CutMix; 0 is off; with mixup, one of the two is drawn for a batch.
        crop: training crop: a random resized crop, a shifted crop after padding by an eighth, or none.
        crop_scale: least area of the random resized crop.
        flip: probability of a horizontal flip.
        color_jitter: strength of colour jitter.
        rand_augment: RandAugment policy in timm's notation, for example rand-m9-mstd0.5-inc1.
        random_erasing: probability that a rectangle is erased.
        repeated_augmentation: views of an image within one epoch's batches; an epoch keeps its length.
        cache_images: keep decoded images in memory as bytes; auto: where they are small enough.
        on_bad_image: what a file that cannot be decoded does: stop before training, or be skipped and counted.
        workers: processes that decode and augment images that are not kept in memory.
        seed: of weights, dropout and everything else that is random in the model.
        data_seed: of order, augmentation and mixing; default: the seed.
        devices: number of devices, as Fabric takes it.
        nodes: number of machines.
        strategy: Fabric strategy: auto, ddp, ...
        accelerator: auto, cpu, cuda, mps.
        precision: 32, bf16-mixed or 16-mixed.
        compile: run the training step through torch.compile.
        channels_last: keep convolution tensors in channels-last memory order.
        sync_batch_norm: synchronise batch norms over devices.
        log_every: optimiser steps between log lines; the host waits for the device only then.
        log_gradient_norms: log the norm of each loss term's gradient at the student (one more backward per term).
        checkpoint_every: optimiser steps between checkpoints; 0: at the end of every epoch only.
        resume: go on with the run in `output`.
        preflight_images: validation images that the teacher is checked on before training.
    """

    output: str = ""
    data: str = ""
    student: ModelOptions = field(default_factory=ModelOptions)
    student_weights: str = "none"
    student_stages: str | None = None
    teacher: ModelOptions = field(default_factory=ModelOptions)
    teacher_weights: str = "none"
    teacher_stages: str | None = None
    teacher_image_size: int | list[int] | None = None
    teacher_classes: str | None = None
    allow_weak_teacher: bool = False
    method: MethodOptions = field(default_factory=MethodOptions)
    image_size: int | list[int] | None = None
    stem_stride: int | None = None
    epochs: int = 50
    max_steps: int | None = None
    batch_size: int = 128
    evaluate_every: int = 1
    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    min_learning_rate: float = 1e-5
    weight_decay: float = 0.05
    momentum: float = 0.9
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    step_epochs: float = 30
    step_decay: float = 0.1
    warmup_epochs: float | None = None
    warmup_learning_rate: float = 1e-6
    clip_gradient: float = 0.0
    accumulate: int = 1
    ema_decay: float = 0.0
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    crop: Literal["resized", "shifted", "none"] = "resized"
    crop_scale: float = 0.35
    flip: float = 0.5
    color_jitter: float = 0.0
    rand_augment: str | None = None
    random_erasing: float = 0.0
    repeated_augmentation: int = 1
    cache_images: Literal["auto", "true", "false"] = "auto"
    on_bad_image: Literal["stop", "skip"] = "stop"
    workers: int = 2
    seed: int = 0
    data_seed: int | None = None
    devices: int = 1
    nodes: int = 1
    strategy: str = "auto"
    accelerator: str = "auto"
    precision: Literal["32", "bf16-mixed", "16-mixed"] = "32"
    compile: bool = False
    channels_last: bool = False
    sync_batch_norm: bool = False
    log_every: int = 50
    log_gradient_norms: bool = False
    checkpoint_every: int = 0
    resume: bool = False
    preflight_images: int = 512

    def check_ranges(self) -> None:
        """Refuse numbers that no run can have.

        Raises:
            UserError: naming the option.
        """

        def numbers(*names: str) -> dict[str, float]:
            return {name: value for name in names if (value := getattr(self, name)) is not None}

        counts = ("epochs", "max_steps", "batch_size", "accumulate", "evaluate_every", "log_every", "devices", "nodes")
        rates = ("learning_rate", "min_learning_rate", "warmup_learning_rate", "step_decay", "weight_decay")
        amounts = ("warmup_epochs", "clip_gradient", "mixup", "cutmix", "color_jitter")
        check_range(at_least=1, **numbers(*counts, "repeated_augmentation"))
        check_range(at_least=0, **numbers(*rates, *amounts, "workers", "checkpoint_every", "preflight_images"))
        check_range(at_least=0, at_most=1, **numbers("label_smoothing", "random_erasing", "flip"))
        # With 1 a moving average, or a velocity, would keep its first value for ever.
        check_range(at_least=0, below=1, **numbers("ema_decay", "momentum"))
        check_range(above=0, at_most=1, **numbers("crop_scale"))
        check_range(above=0, **numbers("step_epochs"))
        check_range(at_least=0, below=2**32, **numbers("seed", "data_seed"))


def height_and_width(size: int | list[int] | None, option: str) -> tuple[int, int] | None:
    """An image size as the library takes it: `64` and `[64, 64]` are (64, 64).

    Raises:
        UserError: neither one number nor two, or not positive; names `option`.
    """
    if size is None:
        return None
    sides = [size, size] if isinstance(size, int) else list(size)
    if len(sides) != 2 or min(sides) < 1:
        raise UserError(f"--{option}: give one side in pixels, or height and width such as [64,96]; got {size}")
    return sides[0], sides[1]
