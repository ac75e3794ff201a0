"""What the examples train: a ViT that ships with the package teaches a small CNN, on images inside the package."""

from importlib.resources import files

import timm
from torch.utils.data import TensorDataset

from crossdistill import StagedModel, load_student, open_data


def pair() -> tuple[StagedModel, StagedModel]:
    """The student, new, and the teacher."""
    teacher = load_student(str(files("crossdistill") / "assets" / "fashion_vit.safetensors"))
    student = StagedModel(timm.create_model("test_resnet", num_classes=10), image_size=(32, 32))
    return student, teacher


def fashion(count: int) -> tuple[TensorDataset, TensorDataset]:
    """Training and validation images (3, 32, 32) in [0, 1], `count` of each, with their class indices."""
    data = open_data("fashion-mini")
    train, validation = (
        TensorDataset(source.pixels[:count].float() / 255, source.labels[:count])
        for source in (data.train, data.validation)
        if source.pixels is not None
    )
    return train, validation
