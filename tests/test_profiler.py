"""Profiles: what is counted is right, what is timed adds up, and nothing is changed by it."""

from __future__ import annotations

import csv
import tracemalloc

import numpy as np
import pytest

import tinyres
from tinyres import Tensor, differentiable, models, nn, no_grad, optim
from tinyres import functional as F

MIB = 2**20


def tensor(*shape, requires_grad=True, seed=0):
    return Tensor(np.random.default_rng(seed).standard_normal(shape).astype(np.float32), requires_grad)


def step(model, size=32, n=2, optimizer=None):
    loss = F.cross_entropy(model(tensor(n, 3, size, size, requires_grad=False)), np.arange(n))
    loss.backward()
    if optimizer:
        optimizer.step()
    return loss


def sums(p, name):
    """A field by operation, summed over shapes."""
    found = {}
    for row in p.rows:
        found[row.op] = found.get(row.op, 0) + getattr(row, name)
    return found


def row(p, op):
    (found,) = [row for row in p.rows if row.op == op]
    return found


# What is counted


@pytest.mark.parametrize(
    ("name", "options", "size"),
    [("resnet20", {}, 32), ("resnet18", {"num_classes": 10}, 64), ("preact_resnet20", {}, 32)],
)
def test_multiply_adds_of_networks_are_those_of_the_summary(name, options, size):
    model, n = models.get(name, **options), 2
    with tinyres.profile() as p:
        step(model, size, n)
    forward = models.summary(model, (3, size, size)).multiply_adds
    assert sum(row.multiply_adds for row in p.rows) == n * forward
    # Backward, each convolution is two of them, but the first: nobody asks for the gradient by the image.
    stem = n * model.conv1.weight.data.size * (size // model.conv1.stride) ** 2
    assert sum(row.backward_multiply_adds for row in p.rows) == 2 * n * forward - stem
    assert set(sums(p, "multiply_adds")) > {"conv2d", "linear", "batch_norm_add_relu", "cross_entropy"}
    assert {op for op, count in sums(p, "multiply_adds").items() if count} == {"conv2d", "linear"}


def test_resnet_20_by_hand():
    model = models.resnet20()
    with no_grad(), tinyres.profile() as p:
        model(tensor(1, 3, 32, 32))
    # The stem, and 18 convolutions that cost the same, but for the two that halve the image, which cost half.
    products = sums(p, "multiply_adds")
    assert products["conv2d"] == 9 * 3 * 16 * 32**2 + 17 * 9 * 16 * 16 * 32**2 and products["linear"] == 64 * 10
    assert sums(p, "calls") == {
        "conv2d": 19,
        "batch_norm_add_relu": 19,
        "getitem": 2,
        "pad": 2,
        "adaptive_avg_pool2d": 1,
        "flatten": 1,
        "linear": 1,
    }
    assert all(row.backward == row.backward_multiply_adds == row.kept_bytes == 0 for row in p.rows)


@pytest.mark.parametrize(
    ("call", "op", "forward"),
    [
        (
            lambda: F.conv2d(tensor(2, 6, 5, 5), weight=tensor(9, 2, 3, 2), groups=3),
            "conv2d",
            2 * 9 * 3 * 4 * 2 * 3 * 2,
        ),
        (
            lambda: F.conv2d_add_relu(tensor(2, 3, 5, 5), tensor(2, 4, 3, 3), tensor(4, 3, 3, 3), tensor(4)),
            "conv2d_add_relu",
            2 * 4 * 3 * 3 * 3 * 3 * 3,
        ),
        (lambda: F.linear(tensor(2, 3, 4), tensor(5, 4), tensor(5)), "linear", 2 * 3 * 5 * 4),
        (lambda: tensor(7, 2, 3) @ tensor(3, 4), "matmul", 7 * 2 * 4 * 3),
        (lambda: F.matmul(input=tensor(2, 3), other=tensor(3, 4)), "matmul", 2 * 4 * 3),
        (lambda: tensor(5, 4) * tensor(4), "mul", 0),
    ],
)
def test_multiply_adds_of_operations(call, op, forward):
    with tinyres.profile() as p:
        call().sum().backward()
    found = row(p, op)
    assert (found.multiply_adds, found.backward_multiply_adds) == (forward, 2 * forward)
    assert np.isnan(p.gemm_rate) == (forward == 0)
    assert found.floor == (forward / p.gemm_rate if forward else 0)
    assert found.backward_floor == (2 * forward / p.gemm_rate if forward else 0)


def test_a_gradient_that_nobody_needs_costs_nothing():
    with tinyres.profile() as p:
        F.linear(tensor(2, 4, requires_grad=False), tensor(5, 4)).sum().backward()
    assert row(p, "linear").backward_multiply_adds == row(p, "linear").multiply_adds == 2 * 5 * 4


def test_calls_are_counted_by_operation_and_shapes():
    x, y = tensor(3, 4), tensor(5)
    with tinyres.profile() as p:
        for _ in range(3):
            F.tanh(x)
        F.tanh(y)
        x + F.tanh(y).sum()
    assert {(row.op, row.shapes): row.calls for row in p.rows} == {
        ("tanh", "3×4"): 3,
        ("tanh", "5"): 2,
        ("sum", "5"): 1,
        ("add", "3×4, 1"): 1,
    }


def test_operations_of_ones_own_are_seen():
    @differentiable
    def swish(x):
        s = 1 / (1 + np.exp(-x))
        return x * s, lambda dy: dy * (s + x * s * (1 - s))

    with tinyres.profile() as p:
        swish(tensor(8)).sum().backward()
    found = row(p, "swish")
    assert (found.calls, found.output_bytes, found.kept_bytes) == (1, 8 * 4, 8 * 4)  # s: x is a leaf


# Memory


def test_what_operations_keep():
    """x is a leaf; r is kept by relu, e by exp, and by mul once more, which does not count."""
    x = tensor(100)
    with tinyres.profile() as p:
        r = x.relu()
        e = r.exp()
        y = (r * e).sum()
    assert sums(p, "kept_bytes") == {"relu": 400, "exp": 400, "mul": 0, "sum": 0}
    assert sums(p, "output_bytes") == {"relu": 400, "exp": 400, "mul": 400, "sum": 0}
    assert y.requires_grad


def test_products_keep_what_operations_made_but_no_leaves():
    x, w = tensor(10, 20), tensor(30, 20)
    with tinyres.profile() as p:
        F.linear(F.linear(x, w), tensor(5, 30)).sum().backward()
    assert {row.shapes: row.kept_bytes for row in p.rows if row.op == "linear"} == {
        "10×20, 30×20": 0,
        "10×30, 5×30": 10 * 30 * 4,
    }


def test_masks_and_what_hides_in_objects_is_kept():
    class Box:
        def __init__(self, array):
            self.array = array

    @differentiable
    def boxed(x):
        box = Box(x * 2)
        return x + 1, lambda dy: dy * box.array

    with tinyres.profile() as p:
        y = boxed(F.max_pool2d(F.dropout(tensor(2, 1, 4, 4), 0.5), 2)).sum()
    kept = sums(p, "kept_bytes")
    assert kept["dropout"] == 2 * 16 * 4
    assert kept["boxed"] == 2 * 4 * 4
    assert y.requires_grad


def test_nothing_is_kept_without_recording_or_where_nothing_needs_a_gradient():
    with tinyres.profile() as p:
        with no_grad():
            tensor(100).exp().exp()
        tensor(100, requires_grad=False).tanh().tanh()
    assert sums(p, "kept_bytes") == {"exp": 0, "tanh": 0}
    assert sums(p, "output_bytes") == {"exp": 800, "tanh": 800}


def test_views_take_no_memory():
    x = tensor(4, 6)
    with tinyres.profile() as p:
        y = x.exp().reshape(6, 4).T[1:].flatten().sum()
    assert {op: count for op, count in sums(p, "output_bytes").items() if count} == {"exp": 96, "flatten": 72}
    assert y.requires_grad


def test_over_several_steps_memory_adds_up():
    model = models.CifarResNet(8, width=0.25)
    kept = []
    for steps in (1, 3):
        with tinyres.profile() as p:
            for _ in range(steps):
                step(model, 8)
        kept.append(sums(p, "kept_bytes"))
    assert kept[1] == {op: 3 * count for op, count in kept[0].items()}


def test_a_network_keeps_what_the_kernels_need():
    """Of each norm with a rectifier its input, which the convolution made, and its output."""
    model, n = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()), 2
    with tinyres.profile() as p:
        y = model(tensor(n, 3, 5, 5, requires_grad=False)).sum()
    image, maps = n * 3 * 25 * 4, n * 4 * 25 * 4
    found = sums(p, "kept_bytes")
    assert found["conv2d"] == image  # the copy with the channels last
    assert maps <= found["batch_norm"] < maps + 1000 and found["relu"] == maps
    assert y.requires_grad


def test_the_peak():
    x = Tensor(np.zeros(MIB // 4, np.float32))
    with tinyres.profile(memory=True) as p:
        y = x + 1
        z = x + 2
        del y
        z = x + 3
    assert 2 * MIB <= p.peak_bytes < 2.1 * MIB
    assert "at most 2.0" in str(p) and not tracemalloc.is_tracing()
    assert z is not None


def test_without_being_asked_the_peak_is_unknown():
    with tinyres.profile() as p:
        assert not tracemalloc.is_tracing()
    assert p.peak_bytes is None and "at most" not in str(p)


def test_two_peaks_at_once_are_refused():
    refused = pytest.raises(RuntimeError, match="memory is True, but tracemalloc is tracing already")
    with tinyres.profile(memory=True), refused, tinyres.profile(memory=True):
        pass
    assert not tracemalloc.is_tracing()


def test_checkpointing_shows():
    def profiled(checkpointed, **options):
        model = models.CifarResNet(38, width=0.5)
        for block in (*model.layer1, *model.layer2, *model.layer3) if checkpointed else ():
            tinyres.checkpoint(block)
        with tinyres.profile(**options) as p:
            step(model, n=8)
        return p

    plain, checkpointed = profiled(False), profiled(True)
    assert (sums(plain, "calls")["conv2d"], sums(checkpointed, "calls")["conv2d"]) == (37, 37 + 36)
    assert sums(plain, "backward_multiply_adds") == sums(checkpointed, "backward_multiply_adds")
    assert profiled(True, memory=True).peak_bytes < 0.7 * profiled(False, memory=True).peak_bytes


# What is timed


def test_times_add_up():
    model = models.CifarResNet(8, width=0.25)
    with tinyres.profile() as p:
        step(model, 8, optimizer=optim.SGD(model.parameters(), lr=0.1))
    assert all(row.forward > 0 for row in p.rows)
    assert {op for op, seconds in sums(p, "backward").items() if seconds} == {row.op for row in p.rows}
    assert p.outside > 0
    assert p.seconds == pytest.approx(p.outside + sum(row.forward + row.backward for row in p.rows))
    assert [row.seconds for row in p.rows] == sorted((row.seconds for row in p.rows), reverse=True)


def test_backward_after_the_block_is_not_measured():
    with tinyres.profile() as p:
        loss = step(models.CifarResNet(8, width=0.25), 8)
        y = F.linear(tensor(2, 4), tensor(5, 4)).sum()
    before = [vars(row).copy() for row in p.rows]
    y.backward()
    assert [vars(row) for row in p.rows] == before
    assert row(p, "sum").backward == 0 and loss is not None


def test_an_empty_profile():
    with tinyres.profile() as p:
        pass
    assert p.rows == [] and p.outside == p.seconds > 0
    assert str(p).splitlines()[1].split()[:2] == ["outside", "operations"]


# Nothing is changed


def test_gradients_are_the_same_to_the_bit():
    def gradients(profiled):
        tinyres.manual_seed(0)
        model = models.CifarResNet(14, width=0.25)
        optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(2):
            if profiled:
                with tinyres.profile(), tinyres.profile(memory=True):
                    step(model, 8, optimizer=optimizer)
            else:
                step(model, 8, optimizer=optimizer)
        return [p.grad.data for p in model.parameters()] + list(model.state_dict().values())

    for one, other in zip(gradients(True), gradients(False), strict=True):
        np.testing.assert_array_equal(one, other)


def test_nested_profiles_both_see_everything():
    with tinyres.profile() as outer:
        tensor(3).exp().sum().backward()
        with tinyres.profile() as inner:
            x = tensor(4, 4)
            (x @ x.tanh()).sum().backward()
        tensor(3).exp()
    assert sums(inner, "calls") == {"matmul": 1, "tanh": 1, "sum": 1}
    assert sums(outer, "calls") == {"matmul": 1, "tanh": 1, "sum": 2, "exp": 2}
    for name in ("multiply_adds", "backward_multiply_adds", "kept_bytes", "output_bytes"):
        for op in ("matmul", "tanh"):
            assert sums(inner, name)[op] == sums(outer, name)[op]
    assert sums(inner, "kept_bytes")["tanh"] == 64


def test_an_error_ends_the_profile():
    with pytest.raises(ValueError), tinyres.profile(memory=True) as p:
        tensor(2).exp()
        tensor(2) + tensor(3)
    assert sums(p, "calls") == {"exp": 1}
    assert p.seconds > 0 and not tracemalloc.is_tracing()
    tensor(2).exp()
    assert sums(p, "calls")["exp"] == 1


# What it shows


@pytest.fixture(scope="module")
def measured():
    with tinyres.profile() as p:
        step(models.CifarResNet(8, width=0.25), 8)
    return p


def test_the_table(measured):
    lines = str(measured).splitlines()
    ops = {row.op for row in measured.rows}
    assert {line.split()[0] for line in lines[1:-2]} == ops and len(lines) == len(ops) + 3
    assert lines[-2].startswith("outside operations") and lines[-1].startswith("total")
    assert lines[-1].split()[1] == str(sum(row.calls for row in measured.rows))
    assert "100.0%" in lines[-1]
    convolution = next(line for line in lines if line.startswith("conv2d")).split()
    assert convolution[1] == "7" and len(convolution) == 11  # both shares of the rate of a large product


def test_the_table_by_shapes(measured):
    lines = measured.table(by="shapes").splitlines()
    assert len(lines) == len(measured.rows) + 3
    assert any(line.startswith("conv2d 2×3×8×8, 4×3×3×3  ") for line in lines)
    with pytest.raises(ValueError, match="by is 'layer', expected 'op' or 'shapes'"):
        measured.table(by="layer")


def test_csv(measured, tmp_path):
    measured.to_csv(tmp_path / "deep" / "profile.csv")
    with open(tmp_path / "deep" / "profile.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(measured.rows)
    for found, expected in zip(rows, measured.rows, strict=True):
        assert (found["op"], found["shapes"]) == (expected.op, expected.shapes)
        assert float(found["forward"]) == expected.forward and int(found["kept_bytes"]) == expected.kept_bytes


# Elsewhere


def test_on_a_gpu_every_operation_is_waited_for(cupy):
    model = models.CifarResNet(8, width=0.25).to("cuda")
    x, y = tensor(2, 3, 8, 8, requires_grad=False).to("cuda"), Tensor(np.array([1, 2])).to("cuda")

    def run():
        F.cross_entropy(model(x), y).backward()
        return [p.grad.numpy() for p in model.parameters()]

    model.eval()
    expected = run()
    model.zero_grad()
    before = cupy.synchronisations()
    with tinyres.profile() as p:
        found = run()
    assert cupy.synchronisations() - before > 2 * sum(row.calls for row in p.rows)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    assert p.gemm_rate > 0 and sums(p, "calls")["conv2d"] == 7
