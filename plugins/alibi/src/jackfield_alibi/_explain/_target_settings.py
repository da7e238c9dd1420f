"""The settings of an explainer's target, told without importing NumPy or a client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

from msgspec import Meta, Struct

from jackfield_alibi._explain._address import own_model


class TargetSettings(Struct, frozen=True, kw_only=True):
    """Which model is explained, and how it is called: a part of an explainer's options.

    Either `target`, a model of this server, or `infer_uri`, a model anywhere. White-box explainers
    have the path of a model's file in `infer_uri`.

    Example: `class ExplainOptions(TargetSettings, frozen=True, kw_only=True): ...`
    """

    target: Annotated[str, Meta(description="Name of the model of this server to explain.")] = ""
    target_version: Annotated[
        str, Meta(description="Version of `target`; empty for the newest that is ready.")
    ] = ""
    infer_uri: Annotated[
        str,
        Meta(
            description="URL of the model to explain, `http://host:8080/v2/models/NAME/infer` or "
            "`grpc://host:8081/NAME`."
        ),
    ] = ""
    infer_output: Annotated[str, Meta(description="The output that is explained.")] = ""
    ssl_verify_path: Annotated[
        str, Meta(description="File of the certificate authorities that the target's is signed by.")
    ] = ""
    ssl_cert_path: Annotated[str, Meta(description="File of a certificate to show.")] = ""
    ssl_key_path: Annotated[str, Meta(description="File of that certificate's key.")] = ""
    target_headers: Annotated[
        Mapping[str, str],
        Meta(
            description="HTTP headers or gRPC metadata of each call; `${NAME}` stands for an "
            "environment variable."
        ),
    ] = {}
    target_timeout_s: Annotated[
        float, Meta(description="Longest wait for one call of the target, in seconds.", gt=0)
    ] = 30.0
    target_retries: Annotated[
        int, Meta(description="Repeats of a call that was refused or got no answer.", ge=0)
    ] = 3
    target_wait_s: Annotated[
        float,
        Meta(description="Longest wait for a target to be ready at load, in seconds.", ge=0),
    ] = 30.0
    target_max_rows: Annotated[
        int, Meta(description="Rows in one call of the target at most; 0 for no limit.", ge=0)
    ] = 0

    @property
    def needs(self) -> Sequence[str]:
        """Names of the models of this server that the explainer calls; `own_model` has the rule."""
        if self.target:
            return (self.target,)
        own = own_model(self.infer_uri)
        return () if own is None else (own.name,)
