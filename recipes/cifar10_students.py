"""The CIFAR-10 tables of docs/results.md: five pairs of architectures, every method that fits the pair, several seeds.

    python recipes/cifar10_students.py --data FOLDER --teachers runs/cifar10 --output runs/cifar10_students

FOLDER is an image folder with `train/` and `test/`. The teachers, in the folders cnn, vit and mlp of `--teachers`, saw
all of its training images (recipes/cifar10_{cnn,vit,mlp}_teacher.yaml). A student sees the first 500 of each class and
is judged once, at the end, on all test images; the next 500 of each class choose KD's temperature. What else the table
holds is in recipes/tables.py.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tables import parse, print_table

from crossdistill.options import MethodOptions, ModelOptions, TrainingOptions


@dataclass(frozen=True)
class Student:
    """A model with the numbers of the recipe that depend on it."""

    model: ModelOptions
    learning_rate: float
    epochs: int
    stem_stride: int | None = None


# With a gentler stem its stages have 16x16, 8x8, 4x4 and 2x2 positions: around a ViT's 8x8, as at 224 pixels.
CNN = Student(ModelOptions("test_resnet"), 5e-3, 6, stem_stride=2)
# With a distillation token, as CSKD was published; timm answers with the mean of both heads, whatever the method.
VIT = Student(
    ModelOptions("deit_tiny_distilled_patch16_224", {"patch_size": 8, "embed_dim": 96, "depth": 6, "num_heads": 3}),
    2e-3,
    8,
)
# At a rate of 3e-3 one seed in two is stuck at chance for half of the training.
MLP = Student(
    ModelOptions("timm.models.mlp_mixer.MlpMixer", {"patch_size": 8, "embed_dim": 96, "num_blocks": 6}), 1e-3, 8
)

# A method of its own name in the tables, for CAKD without its views: in short trainings they cost more than they bring.
WITHOUT_VIEWS = "cakd-without-views"
# The teacher's folder, the student, and the methods that fit: CAKD wants attention in the teacher, CSKD a CNN as the
# teacher and patch tokens in the student.
STUDIES: dict[str, tuple[str, Student, tuple[str, ...]]] = {
    "vit-cnn": ("vit", CNN, ("scratch", "kd", "ofa", "cakd", WITHOUT_VIEWS, "fbt", "pat")),
    "cnn-vit": ("cnn", VIT, ("scratch", "kd", "ofa", "cskd", "fbt", "pat")),
    "mlp-cnn": ("mlp", CNN, ("scratch", "kd", "ofa", "fbt", "pat")),
    "vit-mlp": ("vit", MLP, ("scratch", "kd", "ofa", "fbt", "pat")),
    "cnn-cnn": ("cnn", CNN, ("scratch", "kd", "ofa", "fbt", "pat")),
}
# What the quickstart gives them too: OFA's authors weight its stages so on small images; PAT's tokens of 512 channels
# would be many times the work of such small models, and prompts at every stage double the time.
KWARGS: dict[str, dict[str, Any]] = {
    "ofa": {"stage_weight": 0.1},
    "pat": {"width": 128, "heads": 4, "prompt_stages": [4]},
}
IMAGES_OF_A_CLASS = 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--teachers", type=Path, default=Path("runs/cifar10"))
    parser.add_argument("--output", type=Path, default=Path("runs/cifar10_students"))
    arguments = parse(parser, list(STUDIES), "data", [WITHOUT_VIEWS])
    for teacher in {STUDIES[name][0] for name in arguments.pairs}:
        if not (arguments.teachers / teacher / "student.safetensors").exists():
            recipe = f"recipes/cifar10_{teacher}_teacher.yaml"
            parser.error(f"--teachers {arguments.teachers} has no {teacher}: see {recipe}")
    data, held_out = arguments.output / "data", arguments.output / "held_out"
    _choose(arguments.data, data, ("train", 0), ("test", None))
    _choose(arguments.data, held_out, ("train", 0), ("train", IMAGES_OF_A_CLASS))
    for name in arguments.pairs:
        teacher, student, methods = STUDIES[name]
        weights = arguments.teachers / teacher / "student.safetensors"
        print_table(
            partial(cifar10_recipe, student, str(weights), str(data)),
            methods,
            arguments.output / name,
            arguments,
            str(held_out),
        )


def cifar10_recipe(
    student: Student,
    teacher: str,
    data: str,
    method: str,
    output: str,
    seed: int,
    hyperparameters: dict[str, Any] | None = None,
) -> TrainingOptions:
    """What every study on CIFAR-10 runs; `hyperparameters` are the method's, beside those of `KWARGS`."""
    kwargs = dict(KWARGS.get(method, {}))
    if method == WITHOUT_VIEWS:
        method, kwargs = "cakd", {"view_probability": 0.0}
    kwargs |= hyperparameters or {}
    return TrainingOptions(
        output=output,
        data=data,
        student=student.model,
        stem_stride=student.stem_stride,
        teacher_weights=teacher,
        method=MethodOptions(method, kwargs),
        image_size=32,
        epochs=student.epochs,
        batch_size=64,
        learning_rate=student.learning_rate,
        crop="shifted",
        seed=seed,
        log_every=78,
    )


def _choose(images: Path, folder: Path, *splits: Sequence[Any]) -> None:
    """An image folder of links: for each split the source, and where a class's images begin (None: all of them)."""
    for name, (source, start) in zip(("train", "val"), splits, strict=True):
        for label in sorted(path for path in (images / source).iterdir() if path.is_dir()):
            files = sorted(label.iterdir())
            if start is not None:
                files = files[start : start + IMAGES_OF_A_CLASS]
            target = folder / name / label.name
            target.mkdir(parents=True, exist_ok=True)
            for file in files:
                link = target / file.name
                if not link.is_symlink():
                    link.symlink_to(file.resolve())


if __name__ == "__main__":
    main()
