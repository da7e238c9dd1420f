"""A model that answers each input as an output of the same name, bit for bit."""

from jackfield import InferRequest, InferResponse, InvalidRequestError, ModelContext, ModelMetadata


class Echo:
    def __init__(self, context: ModelContext) -> None:
        self._outputs = context.settings.outputs

    def load(self) -> None: ...

    def metadata(self) -> ModelMetadata:
        return ModelMetadata(platform="echo", outputs=self._outputs)

    async def infer(self, request: InferRequest) -> InferResponse:
        tensors = {tensor.name: tensor for tensor in request.inputs}
        wanted = [output.name for output in request.outputs] or [*tensors]
        for index, name in enumerate(wanted):
            if name not in tensors:
                raise InvalidRequestError(
                    f"outputs[{index}].name", expected=" or ".join(tensors), found=f"'{name}'"
                )
        return InferResponse([tensors[name] for name in wanted], request.parameters)

    def close(self) -> None: ...
