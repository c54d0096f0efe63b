"""The parts of the benchmarks work: contests run, ratios are paired, files are written. No time is asserted."""

from __future__ import annotations

import ast
import csv
import importlib
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from typer.testing import CliRunner

if sys.platform != "linux":
    pytest.skip("the benchmarks read memory and processor from /proc", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import tinyres  # noqa: E402
from benchmarks import __main__ as command  # noqa: E402
from benchmarks import contest, programme, report, watching  # noqa: E402
from benchmarks.contest import Contest, Entry, Result  # noqa: E402
from tinyres import models  # noqa: E402

TORCH = pytest.mark.skipif(find_spec("torch") is None, reason="PyTorch (extra 'oracle') is not installed")
FOUND = {"tinyres_", "numpy_"} | ({"torch_"} if find_spec("torch") else set())


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(contest, "TURN", 0.001)
    monkeypatch.setattr(contest, "PAUSE", 0.0)
    monkeypatch.setattr(programme, "GEMM", 64)


def hold(*entries, group="training", threads=1, rounds=2, pythons=()):
    return contest.run(Contest(group, "tiny", threads, entries), rounds, dict(pythons), lambda: None)


def result(**seconds):
    """What a contest of two threads would have found."""
    names = {name.replace("_", " "): values for name, values in seconds.items()}
    memory = {name: (10 * 2**20, (11 + index) * 2**20) for index, name in enumerate(names)}
    return Result(Contest("training", "net", 2, ()), names, memory, {name: f"{name} 1.0" for name in names})


PAIRED = result(tinyres=[2.0, 9.0, 4.0], PyTorch_NCHW=[1.0, 4.0, 2.0], PyTorch_channels_last=[4.0, 3.0, 8.0])


def test_a_contest_runs_end_to_end():
    task = dict(kind="training", depth=20, batch=2, side=8)
    found = hold(*programme.against_pytorch(task, 10**6, FOUND))
    assert not found.failed
    assert list(found.seconds) == [
        "tinyres",
        *(["PyTorch NCHW", "PyTorch channels-last"] if "torch_" in FOUND else []),
        "GEMM floor",
    ]
    for name, seconds in found.seconds.items():
        assert len(seconds) == 2 and min(seconds) > 0
        imported, peak = found.memory[name]
        assert 2**20 < imported <= peak
        assert "Python" in found.who[name] and "NumPy" in found.who[name]
    assert len(found.ratios("tinyres")) == (2 if "torch_" in FOUND else 0)


def test_turns_alternate_and_warm_up_is_not_counted(monkeypatch):
    turns = []
    turn = contest.Worker.turn
    monkeypatch.setattr(contest.Worker, "turn", lambda self: turns.append(self.entry.name) or turn(self))
    product = dict(kind="product", size=8)
    found = hold(Entry("A", "numpy_", product), Entry("B", "numpy_", product), rounds=3)
    assert turns == ["A", "B"] * (contest.WARM_UP_ROUNDS + 3)
    assert {name: len(seconds) for name, seconds in found.seconds.items()} == {"A": 3, "B": 3}


def test_seconds_are_scaled_to_the_work(monkeypatch):
    monkeypatch.setattr(contest.Worker, "turn", lambda self: 2.0)
    found = hold(Entry("floor", "numpy_", dict(kind="product", size=8), scale=0.25), rounds=1)
    assert found.seconds == {"floor": [0.5]}


def test_a_contestant_that_fails_is_left_out_with_its_reason():
    broken = Entry("broken", "numpy_", dict(kind="no_such_task"))
    found = hold(broken, Entry("sound", "numpy_", dict(kind="product", size=8)))
    assert list(found.seconds) == ["sound"]
    assert "no_such_task" in found.failed["broken"]


def test_another_interpreter_can_be_given(tmp_path):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "mine" > "{tmp_path}/ran"\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    hold(Entry("A", "numpy_", dict(kind="product", size=8)), pythons={"numpy_": str(python)})
    assert (tmp_path / "ran").read_text() == "mine\n"


def test_threads_reach_the_contestant():
    statement = "import os; assert os.environ['OMP_NUM_THREADS'] == os.environ['OPENBLAS_NUM_THREADS'] == '3'"
    assert not hold(Entry("A", "python_", dict(kind="fresh", statement=statement)), threads=3).failed


def test_ratios_are_paired_and_the_better_layout_counts_in_each_round():
    assert PAIRED.families() == ["tinyres", "PyTorch"]
    assert PAIRED.rounds("PyTorch") == [1.0, 3.0, 2.0]
    assert PAIRED.ratios("tinyres") == [2.0, 3.0, 2.0]
    assert contest.spread(PAIRED.ratios("tinyres")) == (2.0, 2.0, 3.0)
    assert PAIRED.peak("PyTorch") == (12 * 2**20, 2 * 2**20)


def test_exponent_is_the_slope_in_logarithms():
    sizes = [1, 2, 4, 8, 16]
    assert contest.exponent(sizes, [3 * size**1.5 for size in sizes]) == pytest.approx(1.5)


@pytest.mark.parametrize("quick", [True, False])
def test_the_programme(quick):
    found = programme.contests(list(programme.GROUPS), FOUND | {"chainer_", "dezero_"}, [1, 2], quick)
    assert {each.group for each in found} == set(programme.GROUPS)
    assert len({(each.group, each.name, each.threads) for each in found}) == len(found)
    for each in found:
        if each.group == "scaling":
            assert len(each.entries) >= 5
        raced = {entry.contestant for entry in each.entries}
        assert ("chainer_" in raced) == (each.group == "training" and "32²" in each.name)


def test_the_floor_counts_the_multiply_adds_of_a_training_step():
    (entries,) = (
        entries for name, entries in programme.training(FOUND, quick=False) if "ResNet-18, 224², batch 8" in name
    )
    assert entries[-1].scale * programme.GEMM**3 == pytest.approx(3 * 8 * 1.814e9, rel=1e-3)  # torchvision's 1.814 G


@pytest.mark.parametrize("contestant", ["tinyres_", pytest.param("torch_", marks=TORCH)])
def test_every_kernel_runs_forward_and_backward(contestant, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1" if contestant == "torch_" else str(tinyres.get_num_threads()))
    kernel = importlib.import_module(f"benchmarks.contestants.{contestant}").kernel
    small = [
        programme.conv(2, 4, 5, 8, 3, 2),
        programme.norm(2, 4, 5),
        programme.pool(2, 4, 8),
        programme.linear(2, 5, 3),
    ]
    monkeypatch.setattr(programme, "KERNELS_QUICK", small)
    steps = set()
    for _, entries in programme.kernels([contestant], quick=True):
        for entry in entries:
            options = json.loads(json.dumps(entry.task))
            assert options.pop("kind") == "kernel"
            step = kernel(**options)
            step()
            steps.add((options["operation"], step.__name__))
    assert len(steps) == 8


@TORCH
@pytest.mark.parametrize("depth", [18, 20, 50])
def test_pytorchs_networks_are_the_same(depth, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    from benchmarks.contestants import torch_

    mine = sorted(parameter.shape for parameter in models.get(f"resnet{depth}").parameters())
    assert sorted(tuple(parameter.shape) for parameter in torch_.resnet(depth).parameters()) == mine


@TORCH
def test_fusing_leaves_pytorchs_outputs_as_they_were(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    import torch

    from benchmarks.contestants import torch_

    model = torch_.resnet(20).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        before = model(x)
        fused = torch_.fuse(model)
        torch.testing.assert_close(fused(x), before, rtol=1e-4, atol=1e-4)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in fused.modules())


OLD_PYTHON = ["worker.py", "contestants/inputs.py", "contestants/chainer_.py", "contestants/dezero_.py"]


@pytest.mark.parametrize("name", OLD_PYTHON)
def test_what_runs_on_an_old_python_is_written_for_it(name):
    source = (ROOT / "benchmarks" / name).read_text(encoding="utf-8")
    ast.parse(source, feature_version=(3, 8))
    assert "from __future__ import annotations" in source


def test_a_worker_imports_only_what_its_contestant_needs():
    code = "import sys, benchmarks.worker, benchmarks.contestants.numpy_; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "numpy" in ran.stdout.split()
    assert not {"tinyres", "torch", "rich", "typer", "threadpoolctl"} & set(ran.stdout.split())


def test_what_is_written(tmp_path):
    growing = Result(Contest("scaling", "images", 2, ()))
    for size in (1, 2, 4, 8, 16):
        growing.seconds[str(size)] = [0.1 * size, 0.2 * size]
        growing.memory[str(size)] = 2**20, 2**20 * (1 + size)
        growing.who[str(size)] = "tinyres 1.0"
    failed = result(tinyres=[1.0])
    failed.failed["PyTorch NCHW"] = "no such thing"
    everything = [PAIRED, failed, growing]
    paths = report.save(tmp_path, everything, ["the command"]) + report.draw(tmp_path, everything)
    assert sorted(path.name for path in paths) == ["report.md", "rounds.csv", "scaling.png", "training.png"]
    assert all(path.stat().st_size for path in paths)

    with open(tmp_path / "rounds.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 9 + 1 + 10
    third = next(row for row in rows if row["contestant"] == "PyTorch channels last" and row["round"] == "3")
    assert (third["contest"], third["threads"], float(third["seconds"])) == ("net", "2", 8.0)

    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "| net | 2 | tinyres | 4,000 | 2,000 | 2.00 (2.00–3.00) |" in text
    assert "| images | 2 | 1, 2, 4, 8, 16 | 1.00 (1.00–1.00) | 1.00 |" in text
    for line in ("the command", "tinyres 1.0", "not in net: no such thing"):
        assert f"- {line}\n" in text


def test_the_command_runs_a_group(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["benchmarks", "startup", "--python", "chainer=/some/where/python"])
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    app = command.typer.Typer()
    app.command()(command.main)
    ran = CliRunner().invoke(app, ["startup", "--rounds", "1", "--threads", "1", "--output", str(tmp_path)])
    assert ran.exit_code == 0, ran.output
    assert "`python -m benchmarks startup --python chainer=python`" in ran.output
    assert {path.name for path in tmp_path.iterdir()} == {"rounds.csv", "report.md"}
    assert "startup,import,1,tinyres,1," in (tmp_path / "rounds.csv").read_text()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["speed"], "group is 'speed'"),
        (["--python", "chainer"], "expected NAME=PATH"),
        (["--python", "x=y"], "NAME of"),
        (["startup", "--device", "cuda"], "expected cpu for the group startup"),
    ],
)
def test_a_wrong_argument_gets_a_sentence(arguments, sentence):
    app = command.typer.Typer()
    app.command()(command.main)
    ran = CliRunner().invoke(app, arguments)
    assert ran.exit_code == 2 and sentence in " ".join(ran.output.replace("│", " ").split())


def test_what_watching_costs():
    found = contest.run(watching.contest(20, 2, 8, 1), 2, {}, lambda: None)
    assert not found.failed
    assert list(found.seconds) == ["unwatched", "every step", "every tenth step", "every step, all values"]
    found.seconds = {"unwatched": [1.0, 2.0, 1.0], "every step": [1.5, 2.2, 1.2], "every tenth step": [1.0, 2.1, 1.1]}
    assert watching.costs(found) == [
        "ResNet-20, 8², batch 2, 1 threads, unwatched: 1000 ms",
        "watched, every step: 1.20 (1.10–1.50) of that",
        "watched, every tenth step: 1.05 (1.00–1.10) of that",
    ]
