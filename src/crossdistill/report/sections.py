"""Parts that the page of a run and that of a study have in common."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from crossdistill.errors import UserError
from crossdistill.options import TrainingOptions
from crossdistill.report import figures
from crossdistill.report.judged import first_of_each_class, most_confused
from crossdistill.report.page import Block, Images, Table, Text, Thumbnail
from crossdistill.report.thumbnails import data_uri, open_judged

# Said where there is one evaluation, which makes no curve.
EVALUATED_ONCE = "Accuracy was measured at the end only: --evaluate_every asks for it more often."
_SHOWN_IMAGES = 12
_SHOWN_MISTAKES = 15
_VERSIONS = ("crossdistill", "torch", "timm", "device", "devices", "precision", "channels_last")
_FINGERPRINTS = ("data_fingerprint", "teacher_fingerprint", "code_fingerprint")


def confusions(counts: Tensor, classes: Sequence[str], title: str) -> list[Block]:
    """A (K, K) confusion matrix: as a picture, or of many classes the most frequent mistakes."""
    if len(classes) <= figures.MOST_CLASSES:
        return [figures.matrix(counts, classes, title)]
    total = counts.sum(dim=1)
    rows = [
        [classes[label], classes[answer], f"{images:,}", f"{100 * images / int(total[label]):.1f}"]
        for label, answer, images in most_confused(counts, _SHOWN_MISTAKES)
    ]
    header = ["class", "answered", "images", "% of the class"]
    return [Table(header, rows, caption=f"{title}: the most frequent mistakes.")] if rows else []


def pick(chosen: Tensor, order: Tensor, labels: Tensor) -> list[int]:
    """Positions of the images to show of (N,) `chosen`: of each class in turn, by the greatest (N,) `order`."""
    return first_of_each_class(chosen, order, labels, _SHOWN_IMAGES)


def image_blocks(
    options: TrainingOptions,
    names: Sequence[str],
    groups: Mapping[str, list[int]],
    label: Callable[[int], str],
    answers: Callable[[int], list[str]],
) -> list[Block]:
    """Groups of validation images with what was said of them, or a sentence where they cannot be opened.

    Args:
        options: of the run.
        names: of the N images it was judged on.
        groups: positions of images, by what they have in common.
        label: the true class of an image.
        answers: what the models said of it.
    """
    wanted = [position for positions in groups.values() for position in positions]
    blocks: list[Block] = []
    try:
        images, places = open_judged(options, [names[position] for position in wanted])
        place_of = dict(zip(wanted, places, strict=True))
        for title, positions in groups.items():
            shown = [Thumbnail(data_uri(images.read(place_of[k])), label(k), answers(k), names[k]) for k in positions]
            blocks += [Images(title, shown)] if shown else [Text(f"{title}: there are none.")]
    except UserError as error:
        return [Text(f"The images are left out: {error}.")]
    return blocks


def provenance(summaries: Sequence[dict[str, Any]]) -> Table:
    """Versions and fingerprints of runs; where they differ, all of them."""
    rows = []
    for name in (*_VERSIONS, *_FINGERPRINTS):
        values = dict.fromkeys(str(one[name]) for one in summaries if one.get(name) is not None)
        if values:
            rows.append([name.replace("_", " "), ", ".join(values)])
    return Table([], rows)
