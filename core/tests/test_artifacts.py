"""What jackfield.artifacts tells of files; those of frameworks that are not here are by hand."""

import bz2
import collections
import gzip
import io
import json
import lzma
import pickle
import struct
import zipfile
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jackfield import ModelLoadError
from jackfield.artifacts import Artifact, Form, identify, refuse_foreign


def ubj_key(name, length="L"):
    sizes = {"L": ">q", "l": ">i", "I": ">h", "i": ">b", "U": ">B"}
    return length.encode() + struct.pack(sizes[length], len(name)) + name.encode()


def old_xgboost():
    objective, booster = b"binary:logistic", b"gbtree"
    counted = [struct.pack("<Q", len(each)) + each for each in (objective, booster)]
    return struct.pack("<fI", 0.5, 4) + bytes(128) + b"".join(counted) + bytes(160)


def zipped(**files):
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("_json", ".json"), content)
    return made.getvalue()


def skops(module, name):
    return zipped(schema_json=json.dumps({"__class__": name, "__module__": module}))


def onnx():
    def part(field, content):
        return bytes([field << 3 | 2, len(content)]) + content

    return b"\x08\x0a" + part(2, b"skl2onnx") + part(7, b"graph") + part(8, b"")


def arrays():
    made = io.BytesIO()
    np.savez(made, x=np.eye(2))
    return made.getvalue()


XGBOOST = b'{"learner":{"attributes":{},"learner_model_param":{}},"version":[3,2,0]}'
FILES = {
    "xgboost json": (XGBOOST, Form.XGBOOST_JSON, "xgboost"),
    "xgboost json, other order": (
        b'\n{"version": [1],\n "learner": {}}',
        Form.XGBOOST_JSON,
        "xgboost",
    ),
    "xgboost ubj": (b"{" + ubj_key("learner") + b"{", Form.XGBOOST_UBJ, "xgboost"),
    "xgboost ubj, short key": (b"{" + ubj_key("learner", "U"), Form.XGBOOST_UBJ, "xgboost"),
    "xgboost old": (old_xgboost(), Form.XGBOOST_BINARY, "xgboost"),
    "lightgbm": (b"tree\nversion=v4\nnum_class=1\n", Form.LIGHTGBM_TEXT, "lightgbm"),
    "lightgbm, of windows": (b"tree\r\nversion=v3\r\n", Form.LIGHTGBM_TEXT, "lightgbm"),
    "lightgbm dump": (
        b'{"name":"tree","version":"v4","num_tree_per_iteration":1}',
        Form.LIGHTGBM_JSON,
        "lightgbm",
    ),
    "catboost": (b"CBM1" + bytes(40), Form.CATBOOST_CBM, "catboost"),
    "catboost json": (b'{\n"features_info": {}}', Form.CATBOOST_JSON, "catboost"),
    "catboost json with counters first": (
        b'{"ctr_data": {"{\\"identifier\\":[]}": {"hash_map": [' + b'"1",' * 30_000,
        Form.CATBOOST_JSON,
        "catboost",
    ),
    "catboost python": (
        b"###  Model data\nclass catboost_model(object):\n",
        Form.CATBOOST_PYTHON,
        "catboost",
    ),
    "onnx": (onnx(), Form.ONNX, "onnx"),
    "skops": (skops("sklearn.svm", "SVC"), Form.SKOPS, "sklearn"),
    "skops of lightgbm": (skops("lightgbm.sklearn", "LGBMRanker"), Form.SKOPS, "lightgbm"),
    "arrays": (arrays(), Form.NUMPY, ""),
    "zip": (zipped(a="b"), Form.ZIP, ""),
    "empty": (b"", Form.EMPTY, ""),
    "json": (b'{"nested": {"learner": 1}, "text": "\\"learner\\":"}', Form.UNKNOWN, ""),
    "text": (b"tree house\n", Form.UNKNOWN, ""),
    "csv": (b"a,b\n1,2\n", Form.UNKNOWN, ""),
    "objective in text": (b"reg:squarederror is an objective, gbtree", Form.UNKNOWN, ""),
}


@pytest.fixture
def file(tmp_path):
    def write(content):
        path = tmp_path / "model.any"
        path.write_bytes(content)
        return path

    return write


@pytest.mark.parametrize(("content", "form", "framework"), FILES.values(), ids=FILES)
def test_a_form_is_known_by_its_content(file, content, form, framework):
    found = identify(file(content))
    assert (found.form, found.framework) == (form, framework)


def class_pickle(name, protocol):
    """Make a pickle of an instance of a class that is not installed."""
    module, _, short = name.rpartition(".")
    stand_in = type(short, (), {"__module__": module})
    out = io.BytesIO()
    pickler = pickle._Pickler(out, protocol)
    pickler.save_global = lambda *_args, **_kw: pickler.write(
        f"c{module}\n{short}\n".encode()
        if protocol < 4
        else b"".join(
            b"\x8c" + bytes([len(part)]) + part.encode() + b"\x94" for part in (module, short)
        )
        + b"\x93"
    )
    pickler.dispatch = {**pickler.dispatch, type: lambda _, value: pickler.save_global(value)}
    pickler.dump(stand_in())
    return out.getvalue()


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize(
    ("name", "framework"),
    [
        ("sklearn.pipeline.Pipeline", "sklearn"),
        ("xgboost.core.Booster", "xgboost"),
        ("lightgbm.sklearn.LGBMRegressor", "lightgbm"),
        ("catboost.core.CatBoostClassifier", "catboost"),
        ("somebody.models.Model", ""),
    ],
)
def test_the_class_in_a_pickle_is_named_without_reading_it(file, name, framework, protocol):
    found = identify(file(class_pickle(name, protocol)))
    assert (found.form, found.framework, found.class_name) == (Form.PICKLE, framework, name)
    assert found.executes_code


@pytest.mark.parametrize("protocol", range(6))
def test_real_pickles_of_all_protocols(file, protocol):
    found = identify(file(pickle.dumps(collections.OrderedDict(a=1), protocol)))
    assert found.class_name == "collections.OrderedDict"
    found = identify(file(pickle.dumps({"model": collections.Counter("ab")}, protocol)))
    assert found.class_name == "builtins.dict"
    assert "collections.Counter" in found.names


COMPRESSORS = {
    "zlib": zlib.compress,
    "gzip": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
}


@pytest.mark.parametrize("compression", COMPRESSORS)
def test_a_compressed_pickle_is_looked_into(file, compression):
    content = COMPRESSORS[compression](class_pickle("sklearn.svm.SVC", 4) + bytes(10**6))
    found = identify(file(content))
    assert (found.class_name, found.compression) == ("sklearn.svm.SVC", compression)


def test_a_bomb_is_unpacked_a_little_only(file):
    assert identify(file(zlib.compress(bytes(10**8)))).form is Form.UNKNOWN


def test_nothing_of_a_pickle_is_carried_out(file, tmp_path):
    proof = tmp_path / "proof"

    class Harmful:
        def __reduce__(self):
            return proof.touch, ()

    found = identify(file(pickle.dumps(Harmful())))
    assert found.form is Form.PICKLE
    assert not proof.exists()


@given(st.binary(max_size=200))
def test_any_bytes_are_answered(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("any") / "file"
    path.write_bytes(content)
    assert isinstance(identify(path), Artifact)


@pytest.mark.parametrize(
    "content",
    [each for each, *_ in FILES.values()]
    + [class_pickle("sklearn.svm.SVC", 4), zlib.compress(class_pickle("sklearn.svm.SVC", 4))],
)
def test_cut_off_and_overwritten_files_are_answered(file, content):
    for end in range(0, len(content), 7):
        assert isinstance(identify(file(content[:end])), Artifact)
        spoilt = content[:end] + b"\xff\xff\xff\xff\xff\xff\xff" + content[end + 7 :]
        assert isinstance(identify(file(spoilt)), Artifact)


def test_the_right_plugin_is_named(file):
    path = file(FILES["lightgbm"][0])
    with pytest.raises(ModelLoadError) as caught:
        refuse_foreign(path, "xgboost")
    assert str(caught.value) == (
        "'model.any' is a LightGBM model (LightGBM's text form), which the plugin 'xgboost' does "
        "not read; pip install \"jackfield[lightgbm]\" and set 'implementation' to 'lightgbm'"
    )
    assert refuse_foreign(path, "lightgbm").form is Form.LIGHTGBM_TEXT
    assert refuse_foreign(path, "sklearn", also=["lightgbm"]).framework == "lightgbm"
    with pytest.raises(ModelLoadError, match=r"an XGBoost model \('xgboost.core.Booster' in a pic"):
        refuse_foreign(file(class_pickle("xgboost.core.Booster", 4)), "catboost")
    with pytest.raises(ModelLoadError, match="install a plugin for it and set 'implementation'"):
        refuse_foreign(file(onnx()), "catboost")


def test_what_is_not_known_is_left_to_the_framework(file, tmp_path):
    assert refuse_foreign(file(b"something"), "xgboost").form is Form.UNKNOWN
    assert identify(tmp_path).form is Form.UNKNOWN
    with pytest.raises(ModelLoadError, match="is empty; copy or save it again"):
        refuse_foreign(file(b""), "xgboost")
    with pytest.raises(ModelLoadError, match="'gone' can't be read: No such file"):
        identify(tmp_path / "gone")
