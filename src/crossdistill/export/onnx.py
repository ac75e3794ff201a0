"""ONNX, written by PyTorch's exporter on `torch.export`, opened by ONNX Runtime."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from crossdistill.export.backend import Backend, Runtime, described
from crossdistill.export.description import INPUT, KEY, OUTPUT, Description

if TYPE_CHECKING:
    from crossdistill.staged import StagedModel


class Onnx(Backend):
    """An `.onnx` file, for ONNX Runtime; int8 by its static quantisation, for convolutional networks."""

    name = "onnx"
    modules: ClassVar = {"onnx": "onnx", "onnxscript": "onnxscript", "onnxruntime": "onnxruntime"}
    install = "pip install 'crossdistill[onnx]'"

    def write(self, student: "StagedModel", description: Description, folder: Path) -> Path:
        import torch

        from crossdistill.export.program import Deployed, example_images

        with _silent("torch.onnx"):
            program = torch.onnx.export(
                Deployed(student),
                (example_images(student),),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                input_names=[INPUT],
                output_names=[OUTPUT],
                verbose=False,
            )
        assert program is not None
        program.model.metadata_props.update(_metadata(description))
        path = folder / "model.onnx"
        program.save(path)
        return path

    def int8_refusal(self, student: "StagedModel") -> str:
        others = {mixing for stage in student.stages for mixing in stage.mixing} - {"convolution"}
        if not others:
            return ""
        return (
            "ONNX Runtime's static quantisation is for convolutional networks, and the positions of "
            f"{student.name} are mixed by {' and '.join(sorted(others))} too (openvino has int8 for it)"
        )

    def write_int8(
        self, path: Path, student: "StagedModel", images: Sequence[np.ndarray], description: Description
    ) -> Path:
        import onnx
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        class Reader(CalibrationDataReader):
            def __init__(self) -> None:
                self.left = iter(images)

            def get_next(self) -> dict[str, np.ndarray] | None:
                image = next(self.left, None)
                return None if image is None else {INPUT: image}

        prepared, target = path.with_name("prepared.onnx"), path.with_name("model_int8.onnx")
        with _silent("root"):
            quant_pre_process(path, prepared)
            # Scales per output channel of a convolution: with one for all, depthwise convolutions lose most.
            quantize_static(
                prepared,
                target,
                Reader(),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
        prepared.unlink()
        model = onnx.load(target)
        onnx.helper.set_model_props(model, _metadata(description))
        onnx.save(model, target)
        return target

    def open(self, path: Path, threads: int | None = None) -> Runtime:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
            options.inter_op_num_threads = 1
        session: Any = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        description = described(session.get_modelmeta().custom_metadata_map.get(KEY), path)
        return Runtime(
            lambda images: session.run([OUTPUT], {INPUT: images})[0],
            f"onnxruntime {onnxruntime.__version__}",
            description,
        )


def _metadata(description: Description) -> dict[str, str]:
    """The description, and for readers that do not know it, its parts under names of their own."""
    import json

    return {
        KEY: description.to_json(),
        "class_names": json.dumps(description.classes),
        "input": description.input,
        "output": description.output,
    }


@contextmanager
def _silent(name: str) -> Iterator[None]:
    """Keep what an exporter logs below errors from the user."""
    logger = logging.getLogger(None if name == "root" else name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
