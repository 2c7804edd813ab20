"""``python -m fooocus``: the command line."""

import sys

from fooocus.cli import main

if __name__ == "__main__":
    sys.exit(main())
