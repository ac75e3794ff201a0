"""A method in Lightning: the Distiller is the module's one part, and the loss is the sum of its terms.

python examples/lightning_module.py --epochs 2
"""

import argparse

import lightning
import torch
from pair import fashion, pair
from torch import Tensor
from torch.utils.data import DataLoader

from crossdistill import Distiller
from crossdistill.methods.kd import KD


class Distillation(lightning.LightningModule):
    """Any method without a critic, which wants an optimiser of its own (`distiller.critic_optimizer()`)."""

    def __init__(self, distiller: Distiller, learning_rate: float) -> None:
        super().__init__()
        self.distiller = distiller
        self.learning_rate = learning_rate

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        images, labels = batch
        # What fades in or out over the training goes by this; most methods do not read it.
        self.distiller.set_progress(self.global_step / self.trainer.estimated_stepping_batches)
        terms = self.distiller(images, labels)
        self.log_dict(terms)
        return torch.stack(list(terms.values())).sum()

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        images, labels = batch
        answers = self.distiller.student(images).logits.argmax(1)
        self.log("top1", 100 * (answers == labels).float().mean(), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        # The teacher's parameters are frozen and get no gradient.
        return torch.optim.AdamW(self.distiller.parameters(), lr=self.learning_rate)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--images", type=int, default=2000)
    arguments = parser.parse_args()
    train, validation = fashion(arguments.images)
    student, teacher = pair()

    module = Distillation(KD(student, teacher, temperature=2.0), learning_rate=5e-3)
    trainer = lightning.Trainer(max_epochs=arguments.epochs, logger=False, enable_checkpointing=False)
    trainer.fit(module, DataLoader(train, batch_size=128, shuffle=True), DataLoader(validation, batch_size=256))
    # The student is plain timm.
    torch.save(student.model.state_dict(), "student.pt")


if __name__ == "__main__":
    main()
