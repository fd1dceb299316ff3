"""JSON:API resource objects, in the shapes of the OpenAPI spec 2026-07-15."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sandbox.klaviyo.account import ACCOUNT_ID, Account
from sandbox.klaviyo.jobs import LIFETIME_S, Job
from sandbox.klaviyo.lists import ProfileList
from sandbox.klaviyo.profiles import profile_id

# In the order of the spec; absent values are shown as null.
PROFILE_FIELDS = (
    "email",
    "phone_number",
    "external_id",
    "first_name",
    "last_name",
    "organization",
    "locale",
    "title",
    "image",
    "created",
    "updated",
    "last_event_date",
    "location",
    "properties",
)
LOCATION_FIELDS = (
    "address1",
    "address2",
    "city",
    "country",
    "latitude",
    "longitude",
    "region",
    "zip",
    "timezone",
    "ip",
)


def timestamp(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat()


def account(base_url: str) -> dict[str, Any]:
    return {
        "type": "account",
        "id": ACCOUNT_ID,
        "attributes": {
            "test_account": True,
            "contact_information": {
                "default_sender_name": "Sandbox",
                "default_sender_email": "sender@sandbox.example",
                "website_url": "https://sandbox.example",
                "organization_name": "Sandbox Organization",
                "street_address": {
                    **dict.fromkeys(("address1", "address2", "city", "region", "zip")),
                    "country": "Germany",
                },
            },
            "industry": None,
            "timezone": "Europe/Berlin",
            "preferred_currency": "EUR",
            "public_api_key": ACCOUNT_ID,
            "locale": "en-US",
        },
        "links": {"self": f"{base_url}/api/accounts/{ACCOUNT_ID}/"},
    }


def profile(
    known: Account,
    number: int,
    base_url: str,
    *,
    joined_at: float | None = None,
) -> dict[str, Any]:
    """A profile; with the time when it joined a list if it is shown as a member."""
    values = known.profiles.attributes(number)
    created, updated = known.profiles.times(number)
    attributes: dict[str, Any] = dict.fromkeys(PROFILE_FIELDS)
    attributes |= values
    attributes["created"], attributes["updated"] = timestamp(created), timestamp(updated)
    attributes["location"] = dict.fromkeys(LOCATION_FIELDS) | values.get("location", {})
    attributes["properties"] = values.get("properties", {})
    if joined_at is not None:
        attributes["joined_group_at"] = timestamp(joined_at)
    made = profile_id(number)
    self_link = f"{base_url}/api/profiles/{made}"
    return {
        "type": "profile",
        "id": made,
        "attributes": attributes,
        "relationships": {
            "lists": {"links": _both(self_link, "lists")},
            "segments": {"links": _both(self_link, "segments")},
        },
        "links": {"self": f"{self_link}/"},
    }


def profile_reference(number: int) -> dict[str, str]:
    return {"type": "profile", "id": profile_id(number)}


def list_reference(list_id: str) -> dict[str, str]:
    return {"type": "list", "id": list_id}


def profile_list(
    known: ProfileList, base_url: str, *, with_count: bool = False, with_flows: bool = False
) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "name": known.name,
        "created": timestamp(known.created),
        "updated": timestamp(known.updated),
        "opt_in_process": known.opt_in_process,
    }
    if with_count:
        attributes["profile_count"] = known.members.count
    self_link = f"{base_url}/api/lists/{known.id}"
    relationships: dict[str, Any] = {
        name: {"links": _both(self_link, name)} for name in ("profiles", "tags", "flow-triggers")
    }
    if with_flows:
        relationships["flow-triggers"]["data"] = [
            {"type": "flow", "id": each["id"]} for each in known.flows
        ]
    return {
        "type": "list",
        "id": known.id,
        "attributes": attributes,
        "relationships": relationships,
        "links": {"self": f"{self_link}/"},
    }


def flow(known: dict[str, Any], base_url: str) -> dict[str, Any]:
    return {
        "type": "flow",
        "id": known["id"],
        "attributes": {
            "name": known.get("name"),
            "status": known.get("status", "live"),
            "archived": False,
            "created": None,
            "updated": None,
            "trigger_type": "Added to List",
        },
        "links": {"self": f"{base_url}/api/flows/{known['id']}/"},
    }


def billing_usage(
    usage: str, *, used: float, most: int, now: float, base_url: str
) -> dict[str, Any]:
    """How much of one usage type a plan has and the account has used, in the calendar month."""
    moment = datetime.fromtimestamp(now, UTC)
    start = moment.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    end = (start + timedelta(days=31)).replace(day=1)
    return {
        "type": "billing-usage",
        "id": usage,
        "attributes": {
            "usage_used": used,
            "usage_max": most,
            "unit": "profiles",
            "period_start": start.isoformat(),
            "period_end": end.isoformat(),
            "as_of": timestamp(now),
        },
        "links": {"self": f"{base_url}/api/billing-usage/{usage}/"},
    }


def job(known: Job, base_url: str, now: float) -> dict[str, Any]:
    self_link = f"{base_url}/api/profile-bulk-import-jobs/{known.id}"
    status = known.status(now)
    return {
        "type": "profile-bulk-import-job",
        "id": known.id,
        "attributes": {
            "status": status,
            "created_at": timestamp(known.created_at),
            "total_count": known.total,
            "completed_count": known.completed,
            "failed_count": len(known.import_errors),
            "completed_at": timestamp(known.ends_at) if status == "complete" else None,
            "expires_at": timestamp(known.created_at + LIFETIME_S),
            "started_at": timestamp(known.starts_at)
            if status in ("processing", "complete")
            else None,
        },
        "relationships": {
            "lists": {
                "data": [list_reference(each) for each in known.list_ids],
                "links": _both(self_link, "lists"),
            },
            "profiles": {"links": _both(self_link, "profiles")},
            "import-errors": {"links": {"related": f"{self_link}/import-errors/"}},
        },
        "links": {"self": f"{self_link}/"},
    }


def _both(self_link: str, name: str) -> dict[str, str]:
    return {"self": f"{self_link}/relationships/{name}/", "related": f"{self_link}/{name}/"}
