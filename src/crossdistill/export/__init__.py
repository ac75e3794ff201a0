"""Students as files of other runtimes: written, opened there again, judged on real images, and measured.

`export.py` is the whole of it; `BACKENDS` is what there is, each in a file of its own; `judge.py` compares what
a runtime says with what the student says, `measure.py` times runtimes in processes of their own, `card.py` is what
comes out. Nothing is imported here: a process that times one runtime must not hold the others in its memory.
"""

# Nothing is imported until a backend is asked for.
BACKENDS: dict[str, str] = {
    "timm": "crossdistill.export.timm_folder.TimmFolder",
    "onnx": "crossdistill.export.onnx.Onnx",
    "openvino": "crossdistill.export.openvino.OpenVino",
    "executorch": "crossdistill.export.executorch.ExecuTorch",
    "torch": "crossdistill.export.torch_export.TorchExport",
}
