"""The demo's learning task: ten owners of handwritten digits who may not pool them.

In: scikit-learn's 1,797 digits (they ship inside its package; nothing is fetched) and one seed. Out: a stratified test
set that nobody trains on, one non-IID share per client, a small multi-layer perceptron in NumPy, and the two figures
that a federation has to be judged against: what each client reaches alone, and what pooling everything would reach.

It promises that one seed gives the same bits on one machine. A floating-point product may be summed in another order
when BLAS splits it among threads, so no product here is large enough to be split: `ROWS_MAX` bounds its rows. Another
processor, or another build of BLAS, may give other bits.

It leaves to others the federation itself: nothing here knows of a bus, a round or a clock.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt

from fedbus.errors import ConfigError

Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Arrays = Mapping[str, npt.NDArray[np.float32]]

PIXELS = 64
HIDDEN = 64
CLASSES = 10

# OpenBLAS splits a product among threads from about 262,144 multiply-adds on; 32 rows x 64 x 64 is half of that.
# Batches of 1,000 were tried: two threads gave other bits than one.
ROWS_MAX = 32

# Dirichlet 0.3 leaves a client with two to four digits it knows well: a model trained alone gets 0.54 to 0.60 right.
ALPHA = 0.3
# One batch: with less, a client has nothing to take a mean over. Ten clients reach it without help on most seeds.
EXAMPLES_MIN = 8
TEST_FRACTION = 0.2

# Tuned over seeds 0-4 with 10 clients and 10 rounds: federated 0.94 to 0.975, centralised 0.96 to 0.98. Two epochs gave
# 0.92 to 0.95; eight gained nothing for half as much time again, since the clients drift apart.
EPOCHS_PER_ROUND = 5
BATCH_SIZE = 8
LEARNING_RATE = 0.1


@dataclass(frozen=True, slots=True)
class Examples:
    """Images ``x`` float32 (n, 64) in [0, 1], row-major, and their digits ``y`` int64 (n,) in 0..9."""

    x: Images
    y: Labels

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.y)


@dataclass(frozen=True, slots=True)
class Digits:
    """One held-out test set and one share of the rest per client; no example is in two of them."""

    test: Examples
    clients: tuple[Examples, ...]


@dataclass(frozen=True, slots=True)
class Baselines:
    """Accuracies in 0..1 on the test set: the mean of models trained alone, and of one trained on everything."""

    local_mean: float
    centralised: float


def load(*, clients: int, seed: int, alpha: float = ALPHA) -> Digits:
    """Return the digits, shared out among ``clients``; the same seed gives the same shares.

    Raises `ConfigError` when scikit-learn is not installed, or when there are more clients than examples for them.
    """
    everything = _read()
    rng = np.random.default_rng([seed, 0x5317])
    test, train = _hold_out(everything.y, rng)
    shares = split(everything.y[train], clients=clients, alpha=alpha, rng=rng)
    return Digits(
        test=_take(everything, test),
        clients=tuple(_take(everything, train[share]) for share in shares),
    )


def split(
    labels: Labels, *, clients: int, alpha: float, rng: np.random.Generator, examples_min: int = EXAMPLES_MIN
) -> list[npt.NDArray[np.intp]]:
    """Share out examples so that every class is spread over the clients by its own draw from Dirichlet(alpha).

    Returns one ascending array of positions in ``labels`` per client; together they are every position once. A small
    ``alpha`` gives each class to few clients, a large one to all alike (Yurochkin et al. 2019, arXiv:1905.12022).
    Whoever got fewer than ``examples_min`` is given the missing ones by the then richest client.

    Raises `ConfigError` when there are not ``clients * examples_min`` examples.
    """
    if clients < 1 or not alpha > 0:
        raise ConfigError(f"clients must be at least 1 and alpha above 0, but they are {clients} and {alpha}")
    if clients * examples_min > len(labels):
        raise ConfigError(
            f"{len(labels)} examples are too few for {clients} clients with at least {examples_min} each: "
            f"ask for at most {len(labels) // examples_min} clients"
        )
    shares: list[list[int]] = [[] for _ in range(clients)]
    for label in np.unique(labels):
        positions = rng.permutation(np.flatnonzero(labels == label))
        portions = rng.dirichlet(np.full(clients, alpha))
        cuts = np.rint(np.cumsum(portions)[:-1] * len(positions)).astype(np.intp)
        for share, part in zip(shares, np.split(positions, cuts), strict=True):
            share.extend(part.tolist())
    for poor in shares:
        while len(poor) < examples_min:
            # The last of the richest share is of its last class: arbitrary, but the same on every run.
            poor.append(max(shares, key=len).pop())
    return [np.array(sorted(share), dtype=np.intp) for share in shares]


def initial(seed: int) -> dict[str, npt.NDArray[np.float32]]:
    """Return the untrained 64-64-10 perceptron: four float32 arrays, 4,810 numbers; weights by He et al. 2015."""
    rng = np.random.default_rng([seed, 0x1417])

    def normal(rows: int, columns: int) -> npt.NDArray[np.float32]:
        return (rng.standard_normal((rows, columns)) * float(np.sqrt(2 / rows))).astype(np.float32)

    return {
        "hidden.weight": normal(PIXELS, HIDDEN),
        "hidden.bias": np.zeros(HIDDEN, np.float32),
        "output.weight": normal(HIDDEN, CLASSES),
        "output.bias": np.zeros(CLASSES, np.float32),
    }


def train(
    arrays: Arrays,
    x: Images,
    y: Labels,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
) -> tuple[dict[str, npt.NDArray[np.float32]], float]:
    """Run stochastic gradient descent from ``arrays``; return the new arrays and the last epoch's mean loss.

    ``x`` float32 (n, 64), ``y`` int64 (n,). The arrays that came in are not touched. ``batch_size`` is at most
    `ROWS_MAX`, which keeps the result independent of the number of threads; else `ConfigError` is raised, as it is
    for ``epochs`` below 1 and for no examples at all.
    """
    if not 1 <= batch_size <= ROWS_MAX or epochs < 1 or len(y) == 0:
        raise ConfigError(
            f"batch_size must be in 1..{ROWS_MAX} with at least one epoch and one example, "
            f"but got batch_size={batch_size}, epochs={epochs}, {len(y)} examples"
        )
    rng = np.random.default_rng([seed, 0x7241])
    model = {name: np.array(array, dtype=np.float32) for name, array in arrays.items()}
    total = 0.0
    for _ in range(epochs):
        total = 0.0
        order = rng.permutation(len(y))
        for start in range(0, len(y), batch_size):
            batch = order[start : start + batch_size]
            total += _step(model, x[batch], y[batch], np.float32(learning_rate))
    return model, total / len(y)


def loss(arrays: Arrays, x: Images, y: Labels) -> float:
    """Return the mean cross-entropy of the model on ``x`` float32 (n, 64) and ``y`` int64 (n,), in nats."""
    total = 0.0
    for rows in _blocks(len(y)):
        _, output = _forward(arrays, x[rows])
        total += _cross_entropy(_softmax(output), y[rows])
    return total / len(y)


def accuracy(arrays: Arrays, x: Images, y: Labels) -> float:
    """Return the share, in 0..1, of ``x`` float32 (n, 64) whose likeliest digit is the one in ``y`` int64 (n,)."""
    right = 0
    for rows in _blocks(len(y)):
        _, output = _forward(arrays, x[rows])
        right += int(np.count_nonzero(output.argmax(axis=1) == y[rows]))
    return right / len(y)


def baselines(
    digits: Digits,
    *,
    rounds: int,
    seed: int,
    epochs: int = EPOCHS_PER_ROUND,
    batch_size: int = BATCH_SIZE,
    learning_rate: float = LEARNING_RATE,
) -> Baselines:
    """Return what the same number of epochs (``rounds * epochs``) reaches without a federation.

    Every model starts from `initial` of the same seed and is judged on the same test set as the federated one.
    """

    def reached(examples: Examples) -> float:
        model, _ = train(
            initial(seed),
            examples.x,
            examples.y,
            epochs=rounds * epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            seed=seed,
        )
        return accuracy(model, digits.test.x, digits.test.y)

    alone = [reached(share) for share in digits.clients]
    pooled = Examples(
        x=np.concatenate([share.x for share in digits.clients]),
        y=np.concatenate([share.y for share in digits.clients]),
    )
    return Baselines(local_mean=sum(alone) / len(alone), centralised=reached(pooled))


def _read() -> Examples:
    # Imported here because scikit-learn takes a second to import, and only the demo needs it.
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ConfigError("the demo's data come with scikit-learn: pip install 'fedbus[server]'") from error
    pixels, labels = cast("tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]", load_digits(return_X_y=True))
    return Examples(x=np.ascontiguousarray(pixels / 16, dtype=np.float32), y=labels.astype(np.int64))


def _take(examples: Examples, positions: npt.NDArray[np.intp]) -> Examples:
    return Examples(x=examples.x[positions], y=examples.y[positions])


def _hold_out(labels: Labels, rng: np.random.Generator) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return the positions of the test set and of the rest; each class gives the same fraction to the test set."""
    test: list[int] = []
    for label in np.unique(labels):
        positions = rng.permutation(np.flatnonzero(labels == label))
        test.extend(positions[: round(len(positions) * TEST_FRACTION)].tolist())
    held = np.array(sorted(test), dtype=np.intp)
    return held, np.setdiff1d(np.arange(len(labels), dtype=np.intp), held)


def _step(model: dict[str, npt.NDArray[np.float32]], x: Images, y: Labels, learning_rate: np.float32) -> float:
    """Take one step down the gradient of this batch, in place; return the summed loss before it."""
    hidden, output = _forward(model, x)
    likely = _softmax(output)
    lost = _cross_entropy(likely, y)
    slope = likely  # d loss / d output, once the right digit's 1 is taken off
    slope[np.arange(len(y)), y] -= 1
    slope /= np.float32(len(y))
    back = (slope @ model["output.weight"].T) * (hidden > 0)
    model["output.weight"] -= learning_rate * (hidden.T @ slope)
    model["output.bias"] -= learning_rate * slope.sum(axis=0)
    model["hidden.weight"] -= learning_rate * (x.T @ back)
    model["hidden.bias"] -= learning_rate * back.sum(axis=0)
    return lost


def _forward(model: Arrays, x: Images) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    hidden = np.maximum(x @ model["hidden.weight"] + model["hidden.bias"], np.float32(0))
    return hidden, hidden @ model["output.weight"] + model["output.bias"]


def _softmax(output: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    raised = np.exp(output - output.max(axis=1, keepdims=True))
    return cast("npt.NDArray[np.float32]", raised / raised.sum(axis=1, keepdims=True))


def _cross_entropy(likely: npt.NDArray[np.float32], y: Labels) -> float:
    # A probability that underflowed to 0 would make the loss infinite: float32's smallest normal number bounds it.
    return float(-np.log(np.maximum(likely[np.arange(len(y)), y], np.finfo(np.float32).tiny)).sum(dtype=np.float64))


def _blocks(count: int) -> Iterator[slice]:
    return (slice(start, start + ROWS_MAX) for start in range(0, count, ROWS_MAX))
