"""One module per op, each with Case objects at module level. New modules are found by themselves."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from symkern.testing.case import Case


def all_cases() -> dict[str, Case]:
    """Every Case of the package by name, in alphabetical order."""
    found: dict[str, Case] = {}
    for module in iter_modules(__path__):
        for value in vars(import_module(f"{__name__}.{module.name}")).values():
            if isinstance(value, Case) and found.setdefault(value.name, value) is not value:
                raise ValueError(f"two Cases are called {value.name}")
    return dict(sorted(found.items()))
