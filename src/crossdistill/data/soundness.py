"""Which image files can be decoded: found out before training starts, and remembered."""

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset

from crossdistill.data.images import fault_of
from crossdistill.data.paths import reason
from crossdistill.errors import UserError
from crossdistill.files import written_whole

Sample = tuple[str, int]

# Fewer files than this are read anew every time, by this process: starting workers would take longer.
_FEW = 1000
_SHARE = 64


def cache_folder() -> Path:
    """Where this package keeps downloads and findings: `CROSSDISTILL_DATA`, or `~/.cache/crossdistill`."""
    return Path(os.environ.get("CROSSDISTILL_DATA") or Path.home() / ".cache" / "crossdistill")


def sound_files(samples: list[Sample], on_bad_image: str) -> tuple[list[Sample], int]:
    """The files that can be decoded, and how many cannot.

    Args:
        samples: files and their labels.
        on_bad_image: `stop` or `skip`.

    Raises:
        UserError: a file cannot be decoded, and `on_bad_image` is `stop`.
    """
    faults = find_faults([path for path, _ in samples])
    if faults and on_bad_image == "stop":
        path, fault = next(iter(faults.items()))
        more = f", nor can {len(faults) - 1} more" if len(faults) > 1 else ""
        raise UserError(f"{path} cannot be decoded ({fault}){more}: mend or remove it, or give --on_bad_image skip")
    return [sample for sample in samples if sample[0] not in faults], len(faults)


def find_faults(paths: list[str]) -> dict[str, str]:
    """What is wrong with the files that cannot be decoded, by path.

    Reading every file of a large set takes minutes, so the findings are kept in the cache folder for as long as no
    file's size, time or permissions change.
    """
    if len(paths) < _FEW:
        return _read_all(paths, workers=0)
    memory = cache_folder() / "sound" / f"{_fingerprint(paths)}.json"
    with suppress(OSError):
        return json.loads(memory.read_text())
    faults = _read_all(paths, workers=min(16, _cores()))
    # A home that cannot be written to costs time, not correctness.
    with suppress(OSError):
        memory.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(memory) as beside:
            beside.write_text(json.dumps(faults))
    return faults


class _Faults(Dataset):
    def __init__(self, paths: list[str]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> str:
        return fault_of(self.paths[index])


def _read_all(paths: list[str], workers: int) -> dict[str, str]:
    shares = DataLoader(_Faults(paths), _SHARE, num_workers=workers, collate_fn=list, generator=torch.Generator())
    found = [fault for share in shares for fault in share]
    return {path: fault for path, fault in zip(paths, found, strict=True) if fault}


def _cores() -> int:
    # Only Linux says how many cores this process may use, which in a container are fewer than there are.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _fingerprint(paths: list[str]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        try:
            status = os.stat(path)
            state = f"{status.st_size} {status.st_mtime_ns} {status.st_mode}"
        except OSError as error:  # A dangling link; reading it will say so.
            state = reason(error)
        digest.update(f"{os.path.abspath(path)}\0{state}\n".encode())
    return digest.hexdigest()[:32]
