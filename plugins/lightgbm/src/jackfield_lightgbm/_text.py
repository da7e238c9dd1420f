"""Check a model in LightGBM's text form before LightGBM reads it.

LightGBM parses trees in threads of its own, where an error ends the process: a truncated file must
not get there. It does not look at the numbers either, and follows a child that isn't there out of
its memory.
Source: the text form as LightGBM 2.2 to 4.7 write it, versions v2 to v4.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import lightgbm
import numpy as np

from jackfield import ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

#: Newest version of the form that is known here.
_KNOWN_VERSION = 4
#: A model without trees, to ask an installed LightGBM which version it writes.
_EMPTY_MODEL = """tree
version=v3
num_class=1
num_tree_per_iteration=1
label_index=0
max_feature_idx=0
feature_names=x
feature_infos=none
tree_sizes=

end of trees
"""
_TREE = re.compile(r"^Tree=(\d+)$", re.MULTILINE)


class _DamageError(Exception):
    """What is wrong with the text."""


def checked(text: str, file: str) -> str:
    """Check the text of a model.

    Args:
        text: The whole file, with plain line ends.
        file: Its name, for the errors.

    Returns:
        The text for LightGBM, without the trees' sizes: so it parses them in the calling thread,
        where an error is an exception.

    Raises:
        ModelLoadError: It is damaged, or was written by a newer LightGBM.
    """
    try:
        head, trees, tail = _split(text)
        fields = _fields(head)
        version = _check_version(fields, file)
        _check_head(fields)
        _check_trees(trees, fields)
        _check_tail(tail, version)
    except _DamageError as error:
        problem = f"'{file}' is no whole model of LightGBM: {error}; copy or save it again"
        raise ModelLoadError(problem) from error
    return re.sub(r"^tree_sizes=.*\n", "", head, flags=re.MULTILINE) + text[len(head) :]


def _split(text: str) -> tuple[str, str, str]:
    """Split it into head, trees and what follows them."""
    end = re.search(r"^end of trees$", text, re.MULTILINE)
    if end is None:
        # LightGBM 2.1 and older wrote no mark
        end = re.search(r"^feature importances:$", text, re.MULTILINE)
    if end is None or "\0" in text:
        raise _DamageError("it ends before its last tree" if end is None else "it has zero bytes")
    first = _TREE.search(text, 0, end.start())
    start = end.start() if first is None else first.start()
    return text[:start], text[start : end.start()], text[end.start() :]


def _fields(lines: str) -> dict[str, str]:
    return {name: value for name, _, value in (each.partition("=") for each in lines.splitlines())}


def _check_version(fields: Mapping[str, str], file: str) -> int:
    match = re.fullmatch(r"v(\d+)", fields.get("version", ""))
    if match is None:
        raise _DamageError("its version is missing")
    version = int(match[1])
    if version <= _KNOWN_VERSION or version <= _installed_version():
        return version
    raise ModelLoadError(
        f"'{file}' has version v{version} of LightGBM's text form, and the installed LightGBM "
        f"{lightgbm.__version__} reads up to v{_installed_version()}; install a newer LightGBM"
    )


def _installed_version() -> int:
    """Ask LightGBM which version of the form it writes."""
    written: str = lightgbm.Booster(model_str=_EMPTY_MODEL).model_to_string()
    match = re.search(r"^version=v(\d+)$", written, re.MULTILINE)
    return int(match[1]) if match else _KNOWN_VERSION


def _integer(fields: Mapping[str, str], name: str) -> int:
    try:
        return int(fields[name])
    except (KeyError, ValueError) as error:
        raise _DamageError(f"'{name}' is missing or no integer") from error


def _check_head(fields: Mapping[str, str]) -> None:
    for name in ("num_class", "num_tree_per_iteration"):
        if _integer(fields, name) < 1:
            raise _DamageError(f"'{name}' is {fields[name]}")
    features = _integer(fields, "max_feature_idx") + 1
    for name in ("feature_names", "feature_infos"):
        found = len(fields.get(name, "").split())
        if found != features:
            raise _DamageError(f"'{name}' has {found} entries, expected {features}")


def _check_trees(trees: str, head: Mapping[str, str]) -> None:
    features = _integer(head, "max_feature_idx") + 1
    starts = [(int(each[1]), each.end()) for each in _TREE.finditer(trees)]
    if [number for number, _ in starts] != list(range(len(starts))):
        raise _DamageError("its trees are not in order")
    if "tree_sizes" in head and len(head["tree_sizes"].split()) != len(starts):
        told = len(head["tree_sizes"].split())
        raise _DamageError(f"it has {len(starts)} trees, expected {told}")
    if len(starts) % _integer(head, "num_tree_per_iteration"):
        raise _DamageError(f"it has {len(starts)} trees, not the same number for each class")
    ends = [start for _, start in starts[1:]] + [len(trees)]
    for (number, start), end in zip(starts, ends, strict=True):
        try:
            _check_tree(_fields(trees[start:end]), features)
        except _DamageError as error:
            raise _DamageError(f"tree {number}: {error}") from error


def _check_tree(tree: Mapping[str, str], features: int) -> None:
    leaves, categories = _integer(tree, "num_leaves"), _integer(tree, "num_cat")
    if leaves < 1 or categories < 0:
        raise _DamageError(f"it has {leaves} leaves and {categories} splits by category")
    _numbers(tree, "leaf_value", leaves)
    if tree.get("is_linear") == "1":
        _integers(tree, "leaf_features", None, 0, features)
    if leaves == 1:
        return
    nodes = leaves - 1
    thresholds = _numbers(tree, "threshold", nodes)
    kinds = _integers(tree, "decision_type", nodes, -128, 128)
    _integers(tree, "split_feature", nodes, 0, features)
    for side in ("left_child", "right_child"):
        children = _integers(tree, side, nodes, -leaves, nodes)
        # a node's child was split off later: no way leads back
        if ((children >= 0) & (children <= np.arange(nodes))).any():
            raise _DamageError(f"'{side}' leads back")
    if categories:
        bounds = _integers(tree, "cat_boundaries", categories + 1, 0, 2**31)
        _integers(tree, "cat_threshold", int(bounds[-1]), 0, 2**32)
        if (np.diff(bounds) < 0).any():
            raise _DamageError("'cat_boundaries' are not in order")
    is_by_category = kinds & 1 == 1
    if is_by_category.any():
        places = thresholds[is_by_category]
        if not ((places >= 0) & (places < categories)).all():
            raise _DamageError("'threshold' names a set of categories that there is not")


def _words(tree: Mapping[str, str], name: str, count: int | None) -> list[str]:
    words = tree.get(name, "").split()
    if count is not None and len(words) != count:
        raise _DamageError(f"'{name}' has {len(words)} entries, expected {count}")
    return words


def _numbers(tree: Mapping[str, str], name: str, count: int) -> NDArray[np.float64]:
    """Read numbers; LightGBM takes what begins like one for one."""
    try:
        return np.array(_words(tree, name, count), np.float64)
    except ValueError as error:
        raise _DamageError(f"'{name}' has something else than numbers") from error


def _integers(
    tree: Mapping[str, str], name: str, count: int | None, low: int, high: int
) -> NDArray[np.int64]:
    """Read integers of which each is in low ≤ value < high."""
    words = _words(tree, name, count)
    try:
        values = np.array(words, np.int64)
    except (ValueError, OverflowError) as error:
        raise _DamageError(f"'{name}' has something else than integers") from error
    if values.size and not (low <= values.min() and values.max() < high):
        raise _DamageError(f"'{name}' has a number out of its range")
    return values


def _check_tail(tail: str, version: int) -> None:
    before, mark, after = tail.partition("\nend of parameters\n")
    # LightGBM 2 did not write its parameters
    if not mark and (version > 2 or "\nparameters:\n" in before):
        raise _DamageError("it ends before the end of its parameters")
    for line in after.splitlines():
        name, _, value = line.partition(":")
        try:
            if line and name != "pandas_categorical":
                raise ValueError(line)
            if line:
                json.loads(value)
        except ValueError as error:
            raise _DamageError("its pandas categories are cut off") from error
