"""The certificate that the vault shows, and what a process must trust to accept it."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from pathlib import Path

import certifi
import trustme


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A new certificate for this machine. `authority` signed it.

    `bundle` is the authority together with the usual ones: REQUESTS_CA_BUNDLE replaces what a
    process trusts, so this file keeps other hosts reachable.
    """

    context: ssl.SSLContext
    authority: Path
    bundle: Path


def make_certificate(folder: Path) -> Certificate:
    """Make an authority and a certificate for 127.0.0.1 and localhost; no key is written."""
    made = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    authority, bundle = folder / "ca.pem", folder / "ca-bundle.pem"
    made.cert_pem.write_to_path(authority)
    bundle.write_bytes(_usual_authorities() + authority.read_bytes())
    return Certificate(context=context, authority=authority, bundle=bundle)


def _usual_authorities() -> bytes:
    """What this process trusts already."""
    given = Path(os.environ.get("REQUESTS_CA_BUNDLE", ""))
    return (given if given.is_file() else Path(certifi.where())).read_bytes()
