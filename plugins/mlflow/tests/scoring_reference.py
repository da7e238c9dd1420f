"""MLflow's own scoring server for several models: run by an interpreter that has all of MLflow.

``python scoring_reference.py FOLDER`` serves each model of the folder below ``/{its name}``, with
the app that ``mlflow models serve`` has, and prints where it listens; it ends when its standard
input does.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import socket
import sys
import threading
import warnings
from pathlib import Path

PACKAGES = ("mlflow-skinny", "numpy", "pandas", "pyarrow", "scikit-learn", "pydantic")


def main(folder: Path) -> None:
    """Serve until the caller goes."""
    warnings.simplefilter("ignore")
    import uvicorn
    from fastapi import FastAPI
    from mlflow.pyfunc import load_model, scoring_server

    app = FastAPI()
    for path in sorted(folder.iterdir()):
        app.mount(f"/{path.name}", scoring_server.init(load_model(str(path))))
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical"))
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    sys.stdout.write(json.dumps({"port": listener.getsockname()[1], "packages": found}) + "\n")
    sys.stdout.flush()

    def wait() -> None:
        sys.stdin.read()
        server.should_exit = True

    threading.Thread(target=wait, daemon=True).start()
    server.run(sockets=[listener])
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
