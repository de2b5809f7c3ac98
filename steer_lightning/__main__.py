"""`python -m steer_lightning`."""

import sys

from steer_lightning.cli import main

if __name__ == "__main__":
    sys.exit(main())
