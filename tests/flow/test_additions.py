"""The two parts of a block's gradient, against two inputs that are kept apart from the start."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

import tinyres
from tinyres import Tensor, flow, nn
from tinyres import functional as F
from tinyres.flow.additions import find_fork
from tinyres.flow.statistics import cosine
from tinyres.nn.blocks import Subsample


def way_through(block):
    """(before the fork, the branch, after the addition) of a block, layer by layer."""
    if isinstance(block, nn.BasicBlock):
        return [], [block.conv1, block.bn1, block.relu1, block.conv2, block.bn2], [block.relu2]
    if isinstance(block, nn.Bottleneck):
        first = [block.conv1, block.bn1, block.relu1, block.conv2, block.bn2, block.relu2]
        return [], [*first, block.conv3, block.bn3], [block.relu3]
    start, rest = [block.bn1, block.relu1], [block.conv1, block.bn2, block.relu2, block.conv2]
    projects = block.downsample is not None and not isinstance(block.downsample, Subsample)
    return (start, rest, []) if projects else ([], start + rest, [])


def through(layers, x):
    for layer in layers:
        x = layer(x)
    return x


def expected_parts(block, x, dy):
    """branch, skip (the operands of the addition) and the gradients by two inputs that happen to be equal."""
    before, branch, after = way_through(block)
    x = through(before, Tensor(x)).data
    ours, theirs = Tensor(x, requires_grad=True), Tensor(x, requires_grad=True)
    operands = through(branch, ours), theirs if block.downsample is None else block.downsample(theirs)
    through(after, operands[0] + operands[1]).backward(dy)
    return operands[0].data, operands[1].data, ours.grad.data, theirs.grad.data


def rows_of(record, name):
    return {str(row["role"]): row for row in record.rows if row["name"] == name}


def check_pair(rows, roles, arrays):
    a, b = (array.astype(np.float64).ravel() for array in arrays)
    for role, values in zip(roles, (a, b), strict=True):
        np.testing.assert_allclose(rows[role]["rms"], np.sqrt((values**2).mean()), rtol=1e-10)
        np.testing.assert_allclose(rows[role]["abs_max"], np.abs(values).max(), rtol=1e-10)
        np.testing.assert_allclose(rows[role]["cosine"], a @ b / np.sqrt((a @ a) * (b @ b)), atol=1e-12)
        assert rows[role]["histogram"].sum() == np.count_nonzero(values)


BLOCKS = {
    f"{kind.__name__} {option}{' that shrinks' if stride == 2 else ''}": (kind, option, stride)
    for kind in (nn.BasicBlock, nn.Bottleneck, nn.PreActBlock)
    for option in "ABC"
    for stride in (1, 2)
}


@pytest.mark.parametrize("checkpointed", [False, True], ids=["", "checkpointed"])
@pytest.mark.parametrize("name", BLOCKS)
def test_both_parts_of_every_kind_of_block(name, checkpointed):
    kind, option, stride = BLOCKS[name]
    tinyres.manual_seed(0)
    rng = np.random.default_rng(1)
    channels = 4 * stride if kind is nn.Bottleneck else 8 * stride
    stem, block = (
        nn.Conv2d(3, 8 if kind is not nn.Bottleneck else 16, 1),
        kind(8 if kind is not nn.Bottleneck else 16, channels, stride, option),
    )
    model = nn.Sequential(stem, block).to("float64")
    x = rng.standard_normal((3, 3, 6, 6))
    dy = rng.standard_normal(model(Tensor(x)).shape)
    branch, skip, branch_grad, skip_grad = expected_parts(block, stem(Tensor(x)).data, dy)
    if checkpointed:
        tinyres.checkpoint(block)
    record = flow.snapshot(model, x, dy, loss=lambda y, dy: (y * Tensor(dy)).sum())
    rows = rows_of(record, "1.add")
    check_pair(rows, ("branch", "skip"), (branch, skip))
    check_pair(rows, ("branch_grad", "skip_grad"), (branch_grad, skip_grad))
    assert np.isnan(rows["activation"]["cosine"])


class Block(nn.Module):
    """An addition of what two functions make of one input."""

    def __init__(self, branch, skip):
        self.add, self.branch, self.skip = nn.Add(), branch, skip

    def forward(self, x):
        return self.add(self.branch(x), self.skip(x))


def parts_of(branch, skip, x):
    model = nn.Sequential(nn.Linear(3, 3, bias=False), Block(branch, skip)).to("float64")
    model[0].weight.data[...] = np.eye(3)
    return rows_of(flow.snapshot(model, x, None, loss=lambda y, _: (y * y).sum() * 0.5), "1.add")


X = np.array([[1.0, -2.0, 3.0], [0.5, 4.0, -1.0]])


def test_an_addition_to_itself_has_two_equal_parts():
    rows = parts_of(lambda x: x, lambda x: x, X)
    check_pair(rows, ("branch_grad", "skip_grad"), (2 * X, 2 * X))
    np.testing.assert_allclose(rows["skip_grad"]["cosine"], 1)


def test_a_branch_of_several_ways_is_their_sum():
    rows = parts_of(lambda x: x * 2 + x * 3, lambda x: x * -0.5, X)
    dy = 4.5 * X
    check_pair(rows, ("branch_grad", "skip_grad"), (5 * dy, -0.5 * dy))
    np.testing.assert_allclose(rows["skip_grad"]["cosine"], -1)


def test_a_block_within_a_branch():
    inner = Block(lambda x: x * 2, lambda x: x)
    rows = parts_of(inner, lambda x: x, X)
    check_pair(rows, ("branch_grad", "skip_grad"), (3 * 4 * X, 4 * X))


@pytest.mark.parametrize("cut", ["branch", "skip"])
def test_a_part_that_is_cut_off_is_missing(cut):
    ways = {"branch": lambda x: x * 2, "skip": lambda x: x}
    rows = parts_of(**ways | {cut: lambda x: x.detach()}, x=X)
    assert np.isnan(rows[f"{cut}_grad"]["rms"])
    assert np.isfinite(rows["branch"]["cosine"])


def test_where_the_input_needs_no_gradient_the_parts_are_missing():
    model = nn.Sequential(nn.BasicBlock(3, 3))
    rows = rows_of(flow.snapshot(model, np.ones((2, 3, 4, 4), np.float32), None, loss=lambda y, _: y.sum()), "0.add")
    for role in ("branch_grad", "skip_grad"):
        assert np.isnan([rows[role][name] for name in (*flow.STATISTICS, "cosine")]).all()
        assert not rows[role]["histogram"].any()


@pytest.mark.parametrize("bad", [0, np.nan, np.inf])
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_zero_and_non_finite_gradients_are_rows(bad):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.PreActBlock(4, 4))
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 4), dtype=np.float32)
    rows = rows_of(flow.snapshot(model, x, None, loss=lambda y, _: (y * bad).sum()), "1.add")
    for role in ("branch_grad", "skip_grad"):
        assert np.isnan(rows[role]["cosine"])
        assert rows[role]["zero_fraction"] == (bad == 0)
        assert rows[role]["nonfinite_fraction"] == (bad != 0)


def test_the_last_of_several_backward_passes_counts():
    model = nn.Sequential(nn.Linear(3, 3), Block(lambda x: x * 2, lambda x: x))
    with flow.watch(model) as record:
        y = model(Tensor(X.astype(np.float32)))
        for scale in (1.0, 10.0):
            y.backward(np.full(y.shape, scale, np.float32), retain_graph=True)
    rows = rows_of(record, "1.add")
    assert (rows["skip_grad"]["rms"], rows["branch_grad"]["rms"]) == (10, 20)


def test_nothing_is_held_once_both_parts_are_there():
    """The gradient at the addition is let go as soon as the branch's part has come, still inside backward."""
    held = []

    class Spy(nn.Module):
        def forward(self, x):
            x.register_hook(lambda _: held.append([reference() is not None for reference in gradients]))
            return x

    gradients = []
    model = nn.Sequential(nn.Conv2d(3, 4, 1), Spy(), nn.Conv2d(4, 4, 1), nn.PreActBlock(4, 4))
    model[3].add.register_forward_hook(
        lambda _m, _i, output: output.register_hook(lambda g: gradients.append(weakref.ref(g.data))) and None
    )
    with flow.watch(model):
        loss = model(Tensor(np.ones((2, 3, 4, 4), np.float32))).sum()
        gc.disable()
        try:
            loss.backward()
        finally:
            gc.enable()
    assert held == [[False]]


def test_the_fork_is_the_last_place_that_both_ways_come_from():
    x = Tensor(X, requires_grad=True)
    start = x * 2
    fork = start + 1
    fork_at = fork._node
    branch, skip = F.relu(fork) * start.detach(), fork[:, :1]
    found, edges = find_fork((branch + skip)._node)
    assert found is fork_at
    assert sorted((edge.node.op, edge.way) for edge in edges) == [("getitem", "skip"), ("relu", "branch")]
    assert find_fork((branch + 1)._node) is None
    assert find_fork((branch + Tensor(X, requires_grad=True))._node) is None


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_cosines_in_any_memory_order(dtype):
    rng = np.random.default_rng(0)
    a = rng.standard_normal((2, 30, 40, 50)).astype(dtype)
    b = (a + rng.standard_normal(a.shape)).astype(dtype)
    wide = [array.astype(np.float64).ravel() for array in (a, b)]
    want = wide[0] @ wide[1] / np.linalg.norm(wide[0]) / np.linalg.norm(wide[1])
    last = np.ascontiguousarray(b.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    for first, second in [(a, b), (a, last), (last, a), (a[:, ::-1], b[:, ::-1])]:
        np.testing.assert_allclose(cosine(first, second), [want], rtol=2e-7 if dtype == "float32" else 1e-12)
    assert np.isnan(cosine(a * 0, b))
    assert np.isnan(cosine(a[:0], b[:0]))
