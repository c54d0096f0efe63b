"""Deleting and moving blocks: what remains is what the equations say, and the model is as it was."""

from __future__ import annotations

import numpy as np
import pytest

import tinyres
from tinyres import Tensor, flow, models, nn
from tinyres.flow.lesion import blocks


@pytest.fixture(autouse=True)
def seed():
    tinyres.manual_seed(0)


def resnet(**options):
    """With running statistics and norms that are not those of a fresh net, so that every layer matters."""
    model = models.resnet20(width=0.25, **options)
    rng = np.random.default_rng(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean):
                tensor.data[...] = rng.normal(size=tensor.shape)
    return model.eval()


def images(size=8):
    return Tensor(np.random.default_rng(2).normal(size=(3, 3, size, size)).astype(np.float32))


def logits(model, x=None):
    with tinyres.no_grad():
        return model(images() if x is None else x).numpy().copy()


def output_of(model, name):
    """What a module gives for the images, and what it got."""
    seen = []
    handle = dict(model.named_modules())[name].register_forward_hook(lambda m, i, o: seen.append((i[0], o)))
    logits(model)
    handle.remove()
    return seen[0][0].numpy(), seen[0][1].numpy()


NAMES = [f"layer{stage}.{block}" for stage in (1, 2, 3) for block in (0, 1, 2)]


def test_blocks():
    assert list(blocks(resnet())) == NAMES
    assert list(blocks(models.resnet50())) == [
        f"layer{stage}.{block}"
        for stage, count in zip((1, 2, 3, 4), (3, 4, 6, 3), strict=True)
        for block in range(count)
    ]
    inner = nn.Sequential(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()), nn.ReLU())
    assert blocks(inner) == {}


@pytest.mark.parametrize("name", ["layer1.1", "layer3.2"])
def test_a_deleted_block_hands_on_its_input(name):
    model = resnet()
    with flow.deleted(model, name):
        x, y = output_of(model, name)
    np.testing.assert_array_equal(y, np.maximum(x, 0))


def test_a_deleted_block_that_changes_the_shape_keeps_its_skip():
    model = resnet()  # option A: every second pixel, half of the new channels, which are zero, on either side
    with flow.deleted(model, "layer2.0"):
        x, y = output_of(model, "layer2.0")
    assert y.shape == (3, 8, 4, 4)
    np.testing.assert_array_equal(y[:, 2:6], x[:, :, ::2, ::2])
    assert not y[:, :2].any()
    assert not y[:, 6:].any()


def test_a_deleted_pre_activation_block_is_the_identity():
    model = models.preact_resnet20(width=0.25).eval()
    with flow.deleted(model, "layer1.2"):
        x, y = output_of(model, "layer1.2")
    np.testing.assert_array_equal(y, x)


def test_the_branch_of_a_deleted_block_matters_to_nothing():
    model = resnet()
    with flow.deleted(model, "layer1.1", "layer3.2"):
        before = logits(model)
        for name in ("layer1.1", "layer3.2"):
            blocks(model)[name].conv1.weight.data += 1
        np.testing.assert_array_equal(logits(model), before)
    assert not np.array_equal(logits(model), before)


def test_a_plain_block_is_skipped_where_shapes_allow():
    model = resnet(residual=False)
    with flow.deleted(model, "layer2.1"):
        x, y = output_of(model, "layer2.1")
        np.testing.assert_array_equal(y, x)
    with pytest.raises(ValueError, match=r"\(3, 4, 8, 8\) into \(3, 8, 4, 4\)"), flow.deleted(model, "layer2.0"):
        logits(model)


@pytest.mark.parametrize("residual", [True, False])
def test_nothing_remains(residual):
    model = resnet(residual=residual)
    before, state = logits(model), {name: array.copy() for name, array in model.state_dict().items()}
    order = flow.shuffled(model, 3, np.random.default_rng(0))
    with flow.deleted(model, "layer1.1"), flow.reordered(model, order):
        assert not np.array_equal(logits(model), before)
    with pytest.raises(RuntimeError, match="stop"), flow.deleted(model, "layer1.1"), flow.reordered(model, order):
        raise RuntimeError("stop")
    flow.lesion(model, lambda model: float(logits(model).sum()))
    np.testing.assert_array_equal(logits(model), before)
    assert list(model.state_dict()) == list(state)
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, state[name])
    assert not any(module._forward_hooks for module in model.modules())


def test_reordered_blocks_run_in_that_order():
    model = resnet()
    order = {"layer1.1": "layer1.2", "layer1.2": "layer1.1"}
    first, second, third = model.layer1
    x = Tensor(output_of(model, "layer1.0")[0])
    with flow.reordered(model, order), tinyres.no_grad():
        got = model.layer1(x).numpy()
    with tinyres.no_grad():
        np.testing.assert_array_equal(got, second(third(first(x))).numpy())
    assert list(model.layer1) == [first, second, third]


def test_reordering_twice_in_opposite_ways_changes_nothing():
    model = resnet()
    before = logits(model)
    cycle = {"layer1.0": "layer1.1", "layer1.1": "layer1.2", "layer1.2": "layer1.0"}
    with flow.reordered(model, cycle), flow.reordered(model, {origin: place for place, origin in cycle.items()}):
        np.testing.assert_array_equal(logits(model), before)


def test_shuffled_exchanges_only_what_fits():
    model = resnet()
    for swaps in (0, 1, 20):
        order = flow.shuffled(model, swaps, np.random.default_rng(swaps))
        assert sorted(order) == sorted(order.values())
        assert all(place.split(".")[0] == origin.split(".")[0] for place, origin in order.items())
        assert not {"layer2.0", "layer3.0"} & set(order)  # they change the shape
        assert sum(place != origin for place, origin in order.items()) in {0: {0}, 1: {2}}.get(swaps, range(8))
        with flow.reordered(model, order):
            assert logits(model).shape == (3, 10)


def test_kendall_tau():
    order = dict(zip("abcd", "abcd", strict=True))
    assert flow.kendall_tau(order) == 1
    assert flow.kendall_tau(dict(zip("abcd", "dcba", strict=True))) == -1
    assert flow.kendall_tau(dict(zip("abcd", "bacd", strict=True))) == pytest.approx(1 - 2 / 6)  # one pair of six


def test_lesion_measures_each_block():
    model = resnet(residual=False)
    whole = logits(model)

    def distance(model):
        return float(np.abs(logits(model) - whole).mean())

    values = flow.lesion(model, distance)
    assert list(values) == ["", *NAMES]
    assert values[""] == 0
    assert [name for name, value in values.items() if np.isnan(value)] == ["layer2.0", "layer3.0"]
    assert all(value > 0 for name, value in values.items() if name not in ("", "layer2.0", "layer3.0"))


def test_an_error_in_the_measure_is_not_hidden():
    def broken(model):
        raise ValueError("no images")

    with pytest.raises(ValueError, match="no images"):
        flow.lesion(resnet(), broken)


def test_what_does_not_fit_is_refused():
    model = resnet()
    with pytest.raises(ValueError, match=r"no block 'layer9.0'.*layer1.0"), flow.deleted(model, "layer9.0"):
        pass
    with (
        pytest.raises(ValueError, match=r"\['layer1.1'\] get the blocks \['layer1.2'\]"),
        flow.reordered(model, {"layer1.1": "layer1.2"}),
    ):
        pass
    with pytest.raises(ValueError, match="no two blocks are alike"):
        flow.shuffled(nn.Sequential(nn.ReLU()), 1, np.random.default_rng(0))


def test_the_picture_shows_the_numbers():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    values = {"": 5.0, "a": 7.0, "b": np.nan, "c": 6.0}
    axes = flow.lesion_plot({"net": values, "other": {"": 1.0, "a": 2.0}}, ylabel="error (%)")
    np.testing.assert_array_equal(axes.lines[0].get_xdata(), [0, 0.5, 1])
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), [7, np.nan, 6])
    assert list(axes.lines[1].get_ydata()) == [5, 5]
    assert axes.get_ylabel() == "error (%)"
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert "net, cannot be deleted" in labels
    assert "other, whole" in labels
    assert "other, cannot be deleted" not in labels
    single = flow.lesion_plot(values)
    np.testing.assert_array_equal(single.lines[0].get_ydata(), [7, np.nan, 6])
    plt.close("all")
