"""Paths that a user gave: what the file system says against them is told in one line."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS

from crossdistill.errors import UserError


@contextmanager
def readable(path: str | Path) -> Iterator[None]:
    """Turn an `OSError` of reading `path`, or something below it, into a `UserError` that names the place."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot read {error.filename or path} ({reason(error)}): check the path and its permissions"
        ) from error


def reason(error: Exception) -> str:
    """What an error says, without the number and the path that the system puts around it."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def is_folder(path: str | Path) -> bool:
    """Whether there is a folder.

    Raises:
        UserError: the system does not say, because of permissions for example.
    """
    with readable(path):
        try:
            return stat.S_ISDIR(os.stat(path).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False


def image_files(folder: str | Path) -> list[str]:
    """The files in a folder and below it that are named as images are, sorted by folder and then by name.

    Raises:
        UserError: a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise error

    with readable(folder):
        # Without `onerror` a folder that may not be read counts as empty.
        found = sorted(os.walk(folder, followlinks=True, onerror=refuse))
    return [
        os.path.join(parent, name)
        for parent, _, names in found
        for name in sorted(names)
        if name.lower().endswith(IMG_EXTENSIONS)
    ]
