"""What `evaluate` and `predict` do with a detector: average precision, and boxes as JSON and pictures."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace

from crossdistill.cli.device import find_device
from crossdistill.errors import UserError

if TYPE_CHECKING:
    from crossdistill.detection import StagedDetector
    from crossdistill.detection.boxes import Detections
    from crossdistill.detection.sources import DetectionData

# Images of one forward pass.
_BATCH = 16


def holds_detector(path: str) -> bool:
    """Whether a run folder or a weights file that this program wrote holds a detector."""
    from crossdistill.models import weights_file
    from crossdistill.models.weights import card_of

    try:
        card = card_of(weights_file(path))
    except UserError:
        # Whoever opens it says what is wrong with it.
        return False
    return card is not None and card.detector is not None


def evaluate_detector(options: Namespace) -> None:
    """Print average precision; draw what was found, missed and invented where `--draw` asks for it."""
    from crossdistill.detection import evaluate_boxes, open_detection_data
    from crossdistill.detection.loaders import SceneEvalLoader

    for name in ("corruptions", "with_patches"):
        if options[name]:
            raise UserError(f"--{name} is for classification: leave it out for a detector")
    folder = _empty_folder(options.draw, "draw") if options.draw else None
    model = _load(options)
    data = open_detection_data(options.data, boxes=options.boxes, on_bad_image=options.on_bad_image)
    if data.classes != model.classes:
        raise UserError(
            f"'{options.model}' finds {', '.join(model.classes)[:200]}, and {data.name} has "
            f"{', '.join(data.classes)[:200]}: give --data with the classes that it was trained on"
        )
    loader = SceneEvalLoader(
        data.validation,
        image_size=model.image_size,
        batch_size=min(options.batch_size, _BATCH),
        device=next(model.parameters()).device,
        workers=options.workers,
    )
    found: dict[int, Detections] = {}
    result = evaluate_boxes(model, loader, data.validation, found=found)
    if folder is not None:
        _draw_judged(folder, data, found, options.min_score, options.draw_images)
    if options.json:
        print(json.dumps(result))
        return
    width = max(map(len, result)) + 1
    for name, value in result.items():
        unit = f"{value:9d}" if name == "images" else f"{value:9.1f} s" if name == "seconds" else f"{value:9.2f} %"
        print(f"{name:<{width}}{unit}")


def predict_detector(options: Namespace, files: list[str]) -> int:
    """Print the boxes of each file, and write them and pictures into `--output`.

    Returns:
        How many files could not be read.
    """
    import torch
    from torchvision.transforms.functional import pil_to_tensor

    from crossdistill.cli.predict import read_images
    from crossdistill.detection.boxes import fit, to_image
    from crossdistill.detection.drawing import draw_found
    from crossdistill.detection.predictions import as_json
    from crossdistill.files import written_whole

    folder = _empty_folder(options.output, "output") if options.output else None
    model = _load(options)
    device, skipped, listed = next(model.parameters()).device, 0, []
    for start in range(0, len(files), _BATCH):
        read = read_images(batch := files[start : start + _BATCH], skip=len(files) > 1)
        skipped += len(batch) - len(read)
        if not read:
            continue
        fitted = [fit(image, torch.zeros(0, 4), model.image_size)[0] for _, image in read]
        with torch.no_grad():
            outputs = model(torch.stack([pil_to_tensor(image) for image in fitted]).to(device).float() / 255)
            every = model.detect(outputs)
        for (file, image), one in zip(read, every, strict=True):
            kept = one["scores"] >= options.min_score
            found = {name: part[kept].cpu() for name, part in one.items()}
            found["boxes"] = to_image(found["boxes"], (image.height, image.width), model.image_size)
            boxes = as_json(found["boxes"], found["labels"], found["scores"])
            for box in boxes:
                box["class"] = model.classes[box["class"]]
            listed.append({"file": file, "boxes": boxes})
            if options.json:
                print(json.dumps(listed[-1]))
            else:
                told = ", ".join(f"{box['class']} {100 * box['score']:.0f} % at {box['box']}" for box in boxes)
                print(f"{file}: {told or 'nothing found'}")
            if folder is not None:
                name = f"{len(listed):05d}-{Path(file).stem}.png"
                draw_found(image, found, model.classes, options.min_score).save(folder / name)
    if folder is not None:
        with written_whole(folder / "boxes.json") as beside:
            beside.write_text(json.dumps(listed, indent=1) + "\n")
    return skipped


def _load(options: Namespace) -> "StagedDetector":
    from crossdistill.detection import load_detector

    if options.image_size is not None:
        raise UserError("--image_size: a detector sees the size that it was trained at; leave it out")
    return load_detector(options.model).to(find_device(options.accelerator))


def _draw_judged(
    folder: Path, data: "DetectionData", found: "dict[int, Detections]", min_score: float, count: int
) -> None:
    from crossdistill.detection.drawing import draw_judged

    for index in sorted(found)[:count]:
        annotation = data.validation.annotations[index]
        truth = {"boxes": annotation.boxes, "labels": annotation.labels}
        picture = draw_judged(data.validation.read(index), found[index], truth, data.classes, min_score)
        picture.save(folder / f"{index:05d}.png")


def _empty_folder(path: str, option: str) -> Path:
    folder = Path(path).expanduser()
    if folder.exists() and (not folder.is_dir() or os.listdir(folder)):
        raise UserError(f"--{option} {folder} is not an empty folder: choose another one")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
