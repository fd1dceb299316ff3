"""People with roles, and the management of a world."""

from __future__ import annotations

from typing import Any

from pydantic import SecretStr

from exporter.definitions import consent
from exporter.errors import SecretUnavailable
from exporter.management.forms import NewConnectionForm, NewExportForm, parse
from exporter.management.management import Management
from exporter.management.roles import Actor, Role
from exporter.management.views import ConnectionView, ExportView
from sandbox.klaviyo import FULL_KEY
from tests.journeys.world import LIST, SEGMENT, World

ADMIN = Actor(id="a-1", name="Ada", role=Role.ADMIN)
CONTRIBUTOR = Actor(id="c-1", name="Cem", role=Role.CONTRIBUTOR)
VIEWER = Actor(id="v-1", name="Vio", role=Role.VIEWER)
NOBODY = Actor(id="n-1", name="Nil", role=None)
ACTORS = (ADMIN, CONTRIBUTOR, VIEWER, NOBODY)


class WorldSecrets:
    """The world's secrets as a vault."""

    def __init__(self, world: World) -> None:
        self.world = world

    def read(self, name: str) -> SecretStr:
        if name not in self.world.secrets:
            raise SecretUnavailable(
                f"the secret {name} does not exist in the vault", hint="Store the key there."
            )
        return SecretStr(self.world.secrets[name])

    def write(self, name: str, value: SecretStr) -> None:
        self.world.secrets[name] = value.get_secret_value()

    def delete(self, name: str) -> None:
        self.world.secrets.pop(name, None)


def managed(world: World) -> Management:
    return Management(
        world.exporter, secrets=WorldSecrets(world), klaviyo=world.client, clock=world.clock
    )


def connection_document(**changes: Any) -> dict[str, Any]:
    return {"name": "Main account", "key": FULL_KEY, **changes}


def export_document(**changes: Any) -> dict[str, Any]:
    document = {
        "name": "High value",
        "connection": "main-account",
        "list_id": LIST,
        "segments": [SEGMENT],
        "mapping": {"email": "EMail", "first_name": "FirstName"},
    }
    return {**document, **changes}


def connect(management: Management, *, agreed: bool = True, **changes: Any) -> ConnectionView:
    """A connection as an administrator makes it."""
    made = management.create_connection(
        ADMIN, parse(NewConnectionForm, connection_document(**changes))
    )
    return management.agree(ADMIN, made.id, consent.VERSION) if agreed else made


def add_export(management: Management, actor: Actor = ADMIN, **changes: Any) -> ExportView:
    return management.create_export(actor, parse(NewExportForm, export_document(**changes)))
