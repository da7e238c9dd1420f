"""The small model in Ray Serve: one replica, as its users write it.

Run inside its own environment: `python app_ray.py MODEL PORT`.
"""

import signal
import sys

import joblib
import ray  # type: ignore[import-not-found]
from ray import serve
from starlette.requests import Request


@serve.deployment
class Iris:
    """Answers `{"rows": …}` with `{"labels": …}`."""

    def __init__(self, model_file: str) -> None:
        self._model = joblib.load(model_file)

    async def __call__(self, request: Request) -> dict[str, list[int]]:
        """Predict on the replica's event loop."""
        rows = (await request.json())["rows"]
        return {"labels": self._model.predict(rows).tolist()}


def main(model_file: str, port: str) -> None:
    """Start a Ray of its own and serve until a signal arrives."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    ray.init(address="local", include_dashboard=False, _node_ip_address="127.0.0.1")
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": int(port)})
        application = Iris.bind(model_file)  # type: ignore[attr-defined]
        serve.run(application, route_prefix="/predict")
        signal.pause()
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
