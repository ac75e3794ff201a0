"""The methods' equations as pure functions of tensors; each stands in its method's file."""

from crossdistill.methods.kd import kd_loss
from crossdistill.methods.ofa import ofa_loss

__all__ = ["kd_loss", "ofa_loss"]
