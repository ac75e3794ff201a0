"""The training loop, on Lightning Fabric. It knows neither architectures nor methods: it calls the Distiller."""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType

import torch
from lightning.fabric import Fabric
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from crossdistill.cache import Answers
from crossdistill.data import Batch, EvalLoader, Mixer, TrainLoader
from crossdistill.distiller import Distiller
from crossdistill.errors import DivergenceError, UserError
from crossdistill.evaluation import Probe, empty_logits, evaluate
from crossdistill.options import DeviceOptions, OptimizationOptions, ReportingOptions
from crossdistill.staged import StagedModel
from crossdistill.training.checkpoint import CheckpointWriter, latest_checkpoint, read_checkpoint
from crossdistill.training.devices import any_process, peak_memory
from crossdistill.training.log import RunLog
from crossdistill.training.optimization import Schedule, make_optimizer, total_steps
from crossdistill.training.run_folder import RunFolder
from crossdistill.training.state import TrainState
from crossdistill.training.terms import first_not_finite, gradient_norms

# Called by every process after an evaluation with the steps taken, the steps of the whole run, and the values. What it
# raises ends the run there, before the checkpoint of that step.
OnEvaluation = Callable[[int, int, dict[str, float]], None]


class Trainer:
    """Trains a distiller, from its first step or from the run's latest checkpoint.

    Args:
        fabric: launched.
        distiller: the method, with its student and teacher.
        train: training batches of this process.
        validation: validation batches of this process.
        mixer: label smoothing, mixup and CutMix.
        folder: where the run is recorded.
        optimization: how long, in what steps, at what rate.
        devices: in what memory order, compiled or not.
        reporting: when to log, to evaluate and to write a checkpoint.
        teacher_answers: (N,) the teacher's class of each validation image, or None.
        cached_outputs: the teacher's outputs for each micro-batch, where they are known; else the teacher runs.
        on_evaluation: told the values of each evaluation.
        probe: labelled images that tell at each evaluation what the student's representation is worth.

    Attributes:
        state: what a checkpoint holds.
        logits: (N, K) float32, what `result` says of the validation images at the end of the training, zeros where
            another process has the image; None before.
        values: (N,) float32 each, the method's validation metrics of the images, as `logits`.
    """

    def __init__(
        self,
        fabric: Fabric,
        distiller: Distiller,
        train: TrainLoader,
        validation: EvalLoader,
        mixer: Mixer,
        folder: RunFolder,
        *,
        optimization: OptimizationOptions,
        devices: DeviceOptions,
        reporting: ReportingOptions,
        teacher_answers: Tensor | None = None,
        cached_outputs: Answers | None = None,
        on_evaluation: OnEvaluation | None = None,
        probe: Probe | None = None,
    ) -> None:
        self.fabric = fabric
        self.probe = probe
        self.optimization = optimization
        self.devices = devices
        self.reporting = reporting
        self.distiller = distiller
        self.train = train
        self.validation = validation
        self.mixer = mixer
        self.folder = folder
        self.teacher_answers = teacher_answers
        self.cached_outputs = cached_outputs
        self.on_evaluation = on_evaluation
        self.log: RunLog | None = None

        self.logits: Tensor | None = None
        self.values: dict[str, Tensor] = {}

        self.total_steps = total_steps(optimization, train.steps_per_epoch)
        self._interrupted = False

        self.channels_last = devices.channels_last == "true"
        if self.channels_last:
            distiller.to(memory_format=torch.channels_last)
        optimizer = make_optimizer(distiller, optimization)
        self.schedule = Schedule(optimizer, optimization, self.total_steps, train.steps_per_epoch)
        runs: nn.Module = torch.compile(distiller) if devices.compile else distiller  # type: ignore[assignment]
        self.wrapped, self.wrapped_optimizer = fabric.setup(runs, optimizer)
        # Behind the set-up, which gives every process the weights of the first one.
        self.ema = ModelEmaV3(distiller.student, decay=optimization.ema_decay) if optimization.ema_decay else None
        critic_optimizer = None
        if distiller.critic is not None:
            critic_optimizer = distiller.critic_optimizer()
            self.wrapped_critic, self.wrapped_critic_optimizer = fabric.setup(distiller.critic, critic_optimizer)
        self.state = TrainState(
            distiller,
            optimizer,
            critic_optimizer=critic_optimizer,
            ema=self.ema,
            precision=fabric.strategy.precision,
        )

    # What is evaluated and saved: the moving average where one runs.
    @property
    def result(self) -> StagedModel:
        return self.ema.module if self.ema is not None else self.distiller.student

    def fit(self, log: RunLog | None) -> None:
        """Train to the end. On return the state's `last_evaluation` belongs to `result`.

        Raises:
            UserError: a loss term is not finite, or a checkpoint cannot be written.
            KeyboardInterrupt: asked to stop by SIGINT or SIGTERM, after a checkpoint was written.
        """
        self.log = log
        handlers = {number: signal.signal(number, self._interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            while self.state.step < self.total_steps:
                self._epoch(self.state.step // self.train.steps_per_epoch)
            if not self.state.last_evaluation:
                # Killed between the last checkpoint and the end: the evaluation is all that was missing.
                self._evaluate((self.state.step - 1) // self.train.steps_per_epoch)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def ask_again(self) -> Tensor:
        """What `result` says of this process's validation images, as `logits`; fills `values` too."""
        logits = empty_logits(self.result, self.validation.size)
        evaluate(
            self.result,
            self.validation,
            further=self.distiller.validation_metrics,
            logits=logits,
            values=self.values,
            labelled=self.validation.labelled,
        )
        if self.probe is not None:
            self.probe.top1(self.result)
        return logits

    def resume(self) -> bool:
        """Take up the run's latest checkpoint; False where there is none yet."""
        path = latest_checkpoint(self.folder.checkpoints)
        if path is None:
            return False
        self.state.load_state_dict(read_checkpoint(path, self.fabric.global_rank))
        return True

    def _epoch(self, epoch: int) -> None:
        first_step = epoch * self.train.steps_per_epoch
        end = min(first_step + self.train.steps_per_epoch, self.total_steps)
        batches = self.train.epoch(epoch, start_step=self.state.step - first_step)
        self.wrapped.train()
        self.start_interval()
        while self.state.step < end:
            self.train_step(epoch, batches)
            # At the end of an epoch its evaluation comes first: a run that goes on begins with the next one.
            if self.state.step < end and self._should_stop():
                self._count_time()
                self._save()
                self._stop()
            every = self.reporting.checkpoint_every
            if every and self.state.step % every == 0 and self.state.step < end:
                self._count_time()
                self._save()
                self.start_interval()
        self._count_time()
        # An iterator that is dropped midway would keep its workers until the garbage collector comes by.
        if hasattr(batches, "close"):
            batches.close()
        if (epoch + 1) % self.reporting.evaluate_every == 0 or self.state.step == self.total_steps:
            self._evaluate(epoch)
        self._save()
        if self.state.step < self.total_steps and self._should_stop():
            self._stop()

    def _stop(self) -> None:
        """Leave the run, whose checkpoint is written."""
        self._say(f"stopped at step {self.state.step}; go on with: --output {self.folder.path} --resume true")
        raise KeyboardInterrupt

    def start_interval(self) -> None:
        """Begin to count time and steps for the next report."""
        self._interval_started = time.perf_counter()
        self._interval_first_step = self.state.step

    def train_step(self, epoch: int, batches: Iterator[Batch]) -> None:
        """One optimiser step of the student, the critic's where it is due, and a report at the end of an interval."""
        begun = epoch * self.train.steps_per_epoch
        self.distiller.set_progress(self.state.step / self.total_steps, begun / self.total_steps)
        rate = self.schedule.set(self.state.step)
        norms = self._optimise(batches)
        self.state.step += 1
        if self.state.step % self.reporting.log_every == 0 or self.state.step == self.total_steps:
            self._report(epoch, {"learning_rate": rate} | norms)

    def _optimise(self, batches: Iterator[Batch]) -> dict[str, float]:
        """One optimiser step over `accumulate` batches; gradient norms per term where they are asked for."""
        accumulate = self.optimization.accumulate
        norms: dict[str, float] = {}
        for i in range(accumulate):
            batch = next(batches)
            images, labels = self.mixer(batch.images, batch.labels, step=self.state.step)
            if self.channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            known = None
            if self.cached_outputs is not None:
                known = self.cached_outputs.at(self.state.step, i, Batch(images, labels, batch.indices))
            with self.fabric.no_backward_sync(self.wrapped, enabled=i < accumulate - 1):
                terms = self.wrapped(images, labels, indices=batch.indices, teacher_outputs=known)
                if i == 0 and self._wants_norms():
                    norms = gradient_norms(terms, self.distiller.student)
                self.fabric.backward(torch.stack(list(terms.values())).sum() / accumulate)
            self.state.terms.add(terms, 1 / accumulate)
        if self.optimization.clip_gradient:
            self.fabric.clip_gradients(
                self.wrapped, self.wrapped_optimizer, max_norm=self.optimization.clip_gradient, error_if_nonfinite=False
            )
        self.wrapped_optimizer.step()
        self.wrapped_optimizer.zero_grad()
        if self.ema is not None:
            self.ema.update(self.distiller.student)
        if self.state.critic_optimizer is not None and (self.state.step + 1) % self.distiller.critic_every == 0:
            assert self.distiller.critic_batch is not None
            loss = self.wrapped_critic(*self.distiller.critic_batch)
            self.fabric.backward(loss)
            self.wrapped_critic_optimizer.step()
            self.wrapped_critic_optimizer.zero_grad()
            self.state.terms.add({"critic": loss})
        self.state.terms.steps += 1
        return norms

    def _means(self) -> dict[str, float]:
        """Mean of each term since the last report.

        Raises:
            DivergenceError: a term is not finite.
        """
        means = self.state.terms.means(self.fabric)
        bad = first_not_finite(means)
        if bad is not None:
            kept, first = latest_checkpoint(self.folder.checkpoints), self.state.step - self.state.terms.steps + 1
            raise DivergenceError(
                f"the loss term '{bad}' is not finite any more (step {first} to {self.state.step}); try a lower "
                "--learning_rate, --clip_gradient or --precision 32 "
                + (f"(the last good checkpoint is {kept})" if kept else "(there is no checkpoint yet)")
            )
        return means

    def _report(self, epoch: int, values: dict[str, float]) -> None:
        means = self._means()
        elapsed = time.perf_counter() - self._interval_started
        rate = (self.state.step - self._interval_first_step) * self.optimization.batch_size / elapsed
        self._count_time()
        if self.log is not None:
            loss = {"loss": sum(value for name, value in means.items() if name != "critic")}
            self.log.training(self.state.step, epoch, values | loss | means, rate, peak_memory(self.fabric.device))
        self.state.terms.clear()

    def _count_time(self) -> None:
        now = time.perf_counter()
        self.state.seconds += now - self._interval_started
        self._interval_started, self._interval_first_step = now, self.state.step

    def _evaluate(self, epoch: int) -> None:
        self._share_buffers()
        ended = self.state.step == self.total_steps
        logits = empty_logits(self.result, self.validation.size) if ended else None
        self.values = {}
        result = evaluate(
            self.result,
            self.validation,
            teacher_answers=self.teacher_answers,
            further=self.distiller.validation_metrics,
            logits=logits,
            values=self.values,
            labelled=self.validation.labelled,
        )
        if self.probe is not None:
            result["knn_top1"] = self.probe.top1(self.result)
        self.state.take(result)
        if ended:
            self.state.last_evaluation, self.logits = result, logits
        if self.log is not None:
            self.log.evaluation(self.state.step, epoch, result)
        if self.on_evaluation is not None:
            self.on_evaluation(self.state.step, self.total_steps, result)

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
        if not self.state.is_finite():
            raise DivergenceError(
                f"the student's weights are not finite at step {self.state.step}; try a lower --learning_rate or "
                f"--clip_gradient (the last good checkpoint is {latest_checkpoint(self.folder.checkpoints)})"
            )
        writer = CheckpointWriter(self.folder.checkpoints, self.state.step)
        rank = self.fabric.global_rank
        error: UserError | None = None
        if rank == 0:
            writer.begin()
        self.fabric.barrier()
        state = self.state.state_dict()
        try:
            if rank == 0:
                writer.write_shared(state["shared"])
            writer.write_rank(rank, state["rank"])
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

    def _wants_norms(self) -> bool:
        at_report = (self.state.step + 1) % self.reporting.log_every == 0 or self.state.step + 1 == self.total_steps
        return self.reporting.log_gradient_norms and at_report

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._interrupted:
            sys.exit(130)
        self._interrupted = True
        self._say("stopping after this step ...")

    def _should_stop(self) -> bool:
        """Whether to stop here; several processes agree on it, which costs a wait, so only where they wait anyway."""
        if self.fabric.world_size == 1:
            return self._interrupted
        if self.state.step % self.reporting.log_every:
            return False
        return any_process(self.fabric, self._interrupted)

    def _say(self, text: str) -> None:
        if self.log is not None:
            self.log.message(text)
