"""Why a row is not sent, or a cell of it: two closed lists."""

from __future__ import annotations

from enum import StrEnum

MAX_EMAIL_CHARS = 100  # Klaviyo, "Profiles API overview", read 2026-11
MAX_LOCAL_PART_CHARS = 64  # RFC 5321, 4.5.3.1.1
MAX_LABEL_CHARS = 63  # RFC 1035, 2.3.4: between two dots of a domain
MAX_EXTERNAL_ID_CHARS = 255  # Segment's code for Klaviyo, 2026; no official figure
# Klaviyo says 100 KB a profile since revision 2025-01-15; decimal is the smaller reading.
MAX_PROFILE_BYTES = 100_000


class RejectReason(StrEnum):
    """Why a row is not sent, or was not accepted. docs/rejected-rows.md explains each."""

    TOO_FEW_COLUMNS = "too_few_columns"
    TOO_MANY_COLUMNS = "too_many_columns"
    UNTERMINATED_QUOTE = "unterminated_quote"
    STRAY_QUOTE = "stray_quote"
    NUL_BYTE = "nul_byte"
    BAD_ENCODING = "bad_encoding"
    BARE_CARRIAGE_RETURN = "bare_carriage_return"
    TOO_LONG = "too_long"
    NO_IDENTIFIER = "no_identifier"
    PLACEHOLDER = "placeholder"
    EMAIL_TOO_LONG = "email_too_long"
    EMAIL_MAILTO = "email_mailto"
    EMAIL_SPACE = "email_space"
    EMAIL_INVISIBLE = "email_invisible"
    EMAIL_LOCAL_PART = "email_local_part"
    EMAIL_DOMAIN = "email_domain"
    EMAIL_MALFORMED = "email_malformed"
    PHONE_IMPOSSIBLE = "phone_impossible"
    EXTERNAL_ID_TOO_LONG = "external_id_too_long"
    PROFILE_TOO_LARGE = "profile_too_large"
    REFUSED_BY_KLAVIYO = "refused_by_klaviyo"
    FAILED_IN_KLAVIYO = "failed_in_klaviyo"
    UNCONFIRMED = "unconfirmed"
    JOB_LOST = "job_lost"


MESSAGES = {
    RejectReason.TOO_FEW_COLUMNS: "the row has fewer cells than the header",
    RejectReason.TOO_MANY_COLUMNS: "the row has more cells than the header",
    RejectReason.UNTERMINATED_QUOTE: "a quote is opened and never closed",
    RejectReason.STRAY_QUOTE: (
        "text follows a closing quote; quotes inside a cell must be doubled"
    ),
    RejectReason.NUL_BYTE: "the row holds a NUL byte",
    RejectReason.BAD_ENCODING: "the row holds bytes that are not text in the file's encoding",
    RejectReason.BARE_CARRIAGE_RETURN: "a carriage return stands alone outside quotes",
    RejectReason.TOO_LONG: "the row is longer than any row can sensibly be",
    RejectReason.NO_IDENTIFIER: "the cell that identifies the profile is empty",
    RejectReason.PLACEHOLDER: "the address is a placeholder, not a person's",
    RejectReason.EMAIL_TOO_LONG: (
        f"the address is longer than Klaviyo's {MAX_EMAIL_CHARS} characters"
    ),
    RejectReason.EMAIL_MAILTO: "the cell holds a link (mailto:), not an address",
    RejectReason.EMAIL_SPACE: "the address holds a blank",
    RejectReason.EMAIL_INVISIBLE: (
        "the address holds a character that nobody can see; type the address again"
    ),
    RejectReason.EMAIL_LOCAL_PART: "the part before the @ is not one that RFC 5321 allows",
    RejectReason.EMAIL_DOMAIN: "Klaviyo may refuse the domain after the @",
    RejectReason.EMAIL_MALFORMED: "the cell does not hold an e-mail address",
    RejectReason.PHONE_IMPOSSIBLE: (
        "no such phone number can exist; give country codes or the export's phone region"
    ),
    RejectReason.EXTERNAL_ID_TOO_LONG: (
        f"the external id is longer than {MAX_EXTERNAL_ID_CHARS} characters"
    ),
    RejectReason.PROFILE_TOO_LARGE: (
        f"the profile is larger than Klaviyo's {MAX_PROFILE_BYTES:,} bytes"
    ),
    RejectReason.REFUSED_BY_KLAVIYO: "Klaviyo refused the row when its batch was sent",
    RejectReason.FAILED_IN_KLAVIYO: "Klaviyo accepted the batch but could not import the row",
    RejectReason.UNCONFIRMED: (
        "Klaviyo counts a row of the job neither as imported nor as failed; it does not say which"
    ),
    RejectReason.JOB_LOST: (
        "Klaviyo accepted the batch but later did not know its job: the row's fate is unknown"
    ),
}


class LeftOutReason(StrEnum):
    """Why a cell is left out of a profile that is sent. docs/rejected-rows.md explains each.

    Of an address or an external id beside another identifier, the reasons are `RejectReason`s.
    """

    PHONE_IMPOSSIBLE = "phone_impossible"
    PHONE_NO_REGION = "phone_no_region"
    NUMBER_UNREADABLE = "number_unreadable"
    BOOLEAN_UNREADABLE = "boolean_unreadable"
    DATE_UNREADABLE = "date_unreadable"
    DATE_AMBIGUOUS = "date_ambiguous"
    LIST_EMPTY = "list_empty"
    IDENTIFIER_SHARED = "identifier_shared"


LEFT_OUT_MESSAGES = {
    LeftOutReason.PHONE_IMPOSSIBLE: "no such phone number can exist",
    LeftOutReason.PHONE_NO_REGION: (
        "the phone number has no country code, and the mapping has no phone_region"
    ),
    LeftOutReason.NUMBER_UNREADABLE: "the cell is not a number",
    LeftOutReason.BOOLEAN_UNREADABLE: "the cell is neither true nor false",
    LeftOutReason.DATE_UNREADABLE: "the cell is not a date",
    LeftOutReason.DATE_AMBIGUOUS: (
        "day and month of the date can be exchanged; give the mapping a culture, such as en-GB"
    ),
    LeftOutReason.LIST_EMPTY: "the list holds nothing but separators",
    LeftOutReason.IDENTIFIER_SHARED: (
        "another row has the same value, and Klaviyo gives it to one profile only"
    ),
}
