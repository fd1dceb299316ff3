"""People with roles, and the management of a world."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import SecretStr

from exporter.definitions import consent
from exporter.errors import SecretUnavailable
from exporter.management.access import ManagementLimits
from exporter.management.erasure import Erasure, forget
from exporter.management.forms import NewConnectionForm, NewExportForm, parse
from exporter.management.management import Management
from exporter.management.roles import Actor, Role
from exporter.management.views import ConnectionView, ExportView
from sandbox.klaviyo import FULL_KEY
from tests.journeys.world import FOLDER, LIST, SEGMENT, World, as_csv, people

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


def managed(world: World, **changes: Any) -> Management:
    """The management of a world. changes: parts of it that are others."""
    engine, limits = world.engine, world.limits
    parts: dict[str, Any] = {
        "store": engine.store,
        "catalog": engine.catalog,
        "runs": engine.runs,
        "container": engine.container,
        "starter": engine.starter,
        "check_health": engine.health.check,
        "checks": {**engine.health.checks, **engine.deep_checks},
        "secrets": WorldSecrets(world),
        "open_klaviyo": world.client,
        "limits": ManagementLimits(plan=limits.plan, pacer_share=limits.pacer_share),
        "clock": world.clock,
    }
    return Management(**(parts | changes))


def text_of_everything(world: World) -> str:
    return "".join(text for _, text in world.text_of_state())


def arrive(world: World) -> None:
    """A snapshot of three people, complete, that nobody was told of."""
    world.put(FOLDER + "a.csv", as_csv(people(3)))
    world.clock.move(300)


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
    app = management.as_(ADMIN)
    made = app.create_connection(parse(NewConnectionForm, connection_document(**changes)))
    return app.agree(made.id, consent.VERSION) if agreed else made


def add_export(management: Management, actor: Actor = ADMIN, **changes: Any) -> ExportView:
    return management.as_(actor).create_export(parse(NewExportForm, export_document(**changes)))


def forget_in_world(world: World, identifiers: Sequence[str]) -> Erasure:
    """Erase a person from a world."""
    return forget(world.engine.store, world.engine.runs, world.engine.plans, identifiers)
