"""A thousand owners of handwritten digits, each with a mixture of its own: ``fedbus simulate digits:app``."""

import zlib

import numpy as np
from sklearn.datasets import load_digits

import fedbus

app = fedbus.ClientApp()
x, y = load_digits(return_X_y=True)
x = (x / 16).astype(np.float32)
held_out = np.arange(len(y)) % 5 == 0  # nobody trains on these


def share(task: fedbus.TrainTask | fedbus.EvaluateTask, among: np.ndarray, examples: int) -> np.ndarray:
    """Return the examples of a client, drawn when they are needed from its name: a thousand shares take no memory."""
    rng = np.random.default_rng(zlib.crc32(task.client.encode()))
    odds = rng.dirichlet(np.full(10, task.config.get("alpha", 0.3)))[y] * among + 1e-9 * among
    return rng.choice(len(y), size=examples, p=odds / odds.sum())


def predict(m: dict[str, np.ndarray] | fedbus.Model, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the hidden layer and the odds of ten digits, for each row."""
    hidden = np.maximum(rows @ m["w1"] + m["b1"], 0)
    odds = np.exp(hidden @ m["w2"] + m["b2"])
    return hidden, odds / odds.sum(axis=1, keepdims=True)


@app.initial
def initial(seed: int) -> dict[str, np.ndarray]:
    """Return the first model."""
    rng = np.random.default_rng(seed)
    shapes = {"w1": (64, 32), "b1": (32,), "w2": (32, 10), "b2": (10,)}
    return {name: (0.2 * rng.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()}


@app.train
def train(model: fedbus.Model, task: fedbus.TrainTask) -> fedbus.Update:
    """Take some epochs of gradient descent over the client's digits, eight at a time."""
    mine, m = share(task, ~held_out, 40), model.copy()
    rng = np.random.default_rng(task.seed)
    for _ in range(task.config.get("epochs", 5)):
        for batch in rng.permutation(mine).reshape(-1, 8):
            hidden, error = predict(m, x[batch])
            error[range(8), y[batch]] -= 1
            back = error @ m["w2"].T * (hidden > 0)
            slopes = {"w1": x[batch].T @ back, "b1": back.sum(0), "w2": hidden.T @ error, "b2": error.sum(0)}
            m = {name: m[name] - np.float32(0.1 / 8) * slopes[name] for name in m}
    return fedbus.Update(m, weight=len(mine))


@app.evaluate
def evaluate(model: fedbus.Model, task: fedbus.EvaluateTask) -> fedbus.Evaluation:
    """Measure the model on digits of the client's mixture that nobody trained on."""
    mine = share(task, held_out, 20)
    return fedbus.Evaluation(len(mine), {"accuracy": float((predict(model, x[mine])[1].argmax(1) == y[mine]).mean())})
