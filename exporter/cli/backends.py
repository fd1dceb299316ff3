"""Choose what a command works on: an app at an address, an app's store, or the folder of `push`.

The only place of the command line that asks `wiring` for what is in Azure.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.errors import ConfigError

if TYPE_CHECKING:
    from pydantic import SecretStr

    from exporter.management.app import App
    from exporter.orchestration.engine import Engine


@contextmanager
def open_app(url: str, state: Path | None = None) -> Iterator[App]:
    """Give the app at `url`, the runs in the folder `state`, or the app set up in the environment.

    Whoever reaches storage and vault may do everything: they could do it without this program.
    """
    if url:
        from exporter.cli.remote_backend import RemoteApp

        remote = RemoteApp(url, _token)
        try:
            yield remote
        finally:
            remote.close()
        return
    from exporter import wiring
    from exporter.cli import local_backend
    from exporter.management.roles import Actor, Role

    actor = Actor(id="command-line", name=_user(), role=Role.ADMIN)
    management = local_backend.management(state) if state else wiring.management()
    yield management.as_(actor)


def open_store(state: Path | None) -> Engine:
    """Give the store of the app set up in the environment, or of the folder of `push`."""
    from exporter import wiring
    from exporter.cli import local_backend

    if state is not None:
        return local_backend.on_folder(state)
    try:
        return wiring.engine()
    except ConfigError as exc:
        hint = f"For runs of `push`, give their folder: --state .exporter. Else: {exc.hint}"
        raise ConfigError(exc.message, hint=hint) from exc


def _token() -> SecretStr:
    from pydantic import SecretStr

    from exporter.cli.remote_backend import user_token

    given = os.environ.get("EXPORTER_TOKEN", "")
    return SecretStr(given) if given else user_token(os.environ.get("AUTH_CLIENT_ID", ""))


def _user() -> str:
    """Find who is signed in to the Azure CLI: for the record of changes, not as a proof."""
    folder = Path(os.environ.get("AZURE_CONFIG_DIR") or Path.home() / ".azure")
    try:
        profile = json.loads((folder / "azureProfile.json").read_text(encoding="utf-8-sig"))
        names = [each["user"]["name"] for each in profile["subscriptions"] if each.get("isDefault")]
        return str(names[0])[:120]
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return "command line"
