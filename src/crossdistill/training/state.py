"""The state of training: all that a checkpoint holds, written and read in one place, and the seeds of a run.

Learning rate, progress, order, augmentation and mixing are functions of the step and the data seed; they are in no
state. What is left is here.
"""

import random
from typing import Any

import numpy as np
import torch
from timm.utils import ModelEmaV3
from torch.optim import Optimizer

from crossdistill.distiller import Distiller
from crossdistill.evaluation import headline
from crossdistill.training.terms import TermSums


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch.

    A run seeds three times: before the student is built, so that students of a seed begin alike whatever the teacher;
    before the method's parts are built, so that they begin alike whatever the student; and before the first step, with
    the rank added, so that dropout and what a method draws differ between processes and do not depend on how many
    numbers it took to build the models.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


class TrainState:
    """Everything that changes while a run trains.

    Args:
        distiller: the method, with its student, its parts and its critic.
        optimizer: of the distiller.
        critic_optimizer: of the critic, where there is one.
        ema: the moving average of the student, where one runs.
        precision: Fabric's precision plugin, which may scale the loss.

    Attributes:
        step: optimiser steps taken.
        best: the highest at an evaluation, in percent, of what the run is judged by (`evaluation.HEADLINES`); None
            before, and where nothing judges.
        seconds: spent training.
        last_evaluation: of the end of the training; empty before.
        terms: sums of the loss terms since the last report.
    """

    def __init__(
        self,
        distiller: Distiller,
        optimizer: Optimizer,
        *,
        critic_optimizer: Optimizer | None = None,
        ema: ModelEmaV3 | None = None,
        precision: Any = None,
    ) -> None:
        self.distiller = distiller
        self.optimizer = optimizer
        self.critic_optimizer = critic_optimizer
        self.ema = ema
        self.precision = precision
        self.step = 0
        self.best: float | None = None
        self.seconds = 0.0
        self.last_evaluation: dict[str, float] = {}
        self.terms = TermSums()

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """Two parts: `shared`, the same in all processes, and `rank`, what this process has for itself."""
        distiller, local = self.distiller.state_dict(), self.distiller.rank_local
        critic = self.distiller.critic
        shared = {
            "step": self.step,
            "best": self.best,
            "seconds": self.seconds,
            "last_evaluation": self.last_evaluation,
            "summed_steps": self.terms.steps,
            "distiller": {name: tensor for name, tensor in distiller.items() if name not in local},
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.module.state_dict() if self.ema is not None else {},
            "critic": critic.state_dict() if critic is not None else {},
            "critic_optimizer": self.critic_optimizer.state_dict() if self.critic_optimizer is not None else {},
            "precision": self.precision.state_dict() if self.precision is not None else {},
        }
        rank = {
            "sums": {name: value.cpu() for name, value in self.terms.sums.items()},
            "weights": self.terms.weights,
            "random": random_states(),
            "rank_local": {name: distiller[name] for name in local},
        }
        return {"shared": shared, "rank": rank}

    def load_state_dict(self, state: dict[str, dict[str, Any]]) -> None:
        """Take up what `state_dict` gave, random states included."""
        shared, rank = state["shared"], state["rank"]
        self.distiller.load_state_dict(shared["distiller"] | rank["rank_local"])
        self.optimizer.load_state_dict(shared["optimizer"])
        if self.ema is not None:
            self.ema.module.load_state_dict(shared["ema"])
        if self.critic_optimizer is not None:
            assert self.distiller.critic is not None
            self.distiller.critic.load_state_dict(shared["critic"])
            self.critic_optimizer.load_state_dict(shared["critic_optimizer"])
        if self.precision is not None:
            self.precision.load_state_dict(shared["precision"])
        self.step = shared["step"]
        self.best = shared["best"]
        self.seconds = shared["seconds"]
        self.last_evaluation = shared["last_evaluation"]
        device = next(self.distiller.student.parameters()).device
        self.terms.sums = {name: value.to(device) for name, value in rank["sums"].items()}
        self.terms.weights = rank["weights"]
        self.terms.steps = shared["summed_steps"]
        set_random_states(rank["random"])

    def take(self, evaluated: dict[str, float]) -> None:
        """Remember an evaluation, where it is the best."""
        name = headline(evaluated)
        if name is not None:
            self.best = evaluated[name] if self.best is None else max(self.best, evaluated[name])

    def is_finite(self) -> bool:
        """Whether no weight of the student is a NaN or an infinity."""
        tensors = self.distiller.student.state_dict().values()
        return all(bool(torch.isfinite(tensor).all()) for tensor in tensors if tensor.is_floating_point())


def random_states() -> dict[str, Any]:
    """The states of all global generators, as tensors and plain values."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    states: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": {"version": version, "internal": torch.tensor(internal, dtype=torch.int64), "gauss": gauss},
        "numpy": {
            "name": name,
            "keys": torch.from_numpy(np.asarray(keys).astype(np.int64)),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "cached": float(cached),
        },
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_random_states(states: dict[str, Any]) -> None:
    """Put back what `random_states` gave."""
    torch.set_rng_state(states["torch"])
    python = states["python"]
    random.setstate((python["version"], tuple(python["internal"].tolist()), python["gauss"]))
    saved = states["numpy"]
    keys = saved["keys"].numpy().astype(np.uint32)
    np.random.set_state((saved["name"], keys, saved["position"], saved["has_gauss"], saved["cached"]))
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
