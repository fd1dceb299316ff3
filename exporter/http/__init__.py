"""The HTTP API: management over JSON, for the command line and other programs.

identity.py   who asks, by the header that App Service authentication sets
guard.py      before any route: refuses who has no identity or role, other sites, huge bodies
problems.py   errors as problem details (RFC 9457)
routes.py     the routes, each one call of management
"""
