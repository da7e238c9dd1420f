"""Log and register models at a tracking server, with the client that serving needs anyway.

``python registry_models.py ADDRESS`` prints what was made, as JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from pathlib import Path

COLUMNS = ["alcohol", "malic_acid", "ash"]


def main(address: str) -> None:
    """Make two versions of a model, and a folder among a run's artifacts."""
    warnings.simplefilter("ignore")
    import mlflow
    from mlflow.models import infer_signature
    from sklearn.datasets import load_wine
    from sklearn.linear_model import LogisticRegression
    from sklearn.tree import DecisionTreeClassifier

    mlflow.set_tracking_uri(address)
    wine = load_wine(as_frame=True)
    table = wine.data[COLUMNS]
    client = mlflow.MlflowClient()
    made: dict[str, object] = {"rows": table.iloc[::20].to_numpy().tolist()}
    options = {"serialization_format": "cloudpickle", "pip_requirements": ["scikit-learn"]}
    # a model that is wrong on purpose, so that the versions differ
    for version, target in (("1", wine.target), ("2", 2 - wine.target)):
        kind = LogisticRegression(max_iter=2000) if version == "1" else DecisionTreeClassifier()
        model = kind.fit(table, target)
        signature = infer_signature(table, model.predict(table))
        with mlflow.start_run() as run:
            logged = mlflow.sklearn.log_model(
                model, name="model", signature=signature, registered_model_name="wine", **options
            )
            with tempfile.TemporaryDirectory() as folder:
                saved = Path(folder) / "saved"
                mlflow.sklearn.save_model(model, saved, signature=signature, **options)
                client.log_artifacts(run.info.run_id, str(saved), "files/saved")
        made[version] = {
            "run": run.info.run_id,
            "model": logged.model_id,
            "answers": model.predict(table)[::20].tolist(),
        }
    client.set_registered_model_alias("wine", "champion", "1")
    sys.stdout.write(json.dumps(made) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
