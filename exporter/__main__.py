"""`python -m exporter`."""

import gc
import sys

# What importing makes stays for good: looking for garbage in it is a fifth of the start
gc.disable()

from exporter.cli.main import main  # noqa: E402

gc.freeze()
gc.enable()
sys.exit(main())
