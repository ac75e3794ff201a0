"""A method in the Trainer of Hugging Face transformers: a module whose forward returns the loss and the logits.

pip install transformers accelerate
python examples/hugging_face_trainer.py --epochs 2
"""

import argparse

import torch
from pair import fashion, pair
from torch import Tensor, nn
from transformers import EvalPrediction, Trainer, TrainingArguments

from crossdistill import Distiller
from crossdistill.methods.kd import KD


class Distillation(nn.Module):
    """Any method without a critic; one that goes by `distiller.progress` wants a callback that fills it."""

    def __init__(self, distiller: Distiller) -> None:
        super().__init__()
        self.distiller = distiller

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        if self.training:
            return {"loss": torch.stack(list(self.distiller(images, labels).values())).sum()}
        logits = self.distiller.student(images).logits
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def collate(items: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    images, labels = zip(*items, strict=True)
    return {"images": torch.stack(images), "labels": torch.stack(labels)}


def top1(prediction: EvalPrediction) -> dict[str, float]:
    return {"top1": 100 * float((prediction.predictions.argmax(1) == prediction.label_ids).mean())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--images", type=int, default=2000)
    arguments = parser.parse_args()
    train, validation = fashion(arguments.images)
    student, teacher = pair()

    settings = TrainingArguments(
        "hugging_face_run",
        num_train_epochs=arguments.epochs,
        per_device_train_batch_size=128,
        per_device_eval_batch_size=256,
        learning_rate=5e-3,
        eval_strategy="epoch",
        # Its checkpoints would hold the student and the method's own parts; the teacher is in no state dict.
        save_strategy="no",
        report_to="none",
        remove_unused_columns=False,
    )
    trainer = Trainer(
        Distillation(KD(student, teacher, temperature=2.0)),
        settings,
        data_collator=collate,
        train_dataset=train,
        eval_dataset=validation,
        compute_metrics=top1,
    )
    trainer.train()
    # The student is plain timm.
    torch.save(student.model.state_dict(), "student.pt")


if __name__ == "__main__":
    main()
