"""Key Vault's secrets over https, and the identity endpoint that gives tokens for it.

The real `SecretClient` with the real `DefaultAzureCredential` works against it unchanged: a
process that has `RunningVault.env` in its environment finds the identity and trusts the
certificate, which is made at each start.

    SecretClient --GET /secrets/klaviyo-key--> vault      401, "ask for a token for this resource"
    DefaultAzureCredential --resource--------> identity   token, if X-IDENTITY-HEADER is right
    SecretClient --the same with the token---> vault      200

    stored_secrets.py   the three operations on secrets        tokens.py        access tokens
    service.py          the two services as request handlers   certificate.py   what to trust
    server.py           http and https around them             command.py       the command line

Sources: Microsoft Learn, "Key Vault REST API: secrets" (2025-07-01), "Authentication, requests
and responses", and for the identity endpoint "Managed identities for App Service" (all read in
2026); error texts as seen in public issues of the Azure SDKs.
"""

from sandbox.vault.command import main
from sandbox.vault.server import RunningVault, serving
from sandbox.vault.service import Vault

__all__ = ["RunningVault", "Vault", "main", "serving"]
