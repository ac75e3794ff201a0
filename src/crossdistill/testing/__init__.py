"""What every method promises, as tests that anyone runs on a method of his own; and the tiny models that they use.

    from crossdistill.testing import MethodContract

    class TestMatching(MethodContract):
        method = Matching

It needs pytest, which is in the package's extra `test` and not among what the package itself needs.
"""

import pytest

# Before the import: then a broken promise shows the values that it was broken with.
pytest.register_assert_rewrite("crossdistill.testing.contract")

from crossdistill.testing.contract import PAIRS, MethodContract, draw_batch, total, validated  # noqa: E402
from crossdistill.testing.tiny_models import SIDE, TINY, staged  # noqa: E402

__all__ = ["PAIRS", "SIDE", "TINY", "MethodContract", "draw_batch", "staged", "total", "validated"]
