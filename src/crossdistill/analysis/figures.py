"""The figures of `crossdistill analyze`, drawn by matplotlib (the extra `figures`)."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from crossdistill.analysis.representations import Picture, Representations
from crossdistill.files import written_whole

# Two colours that are told apart whatever one's eyes are (Okabe, Ito), and a map of colours that is even in lightness.
_COLORS = ("#0072B2", "#D55E00")
_COLOR_MAP = "viridis"
_CELL = 1.15  # inches


def write_figures(folder: Path, found: Representations, pictures: Sequence[Picture]) -> list[Path]:
    """Draw everything that there is, as PNG.

    Args:
        folder: is made if need be; files of the same names are replaced.
        found: what `analyze` found.
        pictures: a few images, of the same models.

    Returns:
        The files.
    """
    figures = {"cka": cka_figure(found)}
    if any(model.attention_distances for model in found.models):
        figures["attention_distance"] = attention_figure(found)
    if pictures:
        figures["responses"] = response_figure(found, pictures)
        if any(values is not None for values in pictures[0].maps):
            figures["activation_maps"] = activation_figure(found, pictures)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, figure in figures.items():
        files.append(folder / f"{name}.png")
        with written_whole(files[-1]) as beside:
            figure.savefig(beside, format="png", dpi=130)
    return files


def cka_figure(found: Representations) -> Figure:
    """CKA between the stages of both models, as a heat map with its values."""
    first, last = found.models[0], found.models[-1]
    rows, columns = found.cka.shape
    figure = Figure(figsize=(2.2 + 0.8 * columns, 1.4 + 0.7 * rows), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(found.cka.numpy(), vmin=0, vmax=1, cmap=_COLOR_MAP)
    axes.set_xticks(range(columns), last.stages, rotation=30, ha="right")
    axes.set_yticks(range(rows), first.stages)
    axes.set_xlabel(last.name)
    axes.set_ylabel(first.name)
    for row, values in enumerate(found.cka.tolist()):
        for column, value in enumerate(values):
            text = "-" if value != value else f"{value:.2f}"
            axes.text(column, row, text, ha="center", va="center", color="black" if value > 0.6 else "white")
    figure.colorbar(image, label="CKA", shrink=0.8)
    return figure


def attention_figure(found: Representations) -> Figure:
    """Attention distance by layer: a dot for each head, a line through the means, dotted what no preference gives."""
    models = [model for model in found.models if model.attention_distances]
    layers = max(len(model.attention_distances) for model in models)
    figure = Figure(figsize=(max(4.0, 1.5 + 0.45 * layers), 3.2), layout="constrained")
    axes = figure.subplots()
    for model, color in zip(models, _COLORS, strict=False):
        values = list(model.attention_distances.values())
        depths = range(1, len(values) + 1)
        for depth, heads in zip(depths, values, strict=True):
            axes.scatter([depth] * len(heads), [100 * head for head in heads], s=10, alpha=0.5, color=color)
        means = [100 * sum(heads) / len(heads) for heads in values]
        axes.plot(depths, means, color=color, label=model.name)
        axes.plot(depths, [100 * even for even in model.attention_to_all], color=color, linestyle=":", linewidth=1)
    axes.set_xticks(range(1, layers + 1))
    axes.set_xlabel("attention layer (dotted: to all patches alike)")
    axes.set_ylabel("attention distance, % of the side")
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small")
    return figure


def response_figure(found: Representations, pictures: Sequence[Picture]) -> Figure:
    """Each stage's energy by position: the mean over all images first, then of a few; bright is strong."""
    titles = [path for model in found.models for path in model.stages]
    figure, grid = _grid(1 + len(pictures), 1 + len(titles))
    grid[0][0].text(0.5, 0.5, f"mean of\n{found.images} images", ha="center", va="center", fontsize="x-small")
    for axes, energy in zip(grid[0][1:], (energy for model in found.models for energy in model.energy), strict=True):
        axes.imshow(energy.numpy(), vmin=0, cmap=_COLOR_MAP)
    for row, picture in zip(grid[1:], pictures, strict=True):
        _show_image(row[0], picture)
        for axes, energy in zip(row[1:], (energy for stages in picture.energy for energy in stages), strict=True):
            axes.imshow(energy.numpy(), vmin=0, cmap=_COLOR_MAP)
    for axes, title in zip(grid[0][1:], titles, strict=True):
        axes.set_title(title, fontsize="x-small")
    column = 1
    for model in found.models:
        grid[-1][column].set_xlabel(model.name, fontsize="x-small", loc="left")
        column += len(model.stages)
    return figure


def activation_figure(found: Representations, pictures: Sequence[Picture]) -> Figure:
    """Class-activation maps over a few images: what speaks for the class that stands above each."""
    figure, grid = _grid(len(pictures), 1 + len(found.models))
    for row, picture in zip(grid, pictures, strict=True):
        _show_image(row[0], picture)
        for axes, values, asked in zip(row[1:], picture.maps, picture.asked, strict=True):
            if values is None:
                axes.text(0.5, 0.5, "no map", ha="center", va="center", fontsize="x-small")
                continue
            axes.imshow(_as_pixels(picture.image.mean(dim=0, keepdim=True)), cmap="gray", vmin=0, vmax=1)
            axes.imshow(_enlarged(values, picture.image), cmap="inferno", vmin=0, vmax=1, alpha=0.6)
            axes.set_title(asked or "", fontsize="x-small")
    for axes, model in zip(grid[-1][1:], found.models, strict=True):
        axes.set_xlabel(_folded(model.name), fontsize="x-small")
    return figure


def _grid(rows: int, columns: int) -> tuple[Figure, list[list[Axes]]]:
    figure = Figure(figsize=(_CELL * columns + 0.4, _CELL * rows + 0.4), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
    return figure, grid.tolist()


def _folded(name: str) -> str:
    """A model's name in lines that are no wider than a cell."""
    return "\n".join(textwrap.wrap(name, 20))


def _show_image(axes: Axes, picture: Picture) -> None:
    axes.imshow(_as_pixels(picture.image))
    axes.set_title(picture.label, fontsize="x-small")


def _as_pixels(image: Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).clamp(0, 1).numpy()


def _enlarged(values: Tensor, image: Tensor) -> np.ndarray:
    """What speaks for the class, from 0 to 1 at the strongest place, at the image's size."""
    positive = values.float().clamp(min=0)
    positive = positive / positive.max().clamp(min=torch.finfo(torch.float32).tiny)
    size = image.shape[1:]
    return F.interpolate(positive[None, None], size, mode="bilinear", align_corners=False)[0, 0].numpy()
