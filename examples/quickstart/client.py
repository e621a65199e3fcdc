"""The smallest client: fits a line to points that never leave it. Run it with ``fedbus client run client:app``."""

import numpy as np

import fedbus

app = fedbus.ClientApp()
rng = np.random.default_rng()
x = rng.uniform(-1, 1, 200)
y = 3 * x - 2 + rng.normal(0, 0.1, 200)


@app.train
def train(model: fedbus.Model, task: fedbus.TrainTask) -> fedbus.Update:
    """Take a few steps down the slope of the squared error, from the model that came."""
    slope, offset = model["slope"].copy(), model["offset"].copy()
    for _ in range(task.config.get("steps", 20)):
        error = slope * x + offset - y
        slope -= 0.2 * (error * x).mean()
        offset -= 0.2 * error.mean()
    loss = ((slope * x + offset - y) ** 2).mean()
    return fedbus.Update({"slope": slope, "offset": offset}, weight=len(x), metrics={"loss": loss})


@app.evaluate
def evaluate(model: fedbus.Model, task: fedbus.EvaluateTask) -> fedbus.Evaluation:
    """Measure the model on the points that are here."""
    return fedbus.Evaluation(weight=len(x), metrics={"loss": ((model["slope"] * x + model["offset"] - y) ** 2).mean()})
