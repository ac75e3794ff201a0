"""The page of a study that is running."""

import time
import warnings
from pathlib import Path
from typing import Any

from crossdistill.errors import UserCaution
from crossdistill.report.write import write_report

# Of the time of a study, the page takes no more than this.
_SHARE = 0.1


class LivePage:
    """Writes the page of a study anew when a run has ended, but not so often that it would slow the study.

    Validation images wait for the end: opening the data takes longest. A study that is stopped leaves a page that does
    not reload itself any more.

    Args:
        folder: the study's.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = folder
        self._cost = 0.0
        self._ended = -float("inf")
        self._written = False

    def __enter__(self) -> "LivePage":
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._written and exception[0] is not None:
            self._write(live=False)

    def update(self) -> None:
        """Write the page, unless the last time was too short ago."""
        begun = time.monotonic()
        if begun - self._ended < self._cost / _SHARE:
            return
        self._write(live=True)
        self._ended = time.monotonic()
        self._cost = self._ended - begun

    def _write(self, live: bool) -> None:
        try:
            write_report(self.folder, images=False, live=live)
            self._written = True
        except Exception as error:
            # What goes wrong with the page must not end the runs of hours; at the end of the study it is raised.
            reason = " ".join(str(error).split())
            warnings.warn(f"the page of {self.folder} was not written: {reason}", UserCaution, stacklevel=2)
