"""`python -m sandbox demo`: the whole app on the stand-ins, from a blob to a list, and the proof.

Azurite, Klaviyo, Key Vault with identity, and the functions host with this repository's
function_app.py: each is a process, on free ports. A connection and an export are registered, a
snapshot in Customer Insights' layout is dropped into blob storage, and the blob trigger takes it
from there. Then the list is read back through Klaviyo's own endpoints. The exit code is 0 only if
the list holds exactly what the snapshot should give, and the report's numbers say so.

    stage.py      the processes                  following.py   the run's progress
    export.py     what is set up                 proof.py       list and report against snapshot
    running.py    how others find it             dropping.py    `python -m sandbox drop FILE`
    command.py    the command line
"""

from sandbox.demo.command import LOOKS, main
from sandbox.demo.export import MAPPING, SECRET, demo_snapshot
from sandbox.demo.proof import delivered, differences, wrong_numbers
from sandbox.demo.stage import ROOT, Stage, stand_ins

__all__ = [
    "LOOKS",
    "MAPPING",
    "ROOT",
    "SECRET",
    "Stage",
    "delivered",
    "demo_snapshot",
    "differences",
    "main",
    "stand_ins",
    "wrong_numbers",
]
