"""Files of tensors and plain values: written whole or not at all, read without executing anything."""

from __future__ import annotations

import os
import uuid
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch


class FileError(ValueError):
    """A file that cannot be read; the message names it and says why."""


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write to that takes the place of `path` once it is whole, whoever else writes there."""
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write(path: Path, content: Any) -> None:
    """Save tensors and plain values; `path` has either the old content or the new one at any moment."""
    with replacing(path) as file:
        torch.save(content, file)


def read(path: Path) -> Any:
    """What `write` saved, on the CPU.

    Raises:
        FileError: no such file; truncated, corrupted, or holding more than tensors and plain values.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch itself does not compare the checksums
    except FileNotFoundError:
        raise FileError(f"{path}: there is no such file") from None
    except Exception as error:
        raise FileError(f"{path}: truncated, or no file of this kind at all: {error}") from error
    if damaged is not None:
        raise FileError(f"{path}: corrupted: the checksum of its part {damaged} is wrong")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise FileError(
            f"{path}: not made of tensors and plain values only, so nothing of it was used: {reason}"
        ) from error
