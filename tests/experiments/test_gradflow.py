"""The experiment in miniature: what it writes, draws and says are the numbers it measured."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402

from tinyres.experiments.gradflow import Gradflow, run  # noqa: E402
from tinyres.flow import Record  # noqa: E402
from tinyres.flow.histogram import to_text  # noqa: E402
from tinyres.training.recipe import Recipe  # noqa: E402

NAMES = "plain-20", "ResNet-20"
RECIPE = Recipe(train_images=128, augment=False, epochs=2, batch_size=32, lr=0.05, schedule="constant", warmup_steps=3)
EVERY = 3  # of 8 steps


def tiny_run(seed=0):
    return run(replace(RECIPE, seed=seed), depth=20, width=0.25, every=EVERY, progress=False)


def read_csv(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def column(path, name):
    return [float(row[name]) for row in read_csv(path)]


@pytest.fixture(scope="module")
def result():
    return tiny_run()


@pytest.fixture(scope="module")
def folder(result, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gradflow") / "new"
    paths = result.save(folder)
    assert sorted(paths) == sorted(folder.iterdir())
    return folder


def gradients(folder, name):
    """From the CSV file, by step: the gradient rms at each convolution, from the image to the loss."""
    by_step = {}
    for row in read_csv(folder / f"{name.lower()}-gradients.csv"):
        if row["role"] == "activation_grad" and row["kind"] == "Conv2d":
            by_step.setdefault(int(row["step"]), []).append((int(row["position"]), float(row["rms"])))
    return {step: [rms for _, rms in sorted(values)] for step, values in by_step.items()}


# Files


def test_files(folder):
    kinds = "gradients.csv", "gradients.npz", "epochs.csv", "steps.csv"
    stems = [f"{name.lower()}-{kind}" for name in NAMES for kind in kinds]
    assert {path.name for path in folder.iterdir()} == {"gradflow.png", "recipe.json", *stems}
    assert (folder / "gradflow.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_the_recipe_written_is_the_recipe_run(folder):
    recipes = json.loads((folder / "recipe.json").read_text())
    assert list(recipes) == list(NAMES)
    for name, model in zip(NAMES, ("plain20", "resnet20"), strict=True):
        recipe = Recipe.from_dict(recipes[name])
        assert (recipe.model, recipe.model_options) == (model, {"width": 0.25})
        assert (recipe.lr, recipe.epochs, recipe.train_images) == (0.05, 2, 128)
        assert recipe.classes == tuple("0123456789")


@pytest.mark.parametrize("name", NAMES)
def test_gradient_files_are_the_record(result, folder, name):
    rows = result.networks[name].record.rows
    written = read_csv(folder / f"{name.lower()}-gradients.csv")
    assert len(written) == len(rows) > 0
    assert list(written[0]) == list(rows.dtype.names)
    for field in rows.dtype.names:
        values = [row[field] for row in written]
        if rows[field].dtype.kind == "f":
            np.testing.assert_array_equal(np.array(values, float), rows[field], err_msg=field)
        elif field == "histogram":
            assert values == [to_text(counts) for counts in rows[field]]
        else:
            assert values == [str(value) for value in rows[field]], field
    assert Record.load(folder / f"{name.lower()}-gradients.npz").rows.tobytes() == rows.tobytes()


@pytest.mark.parametrize("name", NAMES)
def test_training_files_are_the_history(result, folder, name):
    history, stem = result.networks[name].history, name.lower()
    assert column(folder / f"{stem}-steps.csv", "loss") == [row.loss for row in history.steps]
    assert column(folder / f"{stem}-steps.csv", "lr") == pytest.approx([0.005, 0.02, 0.035, *[0.05] * 5])
    assert column(folder / f"{stem}-epochs.csv", "train_accuracy") == [row.train_accuracy for row in history.epochs]
    assert len(history.steps) == 8
    assert len(history.epochs) == 2


# The two networks are alike


def test_both_have_the_same_layers(folder):
    plain, residual = (gradients(folder, name) for name in NAMES)
    assert plain.keys() == residual.keys()
    assert {len(values) for values in [*plain.values(), *residual.values()]} == {19}


def test_both_see_the_same_images(result):
    plain, residual = result.networks.values()
    for name in ("train_images", "seed", "mean", "std", "batch_size", "augment"):
        assert getattr(plain.recipe, name) == getattr(residual.recipe, name)
    first = [network.record.rows[0] for network in (plain, residual)]
    assert first[0]["name"] == first[1]["name"] == "conv1"
    assert first[0]["rms"] == first[1]["rms"]  # output of the same weights on the same first batch


# The picture


def test_gradient_lines_are_the_data(result, folder):
    figure = result.plot()
    lines = iter(figure.axes[0].lines)
    for name in NAMES:
        by_step = gradients(folder, name)
        steps = list(by_step)
        for step in (steps[0], steps[1], steps[-1]):
            line = next(lines)
            np.testing.assert_array_equal(line.get_xdata(), np.arange(1, 20))
            np.testing.assert_array_equal(line.get_ydata(), by_step[step])
            assert line.get_label() == f"{name}, step {step}"
    assert next(lines, None) is None
    assert figure.axes[0].get_yscale() == "log"
    plt.close(figure)


def test_training_curves_are_the_data(result, folder):
    figure = result.plot()
    lines = iter(figure.axes[1].lines)
    for name in NAMES:
        loss = np.array(column(folder / f"{name.lower()}-steps.csv", "loss"))
        single, mean = next(lines), next(lines)
        np.testing.assert_array_equal(single.get_ydata(), loss)
        weights = 0.9 ** np.arange(len(loss))[::-1]  # the latest loss weighs most
        means = [np.average(loss[: t + 1], weights=weights[-t - 1 :]) for t in range(len(loss))]
        np.testing.assert_allclose(mean.get_ydata(), means, rtol=1e-12)
        np.testing.assert_array_equal(single.get_xdata(), np.arange(1, 9))
        np.testing.assert_array_equal(mean.get_xdata(), np.arange(1, 9))
        accuracy = column(folder / f"{name.lower()}-epochs.csv", "train_accuracy")[-1]
        assert mean.get_label() == f"{name}: {accuracy:.0%} right in the last epoch"
    assert next(lines, None) is None
    plt.close(figure)


# What it says


def spread(values):
    return f"{max(values) / min(values):,.0f}"


def test_the_table_states_the_files_numbers(result, folder):
    header, rows = result.table()
    for name, row in zip(NAMES, rows, strict=True):
        by_step, stem = gradients(folder, name), name.lower()
        first, last = min(by_step), max(by_step)
        assert str(first) in header[1].split()
        assert str(last) in header[2].split()
        assert row[:3] == (name, spread(by_step[first]), spread(by_step[last]))
        assert row[3] == f"{column(folder / f'{stem}-epochs.csv', 'train_loss')[-1]:.3f}"
        assert row[4] == f"{column(folder / f'{stem}-epochs.csv', 'train_accuracy')[-1]:.1%}"
        assert row[5] == f"{result.networks[name].test_accuracy:.1%}"


def test_the_finding_states_the_tables_numbers(result, folder):
    text = result.finding()
    (_, plain), (_, residual) = zip(NAMES, result.table()[1], strict=True)
    for cell in (*plain[:3], plain[4], *residual[:3], residual[4]):
        assert cell in text
    first = gradients(folder, NAMES[0])[min(gradients(folder, NAMES[0]))]
    assert f"it {'grows' if first[0] > first[-1] else 'shrinks'} on its way to the input" in text
    assert "In epoch 2" in text


def test_the_finding_does_not_claim_what_did_not_happen(result):
    """Exchange the networks: exactly one order shows that additions help."""
    plain, residual = result.networks.values()
    assert plain.train_accuracy != residual.train_accuracy
    exchanged = Gradflow({"plain-20": residual, "ResNet-20": plain})
    for order in (result, exchanged):
        accuracies = [network.train_accuracy for network in order.networks.values()]
        helped = accuracies[1] > accuracies[0]
        assert ("train worse" in order.finding()) == helped
        assert ("did not help" in order.finding()) == (not helped)


# The seed


def test_the_same_seed_gives_the_same_numbers(result):
    again, other = tiny_run(), tiny_run(seed=1)
    for name in NAMES:
        assert again.networks[name].record.rows.tobytes() == result.networks[name].record.rows.tobytes()
        assert again.networks[name].history.steps == result.networks[name].history.steps
        assert again.networks[name].test_accuracy == result.networks[name].test_accuracy
        assert other.networks[name].history.steps != result.networks[name].history.steps


def test_a_depth_that_no_network_has():
    with pytest.raises(ValueError, match="plain57"):
        run(RECIPE, depth=57)
