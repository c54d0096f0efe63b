"""fit and evaluate: they learn, their numbers are right, and what goes wrong is said."""

from __future__ import annotations

import csv
import io
import math
import signal
import sys
import threading

import numpy as np
import pytest
import rich

import tinyres
from tinyres import functional as F
from tinyres import nn, optim
from tinyres.data import ArrayDataset, DataLoader, digits
from tinyres.models import CifarResNet
from tinyres.training import evaluate, fit


def first_digits(count, train=True):
    dataset = digits(train)
    return ArrayDataset(dataset.images[:count], dataset.labels[:count], dataset.classes)


def small_resnet():
    tinyres.manual_seed(0)
    return CifarResNet(8, width=0.25, in_channels=1)


def softmax_regression():
    tinyres.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))


def sgd(model, lr=0.1, momentum=0.9):
    return optim.SGD(model.parameters(), lr, momentum)


def columns(path):
    """A CSV file as lists of numbers by column."""
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name] or "nan") for row in rows] for name in rows[0]}


# What it is for


def test_it_learns():
    model, loader = small_resnet(), DataLoader(first_digits(200), 20, shuffle=True)
    history = fit(model, loader, optim.AdamW(model.parameters(), 0.01), 8, progress=False)
    first, last = history.epochs[0], history.epochs[-1]
    assert [row.epoch for row in history.epochs] == list(range(1, 9))
    assert first.train_loss > 2
    assert last.train_loss < 1.3
    assert last.train_accuracy > 0.7
    assert evaluate(model, loader).accuracy > 0.7


# Its numbers, against softmax regression written out in float64


def logits_of(w, b, x):
    return x @ w.T + b


def loss_and_accuracy(z, labels):
    logp = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    return -logp[np.arange(len(labels)), labels].mean(), (z.argmax(axis=1) == labels).mean()


def pixels(dataset):
    return dataset.images.reshape(len(dataset), -1) / 255


@pytest.mark.parametrize("schedule_per", ["epoch", "step"])
def test_history_against_softmax_regression_by_hand(tmp_path, schedule_per):
    train, test = first_digits(50), first_digits(30, train=False)
    model = softmax_regression()
    w, b = (p.data.astype(np.float64) for p in model.parameters())
    optimizer = sgd(model, lr=0.2, momentum=0)
    history = fit(
        model,
        DataLoader(train, 20),
        optimizer,
        3,
        scheduler=optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.5),
        schedule_per=schedule_per,
        validation=DataLoader(test, 8),
        output=tmp_path,
        progress=False,
    )

    expected = {"steps": [], "epochs": []}
    x, labels = pixels(train), train.labels
    for epoch in (1, 2, 3):
        shown = []
        for part in (slice(0, 20), slice(20, 40), slice(40, 50)):
            done = len(expected["steps"]) if schedule_per == "step" else epoch - 1
            lr = 0.2 * 0.5 ** (done // 2)
            z = logits_of(w, b, x[part])
            loss, accuracy = loss_and_accuracy(z, labels[part])
            shown += [(loss, accuracy)] * len(z)  # once for each image
            expected["steps"].append((len(expected["steps"]) + 1, epoch, loss, accuracy, lr, len(z)))
            p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
            dz = (p - np.eye(10)[labels[part]]) / len(z)
            w, b = w - lr * dz.T @ x[part], b - lr * dz.sum(axis=0)
        val = loss_and_accuracy(logits_of(w, b, pixels(test)), test.labels)
        expected["epochs"].append((epoch, len(expected["steps"]), lr, *np.mean(shown, axis=0), *val))

    steps = np.array(expected["steps"]).T
    for name, column in zip(["step", "epoch", "loss", "accuracy", "lr", "images"], steps, strict=True):
        np.testing.assert_allclose(columns(tmp_path / "steps.csv")[name], column, rtol=1e-5, err_msg=name)
        np.testing.assert_allclose([getattr(row, name) for row in history.steps], column, rtol=1e-5, err_msg=name)
    names = ["epoch", "step", "lr", "train_loss", "train_accuracy", "val_loss", "val_accuracy"]
    for name, column in zip(names, np.array(expected["epochs"]).T, strict=True):
        np.testing.assert_allclose(columns(tmp_path / "history.csv")[name], column, rtol=1e-5, err_msg=name)
    assert list(columns(tmp_path / "history.csv")) == [*names, "seconds"]
    assert all(seconds > 0 for seconds in columns(tmp_path / "history.csv")["seconds"])


def test_history_as_csv_keeps_all_digits(tmp_path):
    model = softmax_regression()
    history = fit(model, DataLoader(first_digits(20), 10), sgd(model), 2, progress=False)
    history.to_csv(tmp_path / "mine.csv")
    assert columns(tmp_path / "mine.csv")["train_loss"] == [row.train_loss for row in history.epochs]
    assert (tmp_path / "mine.csv").read_text().splitlines()[1].split(",")[5:7] == ["", ""]  # no validation


def test_evaluate_counts_right():
    dataset, model = first_digits(30), softmax_regression()
    w, b = (p.data.astype(np.float64) for p in model.parameters())
    z = logits_of(w, b, pixels(dataset))
    loss, accuracy = loss_and_accuracy(z, dataset.labels)
    evaluation = evaluate(model, DataLoader(dataset, 8))  # 8, 8, 8 and 6 images
    assert evaluation.loss == pytest.approx(loss, rel=1e-5)
    assert evaluation.accuracy == accuracy
    assert np.array_equal(evaluation.predictions, z.argmax(axis=1))
    assert np.array_equal(evaluation.labels, dataset.labels)
    assert evaluation.predictions.dtype == evaluation.labels.dtype == np.int64


def test_evaluate_changes_nothing():
    model, loader = small_resnet(), DataLoader(first_digits(20), 10)
    model.layer1.eval()
    before = {name: array.copy() for name, array in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    seen = []
    model.fc.register_forward_hook(lambda module, inputs, output: seen.append((module.training, output.requires_grad)))
    evaluate(model, loader)
    assert seen == [(False, False)] * 2
    assert [module.training for module in model.modules()] == modes
    assert all(np.array_equal(before[name], array) for name, array in model.state_dict().items())

    class Broken(nn.Module):
        def forward(self, x):
            raise RuntimeError("broken")

    model.fc = Broken()
    with pytest.raises(RuntimeError, match="broken"):
        evaluate(model, loader)
    assert [module.training for module in model.modules()] == modes


def test_evaluate_of_nothing():
    with pytest.raises(ValueError, match="evaluate: loader has no batch, expected at least one"):
        evaluate(softmax_regression(), [])


# One output for two classes


def test_a_single_logit_is_a_class_where_it_is_above_zero():
    """Loss and accuracy by hand: the network hands its inputs through."""
    z = np.array([[-2.0], [0.5], [3.0], [-0.1], [0.0]], np.float32)
    y = np.array([0, 0, 1, 1, 0])
    result = evaluate(nn.Identity(), [(z, y)], F.binary_cross_entropy_with_logits)
    assert result.predictions.tolist() == [0, 1, 1, 0, 0]
    assert result.accuracy == pytest.approx(3 / 5)
    p = 1 / (1 + np.exp(-z[:, 0].astype(np.float64)))
    assert result.loss == pytest.approx(-np.mean(np.where(y, np.log(p), np.log(1 - p))), rel=1e-6)


def test_a_single_logit_trains_like_two_whose_difference_it_is():
    """Cross-entropy of (0, z) is binary cross-entropy of z: with the first row kept at 0, the losses are the same."""

    class Difference(nn.Module):
        def __init__(self, fc):
            self.fc = fc

        def forward(self, x):
            z = self.fc(x.flatten(1))
            return F.cat([0 * z, z], 1)

    def dataset():
        first = first_digits(40)
        return ArrayDataset(first.images, first.labels % 2, ["even", "odd"])

    losses = []
    for build, loss in (
        (lambda fc: nn.Sequential(nn.Flatten(), fc), F.binary_cross_entropy_with_logits),
        (Difference, F.cross_entropy),
    ):
        tinyres.manual_seed(2)
        model = build(nn.Linear(784, 1))
        history = fit(model, DataLoader(dataset(), 10, shuffle=True), sgd(model, 0.01), 5, loss=loss, progress=False)
        losses.append([(row.loss, row.accuracy) for row in history.steps])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4, atol=1e-6)
    assert losses[0][-1][0] < 0.6 < losses[0][0][0]  # and it learns


def test_a_single_logit_cannot_tell_three_classes_apart():
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 1))
    with pytest.raises(ValueError, match="has one output, which tells two classes apart, but there is a label 9"):
        fit(model, DataLoader(first_digits(10), 10), sgd(model), 1, loss=F.binary_cross_entropy_with_logits)


# How it trains


def test_a_batch_norm_frozen_on_its_own_stays_frozen():
    model, loader = small_resnet(), DataLoader(first_digits(20), 10)
    model.bn1.eval()
    mean = model.bn1.running_mean.data.copy()
    fit(model, loader, sgd(model), 1, validation=loader, progress=False)
    assert np.array_equal(model.bn1.running_mean.data, mean)
    assert not model.bn1.training
    model.eval()
    fit(model, loader, sgd(model), 1, progress=False)
    assert all(module.training for module in model.modules())


def test_each_epoch_draws_its_own_batches():
    model, loader = softmax_regression(), DataLoader(first_digits(20), 10, shuffle=True)
    seen = []
    model.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].numpy()))
    fit(model, loader, sgd(model), 2, progress=False)
    twin, expected = DataLoader(first_digits(20), 10, shuffle=True), []
    for epoch in (0, 1):
        twin.set_epoch(epoch)
        expected += [images for images, _ in twin]
    assert all(np.array_equal(a, b) for a, b in zip(seen, expected, strict=True))
    assert not np.array_equal(seen[0], seen[2])


def test_max_grad_norm_bounds_the_update():
    model, loader = softmax_regression(), DataLoader(first_digits(10), 10)
    before = [p.data.copy() for p in model.parameters()]
    fit(model, loader, sgd(model, lr=1, momentum=0), 1, max_grad_norm=1e-3, progress=False)
    after = [p.data for p in model.parameters()]
    norm = math.sqrt(sum(((a - b) ** 2).sum() for a, b in zip(after, before, strict=True)))
    assert norm == pytest.approx(1e-3, rel=1e-2)


def test_on_step_and_another_loss():
    model, calls = softmax_regression(), []
    history = fit(
        model,
        DataLoader(first_digits(20), 10),
        sgd(model),
        2,
        loss=lambda logits, labels: F.cross_entropy(logits, labels, label_smoothing=0.3),
        on_step=lambda step, loss: calls.append((step, loss.item())),
        progress=False,
    )
    assert calls == [(row.step, row.loss) for row in history.steps]
    assert [step for step, _ in calls] == [1, 2, 3, 4]


def test_a_network_in_float64_gets_images_in_float64():
    model = softmax_regression().to(np.float64)
    dtypes = []
    model[1].register_forward_hook(lambda module, inputs, output: dtypes.append((inputs[0].dtype, output.dtype)))
    fit(model, DataLoader(first_digits(10), 10), sgd(model), 1, progress=False)
    assert dtypes == [(np.float64, np.float64)]


def test_in_another_thread_than_the_first():
    model, histories = softmax_regression(), []
    loader = DataLoader(first_digits(10), 10)
    thread = threading.Thread(target=lambda: histories.append(fit(model, loader, sgd(model), 1, progress=False)))
    thread.start()
    thread.join()
    assert len(histories[0].epochs) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule_per": "batch"}, "schedule_per is 'batch', expected 'epoch' or 'step'"),
        ({"checkpoint_every": 0, "output": "x"}, "checkpoint_every is 0, expected at least 1 step"),
        ({"resume": True}, "resume and checkpoint_every need an output folder"),
        ({"checkpoint_every": 3}, "resume and checkpoint_every need an output folder"),
    ],
)
def test_arguments_that_do_not_fit(options, message):
    model = softmax_regression()
    with pytest.raises(ValueError, match=message):
        fit(model, DataLoader(first_digits(10), 10), sgd(model), 1, progress=False, **options)


def test_a_label_the_network_has_no_output_for():
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 9))
    with pytest.raises(ValueError, match="target has the label 9, expected 0 to 8"):
        fit(model, DataLoader(first_digits(10), 10), sgd(model), 1, progress=False)


# A loss that is not finite


@pytest.mark.parametrize(
    ("name", "kind"),
    [("conv1", "Conv2d"), ("layer2.0.bn2", "BatchNorm2d"), ("layer3.0.conv1", "Conv2d"), ("fc", "Linear")],
)
def test_a_poisoned_weight_is_found(name, kind):
    model, loader = small_resnet(), DataLoader(first_digits(30), 10)
    module = dict(model.named_modules())[name]
    before = {}

    def poison(step, loss):
        if step == 2:
            module.weight.data.reshape(-1)[0] = np.inf
            if not np.isinf(module.weight.data).any():  # the reshape was a copy
                module.weight.data[(0,) * module.weight.ndim] = np.inf
            before.update({key: p.data.copy() for key, p in model.named_parameters()})

    with pytest.raises(FloatingPointError) as caught:
        fit(model, loader, sgd(model), 1, on_step=poison, progress=False)
    message = str(caught.value)
    assert message.startswith("fit: the loss is nan at step 3; ")
    assert f"that of {name} ({kind}): its weight held some before" in message
    assert all(np.array_equal(before[key], p.data) for key, p in model.named_parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_learning_rate_far_too_high():
    model = softmax_regression()
    model = nn.Sequential(*model, nn.Linear(10, 10), nn.Linear(10, 10))
    with pytest.raises(
        FloatingPointError, match=r"fit: the loss is (nan|inf) at step \d+; the first output .* is that"
    ):
        fit(model, DataLoader(first_digits(40), 10), sgd(model, lr=1e30), 5, progress=False)


def test_an_overflow_of_finite_numbers_is_found():
    class Blow(nn.Module):
        def forward(self, x):
            return x * 1e30 * 1e30

    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10), Blow())
    with pytest.raises(FloatingPointError, match=r"at step 1; .* of 2 \(Blow\): its parameters and input are finite"):
        fit(model, DataLoader(first_digits(10), 10), sgd(model), 1, progress=False)


def test_a_bad_image_is_found():
    def transform(image, rng):
        return np.full(image.shape, np.nan, np.float32)

    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    with pytest.raises(FloatingPointError, match=r"at step 1; .* of 0 \(Flatten\): its input held some before"):
        fit(model, DataLoader(first_digits(10), 10, transform), sgd(model), 1, progress=False)


def test_a_loss_that_is_itself_to_blame():
    model = softmax_regression()
    with pytest.raises(FloatingPointError, match="at step 1; every module's output is finite, so it arose in the loss"):
        fit(
            model,
            DataLoader(first_digits(10), 10),
            sgd(model),
            1,
            loss=lambda logits, labels: F.cross_entropy(logits, labels) * math.nan,
            progress=False,
        )


def test_the_search_draws_the_same_random_numbers():
    class Rare(nn.Module):
        def forward(self, x):
            return x * (math.inf if tinyres.backend.generator().random() < 0.3 else 1)

    seed = next(s for s in range(100) if (np.random.default_rng(s).random(2) < 0.3).tolist() == [True, False])
    model = nn.Sequential(nn.Flatten(), Rare(), nn.Linear(784, 10))
    tinyres.manual_seed(seed)
    with pytest.raises(FloatingPointError, match=r"the first output to hold NaN or Inf is that of 1 \(Rare\)"):
        fit(model, DataLoader(first_digits(10), 10), sgd(model), 1, progress=False)
    once = np.random.default_rng(seed)
    once.random()
    assert tinyres.backend.generator().random() == once.random()  # as if there had been no search


def test_the_search_leaves_the_running_statistics():
    model, loader = small_resnet(), DataLoader(first_digits(10), 10)
    twin = small_resnet()
    twin(tinyres.Tensor(next(iter(loader))[0]))
    with pytest.raises(FloatingPointError):
        fit(model, loader, sgd(model), 1, loss=lambda x, y: F.cross_entropy(x, y) * math.nan, progress=False)
    for name, array in twin.state_dict().items():  # one pass's statistics, not two passes'
        assert np.array_equal(model.state_dict()[name], array), name


# What it shows


def test_without_progress_nothing_is_shown_and_rich_is_not_needed(monkeypatch, capfd):
    for name in [name for name in sys.modules if name.partition(".")[0] == "rich"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rich", None)
    model = softmax_regression()
    loader = DataLoader(first_digits(20), 10)
    fit(model, loader, sgd(model), 2, progress=False)
    fit(model, loader, sgd(model), 2, progress=False, on_step=lambda *_: signal.raise_signal(signal.SIGINT))
    assert capfd.readouterr() == ("", "")
    with pytest.raises(ImportError):
        fit(model, loader, sgd(model), 1)


def test_where_there_is_no_terminal_each_epoch_is_one_line(capsys, monkeypatch):
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    model = softmax_regression()
    loader = DataLoader(first_digits(20), 10)
    history = fit(model, loader, sgd(model), 2, validation=loader)
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == 2
    row = history.epochs[1]
    assert lines[1].startswith(f"epoch 2/2: loss {row.train_loss:.4f}, accuracy {row.train_accuracy:.1%}; validation")


def test_a_terminal_sees_a_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    screen = Terminal()
    monkeypatch.setattr(rich, "_console", None)  # the next one looks where it is
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    model = softmax_regression()
    fit(model, DataLoader(first_digits(20), 10), sgd(model), 2)
    assert "images/s" in screen.getvalue()
    assert "epoch 2/2: loss" in screen.getvalue()


# On a GPU (a strict fake of one)


def test_a_gpu_is_seldom_waited_for(cupy):
    import strict_cupy

    counts = {}
    results = {}
    for epochs in (4, 12):  # of 5 steps
        model = softmax_regression().to("cuda")
        before = strict_cupy.synchronisations()
        results[epochs] = fit(model, DataLoader(first_digits(50), 10), sgd(model), epochs, progress=False)
        counts[epochs] = strict_cupy.synchronisations() - before
    assert counts[12] - counts[4] <= 8  # one reading at the end of each of 8 epochs
    model = softmax_regression()
    host = fit(model, DataLoader(first_digits(50), 10), sgd(model), 12, progress=False)
    np.testing.assert_allclose(
        [row[:6] for row in results[12].steps], [row[:6] for row in host.steps], rtol=1e-4, atol=1e-6
    )


def test_on_a_gpu_a_loss_that_is_not_finite_is_found_later(cupy):
    def poison(step, loss):
        if step == 2:
            model[1].weight.data[...] = np.nan

    model = softmax_regression().to("cuda")
    with pytest.raises(FloatingPointError, match=r"nan at step 3 \(found at step 5\); .* of 1 \(Linear\): its weight"):
        fit(model, DataLoader(first_digits(50), 10), sgd(model), 1, on_step=poison, progress=False)


def test_evaluation_on_a_gpu(cupy):
    host, device = softmax_regression(), softmax_regression().to("cuda")
    loader = DataLoader(first_digits(30), 8)
    expected, got = evaluate(host, loader), evaluate(device, loader)
    assert got.loss == pytest.approx(expected.loss, rel=1e-6)
    assert np.array_equal(got.predictions, expected.predictions)
    assert isinstance(got.predictions, np.ndarray)
