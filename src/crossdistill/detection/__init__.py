"""Object detection: torchvision's detectors on the stages of any backbone, taught by the same methods."""

from crossdistill.detection.build import build_detector, build_torchvision_detector, load_detector
from crossdistill.detection.detector import StagedDetector
from crossdistill.detection.evaluation import evaluate_boxes
from crossdistill.detection.sets import open_detection_data
from crossdistill.detection.sources import DetectionData

__all__ = [
    "DetectionData",
    "StagedDetector",
    "build_detector",
    "build_torchvision_detector",
    "evaluate_boxes",
    "load_detector",
    "open_detection_data",
]
