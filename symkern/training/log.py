"""Files of a run that people and scripts read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class RunFiles:
    """settings.json, log.jsonl and result.json in a folder; nothing for None.

    log.jsonl has one line per epoch; on resuming it is rewritten from the checkpoint, so that it tells each epoch once.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def start(self, settings: dict[str, Any], history: Sequence[dict[str, Any]]) -> None:
        """Write settings.json and the epochs so far."""
        self._write("settings.json", json.dumps(settings, indent=2) + "\n")
        self._write("log.jsonl", "".join(map(_line, history)))
        if self._folder is not None:
            (self._folder / "result.json").unlink(missing_ok=True)

    def epoch(self, record: dict[str, Any]) -> None:
        """Append one epoch to log.jsonl."""
        if self._folder is not None:
            with (self._folder / "log.jsonl").open("a", encoding="utf-8") as file:
                file.write(_line(record))

    def result(self, result: dict[str, Any]) -> None:
        """Write result.json."""
        self._write("result.json", json.dumps(result, indent=2) + "\n")

    def _write(self, name: str, text: str) -> None:
        if self._folder is not None:
            partial = self._folder / (name + ".partial")
            partial.write_text(text, encoding="utf-8")
            partial.replace(self._folder / name)


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record) + "\n"
