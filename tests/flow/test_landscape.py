"""The loss around a network: directions are as long as the filters, values are those of the moved network."""

from __future__ import annotations

import numpy as np
import pytest

import tinyres
from tinyres import Tensor, flow, models
from tinyres import functional as F
from tinyres.flow import Landscape


@pytest.fixture(autouse=True)
def seed():
    tinyres.manual_seed(0)


@pytest.fixture
def model():
    return models.resnet20(width=0.25).eval()


X = np.random.default_rng(0).normal(size=(4, 3, 8, 8)).astype(np.float32)
Y = np.arange(4)


def loss(model):
    with tinyres.no_grad():
        return float(F.cross_entropy(model(Tensor(X)), Tensor(Y)))


def test_a_direction_is_as_long_as_each_filter(model):
    direction = flow.random_direction(model, np.random.default_rng(1))
    for name, weights in model.state_dict().items():
        if name not in direction:
            continue
        change = direction[name]
        assert change.shape == weights.shape
        assert change.dtype == weights.dtype
        if weights.ndim < 2:
            assert not change.any(), name
        else:
            for filter, theirs in zip(weights, change, strict=True):
                np.testing.assert_allclose(np.linalg.norm(theirs), np.linalg.norm(filter), rtol=1e-5)
                cosine = np.vdot(filter, theirs) / np.linalg.norm(filter) ** 2
                assert abs(cosine) < 0.9  # another way than the filter's own
    assert set(direction) == {name for name, _ in model.named_parameters()}


def test_a_filter_that_is_zero_stays():
    model = models.resnet20(width=0.25)
    model.conv1.weight.data[1] = 0
    direction = flow.random_direction(model, np.random.default_rng(1))["conv1.weight"]
    assert not direction[1].any()
    assert direction[0].any()


def test_a_direction_is_drawn_from_the_seed(model):
    first, again, other = (
        flow.random_direction(model, np.random.default_rng(seed))["conv1.weight"] for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    tinyres.manual_seed(3)
    globally = flow.random_direction(model)["conv1.weight"]
    np.testing.assert_array_equal(globally, flow.random_direction(model, np.random.default_rng(3))["conv1.weight"])


def test_the_values_are_those_of_the_moved_network(model):
    one, two = (flow.random_direction(model, np.random.default_rng(seed)) for seed in (1, 2))
    scape = flow.landscape(model, loss, [one, two], x=(-0.5, 0, 0.25), y=(0, 1))
    assert scape.values.shape == (2, 3)
    assert scape.values[0, 1] == loss(model)
    moved = models.resnet20(width=0.25).eval()
    state = {name: array.copy() for name, array in model.state_dict().items()}
    for name in one:
        state[name] = state[name] + 0.25 * one[name] + two[name]
    moved.load_state_dict(state)
    assert scape.values[1, 2] == pytest.approx(loss(moved), rel=1e-5)


def test_a_line(model):
    direction = flow.random_direction(model, np.random.default_rng(1))
    scape = flow.landscape(model, loss, [direction], x=(0, 1))
    assert scape.values.shape == (1, 2)
    assert list(scape.y) == [0]
    assert scape.values[0, 0] == loss(model) != scape.values[0, 1]


def test_the_model_is_as_before(model):
    arrays = [parameter.data for parameter in model.parameters()]
    state = {name: array.copy() for name, array in model.state_dict().items()}

    def training_loss(model):
        model.train()
        return loss(model)

    directions = [flow.random_direction(model, np.random.default_rng(1))]
    flow.landscape(model, training_loss, directions, x=(0, 1))

    def broken(model):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        flow.landscape(model, broken, directions)
    assert all(parameter.data is array for parameter, array in zip(model.parameters(), arrays, strict=True))
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, state[name], err_msg=name)
    assert not any(module.training for module in model.modules())


def test_what_does_not_fit_is_refused(model):
    direction = flow.random_direction(model)
    with pytest.raises(ValueError, match="directions are 3, expected 1 or 2"):
        flow.landscape(model, loss, [direction] * 3)
    with pytest.raises(ValueError, match="other names"):
        flow.landscape(model, loss, [{"conv1.weight": direction["conv1.weight"]}])


# Pictures


@pytest.fixture
def plt():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    yield plt
    plt.close("all")


GRID = np.linspace(-1, 1, 5)
BOWL = Landscape(GRID, GRID, np.exp(GRID[None, :] ** 2 + 2 * GRID[:, None] ** 2))


def test_lines(plt):
    axes = flow.line_plot(
        {"a": Landscape(GRID, np.zeros(1), BOWL.values[:1]), "b": Landscape(GRID, np.zeros(1), BOWL.values[2:3])}
    )
    np.testing.assert_array_equal(axes.lines[1].get_ydata(), BOWL.values[2])
    assert axes.get_yscale() == "log"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b"]


def test_contours_and_surface_of_a_landscape_with_holes(plt):
    values = BOWL.values.copy()
    values[0, 0], values[4, 4] = np.inf, np.nan
    holed = Landscape(GRID, GRID, values)
    flow.contour_plot(holed).figure.canvas.draw()
    axes = flow.surface_plot(holed)
    axes.figure.canvas.draw()
    np.testing.assert_allclose(axes.get_zlim(), (0, np.log10(values[np.isfinite(values)].max())))


def test_heights_of_another_landscape(plt):
    assert flow.surface_plot(BOWL, zlim=(0.1, 1000)).get_zlim() == pytest.approx((-1, 3))
