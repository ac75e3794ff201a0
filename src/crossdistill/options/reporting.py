"""Options of what a run writes down, and when."""

from dataclasses import dataclass, field

from crossdistill.options.facts import FREE_ON_RESUME
from crossdistill.options.values import NonNegativeInt, PositiveInt


@dataclass
class ReportingOptions:
    """Where a run is recorded, and when."""

    output: str = field(default="", metadata=FREE_ON_RESUME)
    """run folder; a folder that holds another run is refused."""
    resume: bool = field(default=False, metadata=FREE_ON_RESUME)
    """go on with the run in `output`."""
    evaluate_every: PositiveInt = 1
    """epochs between evaluations."""
    probe_data: str = ""
    """labelled images, as `data`: each evaluation has the accuracy of their nearest neighbours by what the student
    represents (`knn_top1`); for students whose head is not trained."""
    log_every: PositiveInt = field(default=50, metadata=FREE_ON_RESUME)
    """optimiser steps between log lines; the host waits for the device only then."""
    log_gradient_norms: bool = field(default=False, metadata=FREE_ON_RESUME)
    """log the norm of each loss term's gradient at the student (one more backward per term)."""
    checkpoint_every: NonNegativeInt = field(default=0, metadata=FREE_ON_RESUME)
    """optimiser steps between checkpoints; 0: at the end of every epoch only."""
