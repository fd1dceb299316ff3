"""`make supply`: whether what we depend on is there, known to be sound and small enough, and no secret is in the tree.

    make supply                 everything; needs the package index
    make supply ARGS=secrets    one part: wheels, audit or secrets

wheels   every package of requirements.txt has a wheel for Linux x86_64 and Python 3.11, 3.12 and 3.13 (remote builds
         on Flex Consumption have no compiler), and all of them fit on an instance
audit    pip-audit finds no known hole, in what is deployed and in what tests use
secrets  no file that git knows, or would take, holds what looks like a key
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ("3.11", "3.12", "3.13")
PLATFORMS = ("manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux_2_28_x86_64")
MOST_MB = 300  # unpacked, of the 0.8 GB of temporary storage that an instance has
AUDIT = "pip-audit==2.10.1"
SECRETS = {
    "Klaviyo private key": r"\bpk_[0-9a-f]{30,}\b",
    "storage account key": r"AccountKey=[A-Za-z0-9+/]{80,}==",
    "shared access signature": r"[?&]sig=[A-Za-z0-9%]{40,}",
    "private key": r"-----BEGIN (?:RSA |EC |OPENSSH |ENCRYPTED )?PRIVATE KEY-----\s+[A-Za-z0-9+/]{40}",
    "GitHub token": r"\bgh[pousr]_[A-Za-z0-9]{36}\b",
    "Entra client secret": r"\b[A-Za-z0-9_~.-]{3}8Q~[A-Za-z0-9_~.-]{34}\b",
    "token": r"\beyJ[A-Za-z0-9_-]{20,}\.eyJ[A-Za-z0-9_-]{20,}\.[A-Za-z0-9_-]{20,}",
    "function key in an address": r"[?&]code=[A-Za-z0-9_\-/+%]{40,}",
    "connection to Application Insights": r"InstrumentationKey=(?!0{8})[0-9a-f]{8}-[0-9a-f-]{27}",
}
# Microsoft publishes this key of its emulator; it opens nothing.
PUBLIC = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
FEWEST_CHARACTERS = 12  # a key of fewer different ones is made up to be seen as such


def wheels() -> list[str]:
    """What cannot be installed without a compiler, or is too large."""
    problems = []
    for python in PYTHONS:
        with tempfile.TemporaryDirectory() as name:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
            command += ["--only-binary", ":all:", "--python-version", python, "--implementation", "cp", "--dest", name]
            command += [word for platform in PLATFORMS for word in ("--platform", platform)]
            done = subprocess.run(
                [*command, "-r", "requirements.txt"], cwd=ROOT, capture_output=True, text=True, check=False
            )
            if done.returncode:
                problems.append(f"Python {python}: {_last_error(done.stderr)}")
                continue
            files = sorted(Path(name).glob("*.whl"))
            zipped, unpacked = sum(file.stat().st_size for file in files) / 1e6, sum(map(_unpacked_mb, files))
            print(f"wheels: Python {python}: {len(files)} wheels, {zipped:.0f} MB zipped, {unpacked:.0f} MB unpacked")
            if unpacked > MOST_MB:
                problems.append(f"Python {python}: {unpacked:.0f} MB unpacked, over {MOST_MB}")
    return problems


def audit() -> list[str]:
    """Known holes, as pip-audit tells them; it lives in an environment of its own."""
    environment = ROOT / ".venv-supply"
    python = environment / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", AUDIT]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode:
        return [f"pip-audit cannot be installed: {_last_error(done.stderr)}"]
    problems = []
    for name in ("requirements.txt", "requirements-dev.txt"):
        done = subprocess.run(
            [str(python), "-m", "pip_audit", "--progress-spinner", "off", "--requirement", name],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        print(f"audit: {name}: {'no known holes' if not done.returncode else 'see below'}")
        if done.returncode:
            problems.append(f"{name}: {(done.stdout + done.stderr).strip()[-3000:]}")
    return problems


def secrets() -> list[str]:
    """Files that hold what looks like a key."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    names = [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    problems = [f"{name}: {kind}" for name in names for kind in secrets_in((ROOT / name).read_bytes())]
    print(f"secrets: {len(names)} files looked at")
    return problems


def secrets_in(content: bytes) -> list[str]:
    """The kinds of secrets that a file seems to hold."""
    text = content.decode("utf-8", "replace").replace(PUBLIC, "")
    return [
        kind
        for kind, pattern in SECRETS.items()
        if any(len(set(found[0].lower())) > FEWEST_CHARACTERS for found in re.finditer(pattern, text))
    ]


def _unpacked_mb(file: Path) -> float:
    with zipfile.ZipFile(file) as wheel:
        return sum(entry.file_size for entry in wheel.infolist()) / 1e6


def _last_error(text: str) -> str:
    errors = [line for line in text.splitlines() if line.startswith("ERROR")]
    return (errors or text.splitlines() or ["no reason given"])[-1]


PARTS: dict[str, Callable[[], list[str]]] = {"secrets": secrets, "wheels": wheels, "audit": audit}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all of them")
    chosen = parser.parse_args().parts or list(PARTS)
    if unknown := set(chosen) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    problems = [f"{part}: {problem}" for part in chosen for problem in PARTS[part]()]
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
