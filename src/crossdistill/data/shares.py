"""Who reads which images of an optimiser step: processes, and micro-batches of each."""

from collections.abc import Iterable
from dataclasses import dataclass

from crossdistill.errors import UserError, check_range


@dataclass(frozen=True)
class Shares:
    """The images of an optimiser step, shared out.

    Args:
        batch_size: images of one optimiser step, over all processes and accumulation steps.
        accumulate: micro-batches of one optimiser step.
        rank: number of this process.
        world_size: number of processes.
    """

    batch_size: int
    accumulate: int = 1
    rank: int = 0
    world_size: int = 1

    @property
    def micro_batch(self) -> int:
        """Images of one forward pass of one process."""
        return self.batch_size // (self.world_size * self.accumulate)

    def check(self, images: int) -> None:
        """Raises a `UserError`: fewer training images than a batch, or a batch that cannot be shared out."""
        check_range(at_least=1, batch_size=self.batch_size, accumulate=self.accumulate)
        if images < self.batch_size:
            raise UserError(f"{images} training images are fewer than --batch_size {self.batch_size}: lower it")
        if self.batch_size % (self.world_size * self.accumulate):
            raise UserError(
                f"--batch_size {self.batch_size} does not divide by {self.world_size} devices times --accumulate "
                f"{self.accumulate}: give a multiple"
            )

    def parts(self, steps: Iterable[int]) -> list[slice]:
        """Where this process's micro-batches of these steps lie in the order of the epoch."""
        size = self.micro_batch
        starts = [
            step * self.batch_size + (micro * self.world_size + self.rank) * size
            for step in steps
            for micro in range(self.accumulate)
        ]
        return [slice(start, start + size) for start in starts]
