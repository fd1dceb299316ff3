"""`python -m exporter`."""

import gc
import sys

gc.disable()  # what importing makes stays for good: looking for garbage in it is a fifth of the start

from exporter.cli.main import main  # noqa: E402

gc.freeze()
gc.enable()
sys.exit(main())
