"""Residual blocks: the fused and the watched path, the shortcuts, and what a block computes."""

from __future__ import annotations

import numpy as np
import pytest

import tinyres
from tinyres import Tensor, nn
from tinyres import functional as F


def rng():
    return np.random.default_rng(0)


def images(*shape, dtype=np.float32, channels_last=False):
    x = rng().standard_normal(shape).astype(dtype)
    if channels_last:
        x = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    return Tensor(x, requires_grad=True)


def randomised(module):
    """The module with its norms off their starting point, so that every gradient is a number of its own."""
    draws = rng()
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if "bn" in name or "downsample.1" in name:
            if name.endswith(("weight", "running_var")):
                tensor.data[...] = draws.uniform(0.5, 2, tensor.shape)
            elif not name.endswith("num_batches_tracked"):
                tensor.data[...] = draws.standard_normal(tensor.shape)
    return module


BLOCKS = {
    f"{kind.__name__} {'plain ' if not residual else ''}{shortcut} {in_channels} {stride}": (
        kind,
        dict(in_channels=in_channels, channels=4, stride=stride, shortcut=shortcut, residual=residual),
    )
    for kind in (nn.BasicBlock, nn.Bottleneck, nn.PreActBlock)
    for residual in (True, False)
    for shortcut in ("A", "B", "C")
    for in_channels, stride in ((4 * kind.expansion, 1), (3, 2))
    if residual or shortcut == "A"
}


@pytest.fixture(params=BLOCKS)
def make_block(request):
    """A function that makes the same block again and again."""
    kind, options = BLOCKS[request.param]

    def make(**more):
        tinyres.manual_seed(0)
        return randomised(kind(**options, **more)), options["in_channels"]

    return make


def run(block, x, training):
    """Output, input gradient, parameter gradients and buffers after one forward and backward."""
    block.train(training)
    y = block(x)
    y.backward(np.random.default_rng(5).standard_normal(y.shape).astype(y.dtype))
    results = {"output": y.data, "x": x.grad.data}
    results |= {name: parameter.grad.data for name, parameter in block.named_parameters()}
    return results | {name: buffer.data for name, buffer in block.named_buffers()}


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("channels_last", [True, False], ids=["channels-last", "channels-first"])
def test_watching_changes_no_bit(make_block, training, channels_last):
    """A hook on a norm, addition or rectifier splits the fused kernel; all numbers stay the same to the bit."""
    block, c = make_block()
    expected = run(block, images(3, c, 6, 7, channels_last=channels_last), training)
    seen = []
    for watched in ("bn1", "bn2", "bn3", "relu1", "relu2", "relu3", "add", "all"):
        block, _ = make_block()
        for name, module in block.named_modules():
            if name == watched or watched == "all":
                module.register_forward_hook(lambda _, inputs, output, name=name: seen.append(name))
        found = run(block, images(3, c, 6, 7, channels_last=channels_last), training)
        assert list(found) == list(expected)
        for name in expected:
            assert np.array_equal(found[name], expected[name]), f"{name} with {watched} watched"
    assert {name for name, _ in block.named_modules()} <= set(seen)


def test_a_hooked_addition_sees_branch_and_skip(make_block):
    block, c = make_block()
    if block.add is None:
        return
    seen = []
    block.add.register_forward_hook(lambda module, inputs, output: seen.append((*inputs, output)))
    block(images(2, c, 4, 4))
    ((branch, skip, total),) = seen
    assert np.array_equal(total.data, branch.data + skip.data)


def test_a_replaced_output_inside_a_block_is_used(make_block):
    block, c = make_block()
    before_conv2 = block.relu2 if isinstance(block, nn.PreActBlock) else block.relu1
    before_conv2.register_forward_hook(lambda module, inputs, output: output * 0)
    x = images(2, c, 4, 4)
    y = block(x)
    y.backward(rng().standard_normal(y.shape).astype(np.float32))
    assert not block.conv2.weight.grad.data.any()


def test_the_plain_twin_has_the_same_layers_but_no_way_round():
    for kind in (nn.BasicBlock, nn.Bottleneck, nn.PreActBlock):
        residual, plain = kind(4, 4, residual=True, shortcut="A"), kind(4, 4, residual=False)
        assert plain.add is None and plain.downsample is None
        names = [name for name, _ in plain.named_parameters()]
        assert names == [name for name, _ in residual.named_parameters() if "downsample" not in name]


def test_module_names():
    names = [name for name, _ in nn.Bottleneck(4, 4).named_modules()]
    assert names == [
        *("", "conv1", "bn1", "relu1", "conv2", "bn2", "relu2", "conv3", "bn3", "add", "relu3"),
        *("downsample", "downsample.0", "downsample.1"),
    ]
    names = [name for name, _ in nn.BasicBlock(4, 4).named_modules()]
    assert names == ["", "conv1", "bn1", "relu1", "conv2", "bn2", "add", "relu2"]


def test_basic_block_is_its_equation():
    """relu(bn2(conv2(relu(bn1(conv1(x))))) + x) (He et al. 2015, fig. 2)."""
    block, x = randomised(nn.BasicBlock(4, 4)).to(np.float64), images(2, 4, 5, 5, dtype=np.float64)

    def norm(b, x):
        return F.batch_norm(x, None, None, b.weight, b.bias, True)

    branch = norm(block.bn1, F.conv2d(x, block.conv1.weight, padding=1)).relu()
    branch = norm(block.bn2, F.conv2d(branch, block.conv2.weight, padding=1))
    np.testing.assert_allclose(block(x).data, (branch + x).relu().data, rtol=1e-12)


def test_pre_activation_block_is_its_equation():
    """x + conv2(relu(bn2(conv1(relu(bn1(x)))))) (He et al. 2016, fig. 4e)."""
    block, x = randomised(nn.PreActBlock(4, 4)).to(np.float64).eval(), images(2, 4, 5, 5, dtype=np.float64)

    def norm(b, x):
        return F.batch_norm(x, b.running_mean, b.running_var, b.weight, b.bias)

    branch = F.conv2d(norm(block.bn1, x).relu(), block.conv1.weight, padding=1)
    branch = F.conv2d(norm(block.bn2, branch).relu(), block.conv2.weight, padding=1)
    np.testing.assert_allclose(block(x).data, (x + branch).data, rtol=1e-12)


def test_a_projection_of_a_pre_activation_block_starts_from_the_activated_input():
    block, x = randomised(nn.PreActBlock(3, 4, stride=2, shortcut="B")).eval(), images(2, 3, 4, 4)
    tinyres.nn.init.constant_(block.conv2.weight, 0)
    activated = block.relu1(block.bn1(x))
    assert np.array_equal(block(x).data, F.conv2d(activated, block.downsample.weight, stride=2).data)


@pytest.mark.parametrize("kind", [nn.BasicBlock, nn.Bottleneck, nn.PreActBlock])
def test_with_the_last_weights_at_zero_a_block_is_the_identity(kind):
    """And its gradient is the incoming one: of the rectified sum, where the input is positive."""
    block = kind(4 * kind.expansion, 4, shortcut="A")
    last = {nn.BasicBlock: "bn2", nn.Bottleneck: "bn3", nn.PreActBlock: "conv2"}[kind]
    tinyres.nn.init.constant_(getattr(block, last).weight, 0)
    x = images(2, 4 * kind.expansion, 5, 5)
    y = block(x)
    g = np.random.default_rng(1).standard_normal(y.shape).astype(np.float32)
    y.backward(g)
    passes = np.ones_like(g) if kind is nn.PreActBlock else x.data > 0
    assert np.array_equal(y.data, x.data * passes)
    assert np.array_equal(x.grad.data, g * passes)


# Shortcuts


def test_option_a_by_hand():
    """Every second pixel; three new channels: one zero before, two after."""
    x = np.arange(1, 1 + 2 * 3 * 4, dtype=np.float32).reshape(1, 2, 3, 4)
    shortcut = nn.Subsample(2, 5, 2)
    tensor = Tensor(x, requires_grad=True)
    y = shortcut(tensor)
    zero = [[0, 0], [0, 0]]
    assert y.data.tolist() == [[zero, [[1, 3], [9, 11]], [[13, 15], [21, 23]], zero, zero]]
    g = np.arange(1, 21, dtype=np.float32).reshape(y.shape)
    y.backward(g)
    assert tensor.grad.data.tolist() == [
        [
            [[5, 0, 6, 0], [0, 0, 0, 0], [7, 0, 8, 0]],
            [[9, 0, 10, 0], [0, 0, 0, 0], [11, 0, 12, 0]],
        ]
    ]
    assert not list(shortcut.parameters())


@pytest.mark.parametrize(
    ("shortcut", "in_channels", "stride", "expected"),
    [
        ("A", 4, 1, None),
        ("A", 3, 1, nn.Subsample),
        ("A", 4, 2, nn.Subsample),
        ("B", 4, 1, None),
        ("B", 3, 1, nn.Sequential),
        ("B", 4, 2, nn.Sequential),
        ("C", 4, 1, nn.Sequential),
        ("C", 3, 2, nn.Sequential),
    ],
)
def test_which_shortcut(shortcut, in_channels, stride, expected):
    """He et al. 2015, §4.1."""
    block = nn.BasicBlock(in_channels, 4, stride, shortcut)
    assert (type(block.downsample) if block.downsample else None) is expected
    assert block(images(2, in_channels, 6, 6)).shape == (2, 4, 6 // stride, 6 // stride)
    if expected is nn.Sequential:
        conv, norm = block.downsample
        assert conv.weight.shape == (4, in_channels, 1, 1) and conv.stride == stride and conv.bias is None
        assert isinstance(norm, nn.BatchNorm2d)


@pytest.mark.parametrize("stride_in", ["3x3", "1x1"])
def test_which_convolution_of_a_bottleneck_takes_the_stride(stride_in):
    block = nn.Bottleneck(8, 4, 2, stride_in=stride_in)
    assert (block.conv1.stride, block.conv2.stride) == ((1, 2) if stride_in == "3x3" else (2, 1))
    assert block(images(2, 8, 7, 7)).shape == (2, 16, 4, 4)


def test_odd_sizes_with_every_shortcut():
    for shortcut in "ABC":
        for kind in (nn.BasicBlock, nn.Bottleneck, nn.PreActBlock):
            assert kind(3, 4, 2, shortcut)(images(2, 3, 7, 5)).shape == (2, 4 * kind.expansion, 4, 3)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: nn.BasicBlock(4, 4, shortcut="D"), "shortcut is 'D', expected one of 'A', 'B', 'C'"),
        (lambda: nn.Bottleneck(4, 4, stride_in="both"), "stride_in is 'both', expected '3x3' or '1x1'"),
        (lambda: nn.BasicBlock(8, 4, shortcut="A"), "8.*4"),  # zero padding cannot take channels away
        (lambda: nn.Add()(images(2, 3, 4, 4), images(2, 3, 4, 1)), r"\(2, 3, 4, 4\).*\(2, 3, 4, 1\)"),
        (lambda: nn.BasicBlock(4, 4)(images(2, 3, 4, 4)), "4 input channels.*3"),
    ],
)
def test_errors(make, says):
    with pytest.raises(ValueError, match=says):
        make()
