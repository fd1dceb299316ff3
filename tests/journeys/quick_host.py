"""The functions host with a short lease and small batches.

So a crash costs seconds, and finds many places to happen.
"""

from __future__ import annotations

import functools
import os
import sys

from exporter import settings, wiring
from exporter.orchestration.dispatcher import Exporter, StepLimits
from exporter.planning.planner import PlanLimits
from sandbox import host


@functools.cache
def quick() -> Exporter:
    limits = StepLimits(
        lease_s=float(os.environ["TEST_LEASE_SECONDS"]),
        plan=PlanLimits(batch_profiles=int(os.environ["TEST_BATCH_PROFILES"])),
    )
    return wiring.build(settings.from_env(os.environ), os.environ, limits=limits)


if __name__ == "__main__":
    wiring.cloud = quick  # the triggers ask for it by this name
    sys.exit(host.main(sys.argv[1:]))
