"""What can be wrong with a row, and what a correct exporter makes of it."""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    """What can be wrong with a row."""

    EMAIL_NO_AT = "email-no-at"
    EMAIL_MAILTO = "email-mailto"
    EMAIL_EXCLAMATION = "email-exclamation"
    EMAIL_DIGIT_IN_TLD = "email-digit-in-tld"
    EMAIL_SPACE = "email-space"
    EMAIL_TOO_LONG = "email-too-long"
    EMAIL_BLANK = "email-blank"
    EMAIL_PLACEHOLDER = "email-placeholder"
    DUPLICATE = "duplicate"
    DUPLICATE_ACROSS = "duplicate-across"
    BAD_PHONE = "bad-phone"
    RAGGED_SHORT = "ragged-short"
    RAGGED_LONG = "ragged-long"
    UNTERMINATED_QUOTE = "unterminated-quote"
    STRAY_QUOTE = "stray-quote"
    BARE_CR = "bare-cr"
    NUL_BYTE = "nul-byte"
    INVALID_UTF8 = "invalid-utf8"
    RECORD_TOO_LONG = "record-too-long"
    PROFILE_TOO_LARGE = "profile-too-large"  # where the first name is sent
    EXTERNAL_ID_TOO_LONG = "external-id-too-long"  # where CustomerId identifies the profile
    KLAVIYO_ASYNC = "klaviyo-async"
    KLAVIYO_SYNC = "klaviyo-sync"


DUPLICATES = frozenset({Kind.DUPLICATE, Kind.DUPLICATE_ACROSS})


class Outcome(StrEnum):
    """What a correct exporter makes of a planted row."""

    REJECTED = "rejected"
    DUPLICATE = "duplicate"
    WITHOUT_PHONE = "delivered-without-phone"
    REFUSED = "refused-by-klaviyo"
    IMPORT_ERROR = "import-error"


OUTCOMES = {
    Kind.DUPLICATE: Outcome.DUPLICATE,
    Kind.DUPLICATE_ACROSS: Outcome.DUPLICATE,
    Kind.BAD_PHONE: Outcome.WITHOUT_PHONE,
    Kind.KLAVIYO_SYNC: Outcome.REFUSED,
    Kind.KLAVIYO_ASYNC: Outcome.IMPORT_ERROR,
}  # every other kind is rejected before anything is sent
