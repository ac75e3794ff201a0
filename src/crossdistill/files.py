"""Files that are there whole, or not at all."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Where to write a file's content: beside its place, to which it is renamed at the end.

    A reader never sees half a file, several processes may write the same one, and after an error an older file at the
    place is left as it was.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield beside
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def folder_written_whole(path: Path) -> Iterator[Path]:
    """Where to write a folder's content: a new folder, to be renamed to its place at the end.

    After an error nothing is left of it, nor of the folders above it that were not there.

    Args:
        path: is not there yet, or is an empty folder.
    """
    nearest = next(parent for parent in path.absolute().parents if parent.is_dir())
    beside = nearest / f".{path.name}.{os.getpid()}"
    beside.mkdir()
    try:
        yield beside
        if path.is_dir():
            path.rmdir()
        path.parent.mkdir(parents=True, exist_ok=True)
        os.replace(beside, path)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def lock(file: TextIO, *, wait: bool) -> bool:
    """Hold an open file, until it is closed, against other processes that do so.

    Args:
        file: opened for writing.
        wait: for as long as another process holds it.

    Returns:
        Whether it is held; False where another process has it.
    """
    try:
        import fcntl
    except ImportError:
        return True  # Windows has no such locks.
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def source_fingerprint(folder: Path) -> str:
    """The Python files below a folder, names and content, in 32 hexadecimal digits."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        digest.update(f"{file.relative_to(folder).as_posix()}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()[:32]
