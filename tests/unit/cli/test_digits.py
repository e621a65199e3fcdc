from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from fedbus.cli import digits
from fedbus.errors import ConfigError


def bits(arrays):
    """What has to be equal when we say the same model."""
    return {name: array.tobytes() for name, array in arrays.items()}


def federate(data, *, rounds, seed):
    """Average the clients' models by their number of examples, round after round, without any bus."""
    model = digits.initial(seed)
    for number in range(rounds):
        updates = [
            (
                digits.train(
                    model,
                    share.x,
                    share.y,
                    epochs=digits.EPOCHS_PER_ROUND,
                    batch_size=digits.BATCH_SIZE,
                    learning_rate=digits.LEARNING_RATE,
                    seed=seed * 1000 + number * 100 + client,
                )[0],
                len(share),
            )
            for client, share in enumerate(data.clients)
        ]
        weights = sum(weight for _, weight in updates)
        model = {
            name: (sum(arrays[name].astype(np.float64) * weight for arrays, weight in updates) / weights).astype(
                np.float32
            )
            for name in model
        }
    return model


@pytest.fixture(scope="module")
def data():
    """The demo's data for seed 0, read once: nobody changes it."""
    return digits.load(clients=10, seed=0)


def test_every_digit_is_in_one_place_only(data):
    """The test set and the shares are disjoint and together hold all 1,797 digits."""
    assert len(data.test) + sum(len(share) for share in data.clients) == 1797
    everything = np.concatenate([data.test.x, *(share.x for share in data.clients)])
    original = digits._read().x
    assert sorted(map(bytes, everything)) == sorted(map(bytes, original))


def test_the_test_set_is_stratified(data):
    """Every class gives a fifth of its examples to the test set."""
    everything = np.bincount(digits._read().y)
    assert np.bincount(data.test.y).tolist() == [round(count * digits.TEST_FRACTION) for count in everything]


def test_arrays_are_what_the_docstring_says(data):
    """Images are float32 in 0..1 with 64 columns, labels int64 in 0..9."""
    for examples in (data.test, *data.clients):
        assert examples.x.dtype == np.float32
        assert examples.x.shape == (len(examples), digits.PIXELS)
        assert 0 <= examples.x.min() <= examples.x.max() <= 1
        assert examples.y.dtype == np.int64
        assert set(examples.y.tolist()) <= set(range(digits.CLASSES))


def test_one_seed_one_split():
    """The same seed shares out the same digits; another seed does not."""
    first, again, other = (digits.load(clients=10, seed=seed) for seed in (3, 3, 4))
    assert [share.x.tobytes() for share in first.clients] == [share.x.tobytes() for share in again.clients]
    assert first.test.x.tobytes() == again.test.x.tobytes()
    assert [share.x.tobytes() for share in first.clients] != [share.x.tobytes() for share in other.clients]


def test_shares_are_skewed(data):
    """At alpha 0.3 a client's commonest class is far above a tenth of its share, on average."""
    tops = [np.bincount(share.y).max() / len(share) for share in data.clients]
    assert np.mean(tops) > 0.3


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    clients=st.integers(1, 25),
    alpha=st.sampled_from([0.05, 0.3, 1.0, 100.0]),
    classes=st.integers(1, 10),
)
def test_split_loses_nothing_and_starves_nobody(seed, clients, alpha, classes):
    """Whatever the draw, every position is in exactly one share and no share is below the minimum."""
    labels = np.random.default_rng(seed).integers(0, classes, 200)
    shares = digits.split(labels, clients=clients, alpha=alpha, rng=np.random.default_rng(seed))
    assert len(shares) == clients
    assert sorted(np.concatenate(shares).tolist()) == list(range(200))
    assert min(map(len, shares)) >= digits.EXAMPLES_MIN


@pytest.mark.parametrize(("clients", "alpha"), [(0, 0.3), (3, 0.0), (3, -1.0), (3, float("nan")), (26, 0.3)])
def test_split_refuses_what_it_cannot_do(clients, alpha):
    """No clients, no spread, or fewer examples than clients need: a ConfigError."""
    with pytest.raises(ConfigError):
        digits.split(np.zeros(200, np.int64), clients=clients, alpha=alpha, rng=np.random.default_rng(0))


def test_gradient_agrees_with_differences(data):
    """One step moves every parameter by -rate times the slope that finite differences of the loss measure."""
    x, y = data.clients[0].x[:8], data.clients[0].y[:8]
    before = digits.initial(1)
    after, _ = digits.train(before, x, y, epochs=1, batch_size=8, learning_rate=1.0, seed=0)
    exact = {name: array.astype(np.float64) for name, array in before.items()}  # float32 drowns small differences
    rng = np.random.default_rng(0)
    h = 1e-6
    for name, array in exact.items():
        direction = rng.standard_normal(array.shape)
        up = digits.loss(exact | {name: array + h * direction}, x, y)
        down = digits.loss(exact | {name: array - h * direction}, x, y)
        moved = float(((array - after[name]) * direction).sum())
        assert moved == pytest.approx((up - down) / (2 * h), rel=1e-3, abs=1e-5)


def test_loss_by_hand():
    """A model of zeros finds every digit equally likely: its loss is ln 10, and its guess is 0."""
    zeros = {name: np.zeros_like(array) for name, array in digits.initial(0).items()}
    x = np.ones((70, 64), np.float32)  # more rows than one block
    y = np.array([0] * 21 + [5] * 49, np.int64)
    assert digits.loss(zeros, x, y) == pytest.approx(np.log(10))
    assert digits.accuracy(zeros, x, y) == 21 / 70


def test_training_lowers_the_loss_and_leaves_its_input_alone(data):
    """Training returns new arrays with a lower loss; the model that came in keeps its bits."""
    share = data.clients[0]
    model = digits.initial(0)
    kept = bits(model)
    trained, reported = digits.train(model, share.x, share.y, epochs=3, batch_size=8, learning_rate=0.1, seed=0)
    assert bits(model) == kept
    assert digits.loss(trained, share.x, share.y) < digits.loss(model, share.x, share.y)
    assert 0 < reported < digits.loss(model, share.x, share.y)
    assert {array.dtype for array in trained.values()} == {np.dtype(np.float32)}


def test_bits_do_not_depend_on_threads(data):
    """One seed gives the same bits with one BLAS thread and with four; another seed gives others."""
    share = data.clients[0]

    def run(threads, seed):
        with threadpool_limits(threads):
            trained, loss = digits.train(
                digits.initial(0), share.x, share.y, epochs=2, batch_size=digits.ROWS_MAX, learning_rate=0.1, seed=seed
            )
            return bits(trained), loss, digits.loss(trained, data.test.x, data.test.y)

    assert run(1, 5) == run(4, 5)
    assert run(1, 5) != run(1, 6)


@pytest.mark.parametrize(("epochs", "batch_size", "count"), [(0, 8, 5), (1, 0, 5), (1, 33, 5), (1, 8, 0)])
def test_train_refuses_what_would_break_its_promise(data, epochs, batch_size, count):
    """No epoch, no batch, a batch that BLAS may split, or no examples: a ConfigError."""
    share = data.clients[0]
    with pytest.raises(ConfigError, match="batch_size"):
        digits.train(
            digits.initial(0),
            share.x[:count],
            share.y[:count],
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=0.1,
            seed=0,
        )


def test_federation_beats_loneliness(data):
    """Ten rounds of plain averaging beat the mean local model by at least 0.2, and come near the pooled one."""
    baselines = digits.baselines(data, rounds=10, seed=0)
    federated = digits.accuracy(federate(data, rounds=10, seed=0), data.test.x, data.test.y)
    assert federated > baselines.local_mean + 0.2
    assert federated > baselines.centralised - 0.06
    assert baselines.centralised > 0.93


def test_missing_data_package_is_named(monkeypatch):
    """Without scikit-learn the error says what to install."""
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ConfigError, match="pip install"):
        digits.load(clients=2, seed=0)
