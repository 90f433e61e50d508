"""``python -m tdagger.cli``."""

import sys

from tdagger.cli import main

if __name__ == "__main__":
    sys.exit(main())
