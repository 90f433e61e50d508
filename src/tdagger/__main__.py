"""The command line as ``python -m tdagger``, for where scripts of packages aren't on the path."""

import sys

from tdagger.cli import command

if __name__ == "__main__":
    sys.exit(command())
