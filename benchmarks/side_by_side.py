"""What the benchmarks share: runs that take turns, and the peak memory of a process of its own for each."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable

import torch


def take_turns(runs: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Median seconds of each run; the first turn of each warms up and is not counted."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn:
                times[name].append(time.perf_counter() - started)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def peaks(names: Iterable[str]) -> dict[str, int]:
    """Bytes that this script prints, as its last line, when it is started anew with `--peak_memory NAME`."""
    command = [sys.executable, *sys.argv, "--peak_memory"]
    return {
        name: json.loads(subprocess.run([*command, name], capture_output=True, check=True).stdout.splitlines()[-1])
        for name in names
    }
