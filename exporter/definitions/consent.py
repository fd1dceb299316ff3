"""The text that an administrator agrees to before any data is sent to Klaviyo. Pure.

It means the same as the built-in connector's text on data privacy and compliance, in our words.
A consent holds until it is withdrawn, even when the text changes. It keeps the version of its text.
"""

from __future__ import annotations

VERSION = "2026-11-23"  # changes with the text; kept with each consent

TEXT = """\
By agreeing you instruct this app to send the mapped columns of your customers' profiles, which \
may be personal data, from your Azure subscription to Klaviyo, Inc.

Once sent, the data is outside your subscription and outside the compliance boundary of Dynamics \
365 and Azure: Klaviyo's terms apply to it. You are responsible for having the consent of the \
people concerned where it is needed, and for making sure that Klaviyo meets the privacy and \
security duties that you have.

You can withdraw at any time, by withdrawing this consent or by removing the connection. Nothing \
is sent from then on; what Klaviyo already has, you delete there.
"""
