"""What the package itself offers."""

import subprocess
import sys

import crossdistill


def test_every_name_is_listed_and_leads_somewhere() -> None:
    assert sorted(crossdistill.__all__) == sorted([*crossdistill._LAZY, "__version__"])
    assert set(crossdistill.__all__) <= set(dir(crossdistill))
    assert all(getattr(crossdistill, name) is not None for name in crossdistill.__all__)


def test_listing_the_names_imports_nothing_heavy() -> None:
    script = "import sys, crossdistill; dir(crossdistill); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
