"""Which models a model calls, and so needs to be loaded before it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jackfield.errors import SettingsError
from jackfield.settings import decode_options

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jackfield._repository import ModelSource


def find_needs(source: ModelSource) -> tuple[str, ...]:
    """Find the models that a model needs: by its settings, and by its runtime's options.

    Options that do not fit name none: the load refuses them.
    """
    settings, spec = source.settings, source.spec
    found: Sequence[str] = ()
    if spec is not None and spec.options is not None:
        try:
            options, _ = decode_options(
                settings.parameters.extra, spec.options, source="", is_ours=False
            )
        except SettingsError:
            return tuple(settings.needs)
        found = getattr(options, "needs", ())
    return tuple(dict.fromkeys([*settings.needs, *found]))


def in_order(needs: Mapping[str, Sequence[str]]) -> list[str]:
    """Order models so that those which others need come first, by name otherwise.

    Args:
        needs: Model name -> the models that it needs.
    """
    ordered: dict[str, None] = {}
    open_names: set[str] = set()

    def add(name: str) -> None:
        if name in needs and name not in open_names:
            open_names.add(name)
            for need in sorted(needs[name]):
                add(need)
            ordered[name] = None

    for name in sorted(needs):
        add(name)
    return list(ordered)


def find_cycle(needs: Mapping[str, Sequence[str]], name: str) -> list[str]:
    """Find a way from a model over what it needs back to itself; empty if there is none.

    Args:
        needs: Model name -> the models that it needs.
        name: Where it begins.
    """
    ways = [[name]]
    seen: set[str] = set()
    while ways:
        way = ways.pop()
        for need in needs.get(way[-1], ()):
            if need == name:
                return [*way, name]
            if need not in seen:
                seen.add(need)
                ways.append([*way, need])
    return []
