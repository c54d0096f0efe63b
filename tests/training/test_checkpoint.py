"""Checkpoints: a run that was stopped, interrupted or killed goes on as if nothing had happened, to the bit."""

from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from small_run import Run
from tinyres import nn, optim
from tinyres.backend import get_rng_state
from tinyres.training import CHECKPOINT, fit
from tinyres.training.checkpoint import load_checkpoint, read_checkpoint, save_checkpoint
from tinyres.training.history import Step


def interrupt_at(at):
    """An `on_step` that presses Ctrl-C during step `at`."""
    return lambda step, loss: signal.raise_signal(signal.SIGINT) if step == at else None


def same_bits(left, right):
    return left.keys() == right.keys() and all(
        (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
        for a, b in ((left[name], right[name]) for name in left)
    )


def assert_same_checkpoints(left, right):
    """All arrays to the bit, and the rest, but for what a clock measured."""
    (left, left_rest), (right, right_rest) = read_checkpoint(left), read_checkpoint(right)
    assert same_bits(left, right)
    for rest in (left_rest, right_rest):
        for row in [rest["history"], *rest["history"]["epochs"]]:
            assert row.pop("seconds") >= 0
    assert left_rest == right_rest


# Going on


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The output folders and histories of runs that were never stopped, by optimiser."""
    runs = {}
    for optimizer in ("SGD", "AdamW"):
        folder = tmp_path_factory.mktemp(optimizer)
        runs[optimizer] = folder, Run(optimizer=optimizer).fit(output=folder)
    return runs


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
@pytest.mark.parametrize("at", [1, 5, 8, 10, 14])
def test_a_resumed_run_equals_the_unbroken_one_to_the_bit(tmp_path, unbroken, optimizer, at):
    folder, whole = unbroken[optimizer]
    history = Run(optimizer=optimizer).fit(output=tmp_path, on_step=interrupt_at(at))
    assert history.interrupted
    assert len(history.steps) == at
    assert len((tmp_path / "steps.csv").read_text().splitlines()) == 1 + at
    history = Run(seed=1, optimizer=optimizer).fit(output=tmp_path, resume=True)  # other weights until it has resumed
    assert not history.interrupted
    assert history.steps == whole.steps
    assert [row[:-1] for row in history.epochs] == [row[:-1] for row in whole.epochs]
    assert_same_checkpoints(tmp_path / CHECKPOINT, folder / CHECKPOINT)
    assert (tmp_path / "steps.csv").read_bytes() == (folder / "steps.csv").read_bytes()


def test_stopped_at_every_step(tmp_path, unbroken):
    history, stops = None, 0
    while history is None or history.interrupted:
        start = history.steps[-1].step if history else 0
        history = Run().fit(output=tmp_path, resume=True, on_step=interrupt_at(start + 1))
        stops += history.interrupted
    assert stops == 15
    assert_same_checkpoints(tmp_path / CHECKPOINT, unbroken["SGD"][0] / CHECKPOINT)


def test_more_epochs_later(tmp_path, unbroken):
    Run().fit(1, output=tmp_path)
    Run().fit(3, output=tmp_path, resume=True)
    assert_same_checkpoints(tmp_path / CHECKPOINT, unbroken["SGD"][0] / CHECKPOINT)
    history = Run().fit(3, output=tmp_path, resume=True)  # nothing is left to do
    assert len(history.epochs) == 3


def test_a_schedule_by_epoch_goes_on(tmp_path):
    def run():
        run = Run()
        run.scheduler = optim.lr_scheduler.StepLR(run.optimizer, 1, gamma=0.5)
        return run

    whole = run().fit(output=tmp_path / "whole", schedule_per="epoch")
    run().fit(output=tmp_path / "broken", schedule_per="epoch", on_step=interrupt_at(7))
    run().fit(output=tmp_path / "broken", schedule_per="epoch", resume=True)
    assert [row.lr for row in whole.epochs] == [0.05, 0.025, 0.0125]
    assert_same_checkpoints(tmp_path / "whole" / CHECKPOINT, tmp_path / "broken" / CHECKPOINT)


def test_checkpoint_every_so_many_steps(tmp_path):
    class Stop(Exception):
        pass

    def stop(step, loss):
        if step == 9:
            raise Stop

    with pytest.raises(Stop):
        Run().fit(output=tmp_path, checkpoint_every=4, on_step=stop)
    run = Run()
    assert [row.step for row in load_checkpoint(tmp_path / CHECKPOINT, *run.state).steps] == list(range(1, 9))
    with open(tmp_path / "steps.csv", newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)] == [str(step) for step in range(1, 9)]


def test_interrupted_while_validating(tmp_path, unbroken):
    """The epoch is not over then: it is validated again."""
    run = Run()
    shown = []

    def press(module, inputs, output):
        shown.append(module.training)
        if shown.count(False) == 1 and not module.training:
            signal.raise_signal(signal.SIGINT)

    run.model.register_forward_hook(press)
    history = run.fit(output=tmp_path)
    assert shown == [True] * 5 + [False]  # the second batch of the validation is not begun
    assert history.interrupted
    assert (len(history.epochs), len(history.steps)) == (0, 5)
    Run().fit(output=tmp_path, resume=True)
    assert_same_checkpoints(tmp_path / CHECKPOINT, unbroken["SGD"][0] / CHECKPOINT)


def test_a_second_interrupt_aborts_at_once():
    before = signal.getsignal(signal.SIGINT)
    steps = []

    def press_twice(step, loss):
        steps.append(step)
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        Run().fit(on_step=press_twice)
    assert steps == [1]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_folder_with_a_checkpoint_is_not_overwritten(tmp_path):
    Run().fit(1, output=tmp_path)
    content = (tmp_path / CHECKPOINT).read_bytes()
    with pytest.raises(FileExistsError, match="holds a checkpoint: pass resume=True or choose another output"):
        Run().fit(1, output=tmp_path)
    assert (tmp_path / CHECKPOINT).read_bytes() == content


def test_what_a_killed_run_left_half_written_is_removed(tmp_path):
    leftover = tmp_path / f".{CHECKPOINT}.abc.tmp"
    other = tmp_path / ".notes.tmp"
    leftover.write_bytes(b"half")
    other.write_bytes(b"mine")
    Run().fit(1, output=tmp_path, resume=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".notes.tmp", CHECKPOINT, "history.csv", "steps.csv"]


# The file


def test_what_is_in_the_file(tmp_path):
    run = Run()
    run.fit(1, output=tmp_path, configuration={"model": "resnet8", "lr": 0.05, "where": tmp_path})
    arrays, rest = read_checkpoint(tmp_path / CHECKPOINT)
    weights = run.model.state_dict()
    assert not weights["0.layer1.0.conv1.weight"].flags.c_contiguous  # channels-last in memory
    for name, array in weights.items():
        assert np.array_equal(arrays[f"model.{name}"], array), name
    for position, entry in run.optimizer.state.items():
        assert np.array_equal(arrays[f"optimizer.{position}.momentum_buffer"], entry["momentum_buffer"])
    assert rest["configuration"] == {"model": "resnet8", "lr": 0.05, "where": str(tmp_path)}
    assert rest["generator"] == get_rng_state()
    assert rest["scheduler"] == {"kind": "CosineAnnealingLR", "state": {"last_epoch": 5}}
    assert len(arrays["history.steps"]) == 5


def test_the_weights_alone(tmp_path):
    run = Run()
    run.fit(1, output=tmp_path)
    other = Run(seed=1)
    generator = get_rng_state()
    history = load_checkpoint(tmp_path / CHECKPOINT, other.model)
    assert same_bits(other.model.state_dict(), run.model.state_dict())
    assert get_rng_state() == generator
    assert isinstance(history.steps[0], Step)


def test_everything_comes_back(tmp_path):
    run = Run(optimizer="AdamW")
    run.fit(1, output=tmp_path)
    generator = get_rng_state()
    other = Run(seed=1, optimizer="AdamW")
    load_checkpoint(tmp_path / CHECKPOINT, *other.state)
    assert get_rng_state() == generator
    assert (other.loader.seed, other.loader.epoch) == (run.loader.seed, run.loader.epoch)
    assert other.scheduler.last_epoch == 5
    mine, theirs = run.optimizer.state_dict(), other.optimizer.state_dict()
    assert mine["param_groups"] == theirs["param_groups"]
    assert mine["state"].keys() == theirs["state"].keys()
    for position, entry in mine["state"].items():
        assert theirs["state"][position].pop("step") == entry.pop("step") == 5
        assert same_bits(theirs["state"][position], entry)


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    run = Run()
    save_checkpoint(tmp_path / CHECKPOINT, *run.state)
    content = (tmp_path / CHECKPOINT).read_bytes()
    run.model[0].fc.bias.data[3] = np.nan
    with pytest.raises(FloatingPointError, match=r"0\.fc\.bias holds NaN or Inf after step 0, so .* was not written"):
        save_checkpoint(tmp_path / CHECKPOINT, *run.state)
    assert (tmp_path / CHECKPOINT).read_bytes() == content
    assert len(list(tmp_path.iterdir())) == 1


def assert_refused(path, error, message, run):
    """One sentence, and nothing changed."""
    before = {name: array.copy() for name, array in run.model.state_dict().items()}
    generator, settings = get_rng_state(), (run.loader.seed, run.loader.epoch)
    with pytest.raises(error, match=message) as caught:
        load_checkpoint(path, *run.state)
    assert str(caught.value).count("\n") == 0
    assert str(path) in str(caught.value)
    assert same_bits(before, run.model.state_dict())
    assert not run.optimizer.state
    assert (get_rng_state(), (run.loader.seed, run.loader.epoch)) == (generator, settings)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    Run().fit(1, output=folder)
    return folder / CHECKPOINT


@pytest.mark.parametrize("length", [0, 5, 8, 100, 0.5, -1])
def test_a_truncated_file(tmp_path, checkpoint, length):
    content = checkpoint.read_bytes()
    path = tmp_path / CHECKPOINT
    path.write_bytes(content[: int(length * len(content)) if isinstance(length, float) else length])
    assert_refused(path, ValueError, "is no checkpoint, or one that was cut short or damaged", Run(seed=1))


def test_files_that_are_no_checkpoints(tmp_path):
    from safetensors.numpy import save_file

    path = tmp_path / "weights.safetensors"
    assert_refused(path, FileNotFoundError, "there is no checkpoint", Run(seed=1))
    assert_refused(tmp_path, FileNotFoundError, "there is no checkpoint", Run(seed=1))
    path.write_bytes(os.urandom(4000))
    assert_refused(path, ValueError, "is no checkpoint, or one that was cut short or damaged", Run(seed=1))
    path.write_text("a letter to a friend, long enough for a header")
    assert_refused(path, ValueError, "is no checkpoint, or one that was cut short or damaged", Run(seed=1))
    save_file({"fc.weight": np.zeros((2, 3), np.float32)}, path)
    assert_refused(path, ValueError, "is a safetensors file but not a tinyres checkpoint", Run(seed=1))
    save_file({"fc.weight": np.zeros((2, 3), np.float32)}, path, metadata={"format": "pt"})
    assert_refused(path, ValueError, "is a safetensors file but not a tinyres checkpoint", Run(seed=1))


def test_another_network(checkpoint):
    run = Run(width=0.5)
    message = r"of another network: it has 0\.conv1\.weight float32 \(4, 1, 3, 3\), this one 0\.conv1\.weight float32 "
    assert_refused(checkpoint, ValueError, message + r"\(8, 1, 3, 3\) \(\d+ more differ\)", run)
    run = Run()
    run.model.head = nn.Linear(10, 10)
    message = r"it has head\.weight absent, this one head\.weight float32 \(10, 10\) \(1 more differ\)"
    assert_refused(checkpoint, ValueError, message, run)
    run = Run()
    run.model.to(np.float64)
    assert_refused(checkpoint, ValueError, r"this one 0\.conv1\.weight float64 ", run)


def test_another_optimiser_schedule_or_loader(checkpoint):
    run = Run(optimizer="AdamW")
    assert_refused(checkpoint, ValueError, "is of another optimiser: it has SGD, this one AdamW", run)
    run = Run()
    run.optimizer = optim.SGD(optim.no_decay_groups(run.model, 1e-3), 0.05, momentum=0.9)
    assert_refused(checkpoint, ValueError, "is of another optimiser: ", run)
    run = Run()
    run.scheduler = optim.lr_scheduler.StepLR(run.optimizer, 3)
    assert_refused(checkpoint, ValueError, "is of another schedule: it has CosineAnnealingLR, this one StepLR", run)
    run.scheduler = None
    assert_refused(checkpoint, ValueError, "is of another schedule: it has CosineAnnealingLR, this one None", run)
    run = Run()
    run.loader.batch_size = 12
    assert_refused(checkpoint, ValueError, "of another loader: it has batch_size 8, this one batch_size 12", run)


# Processes


def start(output, epochs):
    """A process that trains as `Run` does, saves after each step, and says so when it has done its first."""
    program = (
        "import sys; from small_run import Run;"
        "said = [];"
        "say = lambda step, loss: said or said.append(print('started', flush=True));"
        "history = Run().fit(int(sys.argv[2]), output=sys.argv[1], resume=True, checkpoint_every=1, on_step=say);"
        "print('interrupted' if history.interrupted else 'finished')"
    )
    tests = Path(__file__).parents[1]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, "-c", program, str(output), str(epochs)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def test_ctrl_c_saves_and_says_so(tmp_path):
    process = start(tmp_path, 1000)
    assert process.stdout.readline() == "started\n"
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert out == "interrupted\n"
    run = Run(seed=1)
    history = load_checkpoint(tmp_path / CHECKPOINT, *run.state)
    assert [row.step for row in history.steps] == list(range(1, 1 + len(history.steps)))


def test_the_way_on_is_shown(tmp_path, capsys):
    run = Run()
    fit(run.model, run.loader, run.optimizer, 1, output=tmp_path / "a", on_step=interrupt_at(2))
    text = f"stopped after step 2: go on with fit(…, output={str(tmp_path / 'a')!r}, resume=True)"
    assert capsys.readouterr().out.strip() == text
    fit(run.model, run.loader, run.optimizer, 1, on_step=interrupt_at(1))
    assert capsys.readouterr().out.strip() == "stopped after step 1: without output, unsaved"


def test_kill_9_at_twenty_random_moments_loses_nothing(tmp_path):
    epochs, killed = 20, 0
    moments = np.random.default_rng(0).uniform(0, 0.04, 20)
    for moment in moments:
        process = start(tmp_path / "broken", epochs)
        process.stdout.readline()
        time.sleep(moment)
        process.kill()
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
        if (tmp_path / "broken" / CHECKPOINT).exists():
            read_checkpoint(tmp_path / "broken" / CHECKPOINT)
    assert killed >= 10  # else it was done too soon to be killed often
    processes = [start(tmp_path / name, epochs) for name in ("broken", "whole")]
    assert [process.communicate()[0].splitlines()[-1] for process in processes] == ["finished"] * 2
    assert_same_checkpoints(tmp_path / "broken" / CHECKPOINT, tmp_path / "whole" / CHECKPOINT)
    assert (tmp_path / "broken" / "steps.csv").read_bytes() == (tmp_path / "whole" / "steps.csv").read_bytes()
    left, right = ((tmp_path / name / "history.csv").read_text() for name in ("broken", "whole"))
    assert re.sub(r",[^,]*\n", "\n", left) == re.sub(r",[^,]*\n", "\n", right)  # but for the seconds
    assert sorted(os.listdir(tmp_path / "broken")) == sorted(os.listdir(tmp_path / "whole"))
