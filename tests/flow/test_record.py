"""The table: reading it, writing it, and its look in a terminal."""

from __future__ import annotations

import csv
import sys

import numpy as np
import pytest

from tinyres import Tensor, flow, models, optim
from tinyres import functional as F
from tinyres.flow.record import Key


@pytest.fixture(scope="module")
def record():
    """Two steps of a small network."""
    rng = np.random.default_rng(0)
    model = models.CifarResNet(8, width=0.25)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    model.fc.bias.requires_grad = False
    with flow.watch(model, optimizer, every=2) as record:
        for _ in range(3):
            x = Tensor(rng.standard_normal((4, 3, 8, 8), dtype=np.float32))
            F.cross_entropy(model(x), rng.integers(0, 10, 4)).backward()
            optimizer.step()
            optimizer.zero_grad()
    return record


def test_depth_is_the_rows_of_one_step_and_role(record):
    rows = record.rows
    wanted = rows[(rows["step"] == 2) & (rows["role"] == "weight_grad") & (rows["kind"] == "Conv2d")]
    positions, names, values = record.depth("weight_grad", "abs_max", step=2, kind="Conv2d")
    assert names == ["conv1", *(f"layer{i}.0.conv{j}" for i in (1, 2, 3) for j in (1, 2))]
    np.testing.assert_array_equal(positions, wanted["position"])
    np.testing.assert_array_equal(values, wanted["abs_max"])
    assert (np.diff(positions) > 0).all()


def test_depth_takes_the_last_step_by_default(record):
    for one, other in zip(record.depth("activation"), record.depth("activation", "rms", 2), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gradient",), "role is 'gradient', expected one of activation"),
        (("weight", "norm"), "statistic is 'norm', expected one of mean"),
        (("weight", "rms", 1), "step 1 was not recorded, expected one of 0, 2"),
    ],
)
def test_depth_says_what_it_does_not_know(record, arguments, message):
    with pytest.raises(ValueError, match=message):
        record.depth(*arguments)


def test_npz_brings_back_every_bit(record, tmp_path):
    record.save(tmp_path / "run.npz")
    loaded = flow.Record.load(tmp_path / "run.npz")
    assert loaded.rows.dtype == record.rows.dtype
    assert loaded.rows.tobytes() == record.rows.tobytes()
    assert str(loaded) == str(record)
    assert [path.name for path in tmp_path.iterdir()] == ["run.npz"]


def test_csv_holds_every_number(record, tmp_path):
    record.to_csv(tmp_path / "run.csv")
    with open(tmp_path / "run.csv", newline="") as file:
        table = list(csv.DictReader(file))
    rows = record.rows
    assert list(table[0]) == list(rows.dtype.names)
    for name in rows.dtype.names[:-1]:
        column = np.array([line[name] for line in table]).astype(rows.dtype[name])
        np.testing.assert_array_equal(column, rows[name])
    for line, histogram in zip(table, rows["histogram"], strict=True):
        pairs = [map(int, pair.split(":")) for pair in line["histogram"].split()]
        assert dict(pairs) == {k - 48: n for k, n in enumerate(histogram) if n}
    assert [path.name for path in tmp_path.iterdir()] == ["run.csv"]


def test_names_that_are_longer_than_those_before_are_kept_whole():
    record = flow.Record()
    names = ["fc", "an encoder.a stage.a block.a layer", "conv"]
    for step, name in enumerate(names):
        record.add([Key(step, 0, name, name[::-1], name[1:], "weight")], [None])
        assert record.rows["name"].tolist() == names[: step + 1]
    assert record.rows["kind"].tolist() == [name[::-1] for name in names]
    assert record.rows["block"].tolist() == [name[1:] for name in names]
    assert np.isnan(record.rows["nonfinite_fraction"]).all()
    assert not record.rows["histogram"].any()


@pytest.mark.parametrize("content", [b"", b"step,position\n0,1\n", b"PK\x03\x04 torn"])
def test_what_is_no_record_is_refused(content, tmp_path):
    path = tmp_path / "run.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"run\.npz is no record"):
        flow.Record.load(path)


def test_other_arrays_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", weights=np.ones(3))
    np.savez(tmp_path / "b.npz", rows=np.ones(3))
    np.save(tmp_path / "c.npz.npy", np.ones(3))
    for name in ("a.npz", "b.npz", "c.npz.npy"):
        with pytest.raises(ValueError, match=name):
            flow.Record.load(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        flow.Record.load(tmp_path / "none.npz")


def test_in_a_terminal_each_layer_of_the_last_step_has_a_line(record):
    step, header, *lines = str(record).splitlines()
    assert step == "step 2"
    assert "update/weight" in header
    _, names, gradients = record.depth("activation_grad")
    assert [line.split()[0] for line in lines] == names
    bars = [line.count("#") for line in lines]
    assert max(bars) == 12
    assert bars[np.argmax(gradients)] == 12
    assert [b for _, b in sorted(zip(gradients, bars, strict=True))] == sorted(bars)
    assert str(record).isascii()
    rms = {role: record.depth(role, kind="Linear")[2][0] for role in flow.ROLES[:5]}
    numbers = [rms["activation"], rms["activation_grad"], rms["weight_grad"], rms["update"] / rms["weight"]]
    (line,) = [line.replace("#", "") for line in lines if line.startswith("fc ")]
    np.testing.assert_allclose([float(number) for number in line.split()[2:]], numbers, rtol=0.01)


def test_in_a_terminal_an_addition_says_how_large_its_branch_is(record):
    (line,) = [line for line in str(record).splitlines() if line.startswith("layer2.0.add ")]
    rows = {row["role"]: row["rms"] for row in record.rows if (row["step"], row["name"]) == (2, "layer2.0.add")}
    forward, backward = line.partition("branch/skip ")[2].split(", of gradients ")
    np.testing.assert_allclose(float(forward), rows["branch"] / rows["skip"], rtol=0.05)
    np.testing.assert_allclose(float(backward), rows["branch_grad"] / rows["skip_grad"], rtol=0.05)


def test_pandas_gets_the_same_table(record):
    pandas = pytest.importorskip("pandas")
    frame = record.to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame.columns) == list(record.rows.dtype.names)
    np.testing.assert_array_equal(frame["rms"], record.rows["rms"])
    np.testing.assert_array_equal(np.stack(frame["histogram"]), record.rows["histogram"])
    assert frame[frame["role"] == "skip"]["name"].nunique() == 3


def test_without_pandas_one_is_told_what_is_missing(record, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        record.to_pandas()


def test_an_empty_record(tmp_path):
    empty = flow.Record()
    assert empty.steps == []
    assert len(empty.rows) == 0
    assert "nothing" in str(empty)
    assert [len(part) for part in empty.depth("weight")] == [0, 0, 0]
    empty.to_csv(tmp_path / "run.csv")
    empty.save(tmp_path / "run.npz")
    assert len(flow.Record.load(tmp_path / "run.npz").rows) == 0
