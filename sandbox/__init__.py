"""Stand-ins for a laptop and for tests: Klaviyo, Key Vault, a functions host, snapshots.

They follow the documented behaviour of the real services, never what is convenient for us. Nothing
here is deployed.
"""
