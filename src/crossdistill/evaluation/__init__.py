"""How good a model is: accuracy and agreement with a teacher, accuracy on corrupted images."""

from crossdistill.evaluation.accuracy import check_classes, empty_logits, evaluate, predict
from crossdistill.evaluation.corruptions import corrupted_top1

__all__ = ["check_classes", "corrupted_top1", "empty_logits", "evaluate", "predict"]
