"""How long a runtime takes and how much memory, each in a process of its own.

Alone in its process a runtime has its own threads and its own peak of memory. Processes follow one another, so that
none takes time from another.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from crossdistill.export.backend import Runtime, load_backend
from crossdistill.process import peak_memory_of_process

# In the place of a backend's name: weights as they are.
PYTORCH = "pytorch"
BATCHES = (1, 32)
_WARM_UP = 3
# Repetitions of a batch: until so many seconds have passed, but no fewer and no more than these.
_SECONDS, _FEWEST, _MOST = 2.0, 10, 200


@dataclass
class Measurement:
    """What running a model costs on this machine.

    Attributes:
        median_ms: milliseconds of a batch, by its size.
        p95_ms: the 95th percentile of the same.
        threads: CPU threads.
        peak_memory_bytes: of the process, with the runtime and Python in it.
    """

    median_ms: dict[int, float]
    p95_ms: dict[int, float]
    threads: int
    peak_memory_bytes: int


def measure(backend: str, path: Path, threads: int) -> Measurement:
    """Measure a file in a new process.

    Args:
        backend: that wrote it, or `PYTORCH` for a weights file.
        path: as `Backend.open` takes it.
        threads: CPU threads.

    Raises:
        RuntimeError: the process failed, with what it said.
    """
    with tempfile.TemporaryDirectory() as folder:
        # In a file, because runtimes print what they like.
        answer = Path(folder) / "answer.json"
        command = [sys.executable, "-m", __name__, backend, str(path), str(threads), str(answer)]
        # The same modules can be imported as here.
        found = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        ended = subprocess.run(
            command,
            env=os.environ | {"PYTHONPATH": found, "OMP_NUM_THREADS": str(threads)},
            capture_output=True,
            text=True,
        )
        if not answer.exists():
            raise RuntimeError(f"measuring {path.name} with {backend} failed:\n{ended.stderr}")
        values = json.loads(answer.read_text())
    for name in ("median_ms", "p95_ms"):
        values[name] = {int(batch): value for batch, value in values[name].items()}
    return Measurement(**values)


def measured(runtime: Runtime, threads: int) -> Measurement:
    """Measure an open runtime in this process, on noise: what it costs does not depend on what the images show."""
    generator = np.random.default_rng(0)
    median, p95 = {}, {}
    for batch in BATCHES:
        images = generator.random((batch, 3, *runtime.description.image_size), dtype=np.float32)
        for _ in range(_WARM_UP):
            runtime.run(images)
        times: list[float] = []
        while len(times) < _FEWEST or (sum(times) < _SECONDS and len(times) < _MOST):
            started = time.perf_counter()
            runtime.run(images)
            times.append(time.perf_counter() - started)
        median[batch], p95[batch] = (1000 * float(np.percentile(times, share)) for share in (50, 95))
    return Measurement(median, p95, threads, peak_memory_of_process())


def _main(backend: str, path: str, threads: str, answer: str) -> None:
    if backend == PYTORCH:
        from crossdistill.export.pytorch import open_weights as open_file
    else:
        open_file = load_backend(backend).open
    Path(answer).write_text(json.dumps(asdict(measured(open_file(Path(path), int(threads)), int(threads)))))


if __name__ == "__main__":
    _main(*sys.argv[1:])
