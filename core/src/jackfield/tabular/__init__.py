"""Tables in, named results out: what every plugin for models of tabular data is built on.

`Columns` turns a request's tensors into an array or a DataFrame, `Outputs` runs what the request
asks for and makes tensors of it, `RequestParameters` reads the settings of one request, `Labels`
names classes. All is decided when a model loads; a request only reads. Knows no framework; pandas
is imported by the first `Columns.frame`, and never by anything else.

Example:
    ```python
    class BoosterRuntime:
        def load(self) -> None:
            booster = read(self._context.artifact)
            self._columns = Columns(
                [Column.number(name, Datatype.FP32) for name in booster.names],
                dtypes=(np.float32,),
            )
            self._outputs = Outputs(
                [
                    Output("predict", lambda data, asked: booster.predict(data)),
                    Output("raw", lambda data, asked: booster.predict(data, raw=True)),
                ]
            )

        def metadata(self) -> ModelMetadata:
            return ModelMetadata(
                platform="booster",
                inputs=self._columns.metadata(),
                outputs=self._outputs.metadata(),
            )

        def infer(self, request: InferRequest) -> InferResponse:
            return self._outputs.infer(request, self._columns.matrix(request))
    ```
"""

from __future__ import annotations

from jackfield.tabular._column import Column, Kind
from jackfield.tabular._columns import Columns, documents, require_pandas
from jackfield.tabular._labels import Labels, both_classes
from jackfield.tabular._outputs import ALIASES, NAMES, Output, Outputs, tensors_of
from jackfield.tabular._parameters import RequestParameters

__all__ = [
    "ALIASES",
    "NAMES",
    "Column",
    "Columns",
    "Kind",
    "Labels",
    "Output",
    "Outputs",
    "RequestParameters",
    "both_classes",
    "documents",
    "require_pandas",
    "tensors_of",
]
