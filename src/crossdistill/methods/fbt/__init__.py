"""FBT: `fbt.py` has the equations and the class, the other files its parts."""

from crossdistill.methods.fbt.fbt import FBT, info_nce_loss

__all__ = ["FBT", "info_nce_loss"]
