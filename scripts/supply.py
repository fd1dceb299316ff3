"""`make supply`: dependencies are available, sound and small enough; no secret is in the tree.

    make supply                 everything; needs the package index
    make supply ARGS=secrets    one part: wheels, audit or secrets

wheels   every package has a wheel for Linux x86_64 (remote builds on Flex Consumption have no
         compiler): of requirements.txt for Python 3.13, of requirements-exporter.txt for all that
         laptops may have; and all fit on an instance
audit    pip-audit finds no known hole, in what is deployed and in what tests use
secrets  no file that git knows, or would take, and no commit before it, holds what looks like a key
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = {
    "3.11": "requirements-exporter.txt",
    "3.12": "requirements-exporter.txt",
    "3.13": "requirements.txt",
}
PLATFORM = "x86_64-manylinux_2_28"  # what Debian 12 of the platform and everything newer can load
MOST_MB = 300  # unpacked, of the 0.8 GB of temporary storage that an instance has
TOOLS = (
    "pip-audit==2.10.1",
    "uv==0.13.9",
)  # uv, because pip cannot resolve for another Python than its own
SECRETS = {
    "Klaviyo private key": r"\bpk_[0-9a-f]{30,}\b",
    "storage account key": r"AccountKey=[A-Za-z0-9+/]{80,}==",
    "shared access signature": r"[?&]sig=[A-Za-z0-9%]{40,}",
    "private key": (
        r"-----BEGIN (?:RSA |EC |OPENSSH |ENCRYPTED )?PRIVATE KEY-----\s+[A-Za-z0-9+/]{40}"
    ),
    "GitHub token": r"\bgh[pousr]_[A-Za-z0-9]{36}\b",
    "Entra client secret": r"\b[A-Za-z0-9_~.-]{3}8Q~[A-Za-z0-9_~.-]{34}\b",
    "token": r"\beyJ[A-Za-z0-9_-]{20,}\.eyJ[A-Za-z0-9_-]{20,}\.[A-Za-z0-9_-]{20,}",
    "function key in an address": r"[?&]code=[A-Za-z0-9_\-/+%]{40,}",
    "connection to Application Insights": r"InstrumentationKey=(?!0{8})[0-9a-f]{8}-[0-9a-f-]{27}",
}
# Open nothing: the key of Microsoft's emulator, which is published, and two that tests made up.
PUBLIC = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==",
    "pk_0a1b2c3d4e5f6a7b8c9d0e1f2a3b4c5d6e",
    "pk_0a1b2c3d4e5f60718293a4b5c6d7e8f901",
)
FEWEST_CHARACTERS = 12  # a key of fewer different ones is made up to be seen as such


def wheels() -> list[str]:
    """What cannot be installed without a compiler, or is too large."""
    uv = _tools() / "uv"
    problems = []
    for python, requirements in PYTHONS.items():
        with tempfile.TemporaryDirectory() as name:
            command = [
                str(uv),
                "pip",
                "install",
                "--quiet",
                "--only-binary",
                ":all:",
                "--target",
                name,
            ]
            command += [
                "--python-version",
                python,
                "--python-platform",
                PLATFORM,
                "-r",
                requirements,
            ]
            if problem := _run(command):
                problems.append(f"Python {python}: {problem}")
                continue
            files = [path for path in Path(name).rglob("*") if path.is_file()]
            size_mb = sum(path.stat().st_size for path in files) / 1e6
            packages = sum(1 for _ in Path(name).glob("*.dist-info"))
            print(f"wheels: Python {python}: {packages} packages, {size_mb:.0f} MB unpacked")
            if size_mb > MOST_MB:
                problems.append(f"Python {python}: {size_mb:.0f} MB unpacked, over {MOST_MB}")
    return problems


def audit() -> list[str]:
    """Known holes, as pip-audit tells them."""
    python = _tools() / "python"
    problems = []
    for name in ("requirements.txt", "requirements-dev.txt"):
        problem = _run(
            [str(python), "-m", "pip_audit", "--progress-spinner", "off", "--requirement", name]
        )
        print(f"audit: {name}: {'see below' if problem else 'no known holes'}")
        if problem:
            problems.append(f"{name}: {problem}")
    return problems


def _tools() -> Path:
    """Return the folder of our tools' commands, in an environment made at the first use."""
    environment = ROOT / ".venv-supply"
    if not environment.exists():
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    commands = environment / "bin"
    install = [
        str(commands / "python"),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        *TOOLS,
    ]
    if problem := _run(install):
        raise SystemExit(f"the tools cannot be installed: {problem}")
    return commands


def _run(command: list[str]) -> str:
    """Run a command in the project's folder; "" if it went well, else the end of what it said."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip()[-3000:] or "failed" if done.returncode else ""


def secrets() -> list[str]:
    """Files and commits that hold what looks like a key."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    names = [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    problems = [
        f"{name}: {kind}" for name in names for kind in secrets_in((ROOT / name).read_bytes())
    ]
    commits = changes()
    problems += [
        f"{commit}: {kind}" for commit, content in commits.items() for kind in secrets_in(content)
    ]
    print(f"secrets: {len(names)} files and {len(commits)} commits looked at")
    return problems


def changes() -> dict[str, bytes]:
    """What each commit changed; of a clone that is cut off, only the commits that are there."""
    command = [
        "git",
        "log",
        "--all",
        "-m",
        "--text",
        "--patch",
        "--unified=0",
        "--no-color",
        "--format=commit %h",
    ]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    parts = re.split(
        rb"(?m)^commit ([0-9a-f]{7,40})$", listed
    )  # lines of a patch begin with another character
    found: dict[str, bytes] = {}
    for commit, content in zip(
        parts[1::2], parts[2::2], strict=True
    ):  # a merge comes once for each parent
        found[commit.decode()] = found.get(commit.decode(), b"") + content
    return found


def secrets_in(content: bytes) -> list[str]:
    """The kinds of secrets that a file seems to hold."""
    text = content.decode("utf-8", "replace")
    for known in PUBLIC:
        text = text.replace(known, "")
    return [
        kind
        for kind, pattern in SECRETS.items()
        if any(
            len(set(found[0].lower())) > FEWEST_CHARACTERS for found in re.finditer(pattern, text)
        )
    ]


PARTS: dict[str, Callable[[], list[str]]] = {"secrets": secrets, "wheels": wheels, "audit": audit}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
