"""Training: one loop for every method, exact checkpoints, and reports."""

from crossdistill.training.run import distill, train

__all__ = ["distill", "train"]
