"""Which names every store can hold: a container of blobs as well as a folder of a laptop. Pure."""

from __future__ import annotations

import re

# https://learn.microsoft.com/rest/api/storageservices/naming-and-referencing-containers--blobs--and-metadata
MAX_NAME_CHARACTERS = 1_024
MAX_SEGMENT_BYTES = 255  # NAME_MAX of ext4, xfs and APFS
BACKSLASH_OR_CONTROL = re.compile(r"[\\\x00-\x1f\x7f-\x9f]")


def check_name(name: str) -> str:
    """Return `name` if every store can hold it, else raise ValueError.

    A name is relative and has at most 1,024 characters, among them no backslash and no control
    character. Its segments, between "/", have 1 to 255 bytes and neither begin nor end with a dot.
    """
    if len(name) > MAX_NAME_CHARACTERS:
        raise ValueError(f"name of {len(name)} characters, at most {MAX_NAME_CHARACTERS} allowed")
    if BACKSLASH_OR_CONTROL.search(name):
        raise ValueError(f"backslash or control character in name {name!r}")
    for segment in name.split("/"):
        # Azure's page on naming says to avoid a dot at the end, because URLs lose it.
        if not segment or segment.startswith(".") or segment.endswith("."):
            raise ValueError(f"segment is empty, or begins or ends with a dot, in name {name!r}")
        if len(segment.encode()) > MAX_SEGMENT_BYTES:
            raise ValueError(f"segment over {MAX_SEGMENT_BYTES} bytes in name {name!r}")
    return name


def is_name(name: str) -> bool:
    """Whether every store can hold this name."""
    try:
        check_name(name)
    except ValueError:
        return False
    return True


def check_prefix(prefix: str) -> str:
    """Return `prefix` if a name could begin with it up to its last "/", else raise ValueError."""
    folder = prefix.rpartition("/")[0]
    if folder or prefix.startswith("/"):
        check_name(folder)
    return prefix


def folder_prefix(prefix: str) -> str:
    """Return `prefix` with the "/" that ends a folder; "" is the root. Raises ValueError."""
    return check_prefix(prefix if not prefix or prefix.endswith("/") else prefix + "/")
