"""The training loop, on Lightning Fabric. It knows neither architectures nor methods: it calls the Distiller."""

import signal
import sys
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

import torch
from lightning.fabric import Fabric
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from crossdistill.data import Batch, EvalLoader, Mixer, TrainLoader
from crossdistill.distiller import Distiller
from crossdistill.errors import UserError
from crossdistill.evaluation.accuracy import evaluate
from crossdistill.options import TrainingOptions
from crossdistill.staged import StagedModel
from crossdistill.training.checkpoint import (
    CheckpointWriter,
    all_finite,
    latest_checkpoint,
    random_states,
    read_checkpoint,
    set_random_states,
)
from crossdistill.training.devices import any_process, peak_memory
from crossdistill.training.log import RunLog
from crossdistill.training.optimization import Schedule, make_optimizer
from crossdistill.training.run_folder import RunFolder
from crossdistill.training.terms import TermSums, first_not_finite, gradient_norms


class Loop:
    """Trains a distiller, from its first step or from the run's latest checkpoint.

    Args:
        fabric: launched.
        options: the recipe.
        distiller: the method, with its student and teacher.
        train: training batches of this process.
        validation: validation batches of this process.
        mixer: label smoothing, mixup and CutMix.
        folder: where the run is recorded.
        teacher_answers: (N,) the teacher's class of each validation image, or None.
    """

    def __init__(
        self,
        fabric: Fabric,
        options: TrainingOptions,
        distiller: Distiller,
        train: TrainLoader,
        validation: EvalLoader,
        mixer: Mixer,
        folder: RunFolder,
        teacher_answers: Tensor | None,
    ) -> None:
        self.fabric = fabric
        self.options = options
        self.distiller = distiller
        self.train = train
        self.validation = validation
        self.mixer = mixer
        self.folder = folder
        self.teacher_answers = teacher_answers
        self.log: RunLog | None = None

        steps = options.epochs * train.steps_per_epoch
        self.total_steps = min(steps, options.max_steps) if options.max_steps else steps
        self.step = 0
        self.best_top1 = 0.0
        self.seconds = 0.0
        self.terms = TermSums()
        self.last_evaluation: dict[str, float] = {}
        self._interrupted = False

        if options.channels_last:
            distiller.to(memory_format=torch.channels_last)
        self.optimizer = make_optimizer(distiller, options)
        self.schedule = Schedule(self.optimizer, options, self.total_steps, train.steps_per_epoch)
        self.ema = ModelEmaV3(distiller.student, decay=options.ema_decay) if options.ema_decay else None
        if self.ema is not None:
            self.ema.to(fabric.device)
        runs: nn.Module = torch.compile(distiller) if options.compile else distiller  # type: ignore[assignment]
        self.wrapped, self.wrapped_optimizer = fabric.setup(runs, self.optimizer)
        self.critic_optimizer = None
        if distiller.critic is not None:
            self.critic_optimizer = distiller.critic_optimizer()
            self.wrapped_critic, self.wrapped_critic_optimizer = fabric.setup(distiller.critic, self.critic_optimizer)

    # What is evaluated and saved: the moving average where one runs.
    @property
    def result(self) -> StagedModel:
        return self.ema.module if self.ema is not None else self.distiller.student

    def run(self, log: RunLog | None) -> None:
        """Train to the end. On return `last_evaluation` belongs to `result`.

        Raises:
            UserError: a loss term is not finite, or a checkpoint cannot be written.
            KeyboardInterrupt: asked to stop by SIGINT or SIGTERM, after a checkpoint was written.
        """
        self.log = log
        handlers = {number: signal.signal(number, self._interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            while self.step < self.total_steps:
                self._epoch(self.step // self.train.steps_per_epoch)
            if not self.last_evaluation:
                # Killed between the last checkpoint and the end: the evaluation is all that was missing.
                self._evaluate((self.step - 1) // self.train.steps_per_epoch)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def resume(self) -> bool:
        """Take up the run's latest checkpoint; False where there is none yet."""
        path = latest_checkpoint(self.folder.checkpoints)
        if path is None:
            return False
        shared, own = read_checkpoint(path, self.fabric.global_rank)
        self.distiller.load_state_dict(shared["distiller"] | own["rank_local"])
        self.optimizer.load_state_dict(shared["optimizer"])
        if self.ema is not None:
            self.ema.module.load_state_dict(shared["ema"])
        if self.critic_optimizer is not None:
            assert self.distiller.critic is not None
            self.distiller.critic.load_state_dict(shared["critic"])
            self.critic_optimizer.load_state_dict(shared["critic_optimizer"])
        self.fabric.strategy.precision.load_state_dict(shared["precision"])
        self.step = shared["step"]
        self.best_top1 = shared["best_top1"]
        self.seconds = shared["seconds"]
        self.last_evaluation = shared["last_evaluation"]
        self.terms.sums = {name: value.to(self.fabric.device) for name, value in own["sums"].items()}
        self.terms.weights = own["weights"]
        self.terms.steps = shared["summed_steps"]
        set_random_states(own["random"])
        return True

    def _epoch(self, epoch: int) -> None:
        first_step = epoch * self.train.steps_per_epoch
        end = min(first_step + self.train.steps_per_epoch, self.total_steps)
        batches = self.train.epoch(epoch, start_step=self.step - first_step)
        self.wrapped.train()
        self.start_interval()
        while self.step < end:
            self.advance(epoch, batches)
            if self._should_stop():
                self._count_time()
                self._save()
                self._say(f"stopped at step {self.step}; go on with: --output {self.folder.path} --resume true")
                raise KeyboardInterrupt
            every = self.options.checkpoint_every
            if every and self.step % every == 0 and self.step < end:
                self._count_time()
                self._save()
                self.start_interval()
        self._count_time()
        # An iterator that is dropped midway would keep its workers until the garbage collector comes by.
        if hasattr(batches, "close"):
            batches.close()
        if (epoch + 1) % self.options.evaluate_every == 0 or self.step == self.total_steps:
            self._evaluate(epoch)
        self._save()

    def start_interval(self) -> None:
        """Begin to count time and steps for the next report."""
        self._interval_started = time.perf_counter()
        self._interval_first_step = self.step

    def advance(self, epoch: int, batches: Iterator[Batch]) -> None:
        """One optimiser step of the student, the critic's where it is due, and a report at the end of an interval."""
        self._set_progress(epoch)
        rate = self.schedule.set(self.step)
        norms = self._optimise(batches)
        self.step += 1
        if self.step % self.options.log_every == 0 or self.step == self.total_steps:
            self._report(epoch, {"learning_rate": rate} | norms)

    def _optimise(self, batches: Iterator[Batch]) -> dict[str, float]:
        """One optimiser step over `accumulate` batches; gradient norms per term where they are asked for."""
        accumulate = self.options.accumulate
        norms: dict[str, float] = {}
        for i in range(accumulate):
            batch = next(batches)
            images, labels = self.mixer(batch.images, batch.labels, step=self.step)
            if self.options.channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            with self.fabric.no_backward_sync(self.wrapped, enabled=i < accumulate - 1):
                terms = self.wrapped(images, labels, indices=batch.indices)
                if i == 0 and self._wants_norms():
                    norms = gradient_norms(terms, self.distiller.student)
                self.fabric.backward(torch.stack(list(terms.values())).sum() / accumulate)
            self.terms.add(terms, 1 / accumulate)
        if self.options.clip_gradient:
            self.fabric.clip_gradients(
                self.wrapped, self.wrapped_optimizer, max_norm=self.options.clip_gradient, error_if_nonfinite=False
            )
        self.wrapped_optimizer.step()
        self.wrapped_optimizer.zero_grad()
        if self.ema is not None:
            self.ema.update(self.distiller.student)
        if self.critic_optimizer is not None and (self.step + 1) % self.distiller.critic_every == 0:
            assert self.distiller.critic_batch is not None
            loss = self.wrapped_critic(*self.distiller.critic_batch)
            self.fabric.backward(loss)
            self.wrapped_critic_optimizer.step()
            self.wrapped_critic_optimizer.zero_grad()
            self.terms.add({"critic": loss})
        self.terms.steps += 1
        return norms

    def _set_progress(self, epoch: int) -> None:
        if self.distiller.progress_unit == "epoch":
            self.distiller.progress.fill_(epoch * self.train.steps_per_epoch / self.total_steps)
        else:
            self.distiller.progress.fill_(self.step / self.total_steps)

    def _means(self) -> dict[str, float]:
        """Mean of each term since the last report.

        Raises:
            UserError: a term is not finite.
        """
        means = self.terms.means(self.fabric)
        bad = first_not_finite(means)
        if bad is not None:
            kept, first = latest_checkpoint(self.folder.checkpoints), self.step - self.terms.steps + 1
            raise UserError(
                f"the loss term '{bad}' is not finite any more (step {first} to {self.step}); try a lower "
                "--learning_rate, --clip_gradient or --precision 32 "
                + (f"(the last good checkpoint is {kept})" if kept else "(there is no checkpoint yet)")
            )
        return means

    def _report(self, epoch: int, values: dict[str, float]) -> None:
        means = self._means()
        elapsed = time.perf_counter() - self._interval_started
        rate = (self.step - self._interval_first_step) * self.options.batch_size / elapsed
        self._count_time()
        if self.log is not None:
            loss = {"loss": sum(value for name, value in means.items() if name != "critic")}
            self.log.training(self.step, epoch, values | loss | means, rate, peak_memory(self.fabric.device))
        self.terms.clear()

    def _count_time(self) -> None:
        now = time.perf_counter()
        self.seconds += now - self._interval_started
        self._interval_started, self._interval_first_step = now, self.step

    def _evaluate(self, epoch: int) -> None:
        self._share_buffers()
        result = evaluate(
            self.result,
            self.validation,
            teacher_answers=self.teacher_answers,
            further=self.distiller.validation_metrics,
        )
        self.best_top1 = max(self.best_top1, result["top1"])
        self.last_evaluation = result
        if self.log is not None:
            self.log.evaluation(self.step, epoch, result)

    def _share_buffers(self) -> None:
        """Give every process the first one's batch-norm statistics, so that all evaluate the model that is saved."""
        if self.fabric.world_size == 1:
            return
        for model in (self.distiller.student, self.result):
            for buffer in model.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def _save(self) -> None:
        """Write a checkpoint, unless the weights or the terms are not finite."""
        self._means()
        student = self.distiller.student.state_dict()
        if not all_finite(student):
            raise UserError(
                f"the student's weights are not finite at step {self.step}; try a lower --learning_rate or "
                f"--clip_gradient (the last good checkpoint is {latest_checkpoint(self.folder.checkpoints)})"
            )
        writer = CheckpointWriter(self.folder.checkpoints, self.step)
        rank = self.fabric.global_rank
        error: UserError | None = None
        if rank == 0:
            writer.begin()
        self.fabric.barrier()
        try:
            if rank == 0:
                writer.write_shared(self._shared_state())
            state = self.distiller.state_dict()
            own = {
                "sums": {name: value.cpu() for name, value in self.terms.sums.items()},
                "weights": self.terms.weights,
                "random": random_states(),
                "rank_local": {name: state[name] for name in self.distiller.rank_local},
            }
            writer.write_rank(rank, own)
        except UserError as caught:
            error = caught
        # One process that fails alone would leave the others waiting for it.
        failed = any_process(self.fabric, error is not None)
        if error is not None:
            raise error
        if failed:
            raise UserError(f"another process could not write the checkpoint {writer.target}")
        if rank == 0:
            writer.finish()
        self.fabric.barrier()

    def _shared_state(self) -> dict[str, Any]:
        critic = self.distiller.critic
        state = self.distiller.state_dict()
        return {
            "step": self.step,
            "best_top1": self.best_top1,
            "seconds": self.seconds,
            "last_evaluation": self.last_evaluation if self.step == self.total_steps else {},
            "summed_steps": self.terms.steps,
            "distiller": {name: state[name] for name in state if name not in self.distiller.rank_local},
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.module.state_dict() if self.ema is not None else {},
            "critic": critic.state_dict() if critic is not None else {},
            "critic_optimizer": self.critic_optimizer.state_dict() if self.critic_optimizer is not None else {},
            "precision": self.fabric.strategy.precision.state_dict(),
        }

    def _wants_norms(self) -> bool:
        at_report = (self.step + 1) % self.options.log_every == 0 or self.step + 1 == self.total_steps
        return self.options.log_gradient_norms and at_report

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._interrupted:
            sys.exit(130)
        self._interrupted = True
        self._say("stopping after this step ...")

    def _should_stop(self) -> bool:
        """Whether to stop here; several processes agree on it, which costs a wait, so only where they wait anyway."""
        if self.fabric.world_size == 1:
            return self._interrupted
        if self.step % self.options.log_every:
            return False
        return any_process(self.fabric, self._interrupted)

    def _say(self, text: str) -> None:
        if self.log is not None:
            self.log.message(text)
