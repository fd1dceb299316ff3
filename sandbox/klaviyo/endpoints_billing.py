"""/api/billing-usage, which there is since revision 2026-10-15.

Source: Klaviyo's Python SDK 25.0.0. It does not list the usage types; "profiles" is our guess,
after the unit of this name.
"""

from __future__ import annotations

from sandbox.klaviyo import resources
from sandbox.klaviyo.calls import Call, Route
from sandbox.klaviyo.documented import Parameters
from sandbox.klaviyo.limits import Tier
from sandbox.klaviyo.messages import Response, answer, not_found
from sandbox.klaviyo.queries import links

PROFILES = "profiles"
FIELDS = frozenset({"id", "usage_used", "usage_max", "unit", "period_start", "period_end", "as_of"})


def get_usages(call: Call) -> Response:
    data = [call.sparse(_profiles(call))]
    return answer({"data": data, "links": links(call.request, None)})


def get_usage(call: Call) -> Response:
    if call.params["id"] != PROFILES:
        raise not_found("billing-usage", call.params["id"])
    made = call.sparse(_profiles(call))
    return answer({"data": made, "links": made["links"]})


def _profiles(call: Call) -> dict[str, object]:
    used = call.settings.billing_used
    return resources.billing_usage(
        PROFILES,
        used=call.account.profiles.count if used is None else used,
        most=call.settings.billing_max,
        now=call.now,
        base_url=call.base_url,
    )


ROUTES = tuple(
    Route(
        method="GET",
        template=f"/api/billing-usage{rest}",
        scopes=frozenset({"usage:read"}),
        tier=Tier.M,
        endpoint=endpoint,
        since="2026-10-15",
        parameters=Parameters(choices={"fields[billing-usage]": FIELDS}),
    )
    for rest, endpoint in (("", get_usages), ("/{id}", get_usage))
)
