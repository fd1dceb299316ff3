"""What a row must meet before it is sent, and why it is rejected if it does not. In SQL.

Klaviyo refuses a whole batch of 10,000 for one bad address, so the rules are conservative. As SQL
expressions they cost a million rows about a second. Every expression is made of our own column
names (c0, f0) and constants; nothing from a snapshot or a mapping becomes SQL but by `literal`.
Sources: Klaviyo's "Profiles API overview" (100 characters), a public migration log of June 2026
(mailto:, "!" in the local part, a digit in the top-level domain), Segment's action-destinations
(the pattern).
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

# Lower case. Segment's filter, with the dots where they belong; a top-level domain is letters only.
_LOCAL_PART = r"[a-z0-9_%+-]+(?:\.[a-z0-9_%+-]+)*"
_DOMAIN = r"(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+[a-z]{2,}"
EMAIL_PATTERN = f"{_LOCAL_PART}@{_DOMAIN}"
# What RFC 5321 allows beside that, and Klaviyo may refuse. Top-level domains may be Punycode.
_ATOM = r"[a-z0-9!#$%&'*+/=?^_`{|}~-]+"
_RFC_LOCAL_PART = rf"(?:{_ATOM}(?:\.{_ATOM})*|\x22(?:[!#-\[\]-~]|\\[!-~])+\x22)"
_RFC_DOMAIN = r"(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+(?:[a-z]{2,}|xn--[a-z0-9-]*[a-z0-9])"
RFC_EMAIL_PATTERN = f"{_RFC_LOCAL_PART}@{_RFC_DOMAIN}"
_FEWEST_DIGITS = 5  # of a phone number; less is a word or a mark
PLACEHOLDERS = (
    "none", "n/a", "na", "null", "nil", "-", "--", "unknown", "test", "no", "x", "xx", "xxx",
    "#n/a", "undefined", "none@none.com", "na@na.com", "noemail@noemail.com", "no@email.com",
    "test@test.com", "no-email@no-email.com", "noreply@noreply.com", "unknown@unknown.com",
    "a@a.com",
)  # fmt: skip
# Blanks and marks that nobody sees: spaces of any width, direction marks, joiners, the BOM.
# Unicode 16: White_Space, and what is Default_Ignorable_Code_Point below U+10000.
ASCII_BLANKS = " \t\r\n\v\f"
_UNSEEN_RANGES = (
    (0x0080, 0x00A0), (0x00AD, 0x00AD), (0x034F, 0x034F), (0x061C, 0x061C), (0x115F, 0x1160),
    (0x1680, 0x1680), (0x17B4, 0x17B5), (0x180B, 0x180F), (0x2000, 0x200F), (0x2028, 0x202F),
    (0x205F, 0x206F), (0x2800, 0x2800), (0x3000, 0x3000), (0x3164, 0x3164), (0xFE00, 0xFE0F),
    (0xFEFF, 0xFEFF), (0xFFA0, 0xFFA0), (0xFFF0, 0xFFFB),
)  # fmt: skip
UNSEEN = "".join(chr(code) for low, high in _UNSEEN_RANGES for code in range(low, high + 1))
BLANKS = ASCII_BLANKS + UNSEEN
_UNSEEN_PATTERN = "".join(rf"\x{{{low:04X}}}-\x{{{high:04X}}}" for low, high in _UNSEEN_RANGES)
_BLANK_PATTERN = r"\x{09}-\x{0D}\x{20}" + _UNSEEN_PATTERN


def trimmed(column: str) -> str:
    """SQL: the cell without the blanks and unseen marks around it.

    Most cells are ASCII, where there are few to look for. To look for all of them takes so long
    that it is asked first whether there are any.
    """
    ascii_only = f"trim({column}, {literal(ASCII_BLANKS)})"
    any_blanks = f"trim({column}, {literal(BLANKS)})"
    has_ascii_only = f"strlen({column}) = length({column})"
    has_any = f"regexp_matches({column}, '^[{_BLANK_PATTERN}]|[{_BLANK_PATTERN}]$')"
    return (
        f"CASE WHEN {has_ascii_only} THEN {ascii_only} WHEN {has_any} THEN {any_blanks}"
        f" ELSE {column} END"
    )


def blank_to_null(column: str) -> str:
    """SQL: the cell as it is, or NULL if it holds nothing but blanks.

    Nearly all cells begin with visible ASCII, which is cheap to see.
    """
    return (
        f"CASE WHEN {column} BETWEEN '!' AND '~' THEN {column}"
        f" WHEN {matches(column, f'[{_BLANK_PATTERN}]*')} THEN NULL ELSE {column} END"
    )


def is_ascii(column: str) -> str:
    """SQL: whether a text is ASCII only."""
    return matches(column, r"[\x00-\x7f]*")


def is_usual_email(column: str) -> str:
    """SQL: whether the cell is an address already as Klaviyo takes it; nearly all are.

    It takes long to find out, so it is asked once a row.
    """
    return matches(column, EMAIL_PATTERN)


def normalized_email(column: str, is_usual: str) -> str:
    """SQL: the address trimmed and in lower case, as Klaviyo compares them; NULL if blank.

    Only ASCII is put in lower case: other letters would become another address, as the Kelvin sign
    becomes a k. is_usual: see `is_usual_email`.
    """
    text = trimmed(column)
    return (
        f"CASE WHEN {is_usual} THEN {column} WHEN {is_ascii(text)} THEN nullif(lower({text}), '')"
        f" ELSE nullif({text}, '') END"
    )


def only_good(value: str, reason: str) -> str:
    """SQL: the value of an attribute that does not identify, or NULL if a reason is against it."""
    return f"CASE WHEN ({reason}) IS NULL THEN {value} END"


def email_reason(email: str, is_usual: str) -> str:
    """SQL: the reason to reject a normalized address, or NULL. is_usual: see `is_usual_email`."""
    placeholders = ", ".join(literal(text) for text in PLACEHOLDERS)
    longest = max(len(text) for text in PLACEHOLDERS)
    is_placeholder = f"strlen({email}) <= {longest} AND {email} IN ({placeholders})"
    is_short = f"length({email}) <= {MAX_LABEL_CHARS}"
    is_good = matches(email, RFC_EMAIL_PATTERN)
    has_good_domain = matches(f"lower({email})", f".+@{_RFC_DOMAIN}")
    has_unseen = f"regexp_matches({email}, '[{_UNSEEN_PATTERN}]')"
    has_long_label = f"regexp_matches({email}, '@.*[^.]{{{MAX_LABEL_CHARS + 1}}}')"
    has_long_local_part = f"strpos({email}, '@') > {MAX_LOCAL_PART_CHARS} + 1"
    cases = [
        (f"{email} IS NULL", RejectReason.NO_IDENTIFIER),
        (is_placeholder, RejectReason.PLACEHOLDER),
        (f"{is_usual} AND {is_short}", None),
        (f"{is_good} AND {is_short}", None),
        (f"starts_with({email}, 'mailto:')", RejectReason.EMAIL_MAILTO),
        (f"length({email}) > {MAX_EMAIL_CHARS}", RejectReason.EMAIL_TOO_LONG),
        (f"regexp_matches({email}, '\\s')", RejectReason.EMAIL_SPACE),
        (has_unseen, RejectReason.EMAIL_INVISIBLE),
        (f"NOT {is_good} AND NOT {matches(email, '[^@]+@[^@]+')}", RejectReason.EMAIL_MALFORMED),
        (f"NOT {is_good} AND {has_good_domain}", RejectReason.EMAIL_LOCAL_PART),
        (has_long_local_part, RejectReason.EMAIL_LOCAL_PART),
        (f"{is_good} AND NOT {has_long_label}", None),
    ]
    return _case(cases, otherwise=RejectReason.EMAIL_DOMAIN)


def is_doubtful_email(email: str, is_usual: str) -> str:
    """SQL: whether an address has no reason against it, and Klaviyo may refuse it nevertheless.

    is_usual: see `is_usual_email`.
    """
    return (
        f"CASE WHEN {is_usual} OR {email} IS NULL THEN false"
        f" ELSE NOT {matches(email, EMAIL_PATTERN)} END"
    )


def external_id_reason(external_id: str) -> str:
    """SQL: the reason to reject an external id, or NULL."""
    is_long = f"length({external_id}) > {MAX_EXTERNAL_ID_CHARS}"
    cases: list[tuple[str, RejectReason | None]] = [
        (f"{external_id} IS NULL", RejectReason.NO_IDENTIFIER),
        (is_long, RejectReason.EXTERNAL_ID_TOO_LONG),
    ]
    return _case(cases)


def phone_reason(cell: str, phone: str) -> str:
    """SQL: the reason to reject a row identified by phone, or NULL. phone: what the cell became."""
    cases: list[tuple[str, RejectReason | None]] = [
        (f"{cell} IS NULL", RejectReason.NO_IDENTIFIER),
        (f"{phone} IS NULL", RejectReason.PHONE_IMPOSSIBLE),
    ]
    return _case(cases)


def lacks_country_code(cell: str) -> str:
    """SQL: whether a cell holds a phone number that only a region would make complete."""
    digits = f"regexp_replace({cell}, '[^0-9]', '', 'g')"
    return (
        f"NOT regexp_matches({trimmed(cell)}, '^(?:tel:)?(?:[+\uff0b]|00)')"
        f" AND strlen({digits}) >= {_FEWEST_DIGITS}"
    )


def matches(column: str, pattern: str) -> str:
    """SQL: whether the whole text matches a regular expression (RE2)."""
    return f"regexp_full_match({column}, {literal(pattern)})"


def _case(
    cases: list[tuple[str, RejectReason | None]], *, otherwise: RejectReason | None = None
) -> str:
    arms = " ".join(f"WHEN {condition} THEN {_reason(reason)}" for condition, reason in cases)
    return f"CASE {arms} ELSE {_reason(otherwise)} END"


def _reason(reason: RejectReason | None) -> str:
    return literal(reason) if reason else "NULL"
