"""A folder as timm and the Hugging Face Hub want it: config.json, safetensors, and a card for people."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from crossdistill.errors import UserError
from crossdistill.export.backend import Backend, Runtime, described
from crossdistill.export.description import KEY, Description

if TYPE_CHECKING:
    from crossdistill.staged import StagedModel


class TimmFolder(Backend):
    """What `timm.create_model("local-dir:FOLDER", pretrained=True)` opens, offline.

    A timm model takes normalised images: this is the one format whose normalisation is beside the graph and not in it,
    in `pretrained_cfg`, where `timm.data.resolve_model_data_config` finds it.
    """

    name = "timm"
    modules: ClassVar = {"timm": "timm"}
    install = "pip install timm"

    def check(self, student: "StagedModel", description: Description) -> None:
        import timm

        card, instead = student.card, "export it to onnx, openvino, executorch or torch"
        if card.stem_stride is not None:
            raise UserError(
                f"timm: the stem of {student.name} was lowered to stride {card.stem_stride}, and no argument of timm's "
                f"builds that: {instead}, or open the run with crossdistill.load_student"
            )
        if card.needs_module or not timm.is_model(card.name.partition(".")[0]):
            raise UserError(f"timm: {student.name} is none of timm's models by its name: {instead}")

    def write(self, student: "StagedModel", description: Description, folder: Path) -> Path:
        from timm.models import save_for_hf

        card, module = student.card, student.bare_module()
        height, width = card.image_size
        preprocessing = {
            "input_size": (3, height, width),
            "mean": card.mean,
            "std": card.std,
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "center",
        }
        settings = {
            "label_names": description.classes,
            # Where timm's own weights of this name are from, and their licence, is nothing to say of these.
            "pretrained_cfg": {"tag": KEY, "license": None},
            KEY: json.loads(description.to_json()),
        }
        # What the student was made with that timm may not have recorded.
        arguments = {name: value for name, value in card.kwargs.items() if name != "num_classes"}
        save_for_hf(
            module,
            str(folder),
            model_config=settings,
            model_args=arguments,
            data_config=preprocessing,
            safe_serialization=True,
        )
        return folder

    def open(self, path: Path, threads: int | None = None) -> Runtime:
        import timm
        import torch

        if threads is not None:
            torch.set_num_threads(threads)
        module = timm.create_model(f"local-dir:{path}", pretrained=True).eval()
        data = timm.data.resolve_model_data_config(module)
        mean, std = (torch.tensor(data[key]).reshape(1, -1, 1, 1) for key in ("mean", "std"))

        def run(images: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                return module((torch.from_numpy(images) - mean) / std).numpy()

        config = json.loads((path / "config.json").read_text())
        return Runtime(run, f"timm {timm.__version__}", described(json.dumps(config.get(KEY)), path))
