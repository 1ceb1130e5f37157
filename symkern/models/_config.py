"""What a model was made with, so that it can be made again from a file."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec

P = ParamSpec("P")


def keeps_config(init: Callable[P, None]) -> Callable[P, None]:
    """For the ``__init__`` of a model: keep its arguments as ``self.config``, by name, defaults included.

    They are there from the start of ``__init__``, as plain values that JSON and `symkern.saved` write:
    ``type(model)(**model.config)`` is a model like the first, with weights of its own.
    """
    signature = inspect.signature(init)

    @functools.wraps(init)
    def initialize(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            given = signature.bind(*args, **kwargs)
        except TypeError:
            return init(*args, **kwargs)  # raises it with the name of the class
        given.apply_defaults()
        (_, model), *arguments = given.arguments.items()
        config = {name: _plain(value) for name, value in arguments}
        model.config = config
        init(*args, **kwargs)
        model.config = config  # not that of a base class

    return initialize


def _plain(value: Any) -> Any:
    """Without NumPy's and torch's types, and lists for all sequences."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    return [_plain(one) for one in value] if isinstance(value, Sequence) and not isinstance(value, str) else value
