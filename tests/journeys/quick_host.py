"""The functions host with a short lease and small batches.

A crash costs seconds, and finds many places to happen.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import sys

from exporter import wiring
from exporter.orchestration.engine import Engine
from exporter.settings import from_env
from sandbox import host


@functools.cache
def quick_engine() -> Engine:
    """Build the engine with limits that no setting has."""
    settings = from_env(os.environ)
    plan = dataclasses.replace(
        settings.limits.plan, batch_profiles=int(os.environ["TEST_BATCH_PROFILES"])
    )
    limits = dataclasses.replace(
        settings.limits, lease_s=float(os.environ["TEST_LEASE_SECONDS"]), plan=plan
    )
    return wiring.build(dataclasses.replace(settings, limits=limits), os.environ)


if __name__ == "__main__":
    wiring.engine = quick_engine  # the triggers ask for it by this name
    sys.exit(host.main(sys.argv[1:]))
