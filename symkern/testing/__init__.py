"""What every op promises, as data (`Case`) and as code (`symkern.testing.checks`), written once for all ops."""

from symkern.testing.case import BadInput, Case, Huge, Invariance, Size

__all__ = ["BadInput", "Case", "Huge", "Invariance", "Size"]
