"""The names, towns and phone prefixes that synthetic people are put together from."""

from __future__ import annotations

from typing import NamedTuple


class Place(NamedTuple):
    city: str
    country: str
    country_code: str
    phone_prefixes: tuple[str, ...]  # ten; six more digits make a valid number


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(","))


def _ten(prefix: str) -> tuple[str, ...]:
    return tuple(f"{prefix}{digit}" for digit in range(10))


FIRST_NAMES = _words("""
    Ada, Ana, Andrei, Åsa, Béla, Björn, Carlos, Chloë, Đorđe, Elena, Emma, Fatima, François,
    Grace, Hannah, Ioana, Ivo, James, João, Jürgen, Karen, Lea, Liam, Łukasz, Maria, Mei,
    Mihai, Noah, Nuño, Olivia, Otto, Paul, Quentin, Radu, René, Siobhán, Sofia, Søren, Ștefan,
    Tom, Uma, Václav, William, Xenia, Yara, Zoë, Žofia, Ελένη, Ольга, 美咲
""")
RARE_FIRST_NAMES = ('Noah "Noe"', "Anne, Marie", "")
LAST_NAMES = _words("""
    Ackermann, Brown, Côté, D'Angelo, Dvořák, Esposito, Fernández, García, Grøn, Hughes,
    Ionescu, Jensen, Johnson, Kovács, Kral, Lind, López, Müller, Nagy, Nguyễn, Novák, O'Neill,
    Öberg, Peeters, Petrović, Popescu, Quinn, Rossi, Roth, Șerban, Silva, Smith, Strauß, Tan,
    Țurcanu, Ünal, van Dijk, Weiß, Wójcik, Yıldız, Young, Zieliński, Παππάς, Иванова, 佐藤
""")
RARE_LAST_NAMES = ("Smith, Jr.", 'von "Und" Zu', "")
TIERS = ("Basic", "Basic", "Basic", "Silver", "Silver", "Gold", "Gold", "Platinum", "")
DOMAINS = ("@example.com", "@example.com", "@example.org", "@example.net")
SEPARATORS = (".", ".", ".", "_", "-", "+news.")
AMERICAN_PREFIXES = ("2122", "3052", "3122", "4042", "4152", "5032", "6022", "6172", "7022", "7132")
PLACES = (
    Place("București", "RO", "+40", _ten("72")),
    Place("Cluj-Napoca", "RO", "+40", _ten("74")),
    Place("London", "GB", "+44", _ten("740")),
    Place("Leeds", "GB", "+44", _ten("741")),
    Place("New York", "US", "+1", AMERICAN_PREFIXES),
    Place("Austin", "US", "+1", AMERICAN_PREFIXES),
    Place("Berlin", "DE", "+49", _ten("1511")),
    Place("Köln", "DE", "+49", _ten("1511")),
    Place("Lyon", "FR", "+33", _ten("61")),
    Place("Málaga", "ES", "+34", _ten("61")),
    Place("Łódź", "PL", "+48", _ten("60")),
    Place("Göteborg", "SE", "+46", _ten("70")),
)
RARE_PLACES = (
    Place("Malmö, Skåne", "SE", "+46", _ten("70")),
    Place("Bern\nAltstadt", "CH", "+41", _ten("79")),
    Place('"Big" Apple', "US", "+1", AMERICAN_PREFIXES),
    Place("", "RO", "+40", _ten("72")),
)
