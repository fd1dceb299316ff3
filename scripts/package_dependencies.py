"""Give the installable package the dependencies of requirements-exporter.txt: there is one list."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class RequirementsHook(MetadataHookInterface):
    """Read by hatchling while it builds the package (pyproject.toml)."""

    def update(self, metadata: dict[str, Any]) -> None:
        lines = (
            Path(self.root, "requirements-exporter.txt").read_text(encoding="utf-8").splitlines()
        )
        metadata["dependencies"] = [line for line in lines if line and line[0] not in "#-"]
