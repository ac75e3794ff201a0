"""A short name for the content of a data set, by which two runs know that they saw the same images."""

import hashlib
from pathlib import Path

import torch

from crossdistill.data.sources import FileSource, ImageSource

# Of a file. Reading all of ImageNet to name it would take half an hour. An encoder's stream differs to its end once a
# pixel does, so size and end tell two images apart.
_END = 4096
# Of a user's data set, whose items may be dear to make.
_ITEMS = 256


def fingerprint(source: ImageSource) -> str:
    """The content of a source in 32 hexadecimal digits: labels, names, and images in their order.

    Pixels in memory count whole. Of a file its size and its last 4 KiB do; of a user's own data set the pixels of at
    most 256 items, spread evenly. Where files lie does not count.

    Raises:
        UserError: an item of a user's data set cannot be read.
    """
    digest = hashlib.sha256()
    digest.update(source.labels.to(torch.int64).cpu().numpy().tobytes())
    if source.pixels is not None:
        digest.update(repr(tuple(source.pixels.shape)).encode())
        digest.update(source.pixels.cpu().contiguous().numpy().tobytes())
    elif isinstance(source, FileSource):
        for name, path in zip(source.names, source.paths, strict=True):
            digest.update(f"{name}\0".encode() + size_and_end(path))
    else:
        digest.update("\0".join(source.names).encode())
        for index in range(0, len(source), max(1, -(-len(source) // _ITEMS))):
            image = source.read(index)
            digest.update(repr(image.size).encode() + image.tobytes())
    return digest.hexdigest()[:32]


def size_and_end(path: str) -> bytes:
    """What names the content of a file without reading all of it."""
    size = Path(path).stat().st_size
    with open(path, "rb") as file:
        file.seek(max(0, size - _END))
        return f"{size}\0".encode() + file.read()
