"""Several runs at once on one machine: worker processes, each of which makes one run after another."""

import contextlib
import multiprocessing
import os
import queue
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from types import FrameType
from typing import Any

from crossdistill.study.engines import Outcome, Teller, execute, threads_of
from crossdistill.study.runs import Run

_THREADS = "OMP_NUM_THREADS"
_DEVICES = "CUDA_VISIBLE_DEVICES"


class Workers:
    """An engine: `jobs` processes. Imports are paid once for each, not once for each run.

    The workers are in sessions of their own, so that a signal from the terminal reaches this process alone; it asks
    each of them once to stop behind a checkpoint. A worker whose parent has died does so by itself.

    Args:
        jobs: runs at once, at least 1.
    """

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        self._stopped = False
        self._workers: list[_Worker] = []

    def __call__(self, runs: Sequence[Run], teller: Teller) -> list[Outcome]:
        waiting, outcomes = deque(runs), []
        with self._signals_passed_on():
            try:
                while self._has_work(waiting, teller):
                    for connection in wait([worker.connection for worker in self._workers]):
                        worker = next(one for one in self._workers if one.connection is connection)
                        outcome = worker.outcome()
                        if not worker.alive:
                            self._workers.remove(worker)
                        if outcome is not None and not self._stopped:
                            outcomes.append(outcome)
                            teller.ended(outcome)
            finally:
                for worker in self._workers:
                    worker.dismiss()
                self._workers = []
        if self._stopped:
            raise KeyboardInterrupt
        return outcomes

    def _has_work(self, waiting: deque[Run], teller: Teller) -> bool:
        """Give the idle workers something to do, or dismiss them; whether anything is under way."""
        if not self._stopped:
            while waiting and len(self._workers) < self.jobs:
                self._workers.append(_Worker(self._free_place(), self.jobs))
            for worker in self._workers:
                if worker.run is None and waiting:
                    run = waiting.popleft()
                    teller.began(run)
                    worker.take(run)
        return any(worker.run is not None for worker in self._workers)

    def _free_place(self) -> int:
        taken = {worker.place for worker in self._workers}
        return next(place for place in range(self.jobs) if place not in taken)

    @contextlib.contextmanager
    def _signals_passed_on(self) -> Iterator[None]:
        def stop(number: int, frame: FrameType | None) -> None:
            self._stopped = True
            for worker in self._workers:
                worker.process.terminate()

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handlers = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)


class _Worker:
    """One process, as its parent sees it."""

    def __init__(self, place: int, jobs: int) -> None:
        # A forked copy of a process that has used torch's threads may hang.
        context = multiprocessing.get_context("spawn")
        self.place = place
        self.run: Run | None = None
        self.alive = True
        self.connection, theirs = context.Pipe()
        # Not a daemon: the runs have processes of their own that decode images.
        self.process = context.Process(target=_work, args=(theirs,), daemon=False)
        with _environment(place, jobs):
            self.process.start()
        theirs.close()

    def take(self, run: Run) -> None:
        self.run = run
        with contextlib.suppress(OSError):
            # A worker that has died is noticed when its outcome is read.
            self.connection.send(run)

    def outcome(self) -> Outcome | None:
        """What became of its run; None where it had none, or was asked to stop."""
        run, self.run = self.run, None
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            self.alive = False
            self.process.join()
            if run is None:
                return None
            return Outcome(run, {}, f"its process ended with {self._ending()} (see {run.folder.log})")

    def dismiss(self) -> None:
        if self.run is not None:
            self.process.terminate()
        with contextlib.suppress(OSError):
            self.connection.send(None)
        self.process.join()

    def _ending(self) -> str:
        code = self.process.exitcode
        if code is not None and code < 0:
            return f"signal {signal.Signals(-code).name}; was there too little memory for so many --jobs?"
        return f"exit code {code}"


@contextlib.contextmanager
def _environment(place: int, jobs: int) -> Iterator[None]:
    """What a worker must find before it imports torch: its share of the cores, and one of several GPUs."""
    import torch

    changes = {} if _THREADS in os.environ else {_THREADS: str(threads_of(jobs))}
    device = visible_device(place, torch.cuda.device_count(), os.environ.get(_DEVICES))
    if device is not None:
        changes[_DEVICES] = device
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def visible_device(place: int, count: int, visible: str | None) -> str | None:
    """What `CUDA_VISIBLE_DEVICES` says to a worker: one of several GPUs in turn; None where there is no choice.

    Args:
        place: number of the worker.
        count: GPUs that this process sees.
        visible: what it says to this process.
    """
    if count < 2:
        return None
    names = visible.split(",") if visible else [str(number) for number in range(count)]
    return names[place % count]


def _work(connection: Connection) -> None:
    """The worker: execute what the parent sends, until it sends None, stops it, or is no more."""
    if hasattr(os, "setsid"):
        os.setsid()
    runs: queue.Queue[Any] = queue.Queue()

    def listen() -> None:
        try:
            while (run := connection.recv()) is not None:
                runs.put(run)
        except (EOFError, OSError):
            # The parent is no more: as if it had been asked to stop, a run ends behind its next checkpoint.
            os.kill(os.getpid(), signal.SIGTERM)
        runs.put(None)

    threading.Thread(target=listen, daemon=True).start()
    while (run := runs.get()) is not None:
        try:
            outcome = execute(run)
        except KeyboardInterrupt:
            return
        connection.send(outcome)
