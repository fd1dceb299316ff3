"""The functions host with a short lease and small batches.

A crash costs seconds, and finds many places to happen.
"""

from __future__ import annotations

import os
import sys

from exporter.orchestration import lease
from exporter.planning import batches
from sandbox import host

if __name__ == "__main__":
    # Before the dispatcher is imported, which takes its defaults from there.
    lease.LEASE_S = float(os.environ["TEST_LEASE_SECONDS"])
    batches.MAX_BATCH_PROFILES = int(os.environ["TEST_BATCH_PROFILES"])
    sys.exit(host.main(sys.argv[1:]))
