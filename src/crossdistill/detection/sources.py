"""Images with boxes in them: of files, or of any other kind."""

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from torch import Tensor

from crossdistill.data import read_image
from crossdistill.data.fingerprint import size_and_end
from crossdistill.detection.boxes import Annotation


class SceneSource(ABC):
    """The images of one split, and the boxes in them.

    Attributes:
        annotations: what is known of each image.
        side: the side of all images in pixels, where they share one and are made for it; else None.
    """

    annotations: list[Annotation]
    side: int | None = None

    def __len__(self) -> int:
        return len(self.annotations)

    @property
    def names(self) -> list[str]:
        """N names by which the images are known."""
        return [annotation.name for annotation in self.annotations]

    @abstractmethod
    def read(self, index: int) -> Image.Image:
        """Image number `index`, RGB, at its own size; a `UserError` where it cannot be read."""

    @abstractmethod
    def subset(self, indices: Tensor) -> "SceneSource":
        """The images at these positions, in this order, as a source of their own."""


class FileScenes(SceneSource):
    """Image files, decoded when they are read.

    Args:
        paths: N image files.
        annotations: of each of them.
    """

    def __init__(self, paths: list[str], annotations: list[Annotation]) -> None:
        assert len(paths) == len(annotations)
        self.paths = paths
        self.annotations = annotations

    def read(self, index: int) -> Image.Image:
        return read_image(self.paths[index])

    def subset(self, indices: Tensor) -> "FileScenes":
        chosen = indices.tolist()
        return FileScenes([self.paths[i] for i in chosen], [self.annotations[i] for i in chosen])


@dataclass
class DetectionData:
    """A data set to train a detector with.

    Attributes:
        name: what it was opened as.
        classes: K class names; labels are positions in this list.
        train: the training images; None where only validation images were asked for.
        validation: the validation images.
        faults: what was left out, a line each.
        skipped: files left out because they could not be decoded.
    """

    name: str
    classes: list[str]
    train: SceneSource
    validation: SceneSource
    faults: list[str] = field(default_factory=list)
    skipped: int = 0

    @property
    def labelled(self) -> bool:
        """Always: boxes are labels."""
        return True


def fingerprint(source: SceneSource) -> str:
    """The content of a source in 32 hexadecimal digits: names, boxes, labels, and the files' sizes and ends."""
    digest = hashlib.sha256()
    for index, annotation in enumerate(source.annotations):
        digest.update(f"{Path(annotation.name).as_posix()}\0".encode())
        for part in (annotation.boxes, annotation.labels, annotation.crowd):
            digest.update(part.numpy().tobytes())
        if isinstance(source, FileScenes):
            digest.update(size_and_end(source.paths[index]))
    return digest.hexdigest()[:32]
