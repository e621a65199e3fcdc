"""Reads what a tracker wrote, with the readers of MLflow and TensorBoard, and prints it as JSON.

A process of its own: MLflow takes a second to import, and brings warnings of its own.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from mlflow.tracking import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def runs(uri):
    """Return the runs of the experiment: params, tags, status, and each metric as [[step, value, time], ...]."""
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("fedbus")
    return [
        {
            "params": run.data.params,
            "tags": run.data.tags,
            "status": run.info.status,
            "metrics": {
                name: [[metric.step, metric.value, metric.timestamp] for metric in history]
                for name in run.data.metrics
                for history in [client.get_metric_history(run.info.run_id, name)]
            },
        }
        for run in client.search_runs([experiment.experiment_id])
    ]


def scalars(directory):
    """Return each run's scalars as {tag: [[step, value, time], ...]}, by TensorBoard's own reader."""
    found = {}
    for run in sorted(Path(directory).iterdir()):
        events = EventAccumulator(str(run), size_guidance={"scalars": 0})
        events.Reload()
        found[run.name] = {
            tag: [[event.step, event.value, event.wall_time] for event in events.Scalars(tag)]
            for tag in events.Tags()["scalars"]
        }
    return found


json.dump({"mlflow": runs(sys.argv[1]), "tensorboard": scalars(sys.argv[2])}, sys.stdout)
