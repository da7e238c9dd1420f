"""An agent that repeats what it is told."""

import mlflow
from mlflow.pyfunc import ResponsesAgent
from mlflow.types.responses import ResponsesAgentResponse, ResponsesAgentStreamEvent


class Parrot(ResponsesAgent):
    def predict(self, request):
        return ResponsesAgentResponse(output=[self._item(request)])

    def predict_stream(self, request):
        yield ResponsesAgentStreamEvent(type="response.output_item.done", item=self._item(request))

    def _item(self, request):
        return self.create_text_output_item(text=request.input[-1].content, id="1")


mlflow.models.set_model(Parrot())
