"""What a row must meet before it is sent, and why it is rejected if it does not.

Klaviyo refuses a whole batch of 10,000 for one bad address, so the rules are conservative. They are SQL expressions:
DuckDB applies them to a million rows in about a second. Every expression is made of our own column names (c0, f0) and
constants; nothing from a snapshot or a mapping becomes SQL except through `literal`.
Sources: Klaviyo's "Profiles API overview" (100 characters), a public migration log of June 2026 (mailto:, "!" in the
local part, a digit in the top-level domain), Segment's action-destinations (the pattern). Pure.
"""

from __future__ import annotations

from exporter.rejection_reasons import (
    MAX_EMAIL_CHARS,
    MAX_EXTERNAL_ID_CHARS,
    MAX_LABEL_CHARS,
    MAX_LOCAL_PART_CHARS,
    RejectReason,
)
from exporter.sql import literal

# Lower case. Segment's filter, with the dots where they belong; the top-level domain holds letters only.
EMAIL_PATTERN = (
    r"[a-z0-9_%+-]+(?:\.[a-z0-9_%+-]+)*"
    r"@(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+[a-z]{2,}"
)
PLACEHOLDERS = (
    "none", "n/a", "na", "null", "nil", "-", "--", "unknown", "test", "no", "x", "xx", "xxx", "#n/a", "undefined",
    "none@none.com", "na@na.com", "noemail@noemail.com", "no@email.com", "test@test.com", "no-email@no-email.com",
    "noreply@noreply.com", "unknown@unknown.com", "a@a.com",
)  # fmt: skip
WHITESPACE = " \t\r\n\u00a0"


def trimmed(column: str) -> str:
    """The cell without the blanks around it."""
    return f"trim({column}, {literal(WHITESPACE)})"


def blank_to_null(column: str) -> str:
    """The cell as it is, or NULL where it holds nothing but blanks. Nearly all begin with visible ASCII: cheap."""
    blank = f"{trimmed(column)} = ''"
    return f"CASE WHEN {column} BETWEEN '!' AND '~' THEN {column} WHEN {blank} THEN NULL ELSE {column} END"


def is_usual_email(column: str) -> str:
    """Whether the cell is an address as Klaviyo takes it, already; nearly all are. Asked once a row: it is dear."""
    return matches(column, EMAIL_PATTERN)


def normalized_email(column: str, is_usual: str) -> str:
    """Trimmed and in lower case, as Klaviyo compares addresses; NULL when blank. is_usual: see `is_usual_email`."""
    return f"CASE WHEN {is_usual} THEN {column} ELSE nullif(lower({trimmed(column)}), '') END"


def only_good(value: str, reason: str) -> str:
    """The value, or NULL where there is a reason against it: of attributes that do not identify the profile."""
    return f"CASE WHEN ({reason}) IS NULL THEN {value} END"


def email_reason(email: str, is_usual: str) -> str:
    """The reason to reject a normalized address, or NULL. is_usual: of its cell, see `is_usual_email`."""
    placeholders = ", ".join(literal(text) for text in PLACEHOLDERS)
    good, domain = matches(email, EMAIL_PATTERN), EMAIL_PATTERN.partition("@")[2]
    longest = max(len(text) for text in PLACEHOLDERS)
    cases = [
        (f"{email} IS NULL", RejectReason.NO_IDENTIFIER),
        (f"strlen({email}) <= {longest} AND {email} IN ({placeholders})", RejectReason.PLACEHOLDER),
        (f"{is_usual} AND length({email}) <= {MAX_LABEL_CHARS}", None),
        (f"{good} AND length({email}) <= {MAX_LABEL_CHARS}", None),
        (f"starts_with({email}, 'mailto:')", RejectReason.EMAIL_MAILTO),
        (f"length({email}) > {MAX_EMAIL_CHARS}", RejectReason.EMAIL_TOO_LONG),
        (f"regexp_matches({email}, '\\s')", RejectReason.EMAIL_SPACE),
        (f"NOT {matches(email, '[^@]+@[^@]+')}", RejectReason.EMAIL_MALFORMED),
        (f"NOT {good} AND {matches(email, '[^@]+@' + domain)}", RejectReason.EMAIL_LOCAL_PART),
        (f"strpos({email}, '@') > {MAX_LOCAL_PART_CHARS} + 1", RejectReason.EMAIL_LOCAL_PART),
        (f"{good} AND NOT regexp_matches({email}, '@.*[^.]{{{MAX_LABEL_CHARS + 1}}}')", None),
    ]
    return _case(cases, otherwise=RejectReason.EMAIL_DOMAIN)


def external_id_reason(external_id: str) -> str:
    """The reason to reject an external id, or NULL."""
    return _case(
        [
            (f"{external_id} IS NULL", RejectReason.NO_IDENTIFIER),
            (f"length({external_id}) > {MAX_EXTERNAL_ID_CHARS}", RejectReason.EXTERNAL_ID_TOO_LONG),
        ],
        otherwise=None,
    )


def phone_reason(raw: str, phone: str) -> str:
    """The reason to reject a row identified by phone: `raw` the cell, `phone` what became of it."""
    return _case(
        [
            (f"{raw} IS NULL", RejectReason.NO_IDENTIFIER),
            (f"{phone} IS NULL", RejectReason.PHONE_IMPOSSIBLE),
        ],
        otherwise=None,
    )


def matches(column: str, pattern: str) -> str:
    """Whether the whole text matches a regular expression (RE2)."""
    return f"regexp_full_match({column}, {literal(pattern)})"


def _case(cases: list[tuple[str, RejectReason | None]], *, otherwise: RejectReason | None) -> str:
    arms = " ".join(f"WHEN {condition} THEN {_reason(reason)}" for condition, reason in cases)
    return f"CASE {arms} ELSE {_reason(otherwise)} END"


def _reason(reason: RejectReason | None) -> str:
    return literal(reason) if reason else "NULL"
