"""Makes a Klaviyo list equal to a Dynamics 365 Customer Insights segment.

The folders stand in the order of a snapshot's way: docs/architecture.md follows one from blob to
list.
"""

VERSION = "0.1.0"  # of the app and of the installable package
