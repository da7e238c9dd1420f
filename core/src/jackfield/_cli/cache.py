"""``jackfield cache``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from jackfield._cache_folder import cache_folder
from jackfield._cli.output import print_json, print_table
from jackfield._environments.store import Store
from jackfield._sources.cache import Cache

if TYPE_CHECKING:
    from collections.abc import Collection

_DAY_S = 86400.0


def list_cache(kinds: Collection[str], *, as_json: bool) -> None:
    """Print what was made and fetched, of each kind the latest used last."""
    found = [entry for kind in kinds for entry in _open(kind).entries()]
    if as_json:
        print_json(found)
        return
    rows = [
        (
            entry.kind,
            entry.description,
            f"{entry.size_bytes / 1e6:.1f} MB",
            _spell_day(entry.made),
            _spell_day(entry.used),
            entry.key,
        )
        for entry in found
    ]
    if rows:
        print_table(("kind", "of", "size", "made", "used", "key"), rows)
    size_bytes = sum(entry.size_bytes for entry in found)
    click.echo(f"{len(found)} with {size_bytes / 1e6:.0f} MB in {cache_folder('')}")


def prune_cache(kinds: Collection[str], *, unused_days: float, as_json: bool) -> None:
    """Remove what no server uses, nor has used for some days; and what was left half-made."""
    removed = [key for kind in kinds for key in _open(kind).prune(unused_days * _DAY_S)]
    if as_json:
        print_json({"removed": removed})
        return
    for key in removed:
        click.echo(f"removed {key}")
    click.echo(f"{len(removed)} removed")


def _open(kind: str) -> Store | Cache:
    return Cache() if kind == "artifacts" else Store(cache_folder(kind))


def _spell_day(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(moment))
