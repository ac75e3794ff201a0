"""How good a model is: accuracy and agreement with a teacher, accuracy on corrupted images."""

from crossdistill.evaluation.accuracy import answers, evaluate
from crossdistill.evaluation.corruptions import corrupted_top1

__all__ = ["answers", "corrupted_top1", "evaluate"]
