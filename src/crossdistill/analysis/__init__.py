"""What can be said of a pair of models without training."""

from crossdistill.analysis.inspection import inspect_pair, price

__all__ = ["inspect_pair", "price"]
