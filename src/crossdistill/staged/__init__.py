"""Any image classifier seen as stem -> stages -> head, with feature maps as (B, C, H, W) whatever its own layout.

`model.py` holds the class that everything else uses; `probe.py` finds out, by one run, how a model is built and whether
it can be run in segments; `layout.py` knows tensor layouts; `head.py` applies a classifier at every position.
"""

from crossdistill.staged.card import ModelCard
from crossdistill.staged.model import StagedModel
from crossdistill.staged.outputs import Outputs, Projections
from crossdistill.staged.probe import Stage

__all__ = ["ModelCard", "Outputs", "Projections", "Stage", "StagedModel"]
