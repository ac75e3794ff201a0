"""What two trained models have in common inside, and where they look: what `crossdistill analyze` shows."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from rich.console import Group
from rich.table import Table
from torch import Tensor

from crossdistill.analysis.attention_distance import AttentionDistances, grid_distances
from crossdistill.analysis.cka import MinibatchCKA
from crossdistill.analysis.responses import activation_map_refusal, class_activation_maps, position_energy, spread
from crossdistill.data import Batch
from crossdistill.staged import StagedModel
from crossdistill.staged.modes import eval_mode


@dataclass
class ModelResponses:
    """One model of the pair.

    Attributes:
        name: as it was built.
        stages: paths of the stage ends.
        energy: of each stage (H, W), each position's share of the energy, mean over images.
        spreads: of each stage, the share of the positions that the energy is spread over, mean over images.
        attention_distances: path of each measured attention layer -> of each head, as shares of the image's side.
        attention_to_all: of each of these layers, what attention to all patches alike would give.
        attention_left_out: number of attention layers that are not measured.
    """

    name: str
    stages: list[str]
    energy: list[Tensor]
    spreads: list[float]
    attention_distances: dict[str, list[float]]
    attention_to_all: list[float]
    attention_left_out: int


@dataclass
class Representations:
    """What was found on the images.

    Attributes:
        images: how many they were.
        models: the one or two models.
        cka: (S_1, S_2) float64 between the stages of the first model and those of the last; NaN for a stage that says
            the same of every image.
        data: name of the data set.
    """

    images: int
    models: list[ModelResponses]
    cka: Tensor
    data: str = ""

    def __rich__(self) -> Group:
        """Tables, for `rich.print`: CKA, the stages, the attention layers where there are any."""
        attention = [_attention_table(model) for model in self.models if model.attention_distances]
        return Group(self._cka_table(), *(_stages_table(model) for model in self.models), *attention)

    def _cka_table(self) -> Table:
        first, last = self.models[0], self.models[-1]
        table = Table(
            title=f"CKA: {first.name} (rows), {last.name} (columns)",
            title_justify="left",
            caption=f"minibatch CKA, linear kernel, whole maps, {self.images} images; 1: the same up to a rotation",
            caption_justify="left",
        )
        table.add_column("stage", overflow="fold")
        for path in last.stages:
            table.add_column(path, justify="right", overflow="fold")
        for path, row in zip(first.stages, self.cka.tolist(), strict=True):
            table.add_row(path, *("-" if value != value else f"{value:.3f}" for value in row))
        return table

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `analysis.json` has them."""
        return {
            "data": self.data,
            "images": self.images,
            "cka": [[None if value != value else value for value in row] for row in self.cka.tolist()],
            "models": [
                {
                    "name": model.name,
                    "stages": model.stages,
                    "energy": [stage.tolist() for stage in model.energy],
                    "spread": model.spreads,
                    "attention_distance": model.attention_distances,
                    "attention_distance_to_all": model.attention_to_all,
                    "attention_layers_left_out": model.attention_left_out,
                }
                for model in self.models
            ],
        }


@dataclass
class Picture:
    """One image, and what the models see in it.

    Attributes:
        image: (3, H, W) in [0, 1].
        label: its class.
        energy: of each model, of each stage (H', W'), each position's share of the energy.
        asked: of each model, the class that its map speaks of; None where the model has no map.
        maps: of each model (H', W'), how much each place speaks for that class; None where it has none.
    """

    image: Tensor
    label: str
    energy: list[list[Tensor]] = field(default_factory=list)
    asked: list[str | None] = field(default_factory=list)
    maps: list[Tensor | None] = field(default_factory=list)


@torch.no_grad()
def analyze(models: Sequence[StagedModel], batches: Iterable[Batch], data: str = "") -> Representations:
    """Show the same images to one model or two and compare what their stages say.

    The models are run in eval mode and left in the mode they were in.

    Args:
        models: one or two, on the device of the batches.
        batches: images in [0, 1]; each model resizes and normalises for itself. CKA leaves out a batch of fewer than
            four images.
        data: name of the data set.

    Returns:
        What was found; all tensors are on the CPU.
    """
    cka, images = MinibatchCKA(), 0
    runs = [_Run(model) for model in models]
    for batch in batches:
        features = [feature for run in runs for feature in run(batch.images)]
        cka.add(features)
        images += len(batch.images)
    first = len(models[0].stages)
    between = cka.result()[:first, first if len(models) > 1 else 0 :]
    return Representations(images, [run.responses(images) for run in runs], between, data)


def take_pictures(models: Sequence[StagedModel], batch: Batch, classes: Sequence[str]) -> list[Picture]:
    """Where the models respond in each of a few images, and which places speak for a class.

    A model that knows the classes of the data is asked about the image's own class, another one about its answer.

    Args:
        models: on the device of the batch.
        batch: a few images.
        classes: the classes of the data, in the order of the labels.
    """
    labels = [classes[label] for label in batch.labels.tolist()]
    pictures = [Picture(image, label) for image, label in zip(batch.images.cpu(), labels, strict=True)]
    for model in models:
        with torch.no_grad(), eval_mode(model):
            outputs = model(batch.images)
        energy = [position_energy(feature).cpu() for feature in outputs.features]
        asked: list[str | None] = [None] * len(pictures)
        maps: list[Tensor | None] = [None] * len(pictures)
        if not activation_map_refusal(model):
            about = batch.labels if knows_classes(model, classes) else outputs.logits.argmax(dim=1)
            names = classes if knows_classes(model, classes) else model.card.classes
            asked = [names[index] if names else str(index) for index in about.tolist()]
            maps = list(class_activation_maps(model, batch.images, about)[0].cpu())
        for i, picture in enumerate(pictures):
            picture.energy.append([stage[i] for stage in energy])
            picture.asked.append(asked[i])
            picture.maps.append(maps[i])
    return pictures


def knows_classes(model: StagedModel, classes: Sequence[str]) -> bool:
    """Whether output k of a model answers for class k of the data, as far as its card tells."""
    return model.num_classes == len(classes) and model.card.classes in (None, list(classes))


class _Run:
    """One model's sums over the batches."""

    def __init__(self, model: StagedModel) -> None:
        self.model = model
        self.attention = AttentionDistances(model)
        self.energy = [torch.zeros(stage.size) for stage in model.stages]
        self.spreads = [0.0] * len(model.stages)
        self.distances: dict[str, Tensor] = {}

    def __call__(self, images: Tensor) -> list[Tensor]:
        with eval_mode(self.model):
            outputs, distances = self.attention(images)
        for k, feature in enumerate(outputs.features):
            energy = position_energy(feature)
            self.energy[k] += energy.sum(dim=0).cpu()
            self.spreads[k] += spread(energy).sum().item()
        for path, values in distances.items():
            self.distances[path] = self.distances.get(path, 0) + values.double().sum(dim=0).cpu()
        return outputs.features

    def responses(self, images: int) -> ModelResponses:
        return ModelResponses(
            name=self.model.name,
            stages=[stage.path for stage in self.model.stages],
            energy=[energy / images for energy in self.energy],
            spreads=[total / images for total in self.spreads],
            attention_distances={path: (total / images).tolist() for path, total in self.distances.items()},
            attention_to_all=[grid_distances(size).mean().item() for size in self.attention.layers.values()],
            attention_left_out=self.attention.left_out,
        )


def _stages_table(model: ModelResponses) -> Table:
    table = Table(
        title=f"where the stages of {model.name} respond",
        title_justify="left",
        caption="spread: the share of the positions that the energy of an image is spread over; 100 %: all alike",
        caption_justify="left",
    )
    for column in ("stage", "grid", "spread %", "strongest position, row and column"):
        table.add_column(column, justify="left" if column == "stage" else "right", overflow="fold")
    for path, energy, share in zip(model.stages, model.energy, model.spreads, strict=True):
        height, width = energy.shape
        y, x = divmod(int(energy.argmax()), width)
        strongest = f"{y + 1}, {x + 1} ({energy.max().item() * energy.numel():.2f} times the mean)"
        table.add_row(path, f"{height}x{width}", f"{100 * share:.1f}", strongest)
    return table


def _attention_table(model: ModelResponses) -> Table:
    left_out = model.attention_left_out
    table = Table(
        title=f"attention distance of {model.name}, % of the image's side",
        title_justify="left",
        caption=f"{left_out} layers are left out: they do not attend over a whole grid" if left_out else None,
        caption_justify="left",
    )
    for column in ("layer", "mean", "nearest head", "farthest head", "to all alike"):
        table.add_column(column, justify="left" if column == "layer" else "right", overflow="fold")
    for (path, heads), even in zip(model.attention_distances.items(), model.attention_to_all, strict=True):
        values = (sum(heads) / len(heads), min(heads), max(heads), even)
        table.add_row(path, *(f"{100 * value:.1f}" for value in values))
    return table
