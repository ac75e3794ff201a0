"""PAT: `pat.py` has the equations and the class, the other files its parts."""

from crossdistill.methods.pat.pat import PAT

__all__ = ["PAT"]
