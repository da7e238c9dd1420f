"""RequestParameters: the settings that one request gives to a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec
from msgspec import structs

from jackfield._validation import explain
from jackfield.errors import InvalidRequestError

if TYPE_CHECKING:
    from jackfield.messages import InferRequest, Parameter

OptionsT = TypeVar("OptionsT", bound=msgspec.Struct)


class RequestParameters(Generic[OptionsT]):
    """Read a Struct from a request's `parameters`; names that are not its fields pass untouched.

    Args:
        kind: A frozen Struct. Every field has a default: what holds for a request without it.

    Raises:
        TypeError: A field has no default.

    Example:
        ```python
        class Asked(Struct, frozen=True):
            num_iteration: Annotated[int, Meta(ge=0, description="Trees used; 0 is all.")] = 0
            iteration_range: tuple[int, int] | None = None

        parameters = RequestParameters(Asked)
        parameters.read(request).num_iteration
        ```
    """

    def __init__(self, kind: type[OptionsT]) -> None:
        self._kind = kind
        self._fields = {each.encode_name: each.type for each in structs.fields(kind)}
        #: What holds for a request that sets nothing.
        self.defaults: OptionsT = kind()

    def read(self, request: InferRequest) -> OptionsT:
        """Read what the request sets; the same object each time where it sets nothing.

        gRPC carries no lists: a text that holds JSON is read for a field that takes no text, for
        example ``"[0, 10]"``.

        Raises:
            InvalidRequestError: A value has the wrong type or is out of range; the field is
                ``parameters.NAME``.
        """
        given = request.parameters
        if not given:
            return self.defaults
        mine = {name: given[name] for name in self._fields if name in given}
        if not mine:
            return self.defaults
        try:
            return msgspec.convert(mine, self._kind)
        except msgspec.ValidationError as error:
            parsed = {name: self._parsed(name, value) for name, value in mine.items()}
            if parsed != mine:
                try:
                    return msgspec.convert(parsed, self._kind)
                except msgspec.ValidationError:
                    pass  # the caller learns what is wrong with what was sent
            found = explain(error)
            raise InvalidRequestError(
                f"parameters.{found.path}" if found.path else "parameters",
                expected=found.expected,
                found=found.found,
            ) from error

    def _parsed(self, name: str, value: Parameter) -> object:
        """Read JSON in a text, where the field does not take the text itself."""
        if not isinstance(value, str):
            return value
        try:
            msgspec.convert(value, self._fields[name])
        except msgspec.ValidationError:
            pass
        else:
            return value
        try:
            parsed: object = msgspec.json.decode(value)
        except msgspec.DecodeError:
            return value
        return parsed

    def metadata(self) -> dict[str, Parameter]:
        """Describe the parameters, for `ModelMetadata.parameters`.

        Returns:
            ``{"request_parameters": {NAME: JSON Schema of the value}}``.
        """
        _, schemas = msgspec.json.schema_components([self._kind])
        properties: dict[str, Parameter] = schemas[self._kind.__name__]["properties"]
        return {"request_parameters": properties}
