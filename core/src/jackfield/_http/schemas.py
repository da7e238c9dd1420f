"""Schemas of what the REST API takes and gives, in general and typed from a model's metadata.

The schemas have names, by which the operations of a document refer to them: typing a document is
putting other schemas under some of the names.

Source: JSON Schema 2020-12, as OpenAPI 3.1 has it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from jackfield._monitors.statistics import DELIVERIES, DROPS, FAILURES
from jackfield._statistics import PARTS
from jackfield.tensor import Datatype

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from jackfield.messages import ModelMetadata, TensorMetadata

#: A part of a document: what JSON calls an object.
Part: TypeAlias = dict[str, object]


def ref(name: str) -> Part:
    """Refer to a schema of the document."""
    return {"$ref": f"#/components/schemas/{name}"}


def _object(properties: Mapping[str, object], *required: str, **more: object) -> Part:
    part: Part = {"type": "object", "properties": dict(properties), **more}
    return part | {"required": list(required)} if required else part


def _array(items: object, **more: object) -> Part:
    return {"type": "array", "items": items, **more}


def _choice(texts: Iterable[str]) -> Part:
    return {"type": "string", "enum": [str(text) for text in texts]}


TEXT: Part = {"type": "string"}
_FLAG: Part = {"type": "boolean"}
COUNT: Part = {"type": "integer", "minimum": 0}
_PARAMETERS: Part = {"type": "object", "description": "Parameters by name."}
_SHAPE = _array(COUNT, description="Sizes of all dimensions.")
_MODEL_SHAPE = _array(
    {"type": "integer", "minimum": -1}, description="Sizes of all dimensions; -1 is any size."
)
_NON_FINITE = ("NaN", "Infinity", "-Infinity")


def _element(datatype: Datatype) -> Part:
    """Describe one element of a tensor's JSON data."""
    if datatype is Datatype.BOOL:
        return {"anyOf": [_FLAG, {"type": "integer", "minimum": 0, "maximum": 1}]}
    if datatype is Datatype.BYTES:
        return TEXT
    if datatype.dtype.kind in "iu":
        bounds = np.iinfo(datatype.dtype)
        return {"type": "integer", "minimum": int(bounds.min), "maximum": int(bounds.max)}
    number: Part = {"type": "number"}
    if datatype is not Datatype.FP64:
        largest = float(np.finfo(datatype.dtype).max)
        number |= {"minimum": -largest, "maximum": largest}
    return {"anyOf": [number, _choice(_NON_FINITE), {"type": "null"}]}


_DURATION = _object({"count": COUNT, "ns": COUNT}, "count", "ns")
_BATCH_PARTS = ("compute_input", "compute_infer", "compute_output")
_BATCH = _object(
    {"batch_size": COUNT, **dict.fromkeys(_BATCH_PARTS, ref("Duration"))},
    "batch_size",
    *_BATCH_PARTS,
)
_STATISTICS = _object(
    {
        "name": TEXT,
        "version": TEXT,
        "last_inference": {**COUNT, "description": "Milliseconds since the epoch."},
        "inference_count": {**COUNT, "description": "Rows answered."},
        "execution_count": {**COUNT, "description": "Calls of the runtime that succeeded."},
        "inference_stats": _object(dict.fromkeys(PARTS, ref("Duration")), *PARTS),
        "batch_stats": _array(_BATCH),
    },
    "name",
    "version",
    "last_inference",
    "inference_count",
    "execution_count",
    "inference_stats",
    "batch_stats",
)
_TENSOR_METADATA = _object(
    {
        "name": TEXT,
        "datatype": _choice(Datatype),
        "shape": _MODEL_SHAPE,
        "parameters": _PARAMETERS,
    },
    "name",
    "datatype",
    "shape",
)
_CONFIG_TENSOR = _object(
    {"name": TEXT, "data_type": TEXT, "dims": _MODEL_SHAPE}, "name", "data_type", "dims"
)
_BINARY_OUTPUT: Part = {
    **_FLAG,
    "description": "Answer outputs in binary form where they don't say otherwise themselves.",
}
_REQUEST_PARAMETERS = {**_PARAMETERS, "properties": {"binary_data_output": _BINARY_OUTPUT}}
_OUTPUT_PARAMETERS = {
    **_PARAMETERS,
    "properties": {
        "binary_data": {**_FLAG, "description": "Answer this output in binary form."},
        "classification": {
            "type": "integer",
            "minimum": 1,
            "description": "Answer the k best classes instead, as value:index or "
            "value:index:label.",
        },
    },
}
_DATA: Part = {
    "type": ["array", "number", "string", "boolean", "null"],
    "description": "Flat or nested, in row-major order; a lone value for one element.",
}


def _tensor(name: Part, shape: Part, datatype: Part, data: Part, **more: object) -> Part:
    """Describe a tensor whose data may be elsewhere: in binary form, or in shared memory."""
    properties = {
        "name": name,
        "shape": shape,
        "datatype": datatype,
        "parameters": _PARAMETERS,
        "data": data,
    }
    return _object(properties, "name", "shape", "datatype", **more)


def _infer_request(inputs: Part, output_name: Part) -> Part:
    output = _object({"name": output_name, "parameters": _OUTPUT_PARAMETERS}, "name")
    return _object(
        {
            "id": {**TEXT, "description": "Echoed in the answer; made where it is missing."},
            "parameters": _REQUEST_PARAMETERS,
            "inputs": inputs,
            "outputs": _array(
                output, description="The outputs wanted, in this order; the default ones if empty."
            ),
        },
        "inputs",
    )


def _infer_response(name: Part, version: Part, outputs: Part) -> Part:
    return _object(
        {
            "model_name": name,
            "model_version": version,
            "id": TEXT,
            "parameters": _PARAMETERS,
            "outputs": outputs,
        },
        "model_name",
        "outputs",
    )


def _flat_response(name: Part, version: Part, outputs: Mapping[str, object]) -> Part:
    properties = {"model_name": name, "model_version": version, "id": TEXT, **outputs}
    return _object({**properties, "parameters": _PARAMETERS}, "model_name")


_MAYBE_NUMBER: Part = {"type": ["number", "null"]}
_VERDICT = _object(
    {
        "time_s": {"type": "number", "description": "Seconds since 1970."},
        "kind": _choice(["drift", "outlier", "adversarial"]),
        "is_positive": {**_FLAG, "description": "Drift, or more outliers than are allowed."},
        "rows": {**COUNT, "description": "Rows that it is about."},
        "flagged_rows": COUNT,
        "threshold": _MAYBE_NUMBER,
        "score": _MAYBE_NUMBER,
        "features": _array(
            _object(
                {
                    "name": TEXT,
                    **dict.fromkeys(("p_value", "distance", "threshold"), _MAYBE_NUMBER),
                    "is_drift": {"type": ["boolean", "null"]},
                },
                "name",
            )
        ),
        "worker": {**COUNT, "description": "Whose monitor found it, where there are several."},
    },
    "time_s",
    "kind",
    "is_positive",
    "rows",
    "features",
)


def _counts(*names: str) -> Part:
    return _object(dict.fromkeys(names, COUNT), *names)


_MONITOR = _object(
    {
        "name": TEXT,
        "settings": {"type": "object", "description": "Without secrets."},
        "problem": {**TEXT, "description": "Why nothing is judged now; empty if it is."},
        "misfit": {**TEXT, "description": "Why rows did not fit the detector, the last time."},
        "rows": _object(
            {
                **dict.fromkeys(("seen", "sampled", "judged", "waiting", "outliers"), COUNT),
                "dropped": _counts(*DROPS),
            },
            *("seen", "sampled", "judged", "waiting", "outliers", "dropped"),
        ),
        "window": {
            "anyOf": [
                _object({"rows": COUNT, "fullness": {"type": "number"}}, "rows", "fullness"),
                {"type": "null"},
            ]
        },
        "verdicts": _counts("count", "positive"),
        "calls": _counts("success", *FAILURES),
        "webhook": {
            "anyOf": [
                _object(
                    {**dict.fromkeys(DELIVERIES, COUNT), "problem": TEXT}, *DELIVERIES, "problem"
                ),
                {"type": "null"},
            ]
        },
        "current": {"anyOf": [ref("Verdict"), {"type": "null"}]},
        "history": _array(ref("Verdict"), description="Oldest first."),
    },
    *("name", "settings", "problem", "misfit", "rows", "window", "verdicts", "calls", "webhook"),
    *("current", "history"),
)
_ANY_TENSOR = _tensor(TEXT, _SHAPE, _choice(Datatype), _DATA)

#: The schemas of the server's document; a model's document replaces those of its messages.
SCHEMAS: dict[str, Part] = {
    "Error": _object({"error": {**TEXT, "description": "What is wrong, in words."}}, "error"),
    "Health": _object(
        {
            "name": {**TEXT, "description": "The model, where one was asked for."},
            "live": _FLAG,
            "ready": _FLAG,
            "error": {**TEXT, "description": "Why it is not ready."},
        },
        "live",
        "ready",
    ),
    "ServerMetadata": _object(
        {"name": TEXT, "version": TEXT, "extensions": _array(TEXT)},
        "name",
        "version",
        "extensions",
    ),
    "ModelNames": _object({"models": _array(TEXT)}, "models"),
    "TensorMetadata": _TENSOR_METADATA,
    "ModelMetadata": _object(
        {
            "name": TEXT,
            "versions": _array(TEXT),
            "platform": TEXT,
            "inputs": _array(ref("TensorMetadata")),
            "outputs": _array(ref("TensorMetadata")),
            "parameters": _PARAMETERS,
        },
        "name",
        "versions",
        "platform",
        "inputs",
        "outputs",
    ),
    "ModelConfig": _object(
        {
            "name": TEXT,
            "platform": TEXT,
            "backend": TEXT,
            "version_policy": {"type": "object"},
            "max_batch_size": COUNT,
            "input": _array(_CONFIG_TENSOR),
            "output": _array(_CONFIG_TENSOR),
            "model_transaction_policy": _object({"decoupled": _FLAG}, "decoupled"),
        },
        "name",
        "platform",
        "backend",
        "max_batch_size",
        "input",
        "output",
    ),
    "Verdict": _VERDICT,
    "Monitor": _MONITOR,
    "Monitors": _object(
        {"model_name": TEXT, "model_version": TEXT, "monitors": _array(ref("Monitor"))},
        "model_name",
        "model_version",
        "monitors",
    ),
    "Duration": _DURATION,
    "ModelStatistics": _STATISTICS,
    "Statistics": _object({"model_stats": _array(ref("ModelStatistics"))}, "model_stats"),
    "IndexRequest": _object(
        {"ready": {**_FLAG, "description": "List only what is ready.", "default": False}}
    ),
    "Index": _array(
        _object(
            {
                "name": TEXT,
                "version": TEXT,
                "state": _choice(["READY", "LOADING", "UNLOADING", "UNAVAILABLE"]),
                "reason": TEXT,
            },
            "name",
            "version",
            "state",
            "reason",
        )
    ),
    "LoadRequest": _object(
        {
            "parameters": _object(
                {
                    "config": {
                        **TEXT,
                        "contentMediaType": "application/json",
                        "description": "A JSON text that overrides settings of the model until "
                        "the next load.",
                    }
                }
            )
        }
    ),
    "UnloadRequest": _object({"parameters": _object({"unload_dependents": _FLAG})}),
    "Logging": _object(
        {
            "log_file": TEXT,
            "log_info": _FLAG,
            "log_warning": _FLAG,
            "log_error": _FLAG,
            "log_verbose_level": COUNT,
            "log_format": _choice(["default", "ISO8601"]),
        }
    ),
    "Trace": _object(
        {
            "trace_level": _array(_choice(["OFF", "TIMESTAMPS", "TENSORS"])),
            **dict.fromkeys(("trace_rate", "trace_count", "log_frequency", "trace_file"), TEXT),
        },
    ),
    "TraceRequest": {
        "type": "object",
        "description": "Settings by name, as the answer has them; null puts one back.",
    },
    "LoggingRequest": {
        "type": "object",
        "description": "Settings by name, as the answer has them.",
    },
    "Region": _object(
        {"key": TEXT, "offset": {**COUNT, "default": 0}, "byte_size": COUNT}, "key", "byte_size"
    ),
    "Regions": _array(
        _object(
            {"name": TEXT, "key": TEXT, "offset": COUNT, "byte_size": COUNT},
            "name",
            "key",
            "offset",
            "byte_size",
        )
    ),
    "InferRequest": _infer_request(
        _array(_ANY_TENSOR, minItems=1, description="Names differ from each other."), TEXT
    ),
    "InferResponse": _infer_response(TEXT, TEXT, _array(_ANY_TENSOR)),
    "FlatRequest": _object(
        {"id": TEXT, "parameters": _PARAMETERS},
        description="A key for each input, holding its data; other keys are parameters.",
        additionalProperties=True,
    ),
    "FlatResponse": {
        **_flat_response(TEXT, TEXT, {}),
        "description": "A key for each output: a lone element as it is, several as a list.",
    },
    "GenerateRequest": {"anyOf": [ref("FlatRequest"), ref("InferRequest")]},
    "GenerateResponse": {"anyOf": [ref("FlatResponse"), ref("InferResponse")]},
    "Events": {**TEXT, "description": "Server-sent events."},
    "Binary": {**TEXT, "format": "binary", "description": "JSON text, then binary tensors."},
    "Page": TEXT,
    "Document": _object({"openapi": TEXT, "info": {"type": "object"}}, "openapi", "info"),
    "Asset": {},
    **{each.value: _element(each) for each in Datatype if each is not Datatype.BF16},
}


def typed_schemas(metadata: ModelMetadata, version: str) -> dict[str, Part]:
    """Make the schemas of a model's messages; what its metadata leaves open stays open."""
    name: Part = {"const": metadata.name}
    number: Part = {"const": version} if version else TEXT
    schemas: dict[str, Part] = {}
    inputs, outputs = metadata.inputs, metadata.outputs
    output_name: Part = _choice(output.name for output in outputs) if outputs else TEXT
    if inputs:
        schemas["InferRequest"] = _infer_request(_typed_inputs(inputs), output_name)
        schemas["FlatRequest"] = _object(
            {
                "id": TEXT,
                **{tensor.name: _data(tensor) for tensor in inputs},
                "parameters": _PARAMETERS,
            },
            *(tensor.name for tensor in inputs if not tensor.parameters.get("optional", False)),
            description="A key for each input, holding its data; other keys are parameters.",
        )
    else:
        schemas["InferRequest"] = _infer_request(_array(_ANY_TENSOR, minItems=1), output_name)
    tensors = _array(_ANY_TENSOR)
    flat: dict[str, object] = {}
    if outputs:
        tensors = _array({"anyOf": [*map(_typed_tensor, outputs), *_classified(outputs)]})
        flat = {tensor.name: _flat_data(tensor) for tensor in outputs}
    schemas["InferResponse"] = _infer_response(name, number, tensors)
    schemas["FlatResponse"] = _flat_response(name, number, flat)
    return schemas


def _typed_inputs(inputs: Sequence[TensorMetadata]) -> Part:
    """Describe the list of inputs: each once, in any order."""
    each = [_with_data(_typed_tensor(tensor)) for tensor in inputs]
    needed = [tensor for tensor in inputs if not tensor.parameters.get("optional", False)]
    part = _array(each[0], minItems=len(needed) or 1, maxItems=len(each))
    if len(each) > 1:
        part["items"] = {"oneOf": each}
        optional = ", ".join(tensor.name for tensor in inputs if tensor not in needed)
        left_out = f" May be left out: {optional}." if optional else ""
        part["description"] = f"Each input once, in any order.{left_out}"
    if needed and len(each) > 1:
        part["allOf"] = [
            {"contains": _object({"name": {"const": tensor.name}}, "name")} for tensor in needed
        ]
    return part


def _with_data(tensor: Part) -> Part:
    """Ask for the data, or for a parameter that tells where else they are."""
    elsewhere = [
        _object({"parameters": _object({}, name)}, "parameters")
        for name in ("binary_data_size", "shared_memory_region")
    ]
    return {**tensor, "anyOf": [{"required": ["data"]}, *elsewhere]}


def _typed_tensor(tensor: TensorMetadata) -> Part:
    return _tensor(
        {"const": tensor.name},
        _SHAPE if tensor.parameters.get("any_shape", False) else _typed_shape(tensor.shape),
        {"const": tensor.datatype.value},
        _data(tensor),
        title=tensor.name,
    )


def _typed_shape(shape: Sequence[int]) -> Part:
    part: Part = {"type": "array", "minItems": len(shape), "maxItems": len(shape)}
    if shape:
        part["prefixItems"] = [COUNT if size < 0 else {"const": size} for size in shape]
        part["description"] = str(list(shape)).replace("-1", "any")
    return part


def _data(tensor: TensorMetadata) -> Part:
    """Describe a tensor's JSON data: flat, nested as its shape, or a lone element."""
    shape = tensor.shape
    if tensor.datatype is Datatype.BF16:
        return {"not": {}, "description": "BF16 has a binary form only."}
    element = ref(tensor.datatype.value)
    if tensor.parameters.get("any_shape", False):
        part = {"anyOf": [element, _array({})], "description": "Flat, or nested as the shape."}
        return {"anyOf": [element, _array(part)]}
    fixed = all(size >= 0 for size in shape)
    forms: list[Part] = [_sized(element, math.prod(shape) if fixed else -1)]
    if len(shape) > 1:
        nested = element
        for size in reversed(shape):
            nested = _sized(nested, size)
        forms.append(nested)
    if all(size in (-1, 1) for size in shape):
        forms.append(element)
    return forms[0] if len(forms) == 1 else {"anyOf": forms}


def _flat_data(tensor: TensorMetadata) -> Part:
    """Describe an output in the flat form."""
    if tensor.datatype is Datatype.BF16:
        return {"not": {}}
    element = ref(tensor.datatype.value)
    return {"anyOf": [element, _array(element), ref(Datatype.BYTES.value)]}


def _sized(items: Part, size: int) -> Part:
    return _array(items) if size < 0 else _array(items, minItems=size, maxItems=size)


def _classified(outputs: Sequence[TensorMetadata]) -> list[Part]:
    """Describe what `classification` makes of an output of numbers."""
    names = [
        output.name
        for output in outputs
        if output.datatype is not Datatype.BYTES and len(output.shape) in (1, 2)
    ]
    if not names:
        return []
    texts = _array(ref(Datatype.BYTES.value))
    return [
        _tensor(
            _choice(names),
            _SHAPE,
            {"const": Datatype.BYTES.value},
            texts,
            title="classification",
            description="An output that was asked for with the parameter `classification`.",
        )
    ]
