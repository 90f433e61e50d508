"""``python -m tdagger.cli``."""

import sys

from tdagger.cli import command

if __name__ == "__main__":
    sys.exit(command())
