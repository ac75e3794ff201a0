"""Shards: one column of some images, a safetensors file that is written row by row and read where it lies."""

import errno
import hashlib
import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import safe_open
from torch import Tensor

from crossdistill.errors import UserError
from crossdistill.files import written_whole

_NAMES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float64: "F64",
    torch.int32: "I32",
}
# Where the tensor begins in the file; a multiple of what vector instructions like.
_ALIGNMENT = 64


@dataclass(frozen=True)
class Entry:
    """What the index says of a shard.

    Args:
        images: rows of it.
        bytes: size of the file.
        sha256: of the whole file.
    """

    images: int
    bytes: int
    sha256: str


class ShardWriter:
    """Appends rows to a file; safetensors' own writer would need all of them in memory.

    Args:
        file: opened for writing.
        images: rows that will be appended.
    """

    def __init__(self, file: BinaryIO, images: int) -> None:
        self._file = file
        self._images = images
        self._appended = 0
        self._digest = hashlib.sha256()

    def append(self, rows: Tensor) -> None:
        """Append the rows of some images, (b, ...), on the host, of the same shape and memory order in every call."""
        if not self._appended:
            # A map of a Transformer lies token by token. What is read back lies alike: sums then add up in one order.
            self._order = sorted(range(1, rows.ndim), key=rows.stride().__getitem__, reverse=True)
            self._write(_header(rows, self._order, self._images))
        stored = rows.permute(0, *self._order).contiguous()
        # NumPy knows no bfloat16; bytes are bytes.
        self._write(stored.reshape(-1).view(torch.uint8).numpy().data)
        self._appended += len(rows)

    def entry(self) -> Entry:
        """What the index is to say, behind the last row."""
        assert self._appended == self._images
        return Entry(self._images, self._file.tell(), self._digest.hexdigest())

    def _write(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._digest.update(data)


@contextmanager
def new_shard(path: Path, images: int) -> Iterator[ShardWriter]:
    """A writer of a file that is there when all is written, and not before.

    Raises:
        UserError: the disk is full, or the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as beside, beside.open("wb") as file:
            yield ShardWriter(file, images)
    except OSError as error:
        reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror
        raise UserError(
            f"cannot write the teacher cache's {path}: {reason}; what is written already stays, and the same command "
            "goes on"
        ) from error


class Shard:
    """A shard that is read where it lies, by memory mapping.

    Args:
        path: the file.
        entry: what the index says of it.

    Raises:
        UserError: the file is not what was written.
    """

    def __init__(self, path: Path, entry: Entry) -> None:
        check_content(path, entry)
        with safe_open(path, framework="pt") as opened:
            # Mapped, not read.
            self._rows = opened.get_tensor("rows")
            order = json.loads(opened.metadata()["order"])
        self._axes = [1 + order.index(axis) for axis in range(1, self._rows.ndim)]

    def rows(self, start: int, stop: int) -> Tensor:
        """Some rows, (stop - start, ...), in memory of their own, laid out as when they were computed."""
        # A copy, because kernels may add up in another order where a tensor does not begin at an aligned address.
        return self._rows[start:stop].clone().permute(0, *self._axes)

    def pick(self, positions: Tensor) -> Tensor:
        """The rows at these positions, as `rows` gives them."""
        return self._rows[positions].permute(0, *self._axes)


def check_size(path: Path, entry: Entry) -> None:
    """Refuse a file that is missing or cut short, without reading it.

    Raises:
        UserError: naming the file and what to do.
    """
    size = path.stat().st_size if path.exists() else None
    if size != entry.bytes:
        damage = "is missing" if size is None else f"has {size:,} bytes of {entry.bytes:,}"
        raise UserError(f"the teacher cache's {path} {damage}: make it again with --teacher_cache_fill true")


def check_content(path: Path, entry: Entry) -> None:
    """Refuse a file that is not what was written.

    Raises:
        UserError: naming the file and what to do.
    """
    check_size(path, entry)
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != entry.sha256:
            raise UserError(
                f"the teacher cache's {path} is damaged, its checksum is another: make it again with "
                "--teacher_cache_fill true"
            )


def _header(rows: Tensor, order: list[int], images: int) -> bytes:
    """What stands before the tensor in a safetensors file that holds this one tensor, `rows`."""
    shape = [images, *(rows.shape[axis] for axis in order)]
    size = rows.element_size() * images * rows[0].numel()
    text = json.dumps(
        {
            "__metadata__": {"order": json.dumps(order)},
            "rows": {"dtype": _NAMES[rows.dtype], "shape": shape, "data_offsets": [0, size]},
        }
    ).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    return struct.pack("<Q", len(text)) + text
