"""OpenVINO, converted from `torch.export`; int8 by NNCF."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from crossdistill.export.backend import Backend, Runtime, described
from crossdistill.export.description import INPUT, KEY, OUTPUT, Description

if TYPE_CHECKING:
    from crossdistill.staged import StagedModel


class OpenVino(Backend):
    """A pair of files, `.xml` and `.bin`; int8 for every student, with SmoothQuant where it is no CNN."""

    name = "openvino"
    modules: ClassVar = {"openvino": "openvino"}
    int8_modules: ClassVar = {"nncf": "nncf"}
    install = "pip install 'crossdistill[openvino]'"

    def write(self, student: "StagedModel", description: Description, folder: Path) -> Path:
        import openvino

        from crossdistill.export.program import exported_program

        model = openvino.convert_model(exported_program(student))
        # The converter forgets the sides with the batch.
        model.reshape({0: [-1, 3, *student.image_size]})
        model.inputs[0].get_tensor().set_names({INPUT})
        model.outputs[0].get_tensor().set_names({OUTPUT})
        return _save(model, description, folder / "model.xml")

    def int8_refusal(self, student: "StagedModel") -> str:
        return ""

    def write_int8(
        self, path: Path, student: "StagedModel", images: Sequence[np.ndarray], description: Description
    ) -> Path:
        import nncf
        import openvino

        nncf.set_log_level(logging.ERROR)
        convolutional = all(stage.mixing == ("convolution",) for stage in student.stages)
        model = openvino.Core().read_model(path)
        quantized = nncf.quantize(
            model,
            nncf.Dataset(list(images)),
            subset_size=len(images),
            # Activations of both signs behind SiLU and Hardswish want an offset; ReLU does not mind.
            preset=nncf.QuantizationPreset.MIXED,
            # What turns SmoothQuant on: it moves the outlying channels of activations into the weights.
            model_type=None if convolutional else nncf.ModelType.TRANSFORMER,
        )
        return _save(quantized, description, path.with_name("model_int8.xml"))

    def open(self, path: Path, threads: int | None = None) -> Runtime:
        import openvino

        model = openvino.Core().read_model(path)
        text = model.get_rt_info([KEY]).value if model.has_rt_info([KEY]) else None
        description = described(text, path)
        # Processors with bfloat16 would be used in it unasked, and give other answers than the rest.
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = threads
        compiled = openvino.Core().compile_model(model, "CPU", settings)
        return Runtime(
            lambda images: compiled([images])[0], f"openvino {openvino.__version__.partition('-')[0]}", description
        )


def _save(model: Any, description: Description, path: Path) -> Path:
    import openvino

    model.set_rt_info(description.to_json(), [KEY])
    # For readers that do not know the description.
    model.set_rt_info(json.dumps(description.classes), ["class_names"])
    openvino.save_model(model, path, compress_to_fp16=False)
    return path
