"""`python -m crossdistill` is the command."""

import sys

from crossdistill.cli import main

if __name__ == "__main__":
    sys.exit(main())
