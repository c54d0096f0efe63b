"""Initialisers against the variances of their papers."""

from __future__ import annotations

import math

import numpy as np
import pytest

import tinyres
from tinyres import Tensor, nn
from tinyres.nn import init

SHAPE = (64, 48, 3, 5)
FAN_IN, FAN_OUT = 48 * 15, 64 * 15
SIZE = math.prod(SHAPE)


@pytest.fixture(autouse=True)
def seed():
    tinyres.manual_seed(0)


def empty(*shape, dtype=np.float32):
    return Tensor(np.full(shape, np.nan, dtype))


def check_moments(values, variance, fourth):
    """Mean 0 and `variance`, within 5 standard errors; `fourth` is the distribution's kurtosis."""
    values = values.astype(np.float64)
    assert abs(values.mean()) < 5 * math.sqrt(variance / values.size)
    assert abs(values.var() / variance - 1) < 5 * math.sqrt((fourth - 1) / values.size)


NORMAL, UNIFORM = 3.0, 1.8  # kurtosis


@pytest.mark.parametrize(
    ("fill", "variance", "kurtosis"),
    [
        (lambda t: init.kaiming_normal_(t), 2 / FAN_IN, NORMAL),
        (lambda t: init.kaiming_normal_(t, mode="fan_out"), 2 / FAN_OUT, NORMAL),
        (lambda t: init.kaiming_normal_(t, nonlinearity="linear"), 1 / FAN_IN, NORMAL),
        (lambda t: init.kaiming_normal_(t, nonlinearity="tanh"), 25 / 9 / FAN_IN, NORMAL),
        (lambda t: init.kaiming_uniform_(t), 2 / FAN_IN, UNIFORM),
        (lambda t: init.kaiming_uniform_(t, mode="fan_out", nonlinearity="sigmoid"), 1 / FAN_OUT, UNIFORM),
        (lambda t: init.xavier_normal_(t), 2 / (FAN_IN + FAN_OUT), NORMAL),
        (lambda t: init.xavier_uniform_(t, gain=3.0), 18 / (FAN_IN + FAN_OUT), UNIFORM),
        (lambda t: init.normal_(t, std=0.3), 0.09, NORMAL),
        (lambda t: init.uniform_(t, -1, 1), 1 / 3, UNIFORM),
    ],
)
def test_variance(fill, variance, kurtosis):
    tensor = empty(*SHAPE)
    assert fill(tensor) is tensor
    check_moments(tensor.data, variance, kurtosis)
    widest = np.abs(tensor.data).max() / math.sqrt(variance)
    assert (1.7 < widest <= math.sqrt(3) * (1 + 1e-6)) if kurtosis == UNIFORM else 3.5 < widest < 6.5


def test_normal_mean_and_uniform_ends():
    assert abs(init.normal_(empty(10_000), mean=5.0, std=0.1).data.mean() - 5) < 5 * 0.1 / 100
    values = init.uniform_(empty(10_000), 2, 3).data
    assert values.min() >= 2 and values.max() <= 3


def test_constant():
    assert (init.constant_(empty(3, 4), 1.5).data == 1.5).all()


def test_filled_in_place_in_any_dtype():
    for dtype in (np.float32, np.float64):
        tensor = empty(4, 3, dtype=dtype)
        array = tensor.data
        init.kaiming_normal_(tensor)
        assert tensor.data is array and array.dtype == dtype and np.isfinite(array).all()


def test_on_a_gpu_the_numbers_are_the_same(cupy):
    expected = init.xavier_uniform_(empty(4, 3)).data
    tinyres.manual_seed(0)
    assert np.array_equal(init.xavier_uniform_(empty(4, 3).to("cuda")).numpy(), expected)


def test_layers_start_as_their_docstrings_say():
    conv = nn.Conv2d(48, 64, (3, 5), groups=2)
    check_moments(conv.weight.data, 2 / (FAN_IN / 2), NORMAL)
    assert not conv.bias.data.any()
    linear = nn.Linear(400, 300)
    check_moments(linear.weight.data, 1 / 400 / 3, UNIFORM)
    assert np.abs(linear.bias.data).max() <= 1 / 20 and linear.bias.data.std() > 0.02
    norm = nn.BatchNorm2d(5)
    assert (norm.weight.data == 1).all() and (norm.running_var.data == 1).all()
    assert not norm.bias.data.any() and not norm.running_mean.data.any()


def test_manual_seed_repeats_everything():
    def weights():
        tinyres.manual_seed(7)
        model = tinyres.models.CifarResNet(8, width=0.25)
        dropped = nn.Dropout(0.5)(Tensor(np.ones(100)))
        return [*model.state_dict().values(), dropped.data]

    for first, second in zip(weights(), weights(), strict=True):
        assert np.array_equal(first, second)
    tinyres.manual_seed(8)
    other = nn.Conv2d(3, 4, 3).weight.data
    tinyres.manual_seed(7)
    assert not np.array_equal(nn.Conv2d(3, 4, 3).weight.data, other)


def test_a_saved_generator_state_continues_where_it_was():
    state = tinyres.backend.get_rng_state()
    first = init.normal_(empty(5)).data.copy()
    tinyres.backend.set_rng_state(state)
    assert np.array_equal(init.normal_(empty(5)).data, first)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: init.kaiming_normal_(empty(3)), r"\(3,\).*expected \(O, I"),
        (lambda: init.kaiming_normal_(empty(3, 2), mode="fan"), "mode is 'fan'.*fan_in.*fan_out"),
        (lambda: init.kaiming_uniform_(empty(3, 2), nonlinearity="gelu"), "nonlinearity is 'gelu'.*relu"),
        (lambda: init.xavier_normal_(empty()), r"\(\).*expected \(O, I"),
    ],
)
def test_errors(call, says):
    with pytest.raises(ValueError, match=says):
        call()
