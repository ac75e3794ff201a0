"""Training: one loop for every method, exact checkpoints, and reports."""

from crossdistill.training.run import distill

__all__ = ["distill"]
