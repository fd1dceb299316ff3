"""The HTTP API: management.py over JSON, for the command line and other programs.

identity.py   who asks, by the header that App Service authentication sets
guard.py      before any route: nobody without an identity and a role, no request from other sites, no huge body
problems.py   errors as problem details (RFC 9457)
app.py        the routes, each one call of Management
"""
