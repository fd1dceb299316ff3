"""What an administrator and a marketer set up once, and the snapshot that the demo exports."""

from __future__ import annotations

from datetime import UTC, datetime

import requests
from pydantic import SecretStr

from exporter.definitions.catalog import Catalog
from exporter.definitions.connection import Connection, Consent
from exporter.definitions.export import Export
from exporter.definitions.mapping import parse_mapping
from sandbox.demo.stage import Stage
from sandbox.klaviyo import FULL_KEY
from sandbox.snapshots import Kind, Snapshot

LIST_ID, CONNECTION, EXPORT = "Y6nRLr", "klaviyo", "high-value"
SECRET = "klaviyo-key"
SEGMENT = "HighValue"
PARTITIONS = 4
MAPPING = {
    "email": "EMail",
    "first_name": "FirstName",
    "last_name": "LastName",
    "phone_number": "Telephone",
    "location": {"city": "City", "country": "Country"},
    "properties": {
        "customer_id": "CustomerId",
        "date_of_birth": "DateOfBirth",
        "loyalty_tier": "LoyaltyTier",
        "lifetime_value": {"column": "LifetimeValue", "type": "number"},
    },
}


def register(stage: Stage) -> None:
    """Do what an administrator and a marketer do once: list, key, connection, export."""
    requests.post(
        f"{stage.control_url}/lists", json={"id": LIST_ID, "name": "High value"}, timeout=10
    ).raise_for_status()
    stage.vault.write(SECRET, SecretStr(FULL_KEY))
    catalog = Catalog(stage.store)
    consent = Consent(by="demo", at=datetime.now(UTC))
    catalog.save(
        Connection(
            id=CONNECTION, name="Klaviyo", secret=SECRET, used_by="contributors", consent=consent
        )
    )
    catalog.save(
        Export(
            id=EXPORT,
            name="High value to Klaviyo",
            connection=CONNECTION,
            list_id=LIST_ID,
            segments=[SEGMENT],
            mapping=parse_mapping(MAPPING),
        )
    )


def demo_snapshot(rows: int) -> Snapshot:
    """A snapshot with a little of what goes wrong in real ones."""
    some = max(1, rows // 10_000)
    bad = {
        Kind.EMAIL_NO_AT: some,
        Kind.EMAIL_PLACEHOLDER: some,
        Kind.DUPLICATE: some,
        Kind.DUPLICATE_ACROSS: some,
        Kind.RAGGED_SHORT: some,
        Kind.BAD_PHONE: some,
        Kind.KLAVIYO_ASYNC: some,
    }
    return Snapshot(
        rows=rows,
        partitions=PARTITIONS,
        seed=7,
        segment=SEGMENT,
        bad=bad if rows >= 100 else {},
    )
