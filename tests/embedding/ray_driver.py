"""Run the page's Ray Serve snippet, the module `app` of this folder, on a local Ray.

Prints, as JSON, what a client got.
"""

import json
import sys

import httpx
import ray
from ray import serve

port = int(sys.argv[1])
row = {"name": "x", "shape": [1, 4], "datatype": "FP64", "data": [6, 3, 5.1, 2]}

ray.init(
    num_cpus=3,
    include_dashboard=False,
    log_to_driver=False,
    _node_ip_address="127.0.0.1",
)
serve.start(http_options={"host": "127.0.0.1", "port": port})

from app import app  # noqa: E402  on a cluster that is there

serve.run(app, route_prefix="/ml")
found = {"labels": set(), "replicas": set()}
with httpx.Client(base_url=f"http://127.0.0.1:{port}/ml/v2", timeout=60) as client:
    for _ in range(500):  # which replica answers is Ray's choice
        answer = client.post("/models/iris/infer", json={"inputs": [row]}).json()
        found["labels"].add(answer["outputs"][0]["data"][0])
        found["replicas"].add(answer["parameters"]["process"])
        if len(found["replicas"]) == 2:
            break
    found["ready"] = client.get("/health/ready").status_code
    absent = client.get("/models/irsi")
    found["absent"] = [absent.status_code, absent.json()["error"]]
    found["document"] = client.get("/docs/dataplane.json").json()["openapi"]
serve.shutdown()
ray.shutdown()
sys.stdout.write("\n" + json.dumps(found, default=sorted) + "\n")
