"""The folder of a cache: `index.json` says what its content depends on and which shards there are."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from crossdistill.cache.shards import Entry, check_content, check_size, new_shard
from crossdistill.errors import UserError
from crossdistill.files import lock, written_whole

_FORMAT = 1


class CacheFolder:
    """A cache on disk. Several processes may read it; the first process of a fill alone writes the index.

    Args:
        path: the folder; it need not exist.

    Attributes:
        key: what the content depends on, by name; None where nothing was written yet.
        entries: of each shard, by the path of its file in the folder.

    Raises:
        UserError: the index is no index of this version.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        self._index = self.path / "index.json"
        self.key: dict[str, Any] | None = None
        self.entries: dict[str, Entry] = {}
        self._read()

    def check_key(self, key: Mapping[str, Any]) -> None:
        """Refuse a cache that was filled under other conditions.

        Args:
            key: what the content has to depend on.

        Raises:
            UserError: naming the first condition that differs.
        """
        wanted = json.loads(json.dumps(key))
        for name in wanted | (self.key or {}):
            there, here = (self.key or {}).get(name), wanted.get(name)
            if self.key is not None and there != here:
                raise UserError(
                    f"the teacher cache {self.path} does not fit this run: {name}: {_told(there)} in the cache, "
                    f"{_told(here)} in this run; choose another folder, or run with what it was filled with"
                )

    def covers(self, file: str, images: int) -> bool:
        """Whether a shard holds so many images, as far as can be seen without reading it."""
        entry = self.entries.get(file)
        if entry is None or entry.images < images:
            return False
        check_size(self.path / file, entry)
        return True

    def is_whole(self, file: str, images: int) -> bool:
        """Whether a shard holds so many images, its checksum computed."""
        try:
            if not self.covers(file, images):
                return False
            check_content(self.path / file, self.entries[file])
        except UserError:
            return False
        return True

    def add(self, entries: Mapping[str, Entry], key: Mapping[str, Any], *, write: bool) -> None:
        """Take shards up.

        Args:
            entries: by the paths of their files.
            key: what their content depends on.
            write: whether this process writes the index.
        """
        if write:
            # Another fill of the same cache may have gone on meanwhile.
            self._read()
        self.key = json.loads(json.dumps(key))
        self.entries |= entries
        if write:
            self.path.mkdir(parents=True, exist_ok=True)
            shards = {file: asdict(entry) for file, entry in sorted(self.entries.items())}
            index = {"format": _FORMAT, "key": self.key, "shards": shards}
            with written_whole(self._index) as beside:
                beside.write_text(json.dumps(index, indent=1) + "\n")

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait for other processes that fill this cache, and keep them waiting; what they filled is known then."""
        existed, held = self.path.exists(), self.path / ".lock"
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            with held.open("w") as file:
                lock(file, wait=True)
                self._read()
                yield
        finally:
            # A fill that is refused leaves nothing.
            if not existed and not self._index.exists():
                held.unlink(missing_ok=True)
                with suppress(OSError):
                    self.path.rmdir()

    def columns(self) -> set[str]:
        """Names of the columns of which there are shards."""
        return {file.partition("/")[0] for file in self.entries}

    def write_table(self, name: str, rows: Tensor) -> dict[str, Entry]:
        """Write a tensor whole, (N, ...), as one shard of that name, and give its entry for `add`."""
        file = f"{name}.safetensors"
        with new_shard(self.path / file, len(rows)) as shard:
            shard.append(rows.cpu())
            entry = shard.entry()
        return {file: entry}

    def read_table(self, name: str) -> Tensor | None:
        """What `write_table` wrote; None where it is not there.

        Raises:
            UserError: it is damaged.
        """
        file = f"{name}.safetensors"
        if file not in self.entries:
            return None
        check_content(self.path / file, self.entries[file])
        return safetensors.torch.load_file(self.path / file)["rows"]

    def _read(self) -> None:
        if not self._index.exists():
            return
        try:
            index = json.loads(self._index.read_text())
            if index["format"] != _FORMAT:
                raise ValueError(f"format {index['format']}")
            self.key = index["key"]
            self.entries = {file: Entry(**entry) for file, entry in index["shards"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{self._index} is no index of a teacher cache of this version: {error!r}") from error


def shard_file(column: str, place: str) -> str:
    """The path of a shard in the folder."""
    return f"{column}/{place}.safetensors"


def _told(value: Any) -> str:
    return "none" if value is None else " ".join(map(str, value)) if isinstance(value, list) else str(value)
