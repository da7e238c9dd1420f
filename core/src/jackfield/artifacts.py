"""Tell by its content which framework wrote a model's file, and run nothing of it.

Plugins use it to name the right plugin for a file that is not theirs. Reads a bounded part of the
file; a pickle is read as a list of instructions, none of which is carried out. Knows no framework.
Source: the forms as the frameworks write them; Python's `pickletools`; joblib's compressors.
"""

from __future__ import annotations

import bz2
import enum
import importlib
import io
import json
import lzma
import os
import pickletools
import re
import struct
import zipfile
import zlib
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from jackfield.errors import ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

__all__ = ["Artifact", "Form", "identify", "refuse_foreign"]

#: How much of a file is read, and how much it may unpack to, in bytes.
_HEAD_BYTES = 64 * 1024
_UNPACKED_BYTES = 256 * 1024
#: Largest memory that a decompressor may take, in bytes.
_DECOMPRESSOR_BYTES = 128 * 1024 * 1024
#: Largest directory of a zip file, in bytes.
_DIRECTORY_BYTES = 16 * 1024 * 1024
#: Most instructions of a pickle that are looked at.
_INSTRUCTIONS = 20_000


class Form(enum.StrEnum):
    """The form of a model's file."""

    XGBOOST_JSON = "XGBoost's JSON"
    XGBOOST_UBJ = "XGBoost's UBJSON"
    XGBOOST_BINARY = "XGBoost's old binary form"
    LIGHTGBM_TEXT = "LightGBM's text form"
    LIGHTGBM_JSON = "LightGBM's JSON dump"
    CATBOOST_CBM = "CatBoost's binary form"
    CATBOOST_JSON = "CatBoost's JSON"
    CATBOOST_PYTHON = "CatBoost's Python code"
    PICKLE = "a pickle"
    SKOPS = "a skops file"
    ONNX = "ONNX"
    MLMODEL = "an MLmodel file"
    SPARK = "Spark's metadata"
    ALIBI_DETECT = "Alibi Detect's configuration"
    NUMPY = "NumPy's array form"
    ZIP = "a zip file"
    EMPTY = "empty"
    UNKNOWN = "unknown"


_FRAMEWORKS = {
    Form.XGBOOST_JSON: "xgboost",
    Form.XGBOOST_UBJ: "xgboost",
    Form.XGBOOST_BINARY: "xgboost",
    Form.LIGHTGBM_TEXT: "lightgbm",
    Form.LIGHTGBM_JSON: "lightgbm",
    Form.CATBOOST_CBM: "catboost",
    Form.CATBOOST_JSON: "catboost",
    Form.CATBOOST_PYTHON: "catboost",
    Form.SKOPS: "sklearn",
    Form.ONNX: "onnx",
    Form.MLMODEL: "mlflow",
    Form.SPARK: "mllib",
    Form.ALIBI_DETECT: "alibi-detect",
}
#: Top-level package -> framework, for what a pickle or a skops file names.
_PACKAGES = {
    "sklearn": "sklearn",
    "imblearn": "sklearn",
    "xgboost": "xgboost",
    "lightgbm": "lightgbm",
    "catboost": "catboost",
    "_catboost": "catboost",
    "alibi_detect": "alibi-detect",
}
_TITLES = {
    "sklearn": "scikit-learn",
    "xgboost": "XGBoost",
    "lightgbm": "LightGBM",
    "catboost": "CatBoost",
    "onnx": "ONNX",
    "mlflow": "MLflow",
    "mllib": "Spark MLlib",
    "alibi-detect": "Alibi Detect",
}


class Artifact(msgspec.Struct, frozen=True, kw_only=True):
    """What a file's content tells."""

    form: Form
    #: Name of the plugin for it: "sklearn", "xgboost", "lightgbm", "catboost", "onnx",
    #: "mlflow", "mllib", "alibi-detect"; else empty.
    framework: str = ""
    #: ``module.Class`` of the object in a pickle or a skops file; "builtins.dict" and the like
    #: where it is a container; empty where that could not be read.
    class_name: str = ""
    #: All ``module.name`` that the part of a pickle names which was read, in order.
    names: tuple[str, ...] = ()
    #: "zlib", "gzip", "bz2", "lzma", "xz" or "lz4" around a pickle; else empty.
    compression: str = ""

    @property
    def executes_code(self) -> bool:
        """Whether reading it runs what it names."""
        return self.form in (Form.PICKLE, Form.CATBOOST_PYTHON)

    @property
    def title(self) -> str:
        """What it is in words, for an error: ``a LightGBM model (LightGBM's text form)``."""
        if self.form is Form.EMPTY:
            return "an empty file"
        detail = f"'{self.class_name}' in {self.form}" if self.class_name else str(self.form)
        if self.framework:
            name = _TITLES[self.framework]
            article = "an" if name[0] in "AXO" else "a"
            return f"{article} {name} model ({detail})"
        return "of a form that is not known here" if self.form is Form.UNKNOWN else detail


def identify(path: Path) -> Artifact:
    """Find out what wrote a file.

    Args:
        path: A file; its name is not looked at. A folder is of the form `Form.UNKNOWN`.

    Returns:
        What the content tells; damaged and foreign files are `Form.UNKNOWN`, never an error. At
        most 64 KiB are read, of a zip file its directory, too, and 256 KiB unpacked.

    Raises:
        ModelLoadError: The file can't be read.

    Example:
        ```python
        identify(Path("model.bst")).framework  # "lightgbm"
        identify(Path("model.joblib")).class_name  # "sklearn.pipeline.Pipeline"
        ```
    """
    try:
        if path.is_dir():
            return Artifact(form=Form.UNKNOWN)
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
            for recognise in _RECOGNISERS:
                if (found := recognise(head, file)) is not None:
                    return found
    except OSError as error:
        raise ModelLoadError(f"'{path.name}' can't be read: {error.strerror or error}") from error
    return Artifact(form=Form.UNKNOWN)


def refuse_foreign(path: Path, framework: str, *, also: Collection[str] = ()) -> Artifact:
    """Refuse a file that another framework wrote, and name its plugin.

    Args:
        path: See `identify`.
        framework: Name of the plugin that asks.
        also: Names of frameworks whose models it reads, too; "onnx" and so on.

    Returns:
        What `identify` found: of this framework, or of none that is known.

    Raises:
        ModelLoadError: It is empty, can't be read, or is another framework's; the text says how to
            install that plugin and what to set.

    Example:
        ```python
        refuse_foreign(artifact, "xgboost")
        # ModelLoadError: 'model.bst' is a LightGBM model (LightGBM's text form), which the plugin
        # 'xgboost' does not read; pip install "jackfield[lightgbm]" and set 'implementation' to
        # 'lightgbm'
        ```
    """
    found = identify(path)
    if found.form is Form.EMPTY:
        raise ModelLoadError(f"'{path.name}' is empty; copy or save it again")
    if found.framework and found.framework != framework and found.framework not in also:
        # plugins for ONNX are others'
        install = (
            "install a plugin for it and set 'implementation' to its name"
            if found.form is Form.ONNX
            else f'pip install "jackfield[{found.framework}]" and set '
            f"'implementation' to '{found.framework}'"
        )
        raise ModelLoadError(
            f"'{path.name}' is {found.title}, which the plugin '{framework}' does not read; "
            f"{install}"
        )
    return found


def _found(form: Form) -> Artifact:
    return Artifact(form=form, framework=_FRAMEWORKS.get(form, ""))


# ---- forms with a mark at their beginning ----


def _by_mark(head: bytes, _file: BinaryIO) -> Artifact | None:
    if not head:
        return _found(Form.EMPTY)
    if head.startswith(b"CBM1"):
        return _found(Form.CATBOOST_CBM)
    if head.startswith(b"\x93NUMPY"):
        return _found(Form.NUMPY)
    if re.match(rb"tree\r?\n(?:\w+=.*\r?\n)*?version=v\d", head):
        return _found(Form.LIGHTGBM_TEXT)
    if re.match(rb"### +Model data", head) and b"catboost_model" in head:
        return _found(Form.CATBOOST_PYTHON)
    # its two keys that are always there stand where they please
    if re.search(rb"^flavors:\s*$", head, re.M) and re.search(rb"^\s+python_function:", head, re.M):
        return _found(Form.MLMODEL)
    if re.match(rb'\s*\{"class"\s*:\s*"org\.apache\.spark\.', head):
        return _found(Form.SPARK)
    if re.search(rb"""^name\s*=\s*["']\w+Drift(?:Online)?["']""", head, re.M):
        return _found(Form.ALIBI_DETECT)
    # an object's first key: its length in one of UBJSON's integers, then the key
    if re.match(rb"\{[iUIlL]\x00*[\x07](?:learner|version)", head):
        return _found(Form.XGBOOST_UBJ)
    return None


#: Keys of the outermost object -> the form.
_JSON_KEYS = {
    "learner": Form.XGBOOST_JSON,
    "tree_info": Form.LIGHTGBM_JSON,
    "feature_importances": Form.LIGHTGBM_JSON,
    "num_tree_per_iteration": Form.LIGHTGBM_JSON,
    # first where it is there, and larger than what is read
    "ctr_data": Form.CATBOOST_JSON,
    "features_info": Form.CATBOOST_JSON,
    "oblivious_trees": Form.CATBOOST_JSON,
    "model_info": Form.CATBOOST_JSON,
    # a class of somebody else's, saved by Spark's own writer
    "sparkVersion": Form.SPARK,
}
_JSON_TOKEN = re.compile(rb'"((?:[^"\\]|\\.)*+)"\s*+(:)?|[{}\[\]]')


def _by_json(head: bytes, _file: BinaryIO) -> Artifact | None:
    """Look at the keys of the outermost object, as far as they were read."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not text.startswith(b"{"):
        return None
    depth = 0
    for token in _JSON_TOKEN.finditer(text):
        if token[0] in (b"{", b"["):
            depth += 1
        elif token[0] in (b"}", b"]"):
            depth -= 1
            if depth <= 0:
                break
        elif depth == 1 and token[2]:
            form = _JSON_KEYS.get(token[1].decode(errors="replace"))
            if form is not None:
                return _found(form)
    return None


_OBJECTIVE = re.compile(rb"(?:binary|reg|multi|rank|survival|count):[a-z0-9_]{3,}")


def _by_old_xgboost(head: bytes, _file: BinaryIO) -> Artifact | None:
    """Look for an objective and a booster behind a block of parameters."""
    if head.startswith((b"binf", b"bs64")):
        return _found(Form.XGBOOST_BINARY)
    start = head[:512]
    # the objective's name stands behind its length, eight bytes little-endian
    for match in _OBJECTIVE.finditer(start):
        length = start[max(match.start() - 8, 0) : match.start()]
        is_counted = len(length) == 8 and struct.unpack("<Q", length)[0] == len(match[0])
        if is_counted and re.match(rb".{8}(?:gbtree|gblinear|dart)", start[match.end() :], re.S):
            return _found(Form.XGBOOST_BINARY)
    return None


def _by_onnx(head: bytes, file: BinaryIO) -> Artifact | None:
    """Walk the fields of a ModelProto: it begins with its version and has a graph."""
    if not head.startswith(b"\x08"):
        return None
    size = file.seek(0, os.SEEK_END)
    place = 0
    for _ in range(64):
        file.seek(place)
        field = io.BytesIO(file.read(32))
        tag = _varint(field)
        kind = _ONNX_FIELDS.get(tag >> 3)
        if kind is None or kind != tag & 7:
            return None
        value = _varint(field)
        if value < 0 or (tag >> 3 == 1 and not 1 <= value <= 1000):
            return None
        place += field.tell() + (value if kind == 2 else 0)
        if tag >> 3 in (7, 8):
            return _found(Form.ONNX)
        if place >= size:
            return None
    return None


#: Field -> its wire type, of ONNX's ModelProto.
_ONNX_FIELDS = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2, 20: 2, 25: 2, 26: 2}


def _varint(field: io.BytesIO) -> int:
    """Read an unsigned integer; -1 if there is none."""
    value = 0
    for shift in range(0, 70, 7):
        byte = field.read(1)
        if not byte:
            return -1
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    return -1


# ---- zip files ----


def _by_zip(head: bytes, file: BinaryIO) -> Artifact | None:
    if not head.startswith(b"PK\x03\x04"):
        return None
    if _directory_bytes(file) > _DIRECTORY_BYTES:
        return _found(Form.ZIP)
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            if "schema.json" in names:
                with archive.open("schema.json") as schema:
                    return _skops(schema.read(_UNPACKED_BYTES))
    # a damaged archive (OSError: a place before the file's start), a method that is not there
    except (zipfile.BadZipFile, zlib.error, ValueError, OSError, EOFError, RuntimeError):
        return _found(Form.ZIP)
    is_numpy = bool(names) and all(name.endswith(".npy") for name in names)
    return _found(Form.NUMPY if is_numpy else Form.ZIP)


def _directory_bytes(file: BinaryIO) -> int:
    """Read the size of a zip file's directory from its last record."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 65_557))  # the record, and the longest comment
    tail = file.read(65_557)
    place = tail.rfind(b"PK\x05\x06")
    if place < 0 or len(tail) < place + 22:
        return 0
    stated: int = struct.unpack_from("<I", tail, place + 12)[0]
    return size if stated == 0xFFFFFFFF else stated


def _skops(schema: bytes) -> Artifact | None:
    """Read the outermost object's class: skops writes it first, or at the end of a long schema."""
    module = class_name = ""
    try:
        tree: object = json.loads(schema)
    except (ValueError, RecursionError):
        pairs = dict(re.findall(r'"(__module__|__class__)": "([\w.]+)"', _text(schema)[:1000]))
        module, class_name = pairs.get("__module__", ""), pairs.get("__class__", "")
    else:
        if isinstance(tree, dict):
            module, class_name = str(tree.get("__module__", "")), str(tree.get("__class__", ""))
    if not class_name:
        return _found(Form.ZIP)
    framework = _PACKAGES.get(module.partition(".")[0], "sklearn")
    name = f"{module}.{class_name}"
    return Artifact(form=Form.SKOPS, framework=framework, class_name=name)


def _text(data: bytes) -> str:
    return data.decode(errors="replace")


# ---- pickles ----


def _by_pickle(head: bytes, _file: BinaryIO) -> Artifact | None:
    compression, data = _unpack(head)
    names, container = _named(data)
    if not names and not container and not compression:
        return None
    if compression and not names and not container and data:
        return None  # something else is compressed
    class_name = container or next((name for name in names if not _is_machinery(name)), "")
    package = class_name.partition(".")[0]
    framework = _PACKAGES.get(package, "")
    return Artifact(
        form=Form.PICKLE,
        framework=framework,
        class_name=class_name,
        names=names,
        compression=compression,
    )


def _unpack(head: bytes) -> tuple[str, bytes]:
    """Unpack what joblib compressed; as it is otherwise. Damage ends it early."""
    for compression, mark, make in _COMPRESSIONS:
        if head.startswith(mark):
            try:
                return compression, make(head)
            except (ValueError, OSError, EOFError, zlib.error, lzma.LZMAError, RuntimeError):
                return compression, b""
            except MemoryError:  # it asks for more than it may have
                return compression, b""
    return "", head


def _zlib(head: bytes) -> bytes:
    return zlib.decompressobj(wbits=47).decompress(head, _UNPACKED_BYTES)  # zlib or gzip


def _lzma(head: bytes) -> bytes:
    return lzma.LZMADecompressor(memlimit=_DECOMPRESSOR_BYTES).decompress(head, _UNPACKED_BYTES)


def _lz4(head: bytes) -> bytes:
    try:
        frame = importlib.import_module("lz4.frame")
    except ModuleNotFoundError:  # joblib can't read it either
        return b""
    unpacked: bytes = frame.LZ4FrameDecompressor().decompress(head, _UNPACKED_BYTES)
    return unpacked


_COMPRESSIONS: tuple[tuple[str, bytes | tuple[bytes, ...], Callable[[bytes], bytes]], ...] = (
    ("gzip", b"\x1f\x8b", _zlib),
    ("bz2", b"BZh", lambda head: bz2.BZ2Decompressor().decompress(head, _UNPACKED_BYTES)),
    ("xz", b"\xfd7zXZ", _lzma),
    ("lzma", b"\x5d\x00\x00", _lzma),
    ("lz4", b"\x04\x22\x4d\x18", _lz4),
    ("zlib", (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda"), _zlib),
)

#: What the first instruction that makes something makes, where it is a container.
_CONTAINERS = {
    "EMPTY_DICT": "builtins.dict",
    "DICT": "builtins.dict",
    "EMPTY_LIST": "builtins.list",
    "LIST": "builtins.list",
    "EMPTY_TUPLE": "builtins.tuple",
    "EMPTY_SET": "builtins.set",
}
_TEXTS = {
    "SHORT_BINUNICODE",
    "BINUNICODE",
    "BINUNICODE8",
    "UNICODE",
    "STRING",
    "BINSTRING",
    "SHORT_BINSTRING",
}
_MEMOISED = {"PUT", "BINPUT", "LONG_BINPUT"}
_RECALLED = {"GET", "BINGET", "LONG_BINGET"}
#: Instructions that make nothing.
_SILENT = {"PROTO", "FRAME", "MEMOIZE", *_MEMOISED}


def _named(data: bytes) -> tuple[tuple[str, ...], str]:
    """List what a pickle names, and tell the container that it is; nothing if it is no pickle."""
    names: list[str] = []
    pushed: list[str] = ["", ""]
    memo: dict[int, str] = {}
    container = ""
    is_first = True
    is_marked = False
    instructions = pickletools.genops(io.BytesIO(data))
    try:
        for count, (code, argument, _) in enumerate(instructions):
            name = code.name
            if count > _INSTRUCTIONS:
                break
            if is_first and name not in _SILENT:
                # protocol 0 marks first what a container will hold
                if name == "MARK" and not is_marked:
                    is_marked = True
                    continue
                container = _CONTAINERS.get(name, "")
                is_first = False
            if name in ("GLOBAL", "INST"):
                names.append(str(argument).replace(" ", ".", 1))
            elif name == "STACK_GLOBAL":
                names.append(".".join(pushed))
            elif name in _TEXTS:
                pushed = [pushed[1], str(argument)]
            elif name == "MEMOIZE":
                memo[len(memo)] = pushed[1]
            elif name in _MEMOISED:
                memo[int(argument or 0)] = pushed[1]
            elif name in _RECALLED:
                pushed = [pushed[1], memo.get(int(argument or 0), "")]
    # the end of what was read, bytes of an array that joblib put between, or no pickle at all
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, struct.error, EOFError):
        pass
    is_pickle = data[:1] == b"\x80" and data[1:2] <= b"\x05"
    # text may look like an instruction or two
    return (tuple(names), container) if is_pickle or _is_plausible(names) else ((), "")


def _is_plausible(names: list[str]) -> bool:
    return bool(names) and all(re.fullmatch(r"[\w.]+\.[\w.<>]+", each) for each in names)


def _is_machinery(name: str) -> bool:
    """Tell what only helps to make an object, and is not its class."""
    package = name.partition(".")[0]
    return package in ("copyreg", "copy_reg", "builtins", "__builtin__")


_RECOGNISERS = (_by_mark, _by_zip, _by_json, _by_onnx, _by_old_xgboost, _by_pickle)
