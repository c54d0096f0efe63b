"""Several records side by side."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from tinyres import flow, models, nn


def record_of(depth: int, residual: bool, width: float = 0.25) -> flow.Record:
    rng = np.random.default_rng(depth)
    model = models.CifarResNet(depth, width=width, residual=residual)
    return flow.snapshot(model, rng.standard_normal((2, 3, 8, 8), dtype=np.float32), rng.integers(0, 10, 2))


@pytest.fixture(scope="module")
def records():
    return {"plain": record_of(8, False), "resnet": record_of(8, True), "deeper": record_of(14, True)}


def test_a_comparison_is_a_mapping_of_records_or_paths(records, tmp_path):
    records["resnet"].save(tmp_path / "resnet.npz")
    both = flow.compare(plain=records["plain"], resnet=tmp_path / "resnet.npz")
    assert list(both) == ["plain", "resnet"]
    assert both["plain"] is records["plain"]
    assert both["resnet"].rows.tobytes() == records["resnet"].rows.tobytes()
    assert list(flow.compare({"ResNet-8": records["resnet"]}, plain=records["plain"])) == ["ResNet-8", "plain"]


def test_rows_and_csv_say_first_which_run_it_is(records, tmp_path):
    both = flow.compare(plain=records["plain"], resnet=records["resnet"])
    rows = both.rows
    assert rows.dtype.names == ("run", *records["plain"].rows.dtype.names)
    for name in ("plain", "resnet"):
        mine = rows[rows["run"] == name]
        for field in records[name].rows.dtype.names:
            np.testing.assert_array_equal(mine[field], records[name].rows[field])
    both.to_csv(tmp_path / "both.csv")
    with open(tmp_path / "both.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [line["run"] for line in table] == rows["run"].tolist()
    np.testing.assert_array_equal([float(line["std"]) for line in table], rows["std"])
    assert all(":" in line["histogram"] for line in table if float(line["abs_max"]) > 0)


def test_networks_of_equal_layers_are_compared_by_name(records):
    layers = flow.compare(plain=records["plain"], resnet=records["resnet"]).layers("weight", "std")
    assert layers.paired_by == "name"
    for row, name in zip(layers.values, ("plain", "resnet"), strict=True):
        _, names, values = records[name].depth("weight", "std", kind="Conv2d")
        assert layers.names == names
        np.testing.assert_array_equal(row, values)


def test_networks_of_other_depth_are_compared_by_relative_depth(records):
    layers = flow.compare(shallow=records["resnet"], deep=records["deeper"]).layers()
    assert layers.paired_by == "relative depth"
    assert layers.names == records["resnet"].depth("weight", kind="Conv2d")[1]
    deep = records["deeper"].depth("activation_grad", kind="Conv2d")[2]  # 13 convolutions beside 7
    np.testing.assert_array_equal(layers.values[1], deep[[0, 2, 4, 6, 8, 10, 12]])


def test_in_print_each_layer_has_a_line_with_the_ratio(records):
    both = flow.compare(plain=records["plain"], resnet=records["resnet"])
    title, header, *lines = str(both).splitlines()
    assert "by name" in title
    assert header.split() == ["layer", "plain", "resnet", "resnet/plain"]
    assert [line.split()[0] for line in lines] == both.layers().names
    for line, plain, resnet in zip(lines, *both.layers().values, strict=True):
        numbers = [float(cell) for cell in line.split()[1:]]
        np.testing.assert_allclose(numbers, [plain, resnet, resnet / plain], rtol=0.01)
    assert "relative depth" in str(flow.compare(shallow=records["resnet"], deep=records["deeper"]))
    assert repr(both).startswith("Comparison(plain: Record(1 steps")


def test_networks_without_convolutions_and_records_without_rows(records):
    mlp = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    record = flow.snapshot(mlp, np.ones((2, 3), np.float32), np.zeros(2, int))
    assert [line.split()[0] for line in str(flow.compare(one=record, two=record)).splitlines()[2:]] == ["0", "1", "2"]
    text = str(flow.compare(resnet=records["resnet"], nothing=flow.Record()))
    assert [line.split()[2:] for line in text.splitlines()[2:]] == [["-", "-"]] * 7
    assert len(flow.compare(nothing=flow.Record()).rows) == 0


def test_pictures_are_methods(records):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    both = flow.compare(plain=records["plain"], resnet=records["resnet"])
    for draw in (both.plot, both.plot.depth):
        ax = draw(role="weight_grad", kind="Conv2d")
        found = {line.get_label(): line.get_ydata() for line in ax.get_lines()}
        for name in both:
            np.testing.assert_array_equal(found[name], both[name].depth("weight_grad", kind="Conv2d")[2])
    assert len(records["plain"].plot(role="weight").get_lines()) > 0
    assert "depth" in dir(both.plot)
    plt.close("all")
    with pytest.raises(AttributeError, match=r"plot\.pie: there is no such picture, expected one of .*depth"):
        _ = both.plot.pie


def test_what_cannot_be_compared_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no runs came"):
        flow.compare()
    with pytest.raises(TypeError, match="is a int"):
        flow.compare(plain=3)
    with pytest.raises(FileNotFoundError):
        flow.compare(plain=tmp_path / "none.npz")
