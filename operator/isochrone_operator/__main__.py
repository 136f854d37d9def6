"""``python -m isochrone_operator``: the operator's program."""

import sys

from isochrone_operator.main import main

if __name__ == "__main__":
    sys.exit(main())
