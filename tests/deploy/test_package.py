"""What is deployed: what .funcignore leaves, nothing else; and it starts by itself."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def ignored(path: str, patterns: Iterable[str]) -> bool:
    """Whether .funcignore leaves a path out.

    Its rules are those of .gitignore, as far as it uses them: later lines win, `!` takes back, a
    `/` anywhere but at the end ties the pattern to the root, a folder includes all that is in it.
    """
    parts = path.split("/")
    for depth in range(1, len(parts) + 1):
        folder, result = "/".join(parts[:depth]), False
        for pattern in patterns:
            wanted = pattern.lstrip("!").rstrip("/")
            if pattern.endswith("/") and depth == len(parts):
                continue  # folders only
            tied = "/" in wanted
            if fnmatchcase(
                folder if tied else parts[depth - 1], wanted.lstrip("/") if tied else wanted
            ):
                result = not pattern.startswith("!")
        if result:
            return True
    return False


def patterns() -> list[str]:
    lines = (ROOT / ".funcignore").read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def project_files() -> list[str]:
    """Every file of the project, committed or new, without what git ignores."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()]


def package() -> list[str]:
    return [name for name in project_files() if not ignored(name, patterns())]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("tests/planning/test_x.py", True),
        ("exporter/tests.py", False),
        ("exporter/README.md", True),
        ("exporter/__pycache__/x.pyc", True),
        (".github/workflows/check.yml", True),
        ("host.json", False),
    ],
)
def test_matcher_reads_patterns_as_git_does(path: str, expected: bool) -> None:
    assert ignored(path, ["tests", "*.md", "__pycache__", ".git*"]) is expected


def test_matcher_agrees_with_git_on_this_very_file() -> None:
    """git itself is asked, with .funcignore as the only list."""
    names = project_files()
    asked = subprocess.run(
        [
            "git",
            "-c",
            f"core.excludesFile={ROOT / '.funcignore'}",
            "check-ignore",
            "--no-index",
            "-z",
            "--stdin",
        ],
        cwd=ROOT,
        input="\0".join(names),
        capture_output=True,
        text=True,
    )
    assert {name for name in names if ignored(name, patterns())} == set(
        filter(None, asked.stdout.split("\0"))
    )


def test_package_holds_the_app_and_nothing_else() -> None:
    allowed = {
        "function_app.py",
        "host.json",
        "requirements.txt",
        "requirements-exporter.txt",
        "constraints.txt",
        "LICENSE",
        ".funcignore",
    }
    others = [
        name for name in package() if name not in allowed and not name.startswith("exporter/")
    ]
    assert others == [], "add them to .funcignore"


def test_package_holds_what_the_app_needs() -> None:
    assert {
        "function_app.py",
        "host.json",
        "requirements.txt",
        "requirements-exporter.txt",
        "constraints.txt",
        "exporter/orchestration/dispatcher.py",
    } <= set(package())


@pytest.mark.parametrize(
    "path",
    [
        "local.settings.json",
        ".env",
        ".azure/prod/.env",
        ".venv/bin/python",
        "node_modules/azurite/package.json",
        ".exporter/runs/x/rejected.csv",  # `push` keeps its state there: rows of real people
        ".demo/state",
    ],
)
def test_private_and_local_files_never_leave_the_machine(path: str) -> None:
    assert ignored(path, patterns())


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package alone, in a folder of its own."""
    target = tmp_path_factory.mktemp("package")
    for name in package():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, target / name)
    return target


def test_package_is_small(copied: Path) -> None:
    assert sum(path.stat().st_size for path in copied.rglob("*") if path.is_file()) < 2_000_000


def test_package_starts_by_itself(copied: Path) -> None:
    """What that takes is in tests/deploy/test_fresh_environment.py and in `make bench`."""
    environ = {
        key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "COV"))
    }
    command = [sys.executable, "-c", "import function_app"]
    ran = subprocess.run(command, cwd=copied, env=environ, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_every_import_comes_with_requirements_txt(copied: Path) -> None:
    """Directly: what another package happens to bring may go with its next version."""
    pinned = {
        re.sub(r"[-_.]+", "-", name).lower()
        for name in re.findall(
            r"(?m)^([A-Za-z][\w.-]*)==",
            "".join(
                (copied / f"requirements{part}.txt").read_text(encoding="utf-8")
                for part in ("", "-exporter")
            ),
        )
    }
    homes = importlib.metadata.packages_distributions()
    # `azure` belongs to many packages: ask which one owns the module.
    owners = {
        file.as_posix().removesuffix("/__init__.py"): re.sub(
            r"[-_.]+", "-", distribution.metadata["Name"]
        ).lower()
        for distribution in importlib.metadata.distributions()
        for file in distribution.files or ()
        if file.name == "__init__.py"
    }
    missing = set()
    for path in copied.rglob("*.py"):
        for module in _imported(path):
            top = module.partition(".")[0]
            if top in sys.stdlib_module_names or top in ("exporter", "function_app"):
                continue
            parts = module.split(".")
            known = [owners.get("/".join(parts[:depth])) for depth in range(len(parts), 0, -1)]
            owner = next((name for name in known if name), None) or homes.get(top, ["?"])[0].lower()
            if owner not in pinned and owner not in UNDERNEATH:
                missing.add((path.name, module, owner))
    assert missing == set()


# Used through a package that is pinned and names them in its own interface: errors, response types.
UNDERNEATH = {"azure-core", "starlette", "urllib3"}


def _imported(path: Path) -> Iterable[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            # Of a namespace that several packages fill, only the part says which one is meant.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
