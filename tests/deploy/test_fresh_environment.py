"""The package, as .funcignore leaves it, with what requirements.txt names and nothing else.

On Python 3.13 under Linux that is the very folder that scripts/package.py makes. Other Pythons get
what a laptop needs: the app is not deployed to them.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import requests

from exporter import wiring
from sandbox.klaviyo import FULL_KEY, Klaviyo, Settings, serving
from scripts import package as prebuilt
from tests.deploy.test_package import ignored, package, patterns
from tests.journeys.worker import running_worker
from tests.waiting import LIMIT_S

ROOT = Path(__file__).parents[2]
FUNCTIONS = {"on_blob", "on_step", "on_poison", "on_tick", "health", "api"}
# Flex Consumption gives an instance 0.8 GB of temporary storage (Microsoft Learn, "Azure Functions
# hosting options", service limits, 2026), and plans of runs need room there too. Measured: 120 MB
# installed, 40 MB in wheels.
MOST_MB = 300
# What importing the app may take of what its triggers cannot do without: Microsoft's own packages
# for functions and blobs, in the same process just before. Measured: 0.15; with FastAPI 0.5. The
# seconds are in `make bench`.
MOST_TIMES = 0.4

INDEX = """
import json, os, sys, time
before = time.process_time()
import azure.functions, azurefunctions.extensions.bindings.blob
least = time.process_time() - before
before = time.process_time()
import function_app
more = time.process_time() - before
late = ("duckdb", "phonenumbers", "azure.monitor", "opentelemetry.sdk",
        "exporter.orchestration.engine", "fastapi", "starlette")
heavy = [name for name in late if name in sys.modules]
found = function_app.app.get_functions()
functions = {each.get_function_name(): each.get_trigger().type for each in found}
import importlib, pkgutil, exporter
for module in pkgutil.walk_packages(exporter.__path__, "exporter."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
from exporter import wiring
wiring.engine()
from azure.monitor.opentelemetry import configure_azure_monitor
outside = [path for path in sys.path if path and "site-packages" not in path]
print(json.dumps({"times": more / least, "heavy": heavy, "functions": functions, "path": outside,
    "modules": sorted({name.partition(".")[0] for name in sys.modules})}))
"""
ACCOUNT = (
    "DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey=bm9uZQ==;"
    "BlobEndpoint=http://127.0.0.1:9/devstoreaccount1;"
    "QueueEndpoint=http://127.0.0.1:9/devstoreaccount1"
)

IS_PLATFORM = (sys.version_info[:2], sys.platform, platform.machine()) == (
    (3, 13),
    "linux",
    "x86_64",
)
REQUIREMENTS = (
    "requirements.txt" if sys.version_info[:2] == (3, 13) else "requirements-exporter.txt"
)

pytestmark = pytest.mark.processes


def packages(environment: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Ask uv (or pip, where scripts/setup found no uv) about the packages of an environment."""
    python = str(environment / "bin" / "python")
    if importlib.util.find_spec("uv"):
        command = [sys.executable, "-m", "uv", "pip", words[0], "--python", python, *words[1:]]
    else:
        command = [
            sys.executable,
            "-m",
            "pip",
            "--python",
            python,
            "--disable-pip-version-check",
            *words,
        ]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope="session")
def environment() -> Path:
    """An environment of what is deployed alone, kept until what it is made from changes."""
    sources = ["requirements.txt", "requirements-exporter.txt", "constraints.txt"]
    pinned = b"".join((ROOT / name).read_bytes() for name in [*sources, "scripts/package.py"])
    digest = hashlib.sha256(pinned + platform.python_version().encode()).hexdigest()[:12]
    kept = ROOT / ".venv-package"
    folder = kept / f"{sys.version_info[0]}.{sys.version_info[1]}-{digest}"
    if not (folder / "whole").exists():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run(
            [sys.executable, "-m", "venv", "--without-pip", str(folder)],
            check=True,
            timeout=LIMIT_S,
        )
        installed = _install(folder)
        if installed.returncode and not os.environ.get("CI"):
            pytest.skip(f"{REQUIREMENTS} could not be installed: {installed.stderr[-300:]}")
        assert installed.returncode == 0, installed.stderr
        (folder / "whole").touch()
    for older in kept.glob(f"{sys.version_info[0]}.{sys.version_info[1]}-*"):
        if older != folder:
            shutil.rmtree(older, ignore_errors=True)
    return folder


def _install(folder: Path) -> subprocess.CompletedProcess[str]:
    if not IS_PLATFORM:
        return packages(folder, "install", "--quiet", "-r", REQUIREMENTS)
    # Where Python looks in an environment is the folder where the worker looks in a package.
    [own] = folder.glob("lib/python*/site-packages")
    own.rmdir()
    own.symlink_to(folder / prebuilt.FOLDER)
    return subprocess.run(
        prebuilt.command(folder / prebuilt.FOLDER), capture_output=True, text=True
    )


@pytest.fixture(scope="session")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("deployed")
    for name in package():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, target / name)
    return target


def start(environment: Path, deployed: Path) -> dict[str, Any]:
    settings = {
        "KEY_VAULT_URL": "https://vault.invalid",
        "SnapshotsStorage": ACCOUNT,
        "StateStorage": ACCOUNT,
    }
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in ("PATH", "HOME", "TMPDIR", "LANG")
    }
    python = str(environment / "bin" / "python")
    ran = subprocess.run(
        [python, "-c", INDEX],
        cwd=deployed,
        env={**kept, **settings},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="session")
def started(environment: Path, deployed: Path) -> list[dict[str, Any]]:
    if sys.version_info[:2] != (3, 13):
        pytest.skip("the app is deployed to Python 3.13 alone")
    return [start(environment, deployed) for _ in range(3)]


def test_every_function_is_indexed_and_every_module_imported(started: list[dict[str, Any]]) -> None:
    assert set(started[0]["functions"]) == FUNCTIONS


def test_nothing_comes_from_this_checkout_or_its_tools(started: list[dict[str, Any]]) -> None:
    found = started[0]
    assert not [path for path in found["path"] if Path(path).is_relative_to(ROOT)]
    dev = {
        "tests",
        "sandbox",
        "pytest",
        "hypothesis",
        "mypy",
        "aiohttp",
        "klaviyo_api",
        "orjson",
        "ruff",
    }
    assert dev.isdisjoint(found["modules"])


def test_cold_import_adds_little_to_what_the_triggers_need(started: list[dict[str, Any]]) -> None:
    """Of CPU, and later starts count: the first one compiles."""
    assert min(each["times"] for each in started) < MOST_TIMES


def test_cold_import_leaves_for_later_what_is_heavy(started: list[dict[str, Any]]) -> None:
    assert started[0]["heavy"] == []


@pytest.mark.skipif(not IS_PLATFORM, reason="these wheels are for Python 3.13 under Linux")
class TestPrebuiltPackage:
    """docs/how-to/deploy.md, "If Azure builds it wrong": remoteBuild: false."""

    def test_worker_loads_it_with_its_own_packages(
        self, environment: Path, deployed: Path, tmp_path: Path
    ) -> None:
        # protobuf is the platform's, not the app's: this test's child needs it for the messages.
        found = importlib.util.find_spec("google.protobuf")
        assert found is not None
        assert found.origin is not None
        (tmp_path / "platform" / "google").mkdir(parents=True)
        for each in Path(found.origin).parents[1].iterdir():
            (tmp_path / "platform" / "google" / each.name).symlink_to(each)
        settings = {
            "KEY_VAULT_URL": "https://vault.invalid",
            wiring.SNAPSHOTS_CONNECTION: ACCOUNT,
            wiring.STATE_CONNECTION: ACCOUNT,
            "PYTHONPATH": str(tmp_path / "platform"),
        }
        python = environment / "bin" / "python"
        log = tmp_path / "worker.log"
        with running_worker(deployed, env=settings, log=log, python=python) as worker:
            assert {function.name for function in worker.functions} == FUNCTIONS
            assert worker.version == pinned_version("azure-functions-runtime")
            assert worker.python == prebuilt.PYTHON

    def test_everything_in_it_is_for_the_platform(self, environment: Path) -> None:
        tags = {
            tag
            for wheel in (environment / prebuilt.FOLDER).glob("*.dist-info/WHEEL")
            for tag in re.findall(r"(?m)^Tag: (\S+)", wheel.read_text(encoding="utf-8"))
        }
        interpreters = {tag.split("-")[0] for tag in tags}
        assert interpreters <= {"py2", "py3", "cp313", *(f"cp3{n}" for n in range(5, 13))}
        assert {tag for tag in tags if tag.startswith("cp3") and "-cp313-" not in tag} == {
            tag for tag in tags if "-abi3-" in tag
        }
        machines = {tag.split("-")[2] for tag in tags} - {"any"}
        assert machines
        assert all(machine.endswith("_x86_64") for machine in machines)

    def test_it_is_sent_and_never_committed(self) -> None:
        path = (prebuilt.FOLDER / "duckdb" / "__init__.py").as_posix()
        assert not ignored(path, patterns())
        listed = subprocess.run(["git", "check-ignore", "--no-index", "-q", path], cwd=ROOT)
        assert listed.returncode == 0


def pinned_version(name: str) -> str:
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    found = re.search(rf"(?m)^{name}==(\S+)$", text)
    assert found is not None, f"{name} is not pinned without a marker"
    return found[1]


@pytest.mark.parametrize("python", ["3.11", "3.12"])
def test_build_for_another_python_fails_in_words(python: str, tmp_path: Path) -> None:
    """A remote build has been seen to take 3.11 for an app on 3.13: nothing of it would load."""
    command = prebuilt.command(tmp_path, python)
    built = subprocess.run([*command, "--dry-run"], capture_output=True, text=True)
    assert built.returncode != 0
    assert "azure-functions" in built.stdout + built.stderr


def test_package_is_made_by_the_python_that_it_is_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pip asks the Python on which it runs what a marker means."""
    monkeypatch.setattr(sys, "version_info", (3, 12, 1))
    assert prebuilt.main() == 1
    assert "run me with Python 3.13; this is 3.12" in capsys.readouterr().err


def test_worker_is_the_one_that_tests_use() -> None:
    """Without the pin the platform takes a release of its own."""
    for name in ("azure-functions", "azure-functions-runtime"):
        version = re.escape(pinned_version(name))
        development = (ROOT / "requirements-dev.txt").read_text(encoding="utf-8")
        assert re.search(rf'(?m)^{name}=={version}; python_version >= "3.13"$', development)


def test_deployed_requirements_have_no_marker_by_which_another_python_would_fit() -> None:
    deployed_for = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    assert ";" not in "".join(line for line in deployed_for.splitlines() if line[0] != "#")


def test_installed_packages_agree_with_each_other(environment: Path) -> None:
    checked = packages(environment, "check")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_everything_together_leaves_room_on_an_instance(environment: Path, deployed: Path) -> None:
    [installed] = environment.glob("lib/python*/site-packages")
    files = [
        path
        for folder in (installed, deployed)
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    ]
    assert sum(path.stat().st_size for path in files) / 1e6 < MOST_MB


def test_only_what_is_pinned_is_installed(environment: Path) -> None:
    """constraints.txt names everything underneath: an installation next year is the same."""
    pinned = re.findall(
        r"(?m)^([A-Za-z0-9][\w.-]*)==(\S+)", (ROOT / "constraints.txt").read_text(encoding="utf-8")
    )
    versions = {(re.sub(r"[-_.]+", "-", name).lower(), version) for name, version in pinned}
    listed = packages(environment, "list", "--format=json")
    installed = {
        (re.sub(r"[-_.]+", "-", each["name"]).lower(), each["version"])
        for each in json.loads(listed.stdout)
    }
    assert installed - versions == set()
    assert installed, "something is"


@pytest.fixture(scope="module")
def installed(environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout in an environment of its own, on top of the pinned packages.

    Nothing else may be installed: what the wheel asks for must be there already.
    """
    folder = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet"]
    built = subprocess.run(
        [*command, "--no-deps", "--wheel-dir", str(folder), str(ROOT)],
        capture_output=True,
        text=True,
    )
    if built.returncode and not os.environ.get("CI"):
        pytest.skip(f"the package could not be built: {built.stderr[-300:]}")
    assert built.returncode == 0, built.stderr
    [wheel] = folder.glob("*.whl")
    fresh = folder / "environment"
    python = environment / "bin" / "python"
    subprocess.run([python, "-m", "venv", "--without-pip", fresh], check=True, timeout=LIMIT_S)
    [pinned], [own] = (each.glob("lib/python*/site-packages") for each in (environment, fresh))
    (own / "pinned.pth").write_text(f"{pinned}\n")
    command = [sys.executable, "-m", "pip", "--python", str(fresh / "bin" / "python")]
    install = [*command, "install", "--quiet", "--no-index", str(wheel)]
    installed = subprocess.run(install, capture_output=True, text=True)
    assert installed.returncode == 0, installed.stderr
    return fresh


def test_installed_package_holds_the_product_alone(installed: Path) -> None:
    [folder] = installed.glob("lib/python*/site-packages")
    found = {path.name for path in folder.iterdir() if path.is_dir()}
    version = re.search(r'VERSION = "(.+?)"', (ROOT / "exporter/__init__.py").read_text("utf-8"))
    assert version is not None
    assert found == {"exporter", f"segment_exporter-{version[1]}.dist-info"}
    deployed = {name for name in package() if name.startswith("exporter/")}
    assert deployed == {
        path.relative_to(folder).as_posix()
        for path in (folder / "exporter").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }


def test_installed_command_pushes_a_file_to_klaviyo(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "vips.csv").write_text("EMail\nada@example.com\n")
    with serving(Klaviyo(Settings(job_seconds=0.1, limits=False))) as url:
        requests.post(
            f"{url}/_sandbox/lists", json={"id": "Y6nRLr", "name": "VIPs"}, timeout=LIMIT_S
        )
        args = ["push", "vips.csv", "--list", "Y6nRLr", "--email", "EMail", "--json"]
        pushed = subprocess.run(
            [installed / "bin" / "segment-exporter", *args],
            cwd=tmp_path,
            env={"KLAVIYO_API_KEY": FULL_KEY, "KLAVIYO_BASE_URL": url, "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )
    assert pushed.returncode == 0, pushed.stderr
    assert json.loads(pushed.stdout)["delivered"] == 1
