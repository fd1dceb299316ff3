"""`python -m ...` without the second that importing takes.

One process imports it, and forks for every command.

A command is a process of its own all the same, with its own arguments, folder, environment and
files, and ends when its threads have. What reads the environment while it is imported is imported
anew. That the real `python -m exporter` starts, is interrupted and is killed is tested with real
ones (tests/journeys), that the real `python -m sandbox host` does in tests/sandbox/test_people.py.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import functools
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn, cast

from sandbox import processes
from tests.waiting import LIMIT_S

ROOT = Path(__file__).parents[1]
PRELOADED = (
    "exporter.cli.local_backend",
    "exporter.cli.remote_backend",
    "exporter.http.routes",
    "exporter.storage.azure_blobs",
    "exporter.wiring",
    "typer.main",
    "rich.table",
)
PRELOADED_TOO = (
    "azure.identity",
    "azure.keyvault.secrets",
    "azure.storage.blob",
    "azure.storage.queue",
    "requests",
)
PRELOADED_FOR_A_HOST = (
    "azurefunctions.extensions.bindings.blob",
    "exporter.telemetry",
    "sandbox.host",
    "sandbox.klaviyo",
    "sandbox.vault",
)
IMPORTED_ANEW = ("exporter.cli", "exporter.__main__", "typer.rich_utils")
# What a shell script calls instead of Python; as little as possible is imported.
CLIENT = """#!{python} -SE
import array, json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    files = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))]
    server.sendmsg([b"x"], files)
    server.sendall(json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode() + b"\\n")
    reader = server.makefile()
    reader.readline()
    code = int(reader.readline() or 99)
sys.exit(code if code >= 0 else 128 - code)
"""


class Forking:
    """The process that forks.

    `run` is like subprocess.run, `start` like subprocess.Popen, `client` is an executable for
    scripts.
    """

    def __init__(self, address: str) -> None:
        self.address = address

    def run(
        self, arguments: Sequence[object], *, cwd: Path, env: Mapping[str, str], typed: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """`python ARGUMENTS`."""
        words = [str(each) for each in arguments]
        with contextlib.ExitStack() as stack:
            files = [
                stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8", newline=""))
                for _ in range(3)
            ]
            files[0].write(typed)
            files[0].seek(0)
            code = Forked(self.address, words, cwd, env, files).wait(LIMIT_S)
            said = []
            for file in files[1:]:
                file.seek(0)
                said.append(file.read())
        return subprocess.CompletedProcess(words, code if code >= 0 else 128 - code, *said)

    def start(
        self,
        command: Sequence[str],
        *,
        stdin: int,
        stdout: int,
        stderr: IO[bytes],
        env: Mapping[str, str],
        **_: object,
    ) -> Forked:
        """As processes.running starts a child: with a pipe as its standard output."""
        assert (command[0], stdin, stdout) == (sys.executable, subprocess.DEVNULL, subprocess.PIPE)
        read, write = os.pipe()
        with open(os.devnull, "rb") as nothing, open(write, "wb") as written:
            child = Forked(self.address, command[1:], Path.cwd(), env, (nothing, written, stderr))
        child.stdout = open(read, "rb")  # noqa: SIM115
        return child

    def client(self, path: Path) -> Path:
        path.write_text(CLIENT.format(python=sys.executable, address=self.address))
        path.chmod(0o755)
        return path


class Forked(subprocess.Popen[bytes]):
    """A child of the process that forks; it ends with this one, too."""

    def __init__(
        self,
        address: str,
        words: Sequence[str],
        cwd: Path,
        env: Mapping[str, str],
        files: Sequence[IO[Any]],
    ) -> None:
        self.args, self.returncode = words, None  # type: ignore[assignment] # as in Popen
        self.stdin = self.stdout = self.stderr = None
        self._server = socket.socket(socket.AF_UNIX)
        self._server.settimeout(LIMIT_S)
        self._server.connect(address)
        descriptors = array.array("i", [file.fileno() for file in files])
        self._server.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])
        self._server.sendall(json.dumps([words, str(cwd), dict(env)]).encode() + b"\n")
        self._answers = self._server.makefile()
        self.pid = int(self._answers.readline())

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._server], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self.returncode = int(self._answers.readline() or 99)
            self._answers.close()
            self._server.close()
        return self.returncode


@contextlib.contextmanager
def forked_stand_ins() -> Iterator[None]:
    """What `processes.running` starts in the block, is forked."""
    before = processes.popen
    processes.popen = cast(Any, forking().start)
    try:
        yield
    finally:
        processes.popen = before


@functools.cache
def forking() -> Forking:
    """One for all tests of this process; it ends with it."""
    folder = tempfile.mkdtemp(prefix="forking-")
    address = f"{folder}/socket"
    command = [sys.executable, "-m", "tests.forking", address]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)

    def end() -> None:
        process.kill()
        process.communicate()
        shutil.rmtree(folder)

    atexit.register(end)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return Forking(address)


def exporter(*args: object, typed: str = "", **settings: str) -> subprocess.CompletedProcess[str]:
    """`python -m exporter ARGS` in the project's folder, with settings added to the environment."""
    return forking().run(
        ["-m", "exporter", *args], cwd=ROOT, env={**os.environ, **settings}, typed=typed
    )


def _serve(address: str) -> None:
    for name in (*PRELOADED, *PRELOADED_TOO, *PRELOADED_FOR_A_HOST):
        __import__(name)
    for name in list(sys.modules):
        if name.startswith(IMPORTED_ANEW):
            del sys.modules[name]
    parent = os.getppid()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen(50)
        listening.settimeout(1)
        print("ready", flush=True)
        while os.getppid() == parent:
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            try:
                client, _ = listening.accept()
            except TimeoutError:
                continue
            if os.fork() == 0:
                listening.close()
                _obey(client)
            client.close()


def _obey(client: socket.socket) -> NoReturn:
    """In a child: run the command in a child of this one, and tell how it ended."""
    _, control, _, _ = client.recvmsg(1, socket.CMSG_SPACE(3 * array.array("i").itemsize))
    files = array.array("i")
    files.frombytes(control[0][2])
    with client.makefile() as reader:
        words, cwd, env = json.loads(reader.readline())
    if (child := os.fork()) == 0:
        client.close()
        _become(words, cwd, env, files)
    for file in files:
        os.close(file)
    client.sendall(f"{child}\n".encode())
    threading.Thread(target=_end_with, args=(client, child), daemon=True).start()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with contextlib.suppress(OSError):
        client.sendall(f"{code}\n".encode())
    os._exit(0)


def _end_with(client: socket.socket, child: int) -> None:
    """End a command when whoever wanted it has died: nobody else closes the connection."""
    with contextlib.suppress(OSError):
        client.recv(1)
        os.kill(child, signal.SIGTERM)


def _become(words: list[str], cwd: str, env: dict[str, str], files: array.array[int]) -> NoReturn:
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    time.tzset()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(  # noqa: SIM115
        2, "w", encoding="utf-8", buffering=1, errors="backslashreplace", closefd=False
    )
    code: object = 0
    try:
        if words[0] == "-m":
            sys.argv, sys.path[0] = words[1:], cwd
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv, sys.path[0] = words, os.path.dirname(words[0])
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as exc:
        code = exc.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:  # noqa: BLE001 - as Python itself
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined] # waits for threads, as the end of Python does
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    _serve(sys.argv[1])
