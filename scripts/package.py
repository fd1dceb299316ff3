"""Install what the deployed app needs beside it, so that Azure need not build anything.

    python3.13 scripts/package.py      fills .python_packages, for remoteBuild: false in azure.yaml

The wheels are those of the platform, whatever machine this runs on. Python 3.13 has to run it,
because pip asks the Python that it runs on, not the one it installs for, what a marker means.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON = "3.13"  # infra/modules/app.bicep
# Where the Functions worker looks for them, in the package's folder.
FOLDER = Path(".python_packages", "lib", "site-packages")
# The newest that the platform can load comes first. Older releases of pip do not know that a newer
# glibc loads what was made for an older one.
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def command(target: Path, python: str = PYTHON) -> list[str]:
    """Write the command that installs requirements.txt into a folder, for the platform."""
    platforms = [word for each in PLATFORMS for word in ("--platform", each)]
    return [
        *(sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"),
        *("--python-version", python, *platforms, "--only-binary=:all:", "--no-compile"),
        *("--target", str(target), "--requirement", str(ROOT / "requirements.txt")),
    ]


def main() -> int:
    if sys.version_info[:2] != tuple(int(part) for part in PYTHON.split(".")):
        found = ".".join(str(part) for part in sys.version_info[:2])
        print(f"package: run me with Python {PYTHON}; this is {found}", file=sys.stderr)
        return 1
    shutil.rmtree(ROOT / ".python_packages", ignore_errors=True)
    if code := subprocess.run(command(ROOT / FOLDER)).returncode:
        return code
    print(f"package: {FOLDER.as_posix()} holds what requirements.txt names. Next: azd deploy")
    return 0


if __name__ == "__main__":
    sys.exit(main())
