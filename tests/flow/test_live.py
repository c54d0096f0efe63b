"""The view of a run while it goes on: what it says, how often, how large it is, and when it says nothing."""

from __future__ import annotations

import io
import math
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from tinyres import data, flow, models, nn, optim
from tinyres import functional as F
from tinyres.autograd import Tensor
from tinyres.flow import live
from tinyres.training import fit

rich = pytest.importorskip("rich")
from rich.console import Console  # noqa: E402


def train(model, steps=3, **options):
    optimizer, rng = optim.SGD(model.parameters(), lr=0.1), np.random.default_rng(0)
    with flow.watch(model, optimizer, **options) as record:
        for _ in range(steps):
            x = Tensor(rng.standard_normal((4, 3, 8, 8), dtype=np.float32))
            F.cross_entropy(model(x), rng.integers(0, 10, 4)).backward()
            optimizer.step()
            optimizer.zero_grad()
    return record


@pytest.fixture
def console(monkeypatch):
    """The console of everybody, as if it were a terminal of 24 lines."""
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=80, height=24)
    monkeypatch.setattr(rich, "_console", console)
    return console


def text_of(renderable, console):
    with console.capture() as capture:
        console.print(renderable)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


# Sparklines


@pytest.mark.parametrize(
    ("values", "bars"),
    [
        ([], ""),
        ([10.0**k for k in range(8)], "▁▂▃▄▅▆▇█"),
        ([1.0, 1.01, 0.99], "▄▄▄"),  # within a decade, nothing to see
        ([1.0, 100.0], "▁█"),
        ([1.0, 0.0, math.nan, math.inf, 100.0], "▁○××█"),
        ([0.0, 0.0], "○○"),
    ],
)
def test_sparklines(values, bars):
    assert live.sparkline(values) == bars


def test_a_long_sparkline_has_first_and_last():
    values = [1.0] * 500
    values[0], values[-1] = 1e-3, 1e3
    bars = live.sparkline(values)
    assert (len(bars), bars[0], bars[-1]) == (24, "▁", "█")


# The table


def test_the_table_holds_the_records_numbers(console):
    record = train(models.CifarResNet(8, width=0.25), steps=3)
    lines = text_of(live.table(record, 18), console).splitlines()
    _, names, values = record.depth("activation_grad", kind="Conv2d")
    assert lines[0] == f"step 2: the gradient at conv1 is {values[0] / values[-1]:.3g} × that at layer3.0.conv2"
    assert [line.split()[0] for line in lines[2:]] == names
    update, weight = (record.depth(role, kind="Conv2d")[2] for role in ("update", "weight"))
    for index, line in enumerate(lines[2:-1]):
        numbers = [float(cell) for cell in line.split()[2:]]
        want = values[index], values[index] / values[index + 1], update[index] / weight[index]
        np.testing.assert_allclose(numbers, want, rtol=0.05)


@pytest.mark.parametrize("height", [1, 4, 12, 18])
def test_a_deep_network_fits(console, height):
    record = train(models.CifarResNet(32, width=0.25), steps=1)  # 31 convolutions in 15 blocks and a stem
    lines = text_of(live.table(record, height), console).splitlines()
    names = [line.split()[0] for line in lines[2:]]
    assert len(names) == max(2, min(height, 16))
    assert (names[0], names[-1]) == ("conv1", "layer3.4")
    gradient = record.rows[(record.rows["name"] == "layer3.4.conv2") & (record.rows["role"] == "activation_grad")]
    assert f"{gradient['rms'][0]:.2e}" in lines[-1]


def test_networks_without_convolutions_and_without_gradients(console):
    mlp = nn.Sequential(nn.Flatten(), nn.Linear(192, 5), nn.ReLU(), nn.Linear(5, 10))
    mlp[1].requires_grad_(False)
    lines = text_of(live.table(train(mlp, steps=2), 18), console).splitlines()
    assert lines[0] == "step 1"
    assert lines[2].split() == ["1", "××", "0.0e+00"]
    assert lines[3].split()[0] == "3"
    bare = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten())
    record = flow.snapshot(bare, np.ones((2, 3, 2, 2), np.float32), None, loss=lambda output, _: output.sum())
    lines = text_of(live.table(record, 18), console).splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["0", "1", "2"]


# Where it is drawn, and how often


def test_a_terminal_shows_the_table_and_the_bar_together(console):
    model = models.CifarResNet(8, width=0.25, in_channels=1)
    images = np.random.default_rng(0).integers(0, 255, (16, 8, 8, 1), dtype=np.uint8)
    loader = data.DataLoader(data.ArrayDataset(images, np.arange(16) % 10, list("abcdefghij")), batch_size=8)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    with flow.watch(model, optimizer, live=True) as record:
        fit(model, loader, optimizer, epochs=2)
    shown = console.file.getvalue()
    assert "epoch 2/2: loss" in shown
    for line in text_of(live.table(record, 18), console).splitlines():
        assert line in shown  # the end is drawn in any case
    assert record.steps == [0, 1, 2, 3]


def test_elsewhere_nothing_is_shown(monkeypatch, capsys):
    monkeypatch.setattr(rich, "_console", Console())
    record = train(models.CifarResNet(8, width=0.25), live=True)
    assert record.steps == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


def test_drawing_takes_a_tenth_of_the_time_at_most(monkeypatch):
    clock, drawn = [100.0], []

    def draw():
        drawn.append(clock[0])
        clock[0] += cost

    monkeypatch.setattr(live.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(live, "canvas", lambda record: live.contextlib.nullcontext(draw))
    record = train(models.CifarResNet(8, width=0.25), steps=1)
    for cost, pause in ((0.01, 1.0), (0.5, 5.0)):
        drawn.clear()
        with live.on_screen(record) as grown:
            for _ in range(2000):
                grown()
                clock[0] += 0.01
        pauses = np.diff(drawn[:-1])
        assert len(drawn) > 4
        assert drawn[-1] == clock[0] - cost  # the end is drawn
        assert (pauses >= pause).all() and (pauses <= pause + cost + 0.02).all()


def test_nothing_recorded_is_nothing_shown(console):
    with flow.watch(models.CifarResNet(8, width=0.25), live=True):
        pass
    assert "step" not in console.file.getvalue()


def test_the_bits_are_the_same(console):
    weights = []
    for shown in (False, True):
        model = models.CifarResNet(8, width=0.25)
        for index, parameter in enumerate(model.parameters()):
            parameter.data[...] = np.random.default_rng(index).standard_normal(parameter.shape)
        train(model, live=shown)
        weights.append([parameter.data for parameter in model.parameters()])
    for one, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, other)


NOTEBOOK = """
    import sys
    import numpy as np
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel()
    code = '''
    import numpy as np
    from tinyres import Tensor, flow, models, optim
    from tinyres import functional as F
    from tinyres.flow import live
    live.SECONDS, live.SHARE = 0, 1e9
    model = models.CifarResNet(8, width=0.25)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    with flow.watch(model, optimizer, live=True) as record:
        for _ in range(3):
            F.cross_entropy(model(Tensor(np.ones((2, 3, 8, 8), np.float32))), np.zeros(2, int)).backward()
            optimizer.step()
    '''
    seen = []
    reply = client.execute_interactive(code, output_hook=lambda message: seen.append(message), timeout=300)
    assert reply["content"]["status"] == "ok", reply["content"]
    client.stop_channels()
    manager.shutdown_kernel(now=True)
    shown = [message for message in seen if "display_data" in message["msg_type"] or message["msg_type"] == "stream"]
    assert [message["msg_type"] for message in shown] == ["display_data"] + 3 * ["update_display_data"], shown
    assert len({message["content"]["transient"]["display_id"] for message in shown}) == 1
    assert all("image/png" in message["content"]["data"] for message in shown)
"""


def test_a_notebook_redraws_one_output():
    pytest.importorskip("ipykernel")
    script = textwrap.dedent(NOTEBOOK)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
