"""Saved settings back to objects, of allowed classes only, with every release of LangChain."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from langchain_core._api import suppress_langchain_beta_warning
from langchain_core.load import Serializable, load
from memrecall_kv.errors import InputError


def revived(saved: Mapping[str, Any], allowed: Sequence[type[Serializable]]) -> Any:
    """Return the object that `langchain_core.load.dumpd` saved.

    Raises:
        ValueError: If any other class is in it.
    """
    spaces = sorted({kind.lc_id()[0] for kind in allowed})
    with suppress_langchain_beta_warning():  # ours to know, not the caller's
        if "allowed_objects" in inspect.signature(load).parameters:
            return load(saved, allowed_objects=list(allowed), valid_namespaces=spaces)
        # releases before 1.2.5 make whatever class of a known package is named
        names = {tuple(kind.lc_id()) for kind in allowed}
        for name in _constructed(saved):
            if name not in names:
                raise InputError(
                    f"{'.'.join(name)} is not allowed, expected {', '.join(sorted(map('.'.join, names)))}.",
                    "Name its class in allowed_objects, if the text is yours.",
                )
        return load(saved, valid_namespaces=spaces)


def _constructed(saved: Any) -> Iterator[tuple[str, ...]]:
    """Yield the name of everything that loading would make, at any depth."""
    if isinstance(saved, Mapping):
        if "lc" in saved and saved.get("type") != "not_implemented":
            yield tuple(saved.get("id", ()))
        for value in saved.values():
            yield from _constructed(value)
    elif isinstance(saved, list):
        for value in saved:
            yield from _constructed(value)
