"""Runs on several machines: each is a task of a Ray cluster, with its share of the processors."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crossdistill.errors import UserError
from crossdistill.study.engines import Outcome, Teller, execute
from crossdistill.study.runs import Run

# How often a run whose machine went away is given to another one.
_RETRIES = 5
_SECONDS = 1.0


class Cluster:
    """An engine: a Ray cluster, which starts as many runs at once as it has room for.

    All machines must have this package and see the study's folder, the data and the teachers under the paths that they
    have here. A run whose worker dies is given to another one, and goes on from its checkpoint.

    Args:
        address: "auto" for the cluster that this machine belongs to, "local" for one of this machine's own cores that
            is started and ended here, or `ray://HOST:10001`.
        cpus: cores of a run.
        gpus: GPUs of a run.

    Raises:
        UserError: another kind of address, or Ray is not installed.
    """

    def __init__(self, address: str, cpus: int = 1, gpus: float = 0) -> None:
        if address not in ("auto", "local") and not address.startswith("ray://"):
            raise UserError(f"--cluster {address}: give auto, local or ray://HOST:10001")
        try:
            import ray  # noqa: F401
        except ImportError as error:
            raise UserError("--cluster needs Ray: pip install 'crossdistill[ray]'") from error
        self.address = address
        self.cpus = cpus
        self.gpus = gpus

    def __call__(self, runs: Sequence[Run], teller: Teller) -> list[Outcome]:
        import ray

        self._connect()
        try:
            self._check_room()
            make = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=_RETRIES)(_make)
            pending: dict[Any, Run] = {}
            for run in runs:
                pending[make.remote(run, os.getcwd(), self.cpus)] = run
                teller.began(run)
            outcomes = []
            try:
                while pending:
                    for task in ray.wait(list(pending), timeout=_SECONDS)[0]:
                        outcomes.append(_outcome(task, pending.pop(task)))
                        teller.ended(outcomes[-1])
            except KeyboardInterrupt:
                # As Ctrl-C reaches a run on this machine: it stops behind a checkpoint.
                for task in pending:
                    ray.cancel(task)
                ray.wait(list(pending), num_returns=len(pending), timeout=None)
                raise
            return outcomes
        finally:
            ray.shutdown()

    def _connect(self) -> None:
        import ray

        try:
            ray.init(address=self.address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"--cluster {self.address}: there is no Ray cluster that answers ({reason[:200]})"
            ) from error

    def _check_room(self) -> None:
        """A task that no machine has room for would wait for ever."""
        import ray

        for name, wanted in (("CPU", self.cpus), ("GPU", self.gpus)):
            most = max((node["Resources"].get(name, 0) for node in ray.nodes() if node["Alive"]), default=0)
            if wanted > most:
                raise UserError(
                    f"--cluster {self.address}: a run wants {wanted:g} {name}s, and its largest machine has {most:g}"
                )


def _make(run: Run, where: str, threads: int) -> Outcome:
    """On a worker: bring a run to its end, or on from where another worker left it."""
    if not Path(where).is_dir():
        return Outcome(run, {}, f"this machine has no folder {where}: a study on a cluster wants a shared one")
    os.chdir(where)
    import torch

    torch.set_num_threads(threads)
    return execute(run)


def _outcome(task: Any, run: Run) -> Outcome:
    import ray

    try:
        outcome: Outcome = ray.get(task)
    except ray.exceptions.RayError as error:
        return Outcome(run, {}, f"the cluster lost it {_RETRIES + 1} times: {type(error).__name__}")
    if not outcome.error and not run.folder.finished:
        return Outcome(run, {}, f"{run.folder.path} is not on this machine: a study on a cluster wants a shared folder")
    return outcome
