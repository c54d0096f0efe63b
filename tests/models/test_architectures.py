"""The networks of the papers: parameters, multiply-adds, the shape of every stage, names, options."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

import tinyres
from tinyres import models
from tinyres.nn import Add, BasicBlock, Bottleneck, Conv2d, Linear

DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def parameters(model):
    return sum(parameter.data.size for parameter in model.parameters())


def image(*shape):
    return tinyres.Tensor(np.random.default_rng(0).standard_normal(shape).astype(np.float32))


def stage_shapes(model, x, names):
    """The output shape of each module in `names`."""
    found = {}
    modules = dict(model.named_modules())
    for name in names:
        modules[name].register_forward_hook(lambda module, inputs, y, name=name: found.update({name: y.shape}))
    with tinyres.no_grad():
        model.eval()(x)
    return found


def refuse(match, call, *args, **kwargs):
    """The call raises one sentence."""
    with pytest.raises(ValueError, match=match) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)


# ImageNet: He et al. 2015, table 1


@pytest.mark.parametrize(
    ("depth", "options", "count", "gmac"),
    [
        (18, {}, 11_689_512, 1.814),
        (34, {}, 21_797_672, 3.664),
        (50, {}, 25_557_032, 4.089),
        (101, {}, 44_549_160, 7.801),
        (152, {}, 60_192_808, 11.514),
        (50, {"stride_in": "1x1"}, 25_557_032, 3.858),
        (101, {"stride_in": "1x1"}, 44_549_160, 7.570),
        (152, {"stride_in": "1x1"}, 60_192_808, 11.282),
    ],
)
def test_imagenet(depth, options, count, gmac):
    model = models.get(f"resnet{depth}", **options)
    assert parameters(model) == count
    summary = models.summary(model, (3, 224, 224))
    assert summary.parameters == count
    assert round(summary.multiply_adds / 1e9, 3) == gmac

    e = 1 if depth < 50 else 4
    shapes = {layer.name: layer.output_shape[1:] for layer in summary.layers}
    assert shapes["conv1"] == (64, 112, 112)
    assert shapes["maxpool"] == (64, 56, 56)
    for stage, (blocks, channels, side) in enumerate(
        zip(DEPTHS[depth], (64, 128, 256, 512), (56, 28, 14, 7), strict=True), 1
    ):
        last = "relu2" if e == 1 else "relu3"
        outputs = [shapes[f"layer{stage}.{block}.{last}"] for block in range(blocks)]
        assert outputs == [(e * channels, side, side)] * blocks
        assert f"layer{stage}.{blocks}.{last}" not in shapes
    assert shapes["avgpool"] == (512 * e, 1, 1)
    assert shapes["fc"] == (1000,)
    # The depth in a network's name counts the layers with weights, shortcuts apart.
    weighted = [
        layer for layer in summary.layers if layer.kind in ("Conv2d", "Linear") and "downsample" not in layer.name
    ]
    assert len(weighted) == depth


@pytest.mark.parametrize(("stride_in", "inner"), [("3x3", 56), ("1x1", 28)])
def test_where_a_bottleneck_takes_its_stride(stride_in, inner):
    block = Bottleneck(256, 128, stride=2, stride_in=stride_in)
    shapes = stage_shapes(block, image(1, 256, 56, 56), ["conv1", "conv2", "conv3"])
    assert shapes == {"conv1": (1, 128, inner, inner), "conv2": (1, 128, 28, 28), "conv3": (1, 512, 28, 28)}


def torchvision_keys(depth):
    """The state-dict keys of torchvision's resnet, by rule."""

    def norm(name):
        return [f"{name}.{key}" for key in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")]

    keys = ["conv1.weight", *norm("bn1")]
    convolutions = 2 if depth < 50 else 3
    for stage, blocks in enumerate(DEPTHS[depth], 1):
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            for i in range(1, convolutions + 1):
                keys += [f"{name}.conv{i}.weight", *norm(f"{name}.bn{i}")]
            if block == 0 and (stage > 1 or depth >= 50):
                keys += [f"{name}.downsample.0.weight", *norm(f"{name}.downsample.1")]
    return [*keys, "fc.weight", "fc.bias"]


@pytest.mark.parametrize("depth", [18, 50])
def test_state_dict_keys_are_torchvisions(depth):
    assert list(models.get(f"resnet{depth}").state_dict()) == torchvision_keys(depth)


# CIFAR: He et al. 2015, section 4.2


@pytest.mark.parametrize(
    ("depth", "count"),
    [(20, 269_722), (32, 464_154), (44, 658_586), (56, 853_018), (110, 1_727_962), (1202, 19_421_274)],
)
def test_cifar_parameters(depth, count):
    assert parameters(models.get(f"resnet{depth}")) == count == 97_216 * (depth - 2) // 6 - 21_926
    if depth < 1202:
        assert parameters(models.get(f"resnet{depth}", shortcut="B")) == count + 2_752
        assert parameters(models.get(f"plain{depth}")) == count
    assert parameters(models.get(f"preact_resnet{depth}")) == preact_parameters(depth)


def preact_parameters(depth):
    """Counted by hand: convolutions as in the original, a norm before each, one of 64 channels at the end."""
    n = (depth - 2) // 6
    convolutions = 9 * (3 * 16 + 16 * 16 * 2 * n + 16 * 32 + 32 * 32 * (2 * n - 1) + 32 * 64 + 64 * 64 * (2 * n - 1))
    norms = 2 * (16 * (2 * n + 1) + 32 * 2 * n + 64 * (2 * n - 1) + 64)
    return convolutions + norms + 64 * 10 + 10


@pytest.mark.parametrize("name", ["resnet20", "resnet32", "plain20", "preact_resnet20"])
def test_cifar_shapes_and_multiply_adds(name):
    n = 5 if "32" in name else 3
    model = models.get(name)
    shapes = stage_shapes(model, image(1, 3, 32, 32), ["conv1", "layer1", "layer2", "layer3", "avgpool", "fc"])
    assert shapes == {
        "conv1": (1, 16, 32, 32),
        "layer1": (1, 16, 32, 32),
        "layer2": (1, 32, 16, 16),
        "layer3": (1, 64, 8, 8),
        "avgpool": (1, 64, 1, 1),
        "fc": (1, 10),
    }
    # At each halving the channels double: all 3×3 convolutions within the stages cost the same, but the two that
    # halve, from half the channels.
    same = 9 * 16 * 16 * 32 * 32
    assert models.summary(model, (3, 32, 32)).multiply_adds == 9 * 3 * 16 * 32 * 32 + (6 * n - 2) * same + same + 640


def test_option_a_adds_zero_channels_on_either_side():
    """The skip of the first block of layer2 alone: every second pixel, 8 zero channels before and 8 after."""
    x = np.random.default_rng(0).standard_normal((2, 16, 6, 6)).astype(np.float32)
    y = BasicBlock(16, 32, stride=2, shortcut="A").downsample(tinyres.Tensor(x)).numpy()
    assert y.shape == (2, 32, 3, 3)
    assert np.array_equal(y[:, 8:24], x[:, :, ::2, ::2])
    assert not y[:, :8].any() and not y[:, 24:].any()


@pytest.mark.parametrize(("shortcut", "projections"), [("A", 0), ("B", 2), ("C", 9)])
def test_shortcut_options(shortcut, projections):
    shapes = [
        p.shape for name, p in models.get("resnet20", shortcut=shortcut).named_parameters() if "downsample" in name
    ]
    assert [shape[2:] for shape in shapes if len(shape) == 4] == [(1, 1)] * projections


# Plain twins


@pytest.mark.parametrize(
    ("plain", "residual"), [("plain20", "resnet20"), ("plain18", "resnet18"), ("plain34", "resnet34")]
)
def test_plain_twins_have_the_same_layers_and_no_additions(plain, residual):
    def layers(model):
        return [
            (name, module.weight.shape, getattr(module, "stride", None))
            for name, module in model.named_modules()
            if isinstance(module, Conv2d | Linear) and "downsample" not in name
        ]

    without, with_skips = models.get(plain), models.get(residual)
    assert layers(without) == layers(with_skips)
    assert not any(isinstance(module, Add) for module in without.modules())
    assert sum(isinstance(module, Add) for module in with_skips.modules()) == {"20": 9, "18": 8, "34": 16}[plain[-2:]]
    assert not any("downsample" in name for name in without.state_dict())


# The identity


@pytest.mark.parametrize("block", [lambda: BasicBlock(16, 16), lambda: Bottleneck(16, 4)], ids=["basic", "bottleneck"])
@pytest.mark.parametrize("watched", [False, True])
def test_block_with_zero_gamma_is_the_identity_to_the_bit(block, watched):
    """y = relu(0 + x) = x for x ≥ 0, and dx = g, although the branch computed something."""
    block = block()
    last = block.bn3 if isinstance(block, Bottleneck) else block.bn2
    last.weight.data[...] = 0
    if watched:
        block.add.register_forward_hook(lambda *_: None)
    rng = np.random.default_rng(0)
    x = tinyres.Tensor(rng.uniform(0.1, 2, (3, 16, 7, 5)).astype(np.float32), requires_grad=True)
    g = rng.standard_normal(x.shape).astype(np.float32)
    y = block(x)
    y.backward(g)
    assert np.array_equal(y.data, x.data)
    assert np.array_equal(x.grad.data, g)
    assert last.weight.grad.data.any()  # the branch can wake up


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet20"])
def test_zero_init_residual(name):
    """Of a fresh network every block without a change of shape is the identity."""
    model = models.get(name, zero_init_residual=True)
    blocks = [module for module in model.modules() if isinstance(module, BasicBlock | Bottleneck)]
    identities = [block for block in blocks if block.downsample is None]
    seen = []
    for block in identities:
        block.register_forward_hook(lambda module, inputs, y: seen.append(np.array_equal(inputs[0].data, y.data)))
    with tinyres.no_grad():
        model(image(2, 3, 64, 64))
    assert seen == [True] * len(identities)
    assert len(identities) == {"resnet18": 5, "resnet50": 12, "resnet20": 7}[name]
    zeros = [key for key, value in model.state_dict().items() if key.endswith("weight") and not value.any()]
    assert len(zeros) == len(blocks)


def test_preactivation_block_with_a_zero_convolution_is_the_identity_to_the_bit():
    """Nothing stands on the skip: y = x and dx = g for any x (He et al. 2016, eq. 1 and 4)."""
    block = tinyres.nn.PreActBlock(16, 16)
    block.conv2.weight.data[...] = 0
    x = image(3, 16, 7, 5)
    x.requires_grad = True
    g = np.random.default_rng(1).standard_normal(x.shape).astype(np.float32)
    y = block(x)
    y.backward(g)
    assert np.array_equal(y.data, x.data)
    assert np.array_equal(x.grad.data, g)


# Options


@pytest.mark.parametrize(
    ("name", "side", "features"),
    [
        ("resnet18", 64, (512, 2, 2)),
        ("resnet50", 64, (2048, 2, 2)),
        ("resnet20", 32, (64, 8, 8)),
        ("preact_resnet20", 32, (64, 8, 8)),
    ],
)
def test_features_in_channels_and_classes(name, side, features):
    model = models.get(name, num_classes=7, in_channels=1).eval()
    x = image(2, 1, side, side)
    with tinyres.no_grad():
        maps, logits = model.forward_features(x), model(x)
    assert maps.shape == (2, *features)
    assert logits.shape == (2, 7)
    head = maps.numpy().mean((2, 3)) @ model.fc.weight.numpy().T + model.fc.bias.numpy()
    assert np.allclose(logits.numpy(), head, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("width", "channels"), [(0.5, (8, 16, 32)), (2, (32, 64, 128)), (0.25, (4, 8, 16))])
@pytest.mark.parametrize("name", ["resnet20", "preact_resnet20", "plain20"])
def test_width(name, width, channels):
    model = models.get(name, width=width)
    c = channels[0]
    assert model.conv1.weight.shape == (c, 3, 3, 3)
    assert model.fc.weight.shape == (10, channels[2])
    shapes = stage_shapes(model, image(1, 3, 8, 8), ["layer1", "layer2", "layer3"])
    assert [shape[1] for shape in shapes.values()] == list(channels)


@pytest.mark.parametrize("side", [33, 40])
def test_images_of_other_sizes(side):
    """Odd sizes round up at each halving, on the skip as on the branch."""
    half = math.ceil(side / 2)
    shapes = stage_shapes(models.get("resnet20"), image(1, 3, side, side), ["layer2", "layer3"])
    assert shapes == {"layer2": (1, 32, half, half), "layer3": (1, 64, math.ceil(half / 2), math.ceil(half / 2))}


def test_names():
    depths = [20, 32, 44, 56, 110]
    expected = {f"{kind}{depth}" for kind, depth in itertools.product(("resnet", "plain", "preact_resnet"), depths)}
    expected |= {f"resnet{depth}" for depth in DEPTHS} | {"resnet1202", "preact_resnet1202", "plain18", "plain34"}
    assert set(models.names()) == expected
    assert all(callable(getattr(models, name)) for name in expected)


def test_unknown_names_and_options():
    refuse("model is 'resnet19', expected one of .*resnet18", models.get, "resnet19")
    refuse("shortcut is 'D', expected one of 'A', 'B', 'C'", models.get, "resnet20", shortcut="D")
    refuse("stride_in is '2x2', expected '3x3' or '1x1'", models.get, "resnet50", stride_in="2x2")
    refuse("width is 0.01, expected", models.get, "resnet20", width=0.01)
    for depth in (2, 7, 21, -4):
        refuse(f"depth is {depth}, expected 6n \\+ 2", models.CifarResNet, depth)
        refuse(f"depth is {depth}, expected 6n \\+ 2", models.PreActResNet, depth)
    for name, options in [
        ("resnet20", {"depht": 3}),
        ("resnet18", {"stride_in": "1x1"}),
        ("preact_resnet20", {"x": 1}),
    ]:
        with pytest.raises((TypeError, ValueError), match=next(iter(options))) as caught:
            models.get(name, **options)
        assert "\n" not in str(caught.value)


def test_image_with_the_wrong_channels():
    refuse("conv2d: weight has 3 input channels but x has 1", models.get("resnet20"), image(2, 1, 32, 32))


def test_summary_leaves_the_model_as_it_was():
    model = models.get("resnet20", in_channels=1).train()
    before = {key: value.copy() for key, value in model.state_dict().items()}
    table = str(models.summary(model, (1, 32, 32)))
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(np.array_equal(value, before[key]) for key, value in model.state_dict().items())
    assert "layer2.0.conv1" in table and f"{parameters(model):,}" in table
