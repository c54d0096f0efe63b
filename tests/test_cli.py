"""The commands, as a person types them: what they print and write, and how they fail."""

from __future__ import annotations

import contextlib
import csv
import io
import re
import signal
import subprocess
import sys
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from tinyres import experiments
from tinyres.cli import main
from tinyres.data import digits

TINY = "--width", "0.25", "--train-images", "64", "--batch-size", "32", "--epochs", "1"
ERRORS = {  # what a command is given, by the end of a sentence, and what the sentence has to say
    "unknown model": (["train", "resnet19"], "model is 'resnet19', expected one of .*resnet20"),
    "unknown model to summarise": (["summary", "nonet"], "model is 'nonet', expected one of .*resnet20"),
    "unknown option of a model": (["summary", "resnet50", "--stride-in", "2x2"], "stride_in is '2x2', expected '3x3'"),
    "no plain network so deep": (["gradflow", "--depth", "57"], "plain57"),
    "no data": (["train", "--data", "nowhere"], "data is 'nowhere', expected digits, cifar10, cifar100 or a folder"),
    "folder without train": (["train", "--data", "."], "train is not a folder"),
    "no optimiser": (["train", "--optimizer", "lion"], "optimizer is 'lion', expected one of sgd, adamw"),
    "no schedule": (["train", "--schedule", "linear"], "schedule is 'linear', expected one of cosine, multistep"),
    "no weights": (["convert", "nothing.pth", "out.npz"], "there is no weight file nothing.pth"),
    "no weights by name": (
        ["convert", "V9", "out.npz", "--model", "resnet50"],
        "no file, nor one of IMAGENET1K_V1, IM",
    ),
    "no network for weights": (["convert", "V9", "out.npz", "--model", "nonet"], "model is 'nonet', expected one of"),
    "no device": (["train", "--device", "tpu"], "device is 'tpu', expected one of cpu, cuda"),
    "no shortcut": (["train", "--shortcut", "D"], "shortcut is 'D', expected one of 'A', 'B', 'C'"),
    "no width": (["train", "--width", "0"], "width is 0.0, expected a factor"),
    "negative rate": (["train", "--lr", "-1"], "lr is -1.0, expected 0 or more"),
    "divergence": (["train", *TINY, "--lr", "1e30", "--epochs", "3"], "the loss is nan at step 2; the first output"),
    "no weights of that name": (
        ["finetune", "photos", "--weights", "IMAGENET1K_V9"],
        "weights is 'IMAGENET1K_V9', which is no file, nor one of IMAGENET1K_V1, IMAGENET1K_V2",
    ),
    "no photographs": (["finetune", "nowhere", "--weights", "x"], "nowhere is not a folder"),
    "no checkpoint": (["evaluate", "nothing.safetensors"], "there is no checkpoint nothing.safetensors"),
    "folder for a checkpoint": (["evaluate", "."], "there is no checkpoint ."),
}
USAGE = {
    "no such command": ["fly"],
    "no weights": ["finetune", "."],
    "no such option": ["train", "--learning-rate", "1"],
    "no epoch": ["train", "--epochs", "0"],
    "no number": ["train", "--epochs", "many"],
    "no model": ["summary"],
    "no image": ["predict", "--checkpoint", "x"],
    "no checkpoint": ["predict", "x.png"],
}
OPTIONS = {
    "gradflow": "depth width data train-images epochs batch-size lr seed output device",
    "train": "data train-images image-size width shortcut zero-gamma epochs batch-size optimizer lr weight-decay "
    "schedule warmup-steps augment no-augment seed output resume device",
    "evaluate": "data output seed device",
    "predict": "checkpoint top explain output seed device",
    "finetune": "weights model hidden unfreeze augment image-size epochs batch-size lr workers seed output resume "
    "device",
    "convert": "model",
    "audit": "shape seed",
    "mutants": "output",
    "report": "steps output",
    "experiment": "quick seeds set workers output",
    "summary": "image-size in-channels num-classes stride-in output seed",
}


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


def tinyres(*args):
    """Run a command in this process, through the function that the console script calls."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", ["tinyres", *map(str, args)])
        with pytest.raises(SystemExit) as stop:
            main()
    return Outcome(stop.value.code or 0, out.getvalue(), err.getvalue())


def start(*args):
    """Start a command in a process of its own."""
    code = "from tinyres.cli import main; main()"
    command = [sys.executable, "-u", "-c", code, *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def succeeds(outcome):
    assert outcome.code == 0, outcome.err
    assert outcome.err == ""
    return outcome.out


def fails(outcome, sentence):
    """Exit code 1, and one sentence on standard error."""
    assert outcome.code == 1
    assert re.fullmatch(r"error: [^\n]*\n", outcome.err), outcome.err
    assert re.search(sentence, outcome.err), outcome.err


def read_csv(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a short training run on the digits."""
    folder = tmp_path_factory.mktemp("run")
    printed = succeeds(tinyres("train", *TINY, "--output", folder))
    assert re.search(r"^epoch 1/1: loss \d", printed)
    assert f"to {folder}\n" in printed
    return folder


@pytest.fixture(scope="module")
def checkpoint(run):
    return run / "checkpoint.safetensors"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Photographs of two classes, of many sizes and modes, in train/ and test/; names that look like markup."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for part, count in ("train", 6), ("test", 2):
        for label, name in enumerate(["[red]cat", "dog :dog:"]):
            (folder / part / name).mkdir(parents=True)
            for i in range(count):
                height, width = rng.integers(10, 40, 2)
                pixels = rng.integers(100 * label, 100 * label + 100, (height, width, 3)).astype(np.uint8)
                Image.fromarray(pixels).convert("L" if i == 1 else "RGB").save(folder / part / name / f"{i}.png")
    return folder


# Help


def test_help_names_the_commands():
    printed = succeeds(tinyres("--help"))
    for command in OPTIONS:
        assert re.search(rf"\b{command}\b", printed)
    assert "--version" in printed


def test_no_arguments_is_a_call_for_help():
    assert "Commands" in tinyres().out


@pytest.mark.parametrize("command", OPTIONS)
def test_help_names_the_options(command):
    printed = succeeds(tinyres(command, "--help"))
    assert set(re.findall(r"--([a-z-]+[a-z])", printed)) - {"resume"} == set((OPTIONS[command] + " help").split()) - {
        "resume"
    }
    assert ("--resume" in printed) == (command in ("train", "finetune"))


def test_version():
    import tinyres as package

    assert succeeds(tinyres("--version")) == f"tinyres {package.__version__}\n"


# Train, evaluate, predict


def test_train_writes_history_and_steps(run):
    assert sorted(path.name for path in run.iterdir()) == ["checkpoint.safetensors", "history.csv", "steps.csv"]
    steps = read_csv(run / "steps.csv")
    assert [(row["step"], row["images"]) for row in steps] == [("1", "32"), ("2", "32")]
    assert [float(row["lr"]) for row in steps] == pytest.approx([0.05, 0.025])  # half a cosine in two steps
    (epoch,) = read_csv(run / "history.csv")
    assert 0 <= float(epoch["val_accuracy"]) <= 1


def test_evaluate_agrees_with_training_and_with_the_predictions_it_writes(run, checkpoint, tmp_path):
    printed = succeeds(tinyres("evaluate", checkpoint, "--output", tmp_path))
    rows = read_csv(tmp_path / "predictions.csv")
    labels = np.array([int(row["label"]) for row in rows])
    right = np.array([row["label"] == row["prediction"] for row in rows])
    np.testing.assert_array_equal(labels, digits(train=False).labels)
    (epoch,) = read_csv(run / "history.csv")
    assert right.mean() == pytest.approx(float(epoch["val_accuracy"]))
    assert f"loss {float(epoch['val_loss']):.4f}, accuracy {right.mean():.2%} on 1000 images" in printed
    for digit in range(10):
        assert re.search(rf"^{digit} +100 +{100 * right[labels == digit].mean():.1f}%$", printed, re.MULTILINE)
    assert f"wrote {tmp_path / 'predictions.csv'}" in printed


def test_predict_says_of_an_image_file_what_evaluate_says_of_the_image(checkpoint, tmp_path):
    succeeds(tinyres("evaluate", checkpoint, "--output", tmp_path / "evaluate"))
    evaluated = [row["prediction"] for row in read_csv(tmp_path / "evaluate" / "predictions.csv")][:12]
    images = [tmp_path / f"{i}.png" for i in range(12)]
    for i, path in enumerate(images):
        Image.fromarray(digits(train=False).images[i, :, :, 0]).save(path)
    printed = succeeds(
        tinyres("predict", *images, "--checkpoint", checkpoint, "--top", 2, "--output", tmp_path / "out")
    )
    rows = read_csv(tmp_path / "out" / "predictions.csv")
    assert [row["image"] for row in rows[::2]] == [str(path) for path in images]
    assert [row["class"] for row in rows[::2]] == evaluated
    assert [row["rank"] for row in rows] == ["1", "2"] * 12
    probabilities = np.array([float(row["probability"]) for row in rows]).reshape(12, 2)
    assert (probabilities[:, 0] >= probabilities[:, 1]).all()
    assert (probabilities.sum(axis=1) <= 1 + 1e-6).all()
    assert f"{probabilities[0, 0]:.1%}" in printed


def test_predict_names_every_class_once_and_the_shares_are_of_one(checkpoint, tmp_path):
    Image.new("RGB", (50, 30), "white").save(tmp_path / "photo.png")  # colours and size are not the digits'
    succeeds(tinyres("predict", tmp_path / "photo.png", "--checkpoint", checkpoint, "--top", 99, "--output", tmp_path))
    rows = read_csv(tmp_path / "predictions.csv")
    assert sorted(row["class"] for row in rows) == [str(digit) for digit in range(10)]
    assert sum(float(row["probability"]) for row in rows) == pytest.approx(1)


def test_images_in_folders(pictures, tmp_path):
    options = "--data", pictures, "--image-size", "12", "--width", "0.25", "--epochs", "2", "--batch-size", "4"
    printed = succeeds(tinyres("train", *options, "--output", tmp_path / "run"))
    assert "epoch 2/2" in printed
    file = tmp_path / "run" / "checkpoint.safetensors"
    assert len(read_csv(tmp_path / "run" / "steps.csv")) == 2 * 12 / 4
    assert load_file(file)["model.conv1.weight"].shape == (4, 3, 3, 3)
    assert load_file(file)["model.fc.weight"].shape == (2, 16)
    printed = succeeds(tinyres("evaluate", file))
    assert re.search(r"^\[red\]cat +2 +\d", printed, re.MULTILINE)  # a name is a name, not markup
    assert re.search(r"^dog :dog: +2 +\d", printed, re.MULTILINE)
    assert "on 4 images" in printed
    images = sorted((pictures / "test").rglob("*.png"))
    printed = succeeds(tinyres("predict", *images, "--checkpoint", file, "--output", tmp_path / "out"))
    assert len(read_csv(tmp_path / "out" / "predictions.csv")) == 8


def test_options_reach_the_run(tmp_path):
    options = "--optimizer", "adamw", "--schedule", "constant", "--warmup-steps", "2", "--no-augment", "--zero-gamma"
    succeeds(tinyres("train", "preact_resnet20", *TINY, *options[:-1], "--output", tmp_path / "adamw"))
    steps = read_csv(tmp_path / "adamw" / "steps.csv")
    assert [float(row["lr"]) for row in steps] == pytest.approx([1e-4, 5.5e-4])  # a tenth of 1e-3, and half the way up
    assert "optimizer.0.exp_avg" in load_file(tmp_path / "adamw" / "checkpoint.safetensors")
    succeeds(tinyres("train", *TINY, "--lr", "0", "--zero-gamma", "--shortcut", "B", "--output", tmp_path / "still"))
    weights = load_file(tmp_path / "still" / "checkpoint.safetensors")
    assert not weights["model.layer1.0.bn2.weight"].any()
    assert "model.layer2.0.downsample.0.weight" in weights


def test_same_seed_same_network(run, checkpoint, tmp_path):
    succeeds(tinyres("train", *TINY, "--output", tmp_path / "again"))
    succeeds(tinyres("train", *TINY, "--seed", 1, "--output", tmp_path / "other"))
    first, again, other = (
        load_file(folder / "checkpoint.safetensors") for folder in (run, tmp_path / "again", tmp_path / "other")
    )
    for name, array in first.items():
        np.testing.assert_array_equal(again[name], array, err_msg=name)
    assert (first["model.conv1.weight"] != other["model.conv1.weight"]).any()


# Fine-tuning


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A weight file of a ResNet-20, with its head of ten classes."""
    import tinyres as package

    package.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "resnet20.npz"
    package.models.save_state_dict_file(package.models.resnet20().state_dict(), path)
    return path


@pytest.fixture(scope="module")
def finetuned(pictures, weights, tmp_path_factory):
    """What fine-tuning printed, and its folder."""
    folder = tmp_path_factory.mktemp("finetuned")
    options = "--model", "resnet20", "--weights", weights, "--image-size", "12", "--epochs", "20", "--lr", "0.01"
    return succeeds(tinyres("finetune", pictures, *options, "--batch-size", "4", "--output", folder)), folder


def test_finetune_says_what_is_there_and_writes_what_happened(finetuned, pictures):
    printed, folder = finetuned
    assert f"{pictures / 'train'}: 12 images in 2 classes\n  [red]cat          6\n" in printed
    assert f"{pictures / 'test'}: 4 images in 2 classes\n" in printed
    assert "12 images to train on, 4 to test on" in printed
    assert "epoch 20/20" in printed
    names = {path.name for path in folder.iterdir() if not path.name.startswith("features-")}
    assert names == {"checkpoint.safetensors", "history.csv", "steps.csv", "curves.png"}
    assert len(read_csv(folder / "history.csv")) == 20


def test_finetuned_networks_are_evaluated_and_predict(finetuned, pictures, tmp_path):
    _, folder = finetuned
    file = folder / "checkpoint.safetensors"
    last = read_csv(folder / "history.csv")[-1]
    printed = succeeds(tinyres("evaluate", file))
    assert f"accuracy {float(last['val_accuracy']):.2%} on 4 images" in printed
    picture = tmp_path / "photo.of a [red]cat.png"
    picture.write_bytes((pictures / "test" / "[red]cat" / "0.png").read_bytes())
    printed = succeeds(tinyres("predict", picture, "--checkpoint", file, "--explain", "--output", tmp_path))
    rows = read_csv(tmp_path / "predictions.csv")
    assert {row["class"] for row in rows} == {"[red]cat", "dog :dog:"}
    assert sum(float(row["probability"]) for row in rows) == pytest.approx(1)
    assert rows[0]["class"] == "[red]cat"
    drawn = tmp_path / "photo.of a [red]cat.gradcam.png"
    assert f"wrote {drawn}" in printed
    with Image.open(drawn) as figure:
        assert figure.width > 100


def test_finetune_unfreezes_stages_augments_and_resumes(pictures, weights, tmp_path):
    options = ["--model", "resnet20", "--weights", weights, "--image-size", "8", "--augment", "--hidden", "0"]
    options += ["--unfreeze", "layer2", "--unfreeze", "layer3", "--batch-size", "6", "--output", tmp_path]
    succeeds(tinyres("finetune", pictures, *options, "--epochs", "1"))
    fails(tinyres("finetune", pictures, *options, "--epochs", "2"), "holds a checkpoint: pass --resume to go on")
    fails(tinyres("finetune", pictures, *options, "--resume", "--lr", "1"), "was trained with lr 0.001, not 1.0")
    printed = succeeds(tinyres("finetune", pictures, *options, "--epochs", "2", "--resume"))
    assert "epoch 2/2" in printed
    assert "epoch 1/2" not in printed
    state = load_file(tmp_path / "checkpoint.safetensors")
    before = np.load(weights)
    changed = {
        name.split(".")[1]
        for name, array in state.items()
        if name[6:] in before and name[6:8] != "fc" and (array != before[name[6:]]).any()
    }
    assert changed == {"layer2", "layer3"}


def test_finetune_leaves_out_what_it_cannot_read_and_says_so(pictures, weights, tmp_path):
    folder = tmp_path / "photos"
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for i in range(5):
            Image.new("RGB", (9, 9), (40 * i, 0, 0)).save(folder / name / f"{i}.jpg")
    (folder / "cat" / "5.jpg").write_text("<html>not found</html>")
    options = "--model", "resnet20", "--weights", weights, "--image-size", "8", "--epochs", "1", "--batch-size", "4"
    process = start("finetune", folder, *options, "--output", tmp_path / "run")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert re.fullmatch(r"warning: ImageFolder: 1 left out of the images in .*5\.jpg: it is no BMP[^\n]*\n", err)
    assert "left out: 1\n" in out
    assert "8 images to train on, 2 to test on" in out


# Resume


def test_a_finished_run_is_kept_unless_it_is_to_go_on(run, checkpoint):
    before = {path: path.read_bytes() for path in run.iterdir()}
    fails(tinyres("train", *TINY, "--output", run), "holds a checkpoint: pass --resume to go on, or choose another")
    assert {path: path.read_bytes() for path in run.iterdir()} == before


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--lr", "0.3"], "was trained with lr 0.05, not 0.3"),
        (["--width", "0.5"], "was trained with model_options {'width': 0.25}, not {'width': 0.5}"),
        (["--seed", "1"], "was trained with seed 0, not 1"),
        (["--no-augment"], "was trained with augment True, not False"),
    ],
)
def test_a_run_does_not_go_on_with_other_options(run, checkpoint, options, sentence):
    before = checkpoint.read_bytes()
    fails(tinyres("train", *TINY, *options, "--resume", "--output", run), re.escape(sentence))
    assert checkpoint.read_bytes() == before


def test_resume_goes_on_for_more_epochs_and_begins_where_nothing_is(tmp_path):
    succeeds(tinyres("train", *TINY, "--resume", "--output", tmp_path))
    printed = succeeds(tinyres("train", *TINY, "--epochs", "2", "--resume", "--output", tmp_path))
    assert "epoch 2/2" in printed
    assert "epoch 1/2" not in printed
    assert [row["epoch"] for row in read_csv(tmp_path / "history.csv")] == ["1", "2"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no SIGINT to one process")
def test_an_interrupted_run_exits_130_and_a_resumed_one_equals_an_unbroken_one(tmp_path):
    options = "--width", "0.25", "--train-images", "600", "--batch-size", "10", "--epochs", "2"
    unbroken = start("train", *options, "--output", tmp_path / "unbroken")
    broken = start("train", *options, "--output", tmp_path / "broken")
    assert broken.stdout.readline().startswith("epoch 1/2")
    broken.send_signal(signal.SIGINT)
    out, err = broken.communicate(timeout=60)
    assert broken.returncode == 130, err
    assert err == ""
    assert "stopped after step" in out
    assert "the same command with --resume goes on" in out
    assert 60 <= len(read_csv(tmp_path / "broken" / "steps.csv")) < 120

    resumed = start("train", *options, "--output", tmp_path / "broken", "--resume")
    for process in unbroken, resumed:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    assert (tmp_path / "broken" / "steps.csv").read_text() == (tmp_path / "unbroken" / "steps.csv").read_text()
    expected = load_file(tmp_path / "unbroken" / "checkpoint.safetensors")
    actual = load_file(tmp_path / "broken" / "checkpoint.safetensors")
    assert expected.keys() == actual.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(actual[name], array, err_msg=name)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no SIGINT to one process")
def test_an_interrupted_experiment_exits_130_and_writes_nothing(tmp_path):
    process = start("gradflow", "--depth", "20", "--output", tmp_path / "out")
    assert process.stdout.readline().startswith("plain-20")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


# Summary


def test_summary_of_resnet50(tmp_path):
    """The totals of the network in He et al. 2015, table 1, with the stride in the 3×3 convolution."""
    printed = succeeds(tinyres("summary", "resnet50", "--output", tmp_path))
    assert "25,557,032 parameters" in printed
    assert "4.089 G multiply-adds" in printed
    assert re.search(r"^conv1 +Conv2d +64×112×112 +9,408 +118,013,952 +3,211,264$", printed, re.MULTILINE)
    rows = read_csv(tmp_path / "summary.csv")
    assert sum(int(row["parameters"]) for row in rows) == 25_557_032
    assert sum(int(row["multiply-adds"]) for row in rows) == 4_089_184_256
    assert rows[0] == {
        "layer": "conv1",
        "kind": "Conv2d",
        "output": "64×112×112",
        "parameters": str(64 * 3 * 7 * 7),
        "multiply-adds": str(112 * 112 * 64 * 3 * 7 * 7),
        "bytes": str(4 * 64 * 112 * 112),
    }


def test_summary_options():
    printed = succeeds(tinyres("summary", "resnet20", "--in-channels", "1", "--num-classes", "7", "--image-size", "28"))
    assert re.search(r"^conv1 +Conv2d +16×28×28 +144 +112,896 +50,176$", printed, re.MULTILINE)
    assert re.search(r"^fc +Linear +7 +455 +448 +28$", printed, re.MULTILINE)
    assert "for one image of 1×28×28" in printed


# Weights


def write_weights(path, **changes):
    """The state of a small ResNet-20 with other numbers, and changes to it; returns what was written."""
    from tinyres import models

    rng = np.random.default_rng(0)
    state = {name: rng.standard_normal(a.shape).astype(a.dtype) for name, a in models.resnet20().state_dict().items()}
    models.save_state_dict_file(state | changes, path)
    return state | changes


@pytest.mark.parametrize(("source", "target"), [("net.npz", "out.safetensors"), ("net.safetensors", "out.npz")])
def test_convert(tmp_path, source, target):
    state = write_weights(tmp_path / source)
    printed = succeeds(tinyres("convert", tmp_path / source, tmp_path / target, "--model", "resnet20"))
    found = load_file(tmp_path / target) if target.endswith("s") else dict(np.load(tmp_path / target))
    assert found.keys() == state.keys()
    assert all(found[name].dtype == a.dtype and found[name].tobytes() == a.tobytes() for name, a in state.items())
    assert re.search(r"^conv1\.weight +float32 +16×3×3×3$", printed, re.MULTILINE)
    assert f"{source}: {'safetensors' if source.endswith('s') else 'NumPy npz'}, 116 arrays, 1.0 MiB" in printed
    assert f"wrote {tmp_path / target}" in printed
    assert "in resnet20: 116 matched, 0 missing, 0 left over, 0 mis-shaped" in printed


def test_convert_says_what_a_network_lacks(tmp_path):
    write_weights(tmp_path / "net.npz", surplus=np.zeros(3))
    outcome = tinyres("convert", tmp_path / "net.npz", tmp_path / "out.npz", "--model", "resnet20")
    assert (outcome.code, outcome.err) == (1, "")
    assert re.search(r"^left over +surplus$", outcome.out, re.MULTILINE)


def test_convert_refuses_other_endings_and_what_is_no_weight_file(tmp_path):
    write_weights(tmp_path / "net.npz")
    fails(tinyres("convert", tmp_path / "net.npz", tmp_path / "out.pth"), r"written to \.safetensors or \.npz, not to")
    (tmp_path / "bad.pth").write_bytes(b"\x80\x02cos\nsystem\n.")
    fails(tinyres("convert", tmp_path / "bad.pth", tmp_path / "out.npz"), r"it asks for os\.system")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.pth", "net.npz"]


# The experiment


def test_gradflow_writes_what_it_says_and_prints_its_finding(tmp_path):
    options = "--depth", "20", "--train-images", "64", "--batch-size", "32", "--epochs", "1", "--output", tmp_path
    printed = succeeds(tinyres("gradflow", *options))
    named = re.findall(r"^wrote (.*)$", printed, re.MULTILINE)
    assert sorted(named) == sorted(str(path) for path in tmp_path.iterdir())
    assert tmp_path / "gradflow.png" in tmp_path.iterdir()
    assert "Through the depth of plain-20 the gradient's size varies by a factor of" in printed


# What goes wrong


@pytest.mark.parametrize("name", ERRORS)
def test_bad_input_is_one_sentence(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for animal in ("cat", "dog"):
        (tmp_path / "photos" / animal).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "photos" / animal / "0.png")
    arguments, sentence = ERRORS[name]
    fails(tinyres(*arguments), sentence)
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("missing.png", None, "there is no image .*missing.png"),
        ("text.png", b"not a picture", "text.png cannot be read as an image"),
    ],
)
def test_images_that_are_none(checkpoint, tmp_path, name, content, sentence):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    fails(tinyres("predict", tmp_path / name, "--checkpoint", checkpoint), sentence)


def test_a_picture_cut_short(checkpoint, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:3000])
    fails(tinyres("predict", tmp_path / "cut.png", "--checkpoint", checkpoint), "cut.png cannot be read as an image")


@pytest.mark.parametrize("command", [("evaluate",), ("predict", "photo.png", "--checkpoint")])
def test_checkpoints_that_are_none(checkpoint, tmp_path, command):
    file = tmp_path / "file.safetensors"
    file.write_bytes(checkpoint.read_bytes()[:20000])
    fails(tinyres(*command, file), "is no checkpoint, or one that was cut short or damaged")
    file.write_bytes(b"another format altogether")
    fails(tinyres(*command, file), "is no checkpoint, or one that was cut short or damaged")
    save_file({"weight": np.zeros(3)}, file)
    fails(tinyres(*command, file), "is a safetensors file but not a tinyres checkpoint")


def test_a_checkpoint_without_recipe(tmp_path):
    from tinyres import models, optim
    from tinyres.training import save_checkpoint

    model = models.resnet20(width=0.25)
    save_checkpoint(tmp_path / "own.safetensors", model, optim.SGD(model.parameters(), 0.1))
    fails(tinyres("evaluate", tmp_path / "own.safetensors"), "was not written by 'tinyres train'")


def test_data_of_other_classes(checkpoint, pictures, tmp_path):
    fails(tinyres("evaluate", checkpoint, "--data", pictures), r"have the classes \[red\]cat, dog :dog:, expected 0, 1")
    folder = tmp_path / "pictures"
    for name in ("train/cat", "train/dog", "test/dog"):
        (folder / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(folder / name / "0.png")
    fails(
        tinyres("train", "--data", folder, *TINY, "--output", tmp_path / "run"),
        "the test images of .* have the classes dog, expected cat, dog",
    )


@pytest.mark.parametrize("command", [("train",), ("evaluate", "checkpoint"), ("gradflow", "--depth", "20")])
def test_cuda_without_cupy(command, checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "cupy", None)
    command = [checkpoint if word == "checkpoint" else word for word in command]
    fails(tinyres(*command, "--device", "cuda"), "device 'cuda' needs CuPy, which is not installed: pip install")


@pytest.mark.parametrize("name", USAGE)
def test_wrong_usage_exits_2(name):
    outcome = tinyres(*USAGE[name])
    assert outcome.code == 2
    assert "Usage: tinyres" in outcome.err
    assert "Traceback" not in outcome.err


def test_an_output_that_is_a_file_is_wrong_usage(tmp_path):
    (tmp_path / "file").write_text("mine")
    outcome = tinyres("train", *TINY, "--output", tmp_path / "file")
    assert outcome.code == 2
    assert (tmp_path / "file").read_text() == "mine"


def test_errors_are_sentences_in_a_process_of_its_own():
    process = start("summary", "nonet")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert out == ""
    assert re.fullmatch(r"error: model is 'nonet'[^\n]*\n", err)


def test_experiments_are_listed():
    text = succeeds(tinyres("experiment"))
    assert all(name in text for name in experiments.NAMES) and "How signals" in text


def test_an_experiment_writes_its_picture_and_says_what_was_seen(tmp_path):
    command = ("experiment", "initialisation", "--quick", "--seeds", "1", "--set", "width=100")
    command = (*command, "--set", "seeds=1", "--output", str(tmp_path))
    text = succeeds(tinyres(*command))
    assert "claim: gradients grow" in text
    for ending in ("png", "csv", "npz", "txt"):
        assert (tmp_path / f"initialisation.{ending}").stat().st_size
        assert f"initialisation.{ending}" in text
    assert "11 of 11 cases were measured before" in succeeds(tinyres(*command))


def test_a_report_of_two_runs(tmp_path):
    options = "--depth", "20", "--train-images", "64", "--epochs", "1", "--output", str(tmp_path)
    succeeds(tinyres("gradflow", *options))
    runs = [tmp_path / f"{name}-20-gradients.npz" for name in ("plain", "resnet")]
    steps = [tmp_path / f"{name}-20-steps.csv" for name in ("plain", "resnet")]
    page = tmp_path / "report.html"
    command = "report", *runs, "--steps", steps[0], "--steps", steps[1], "--output", page
    assert f"wrote {page}" in succeeds(tinyres(*command))
    text = page.read_text(encoding="utf-8")
    assert "plain-20-gradients" in text and "resnet-20-gradients" in text
    fails(tinyres("report", runs[0], runs[0]), "expected a file name for each run")
    fails(tinyres("report", *runs, "--steps", steps[0]), "1 --steps came, expected none or one for each of 2")
    fails(tinyres("report", steps[0]), "no record of flow")
