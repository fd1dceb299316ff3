"""Sign-in as App Service authentication does it: the platform sets headers that say who asks.

With `--user admin` (contributor, viewer, none) every caller is that user. A token chooses another
one (`Authorization: Bearer sandbox-viewer`), as does opening /.auth/login/viewer in a browser until
/.auth/logout. "none" is signed in and has no role. Without the option authentication is off, and
headers pass as they come.
"""

from __future__ import annotations

import base64
import json
import os

from aiohttp import web

USERS = {
    "admin": ("Ada Admin", ["Admin"]),
    "contributor": ("Cem Contributor", ["Contributor"]),
    "viewer": ("Vio Viewer", ["Viewer"]),
    "none": ("Nil Norole", []),
}
TOKEN = "Bearer sandbox-"  # and a user's name
COOKIE = "AppServiceAuthSession"
EXCLUDED = ("/api/health", "/runtime/webhooks/blobs")  # infra/modules/app.bicep
OID = "http://schemas.microsoft.com/identity/claims/objectidentifier"


def switch_on() -> None:
    """What an app sees in its environment where authentication is on."""
    os.environ["WEBSITE_AUTH_ENABLED"] = "True"
    os.environ.setdefault("TRUST_PLATFORM_IDENTITY", "true")


class People:
    """Who may get through to the app, and as whom."""

    def __init__(self, default: str) -> None:
        self._default = default

    def answer(self, request: web.Request) -> web.Response | None:
        """The platform's own pages, and its refusal; None where the app is to answer."""
        path = request.rel_url.path
        if path.startswith("/.auth/login/") and (user := path.rpartition("/")[2]) in USERS:
            response = web.Response(status=302, headers={"Location": "/"})
            response.set_cookie(COOKIE, user, httponly=True, samesite="Lax")
            return response
        if path == "/.auth/logout":
            response = web.Response(status=302, headers={"Location": "/"})
            response.del_cookie(COOKIE)
            return response
        if path not in EXCLUDED and self._user(request) is None:
            return web.Response(
                status=401, text="You do not have permission to view this directory or page."
            )
        return None

    def headers(self, request: web.Request, headers: dict[str, str]) -> dict[str, str]:
        """Replace the headers that only the platform sets; names are in lower case."""
        kept = {
            name: value
            for name, value in headers.items()
            if not name.startswith("x-ms-client-principal")
        }
        user = self._user(request)
        if user is None or request.rel_url.path in EXCLUDED:
            return kept
        name, roles = USERS[user]
        identity = f"00000000-0000-4000-8000-{list(USERS).index(user):012}"
        claims = [
            (OID, identity),
            ("name", name),
            ("preferred_username", f"{user}@sandbox.example"),
        ]
        claims += [("roles", role) for role in roles]
        principal = {
            "auth_typ": "aad",
            "claims": [{"typ": kind, "val": value} for kind, value in claims],
            "name_typ": "preferred_username",
            "role_typ": "roles",
        }
        return {
            **kept,
            "x-ms-client-principal": base64.b64encode(json.dumps(principal).encode()).decode(),
            "x-ms-client-principal-id": identity,
            "x-ms-client-principal-name": f"{user}@sandbox.example",
            "x-ms-client-principal-idp": "aad",
        }

    def _user(self, request: web.Request) -> str | None:
        """None for a token that nobody has."""
        given = request.headers.get("Authorization", "")
        user = given.removeprefix(TOKEN) if given else request.cookies.get(COOKIE, self._default)
        return user if user in USERS else None
