"""The page of a run: its numbers are the record's, and in a browser they move with the step."""

from __future__ import annotations

import json
import math
import re
from html import escape

import numpy as np
import pytest

import browser as chromium
from tinyres import flow
from tinyres.files import write_csv
from tinyres.flow import STATISTICS, Record
from tinyres.training import History
from tinyres.training.history import Step

LAYERS = [("conv1", "Conv2d", "")]
for place in ("layer1.0", "layer1.1"):
    LAYERS += [(f"{place}.{name}", kind, place) for name, kind in (("conv1", "Conv2d"), ("relu1", "ReLU"))]
    LAYERS += [(f"{place}.{name}", kind, place) for name, kind in (("conv2", "Conv2d"), ("add", "Add"))]
LAYERS += [("fc", "Linear", "")]
ROLES = {
    "Conv2d": ("activation", "activation_grad", "weight", "weight_grad", "update"),
    "ReLU": ("activation", "activation_grad"),
    "Add": ("activation", "activation_grad", "skip", "branch", "skip_grad", "branch_grad"),
}
KEYS = [("step", "i8"), ("position", "i8"), ("name", "U20"), ("kind", "U12"), ("block", "U12"), ("role", "U16")]
FIELDS = [*KEYS, *((statistic, "f8") for statistic in STATISTICS), ("cosine", "f8"), ("histogram", "u4", (64,))]


def synthetic(steps=(0, 5, 10), seed: int = 0, old: bool = False) -> Record:
    """A record of every kind of row with random numbers, where conv1 has no gradient and layer1.0.conv2 one of zero.

    old: without what earlier records lack, additions, cosines and histograms.
    """
    rng, rows = np.random.default_rng(seed), []
    for step in steps:
        for position, layer in enumerate(LAYERS):
            for role in ROLES.get(layer[1], ROLES["Conv2d"]):
                numbers = 10 ** rng.uniform(-5, -1, 4)
                histogram = np.zeros(64, int)
                histogram[20:40] = rng.integers(0, 1000, 20)
                histogram[30] += 1
                cosine = rng.uniform(-1, 1) if "skip" in role or "branch" in role else math.nan
                row = [step, position, *layer, role, *numbers, rng.uniform(), 0.0, cosine, histogram]
                if layer[0] == "conv1" and role.endswith("grad"):
                    row[6:] = [math.nan] * 7 + [histogram * 0]
                if layer[0] == "layer1.0.conv2" and role.endswith("grad"):
                    row[6:] = [0, 0, 0, 0, 1, 0, math.nan, histogram * 0]
                rows.append(tuple(row))
    table = np.array(rows, FIELDS)
    if not old:
        return Record(table)
    table = table[np.isin(table["role"], ROLES["Conv2d"])]
    fields = [name for name in table.dtype.names if name not in ("cosine", "histogram")]
    short = np.empty(len(table), [(name, table.dtype[name]) for name in fields])
    for name in fields:
        short[name] = table[name]
    return Record(short)


def data_of(path):
    """What the page holds for its script."""
    text = path.read_text(encoding="utf-8")
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    return json.loads(found)


def row(record, name, role, step):
    rows = record.rows
    (found,) = rows[(rows["name"] == name) & (rows["role"] == role) & (rows["step"] == step)]
    return found


# What is in the file


@pytest.mark.parametrize("old", [False, True])
def test_every_number_is_there(tmp_path, old):
    record = synthetic(old=old)
    (run,) = data_of(flow.report(record, tmp_path / "report.html"))["runs"]
    assert run["steps"] == [0, 5, 10]
    assert [tuple(layer) for layer in run["layers"]] == LAYERS
    seen = 0
    for found in record.rows:
        grids = run["roles"][found["role"]]
        place = run["steps"].index(found["step"]), grids["layers"].index(found["position"])
        for statistic in (*STATISTICS, *(["cosine"] if "cosine" in grids else [])):
            number = grids[statistic][place[0]][place[1]]
            assert number is None if math.isnan(found[statistic]) else number == pytest.approx(found[statistic], 1e-4)
        seen += 1
    assert seen == sum(np.size(grids["rms"]) for grids in run["roles"].values())
    assert ("cosine" in run["roles"]["activation"]) is False
    assert ("histogram" in run["roles"]["activation"]) is not old


def test_histograms_keep_their_shape(tmp_path):
    record = synthetic(steps=[0])
    roles = data_of(flow.report(record, tmp_path / "report.html"))["runs"][0]["roles"]
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for found in record.rows:
        grids, counts = roles[found["role"]], found["histogram"].astype(float)
        first, *heights = map(letters.index, grids["histogram"][0][grids["layers"].index(found["position"])] or "A")
        shape = np.zeros(64)
        shape[first : first + len(heights)] = heights
        assert ((shape > 0) == (counts > 0)).all()
        np.testing.assert_allclose(shape / 63, counts / max(counts.max(), 1), atol=1 / 63)


def test_a_long_run_is_thinned_and_a_long_loss_averaged(tmp_path):
    rows = synthetic(steps=range(200), old=True).rows
    losses = np.arange(1, 1001) / 7
    history = History(steps=[Step(i + 1, 1, loss, 0.5, 0.1, 8) for i, loss in enumerate(losses)])
    (run,) = data_of(flow.report(Record(rows), tmp_path / "report.html", history))["runs"]
    assert (run["steps"][0], run["steps"][-1], len(run["steps"]), run["recorded"]) == (0, 199, 60, 200)
    steps, values = np.array(run["loss"])
    assert len(steps) == 400
    np.testing.assert_allclose(values, (steps + 1) / 7, rtol=1e-3)  # step 1 of a history is step 0 of a record


def test_the_loss_of_a_file_is_that_of_the_history(tmp_path):
    history = History(steps=[Step(i + 1, 1, 2.5 - i, 0.5, 0.1, 8) for i in range(3)])
    write_csv(tmp_path / "steps.csv", Step._fields, history.steps)
    pages = [flow.report(synthetic(), tmp_path / "a.html", given) for given in (history, tmp_path / "steps.csv")]
    for page in pages:
        assert data_of(page)["runs"][0]["loss"] == [[0, 1, 2], [2.5, 1.5, 0.5]]


def test_saved_runs_and_runs_by_name(tmp_path):
    synthetic().save(tmp_path / "plain-56.npz")
    assert data_of(flow.report(tmp_path / "plain-56.npz", tmp_path / "a.html"))["runs"][0]["name"] == "plain-56"
    several = {"one": tmp_path / "plain-56.npz", "other": synthetic(seed=1)}
    page = flow.report(flow.compare(several), tmp_path / "new" / "b.html", {"other": History()})
    runs = data_of(page)["runs"]
    assert [(run["name"], run["loss"]) for run in runs] == [("one", None), ("other", [[None], [None]])]
    assert "<h1>Gradient flow: one and other</h1>" in page.read_text(encoding="utf-8")


def test_the_headline_compares_the_ends(tmp_path):
    record = synthetic(steps=[3])
    rows = record.rows
    for name, rms in (("conv1", 6.0), ("layer1.1.conv2", 1.5)):
        rows["rms"][(rows["name"] == name) & (rows["role"] == "activation_grad")] = rms
    text = flow.report(record, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "step 3: the gradient at conv1 is <strong>4 ×</strong> that at layer1.1.conv2" in text
    assert "10 layers, 1 step recorded" in text


@pytest.mark.parametrize(
    ("run", "history", "error", "words"),
    [
        (Record(), None, ValueError, "no recorded step"),
        ({"a": Record()}, None, ValueError, "a has no recorded step"),
        ({}, None, ValueError, "run is empty"),
        ({"a": 3}, None, TypeError, "the record is a int"),
        (synthetic(), {"b": History()}, ValueError, "history has b"),
        (synthetic(), __file__, ValueError, "columns step and loss"),
        ("nowhere.npz", None, FileNotFoundError, "nowhere"),
    ],
)
def test_bad_input_is_a_sentence(tmp_path, run, history, error, words):
    with pytest.raises(error, match=words):
        flow.report(run, tmp_path / "report.html", history)
    assert not list(tmp_path.iterdir())


# In a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if chromium.executable() is None:
        pytest.skip("no Chromium on this machine")
    opened = chromium.Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture
def show(browser, tmp_path):
    """Opens a run's page. In the end nothing may have gone wrong, and nothing have been asked of the network."""
    pages = []

    def show(run, history=None, **size):
        path = flow.report(run, tmp_path / "report.html", history)
        pages.append((browser.open(path, **size), path))
        return pages[-1][0]

    yield show
    for page, path in pages:
        assert page.errors == []
        assert [address for address in page.requests if not address.startswith("data:")] == [path.as_uri()]


CURVE = "document.querySelector('#depth path.curve[data-run=\"{}\"]').getAttribute('d')"


def points(page, run=0):
    """The places in the window of what the first figure's curve goes through."""
    page.evaluate("document.querySelector('#depth').scrollIntoView()")
    left, top = page.evaluate(
        "(({left, top}) => [left, top])(document.querySelector('#depth svg').getBoundingClientRect())"
    )
    numbers = re.findall(r"[ML]([\d.]+) ([\d.]+)", page.evaluate(CURVE.format(run)))
    return [(left + float(x), top + float(y)) for x, y in numbers]


def shown(page):
    """The numbers beside the pointer, by name."""
    names, numbers = (
        page.evaluate(f"[...document.querySelectorAll('#tip {tag}')].map((e) => e.innerText)") for tag in ("dt", "dd")
    )
    return dict(zip(names, numbers, strict=True))


GRADIENTS = ["layer1.0.conv1", "layer1.1.conv1", "layer1.1.conv2"]  # that a log scale holds


def test_the_slider_moves_figure_and_numbers(show):
    record = synthetic()
    page = show(record)
    page.evaluate("document.querySelector('#step').focus()")
    curves = []
    for step in (0, 5, 10):
        assert page.text("#now") == f"{step} of 10"
        curves.append(page.evaluate(CURVE.format(0)))
        values = np.array([row(record, name, "activation_grad", step)["rms"] for name in GRADIENTS])
        heights = np.array([y for _, y in points(page)])
        (slope, start), sizes = np.polyfit(np.log10(values), heights, 1), np.log10(values)
        assert slope < 0
        np.testing.assert_allclose(heights, slope * sizes + start, atol=0.1)  # pixels
        cells = page.text("#numbers tbody tr:nth-child(2)").split("\t")
        assert cells[0] == "layer1.0.conv1"
        assert float(cells[3]) == pytest.approx(values[0], 1e-3)
        update, weight = (row(record, "layer1.0.conv1", role, step)["rms"] for role in ("update", "weight"))
        assert float(cells[7]) == pytest.approx(update / weight, 1e-3)
        page.press("ArrowRight")
    assert len(set(curves)) == 3


def test_pointing_shows_the_layers_numbers(show):
    record = synthetic()
    page = show(record)
    for name, place in zip(GRADIENTS, points(page), strict=True):
        page.mouse("Moved", *place)
        found = row(record, name, "activation_grad", 0)
        assert page.text("#tip b") == f"{name}: gradient by the output"
        numbers = shown(page)
        for words, statistic in [("root mean square", "rms"), ("largest magnitude", "abs_max"), ("mean", "mean")]:
            assert float(numbers[words]) == pytest.approx(found[statistic], 1e-3)
        assert float(numbers["fraction of zeros"]) == pytest.approx(found["zero_fraction"], 1e-3)
    page.mouse("Moved", 2, 2)
    assert page.evaluate("document.querySelector('#tip').hidden")


def test_the_keyboard_goes_where_the_mouse_goes(show):
    page = show(synthetic())
    page.evaluate("document.querySelector('#step').focus()")
    for _ in range(4):  # quantity, statistic, layers, layer
        page.press("Tab")
    page.press("Tab")
    assert page.text("#tip b").startswith("conv1:")
    assert set(shown(page).values()) >= {"missing"}
    page.press("ArrowRight")
    assert page.text("#tip b").startswith("layer1.0.conv1:")
    page.press("Enter")
    assert page.text("tr.chosen th") == "layer1.0.conv1"
    assert page.evaluate("document.querySelector('#layer').selectedOptions[0].text") == "layer1.0.conv1"
    assert page.evaluate("document.querySelectorAll('#ridge .hill').length") == 3  # now a row for each step
    page.press("Escape")
    assert page.evaluate("document.querySelector('#tip').hidden")


def test_what_no_scale_holds_is_marked(show):
    page = show(synthetic())
    for mark in ("missing", "zero"):  # one layer each; the map has them at 3 steps
        assert page.evaluate(f"document.querySelector('#depth .{mark}').getAttribute('d').split('M').length - 1") == 1
        assert page.evaluate(f"document.querySelector('#heat .{mark}').getAttribute('d').split('M').length - 1") == 3


def choose(page, select, value):
    change = f"s.value = {value!r}; s.dispatchEvent(new Event('change'))"
    page.evaluate(f"(() => {{ const s = document.querySelector('#{select}'); {change} }})()")


def test_every_quantity_and_statistic_can_be_chosen(show):
    page = show(synthetic())
    curves = set()
    for role in data_roles(page):
        choose(page, "role", role)
        for statistic in STATISTICS:
            choose(page, "statistic", statistic)
            drawings = page.evaluate("[...document.querySelectorAll('svg')].map((e) => e.innerHTML).join()")
            assert not re.search(r'="[^"]*(NaN|undefined|Infinity)', drawings)
            curves.add(page.evaluate(CURVE.format(0)))
    assert len(curves) > 40


def data_roles(page):
    return page.evaluate("[...document.querySelector('#role').options].map((option) => option.value)")


def test_what_the_skips_carry(show):
    record = synthetic()
    page = show(record)
    branch = "[...document.querySelectorAll('#highway path[stroke=\"#E69F00\"]')].map((e) => e.getAttribute('d'))"
    bars = [re.fullmatch(r"M[\d.]+ ([\d.]+)V([\d.]+)", bar) for bar in page.evaluate(branch)]
    heights = [float(bar[1]) - float(bar[2]) for bar in bars if bar]  # one is the legend's
    parts = []
    for suffix in ("", "_grad"):
        for name in ("layer1.0.add", "layer1.1.add"):
            skip, branch = (row(record, name, part + suffix, 0)["rms"] for part in ("skip", "branch"))
            parts.append(branch**2 / (skip**2 + branch**2))
    np.testing.assert_allclose(np.array(heights) / heights[0], np.array(parts) / parts[0], rtol=1e-3)


def test_two_networks_side_by_side(show):
    records = {"plain </script> {{js}} & <b>": synthetic(old=True), "resnet": synthetic(seed=1)}
    history = {"resnet": History(steps=[Step(i + 1, 1, 2.5 - i, 0.5, 0.1, 8) for i in range(3)])}
    page = show(records, history)
    assert page.text("h1") == f"Gradient flow: {' and '.join(records)}"
    assert escape("plain </script> {{js}} & <b>", quote=False) in page.evaluate(
        "document.querySelector('#depth').innerHTML"
    )
    for run, record in enumerate(records.values()):
        page.mouse("Moved", *points(page, run)[1])
        assert float(shown(page)["root mean square"]) == pytest.approx(
            row(record, GRADIENTS[1], "activation_grad", 0)["rms"], 1e-3
        )
    hidden = "['ridge', 'highway', 'ratio', 'loss'].map((id) => document.getElementById(id).hidden)"
    assert page.evaluate(hidden) == [False, False, False, False]  # of the resnet, which has additions
    choose(page, "run", "0")
    assert page.evaluate(hidden) == [True, True, False, False]


def test_it_plays_to_the_end(show):
    page = show(synthetic())
    page.evaluate("document.querySelector('#play').click()")
    page.evaluate(
        "new Promise((done) => setInterval(() => document.querySelector('#step').value === '2' && done(), 20))"
    )
    assert page.text("#now") == "10 of 10"
    assert page.evaluate("document.querySelector('#play').getAttribute('aria-label')") == "Play the steps"


@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_the_width(show, width):
    page = show({"plain": synthetic(), "resnet": synthetic(seed=1)}, width=width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    sizes = page.evaluate(
        "[...document.querySelectorAll('svg text')].map((e) => e.getBoundingClientRect()).map((r) => [r.left, r.right])"
    )
    assert min(left for left, _ in sizes) >= 0 and max(right for _, right in sizes) <= width
