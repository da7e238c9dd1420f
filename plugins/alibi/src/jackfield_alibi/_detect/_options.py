"""The settings of a detector, told without importing Alibi Detect."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from jackfield.window import WindowSetting


class DetectOptions(Struct, frozen=True, kw_only=True):
    """What `parameters.extra` in a detector's settings may hold.

    The first three are MLServer's, by its names.
    """

    predict_parameters: Annotated[
        dict[str, Any],
        Meta(
            description="Arguments of the detector's `predict` for every request, for example "
            '{"drift_type": "feature"}; a request may change them.'
        ),
    ] = {}
    batch_size: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(
            description="Requests whose rows are judged together, one batch after another; for "
            "detectors that are not online.",
        ),
    ] = None
    state_save_freq: Annotated[
        int,
        Meta(
            ge=1,
            description="Rows after which what is remembered is saved: at most so many are lost "
            "when the process is killed.",
        ),
    ] = 100
    window: Annotated[
        WindowSetting | None,
        Meta(
            description="Rows, or an object with `rows` or `seconds`, that a drift detector judges "
            "together, whatever the requests they came in. None: each request is judged alone."
        ),
    ] = None
    feature_names: Annotated[
        list[str],
        Meta(description="Names of the features: a request may then hold one tensor for each."),
    ] = []
    input: Annotated[
        Literal["auto", "table", "array", "text"],
        Meta(
            description="What a request holds: rows of features, arrays of the reference's shape, "
            "or texts; auto takes a table or an array, by the reference data."
        ),
    ] = "auto"
    allow_missing: Annotated[
        bool,
        Meta(
            description="Let NaN and infinities pass, for a detector whose preprocessing "
            "deals with them."
        ),
    ] = False
    seed: Annotated[
        Annotated[int, Meta(ge=0, lt=2**31)] | None,
        Meta(
            description="Seed of what is drawn while loading: online detectors simulate their "
            "thresholds anew each time. null draws others at each start.",
        ),
    ] = 0
    save_state: Annotated[
        bool, Meta(description="Save what is remembered, and go on from there after a restart.")
    ] = True
    state_folder: Annotated[
        str,
        Meta(
            description="Folder for what is remembered; relative ones lie in the artifact's "
            "folder, where `jackfield-state` is the default."
        ),
    ] = ""
