"""Key Vault's secrets over https, and the identity endpoint that gives tokens for it, in one process.

The real `SecretClient` with the real `DefaultAzureCredential` works against it unchanged: a process that has
`RunningVault.env` in its environment finds the identity and trusts the certificate, which is made at each start.

    SecretClient --GET /secrets/klaviyo-key--> vault      401, "ask for a token for this resource"
    DefaultAzureCredential --resource--------> identity   token, if X-IDENTITY-HEADER is right
    SecretClient --the same with the token---> vault      200

Tests and people change what it does through `/sandbox` on the identity's address, see `Knobs`.
Sources: Microsoft Learn, "Key Vault REST API: secrets" (2025-07-01), "About secrets", "Azure Key Vault throttling
guidance", "Authentication, requests and responses", and for the identity endpoint "Managed identities for App Service"
(all read in 2026); error texts as seen in public issues of the Azure SDKs.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import dataclasses
import hmac
import ipaddress
import json
import os
import re
import secrets
import signal
import ssl
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, quote, urlsplit

import certifi
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

PAGE = 25  # the most a list answers at once, and what it answers when not asked for less
MAX_VALUE_BYTES = 25_600  # "maximum of 25k bytes"
NAME = re.compile(r"[0-9a-zA-Z-]{1,127}")
RETENTION = timedelta(days=90)  # how long a deleted secret can be recovered
TENANT = "2f1c4b7a-5c55-4a0e-8f5e-0d5f1f0c9a11"
CLIENT_ID = "7b6f0d3e-9d0a-4a57-9f59-0e2a3c1b5d77"

Json = dict[str, Any]


class Request(NamedTuple):
    method: str
    path: str
    query: Mapping[str, str]
    headers: Message[str, str]  # names in any case
    body: bytes

    def json(self) -> Json:
        try:
            content = json.loads(self.body or b"{}")
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise Refused(400, "BadParameter", "The request body is not a JSON object.")
        return content


class Answer(NamedTuple):
    status: int
    content: Json | None = None
    headers: Mapping[str, str] = {}


class Refused(Exception):
    """An answer other than success, in Key Vault's form."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        inner: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        error: Json = {"code": code, "message": message}
        if inner:
            error["innererror"] = {"code": inner}
        self.answer = Answer(status, {"error": error}, headers or {})


@dataclass(slots=True, kw_only=True)
class Knobs:
    """What a test can change: GET `/sandbox` shows them, PATCH with a JSON object sets some."""

    throttle_next: int = 0  # so many requests with a valid token are answered with 429
    retry_after_s: int | None = 1  # None: a 429 without the header
    role_assigned: bool = True  # whether the identity may read and write secrets
    identity_available: bool = True
    token_lifetime_s: float = 24 * 3600
    deletion_s: float = 0  # time until a deleted secret shows among the deleted ones

    def change(self, values: Json) -> None:
        unknown = values.keys() - {knob.name for knob in dataclasses.fields(self)}
        if unknown:
            raise Refused(400, "BadParameter", f"no such knob: {', '.join(sorted(unknown))}")
        for name, value in values.items():
            setattr(self, name, value)


# --- tokens ---------------------------------------------------------------------------------------------------


def _base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


class Tokens:
    """Issues and checks signed tokens in the form of JWTs. `revoke` makes all that were issued worthless."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.revoke()

    def revoke(self) -> None:
        self._key = secrets.token_bytes(32)

    def issue(self, resource: str, *, lifetime_s: float) -> Json:
        now = int(self._clock())
        claims: Json = {
            "aud": resource,
            "iss": f"https://sts.windows.net/{TENANT}/",
            "tid": TENANT,
            "appid": CLIENT_ID,
        }
        claims |= {"nbf": now, "exp": now + int(lifetime_s)}
        signed = ".".join(
            _base64url(json.dumps(part).encode())
            for part in ({"typ": "JWT", "alg": "HS256"}, claims)
        )
        return {
            "access_token": f"{signed}.{self._signature(signed)}",
            "client_id": CLIENT_ID,
            "expires_on": str(claims["exp"]),
            "not_before": str(now),
            "resource": resource,
            "token_type": "Bearer",
        }

    def fault(self, token: str, *, audience: str) -> str | None:
        """Say what is wrong with a token; None if nothing is."""
        signed, _, signature = token.rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._signature(signed).encode()):
            return "the signature is not valid"
        claims = self._claims(signed)
        if claims["exp"] <= self._clock():
            return "the token has expired"
        if claims["aud"] != audience:
            return f"the audience is {claims['aud']}, expected {audience}"
        return None

    @staticmethod
    def _claims(signed: str) -> Json:
        payload = signed.partition(".")[2]
        claims: Json = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return claims

    def _signature(self, signed: str) -> str:
        return _base64url(hmac.digest(self._key, signed.encode(), "sha256"))


# --- secrets --------------------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class Version:
    """One value that a secret has had."""

    id: str
    value: str
    created: int
    updated: int
    enabled: bool = True
    expires: int | None = None
    not_before: int | None = None
    content_type: str | None = None
    tags: dict[str, str] | None = None

    def change(self, content: Json) -> None:
        """Take over what a PUT or PATCH body says; what it leaves out stays."""
        attributes = content.get("attributes") or {}
        self.enabled = attributes.get("enabled", self.enabled)
        self.expires = attributes.get("exp", self.expires)
        self.not_before = attributes.get("nbf", self.not_before)
        self.content_type = content.get("contentType", self.content_type)
        self.tags = content.get("tags", self.tags)

    def properties(self, url: str) -> Json:
        attributes = {
            "enabled": self.enabled,
            "nbf": self.not_before,
            "exp": self.expires,
            "created": self.created,
            "updated": self.updated,
            "recoveryLevel": "Recoverable+Purgeable",
            "recoverableDays": RETENTION.days,
        }
        optional = {"contentType": self.content_type, "tags": self.tags}
        return {"id": url, "attributes": _without_nulls(attributes), **_without_nulls(optional)}


def _without_nulls(values: Json) -> Json:
    return {name: value for name, value in values.items() if value is not None}


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise Refused(400, "BadParameter", f"The request URI contains an invalid name: {name}")


@dataclass(slots=True, kw_only=True)
class Secret:
    name: str
    versions: dict[str, Version] = field(default_factory=dict)  # oldest first
    deleted_at: float = 0

    @property
    def latest(self) -> Version:
        return list(self.versions.values())[-1]


class Secrets:
    """The vault's contents and its REST operations on them; no transport, no identity."""

    def __init__(self, url: str, knobs: Knobs, clock: Callable[[], float]) -> None:
        self._url = url
        self._knobs = knobs
        self._clock = clock
        self._live: dict[str, Secret] = {}  # by name in lower case, as names are case-insensitive
        self._deleted: dict[str, Secret] = {}

    def answer(self, request: Request) -> Answer:
        if "api-version" not in request.query:
            raise Refused(
                400, "BadParameter", "The request misses the query parameter api-version."
            )
        collection, *rest = request.path.strip("/").split("/")
        if rest:
            _check_name(rest[0])
        match request.method, collection, rest:
            case "GET", "secrets", []:
                return self._list(self._live, request, self._secret_item)
            case "GET", "secrets", [name, "versions"]:
                return self._list_versions(name, request)
            case "GET", "secrets", [name, *version]:
                return self._get(name, version)
            case "PUT", "secrets", [name]:
                return self.put(name, request.json())
            case "PATCH", "secrets", [name, *version]:
                return self._update(name, version, request.json())
            case "DELETE", "secrets", [name]:
                return self._delete(name)
            case "GET", "deletedsecrets", []:
                return self._list(self._visible_deleted(), request, self._deleted_item)
            case "GET", "deletedsecrets", [name]:
                return Answer(200, self._deleted_bundle(self._find_deleted(name)))
            case "DELETE", "deletedsecrets", [name]:
                del self._deleted[self._find_deleted(name).name.lower()]
                return Answer(204)
            case "POST", "deletedsecrets", [name, "recover"]:
                return self._recover(name)
            case _:
                raise Refused(
                    405, "MethodNotAllowed", f"{request.method} {request.path} is not served here."
                )

    def put(self, name: str, content: Json) -> Answer:
        _check_name(name)
        value = content.get("value")
        if not isinstance(value, str):
            raise Refused(400, "BadParameter", "Property value is required and must be a string.")
        if len(value.encode()) > MAX_VALUE_BYTES:
            raise Refused(400, "BadParameter", f"The value is longer than {MAX_VALUE_BYTES} bytes.")
        if name.lower() in self._deleted:
            raise Refused(
                409,
                "Conflict",
                f"Secret {name} is currently in a deleted but recoverable state, and its name cannot be reused; "
                "in this state, the secret can only be recovered or purged.",
                inner="ObjectIsDeletedButRecoverable",
            )
        secret = self._live.setdefault(name.lower(), Secret(name=name))
        now = int(self._clock())
        version = Version(id=uuid.uuid4().hex, value=value, created=now, updated=now)
        version.change(content)
        secret.versions[version.id] = version
        return Answer(200, self._bundle(secret, version))

    def _get(self, name: str, version_id: Sequence[str]) -> Answer:
        """Expired and not yet valid secrets can be read; only disabled ones cannot ("About secrets")."""
        secret, version = self._find(name, version_id)
        if not version.enabled:
            message = "Operation get is not allowed on a disabled secret."
            raise Refused(403, "Forbidden", message, inner="SecretDisabled")
        return Answer(200, self._bundle(secret, version))

    def _update(self, name: str, version_id: Sequence[str], content: Json) -> Answer:
        secret, version = self._find(name, version_id)
        version.change(content)
        version.updated = int(self._clock())
        return Answer(200, version.properties(self._version_url(secret, version)))

    def _delete(self, name: str) -> Answer:
        secret, _ = self._find(name, ())
        secret.deleted_at = self._clock()
        self._deleted[name.lower()] = self._live.pop(name.lower())
        return Answer(200, self._deleted_bundle(secret))

    def _recover(self, name: str) -> Answer:
        secret = self._find_deleted(name)
        self._live[name.lower()] = self._deleted.pop(name.lower())
        return Answer(200, secret.latest.properties(self._version_url(secret, secret.latest)))

    def _find(self, name: str, version_id: Sequence[str]) -> tuple[Secret, Version]:
        secret = self._live.get(name.lower())
        if secret and not version_id:
            return secret, secret.latest
        if secret and version_id[0] in secret.versions:
            return secret, secret.versions[version_id[0]]
        raise Refused(
            404,
            "SecretNotFound",
            f"A secret with (name/id) {'/'.join([name, *version_id])} was not found in this key vault. "
            "If you recently deleted this secret you may be able to recover it using the correct recovery command.",
        )

    def _find_deleted(self, name: str) -> Secret:
        secret = self._visible_deleted().get(name.lower())
        if secret is None:
            raise Refused(404, "SecretNotFound", f"Deleted Secret not found: {name}")
        return secret

    def _visible_deleted(self) -> dict[str, Secret]:
        """The deleted secrets, but those whose deletion is still going on."""
        latest = self._clock() - self._knobs.deletion_s
        return {key: secret for key, secret in self._deleted.items() if secret.deleted_at <= latest}

    def _list_versions(self, name: str, request: Request) -> Answer:
        secret = self._live.get(name.lower()) or Secret(
            name=name
        )  # an unknown name has no versions: an empty list

        def item(version: Version) -> Json:
            return version.properties(self._version_url(secret, version))

        return self._list(secret.versions, request, item)

    def _list(
        self, entries: Mapping[str, Any], request: Request, item: Callable[[Any], Json]
    ) -> Answer:
        """One page in the order of keys; the token for the next page is the last key of this one."""
        size = request.query.get("maxresults", str(PAGE))
        if not size.isdecimal() or not 1 <= int(size) <= PAGE:
            raise Refused(400, "BadParameter", f"maxresults must be between 1 and {PAGE}.")
        keys = sorted(key for key in entries if key > request.query.get("$skiptoken", ""))
        page, rest = keys[: int(size)], keys[int(size) :]
        link = f"{self._url}{request.path}?api-version={quote(request.query['api-version'])}"
        next_link = f"{link}&$skiptoken={quote(page[-1])}&maxresults={size}" if rest else None
        return Answer(200, {"value": [item(entries[key]) for key in page], "nextLink": next_link})

    def _secret_url(self, secret: Secret) -> str:
        return f"{self._url}/secrets/{secret.name}"

    def _version_url(self, secret: Secret, version: Version) -> str:
        return f"{self._secret_url(secret)}/{version.id}"

    def _bundle(self, secret: Secret, version: Version) -> Json:
        return {"value": version.value, **version.properties(self._version_url(secret, version))}

    def _secret_item(self, secret: Secret) -> Json:
        return secret.latest.properties(self._secret_url(secret))

    def _deleted_item(self, secret: Secret) -> Json:
        return {
            **self._secret_item(secret),
            "recoveryId": f"{self._url}/deletedsecrets/{secret.name}",
            "deletedDate": int(secret.deleted_at),
            "scheduledPurgeDate": int(secret.deleted_at + RETENTION.total_seconds()),
        }

    def _deleted_bundle(self, secret: Secret) -> Json:
        return {**self._deleted_item(secret), "id": self._version_url(secret, secret.latest)}


# --- the two services -----------------------------------------------------------------------------------------


class Vault:
    """Key Vault and the identity endpoint; `answer_vault` and `answer_identity` are the two doors."""

    def __init__(self, url: str, *, clock: Callable[[], float] = time.time) -> None:
        self.knobs = Knobs()
        self.requests: list[
            str
        ] = []  # what the vault was asked with a valid token, such as "GET /secrets/key"
        self.identity_header = secrets.token_hex(16)
        self._resource = _parent_resource(url)
        self._tokens = Tokens(clock)
        self._secrets = Secrets(url, self.knobs, clock)
        self._lock = threading.Lock()

    def set_secret(self, name: str, value: str) -> None:
        """Put a secret there without going through the front door."""
        with self._lock:
            self._secrets.put(name, {"value": value})

    def revoke_tokens(self) -> None:
        """Make every token that was issued so far invalid, as a change of signing keys would."""
        with self._lock:
            self._tokens.revoke()

    def answer_vault(self, request: Request) -> Answer:
        return self._answer(self._serve_vault, request)

    def answer_identity(self, request: Request) -> Answer:
        return self._answer(self._serve_identity, request)

    def _answer(self, serve: Callable[[Request], Answer], request: Request) -> Answer:
        try:
            with self._lock:
                return serve(request)
        except Refused as refused:
            return refused.answer

    def _serve_vault(self, request: Request) -> Answer:
        self._check_token(request)
        self.requests.append(f"{request.method} {request.path.rstrip('/')}")
        self._check_throttle()
        self._check_role()
        return self._secrets.answer(request)

    def _check_token(self, request: Request) -> None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            fault: str | None = "AKV10000: Request is missing a Bearer or PoP token."
        else:
            fault = self._tokens.fault(token, audience=self._resource)
        if fault:
            challenge = f'Bearer authorization="https://login.microsoftonline.com/{TENANT}", resource="{self._resource}"'
            raise Refused(401, "Unauthorized", fault, headers={"WWW-Authenticate": challenge})

    def _check_throttle(self) -> None:
        if self.knobs.throttle_next > 0:
            self.knobs.throttle_next -= 1
            message = "Request was not processed because too many requests were received."
            after = self.knobs.retry_after_s
            raise Refused(
                429,
                "Throttled",
                message,
                headers={} if after is None else {"Retry-After": str(after)},
            )

    def _check_role(self) -> None:
        if not self.knobs.role_assigned:
            message = "Caller is not authorized to perform action on resource."
            raise Refused(403, "Forbidden", message, inner="ForbiddenByRbac")

    def _serve_identity(self, request: Request) -> Answer:
        match request.method, request.path.rstrip("/"):
            case "GET", "/msi/token":
                return self._issue_token(request)
            case "GET", "/sandbox":
                return Answer(200, {**dataclasses.asdict(self.knobs), "requests": self.requests})
            case "PATCH", "/sandbox":
                self.knobs.change(request.json())
                return Answer(200, dataclasses.asdict(self.knobs))
            case "POST", "/sandbox/revoke-tokens":
                self._tokens.revoke()
                return Answer(204)
            case _:
                raise Refused(
                    404, "NotFound", f"{request.method} {request.path} is not served here."
                )

    def _issue_token(self, request: Request) -> Answer:
        resource = request.query.get("resource", "")
        if request.headers.get("X-IDENTITY-HEADER") != self.identity_header:
            return Answer(
                401, {"statusCode": 401, "message": "X-IDENTITY-HEADER is missing or wrong."}
            )
        if request.query.get("api-version") != "2019-08-01" or not resource:
            return Answer(
                400,
                {"statusCode": 400, "message": "api-version 2019-08-01 and resource are required."},
            )
        if not self.knobs.identity_available:
            return Answer(
                500, {"statusCode": 500, "message": "The identity endpoint is not available."}
            )
        return Answer(200, self._tokens.issue(resource, lifetime_s=self.knobs.token_lifetime_s))


def _parent_resource(url: str) -> str:
    """The resource that clients are told to get a token for.

    The client accepts it only if the vault's host, port included, ends with "." and the resource's host: its guard
    against a stranger asking for tokens. In Azure that is NAME.vault.azure.net and vault.azure.net. The only host
    that is local everywhere is an address, so its "parent" has to be one: 127.0.0.1:8443 and 0.0.1:8443.
    """
    parts = urlsplit(url)
    return f"https://{parts.netloc.partition('.')[2]}"


# --- transport ------------------------------------------------------------------------------------------------


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two writes
    timeout = 60  # an idle connection must not hold a thread for ever

    server: _Server

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._send(self.server.answer(Request(self.command, parts.path, query, self.headers, body)))

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = _serve  # noqa: N815 (http.server's names)

    def _send(self, answer: Answer) -> None:
        content = b"" if answer.content is None else json.dumps(answer.content).encode()
        self.send_response(answer.status)
        if answer.content is not None:
            self.send_header("Content-Type", "application/json; charset=utf-8")
        if answer.status != 204:
            self.send_header("Content-Length", str(len(content)))
        for name, value in {"x-ms-request-id": str(uuid.uuid4()), **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    """Listens at once; give it an `answer` before it serves."""

    answer: Callable[[Request], Answer]

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that distrust the certificate or go away are none of our business; everything else is."""
        if not isinstance(sys.exception(), (OSError, ssl.SSLError)):
            super().handle_error(request, client_address)


@contextlib.contextmanager
def _in_background(server: _Server) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningVault:
    """A vault that is being served. `env` is all that a child process needs; `control` is where `/sandbox` is."""

    url: str
    ca: Path
    control: str
    env: Mapping[str, str]
    vault: Vault

    def ready_line(self) -> str:
        return json.dumps(
            {"url": self.url, "ca": str(self.ca), "control": self.control, "env": dict(self.env)}
        )


@contextlib.contextmanager
def serving(*, port: int = 0, cert_dir: Path | None = None) -> Iterator[RunningVault]:
    """Serve a new, empty vault from this process until the block ends; 0 is a free port.

    The certificate goes to `cert_dir`, or to a temporary folder that goes away with the block.
    """
    with contextlib.ExitStack() as stack:
        folder = cert_dir or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vault-")))
        folder.mkdir(parents=True, exist_ok=True)
        vault_server, identity_server = (
            stack.enter_context(_Server(number)) for number in (port, 0)
        )
        url = f"https://127.0.0.1:{vault_server.server_port}"
        identity_url = f"http://127.0.0.1:{identity_server.server_port}"
        vault = Vault(url)
        certificate, bundle = _make_certificate(folder)
        _use_tls(vault_server, certificate)
        for server, answer in (
            (vault_server, vault.answer_vault),
            (identity_server, vault.answer_identity),
        ):
            server.answer = answer
            stack.enter_context(_in_background(server))
        env = {
            "IDENTITY_ENDPOINT": f"{identity_url}/msi/token",
            "IDENTITY_HEADER": vault.identity_header,
            "REQUESTS_CA_BUNDLE": str(bundle),
        }
        yield RunningVault(
            url=url, ca=certificate, control=f"{identity_url}/sandbox", env=env, vault=vault
        )


# --- certificate ----------------------------------------------------------------------------------------------

VALIDITY = timedelta(days=30)


def _make_certificate(folder: Path) -> tuple[Path, Path]:
    """Make a key and a certificate in `folder`; return the certificate, and it together with the usual authorities.

    REQUESTS_CA_BUNDLE replaces what a process trusts, so the second file keeps other hosts reachable.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    certificate, bundle = folder / "vault.pem", folder / "ca-bundle.pem"
    certificate.write_bytes(_self_signed(key).public_bytes(serialization.Encoding.PEM))
    usual = Path(os.environ.get("REQUESTS_CA_BUNDLE", ""))
    bundle.write_bytes(
        (usual if usual.is_file() else Path(certifi.where())).read_bytes()
        + certificate.read_bytes()
    )
    _write_private(
        _key_path(certificate),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )
    return certificate, bundle


def _key_path(certificate: Path) -> Path:
    return certificate.with_name("vault-key.pem")


def _write_private(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def _self_signed(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    """A certificate for this machine that is its own authority, with all that OpenSSL's strict mode wants to see."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sandbox vault")])
    hosts = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
    now = datetime.now(UTC)
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.SubjectAlternativeName(hosts), False),
        (x509.BasicConstraints(ca=True, path_length=0), True),
        (_key_usage(), True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), False),
    ]
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + VALIDITY)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(key, hashes.SHA256())


def _key_usage() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _use_tls(server: _Server, certificate: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, _key_path(certificate))
    # The handshake is left to the connection's own thread, so that a slow client holds up no other.
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )


# --- command line ---------------------------------------------------------------------------------------------


def _secret(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not NAME.fullmatch(name):
        raise argparse.ArgumentTypeError("not NAME=VALUE with letters, digits and hyphens in NAME")
    return name, value


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sandbox vault",
        description="Serve Key Vault and the identity endpoint; print their addresses as one JSON line.",
        epilog="Example: python -m sandbox vault --port 8443 --secret klaviyo-key=pk_test",
    )
    parser.add_argument("--port", type=int, default=0, help="0 = a free one")
    parser.add_argument(
        "--cert-dir", type=Path, help="where certificate and key go; default: a temporary folder"
    )
    parser.add_argument(
        "--secret",
        type=_secret,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="have this secret at once",
    )
    options = parser.parse_args(argv)
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    with serving(port=options.port, cert_dir=options.cert_dir) as running:
        for name, value in options.secret:
            running.vault.set_secret(name, value)
        print(running.ready_line(), flush=True)
        stopped.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
