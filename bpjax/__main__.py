"""``python -m bpjax`` is the program ``bpjax``."""

import sys

from bpjax.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
