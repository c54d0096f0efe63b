"""Fine-tuning: what is frozen, what learns and how fast, on which images."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import tinyres
from oracle import cifar
from tinyres import functional as F
from tinyres import models
from tinyres.data import ArrayDataset
from tinyres.models import save_state_dict_file
from tinyres.training import Transfer, evaluate, fine_tune, load_checkpoint, read_checkpoint
from tinyres.training.transfer import TwoLogits, split


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of weights of a ResNet-20, with the head of other classes."""
    tinyres.manual_seed(5)
    path = tmp_path_factory.mktemp("weights") / "resnet20.safetensors"
    save_state_dict_file(models.resnet20(num_classes=7).state_dict(), path)
    return path


def photographs(folder, classes="ab", count=5):
    """So many pictures of each class, the first dark, the second light, …"""
    rng = np.random.default_rng(0)
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(80 * label, 80 * label + 60, (12, 10 + i, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


def prepared(folder, weights, **options):
    transfer = Transfer(data=str(folder), model="resnet20", weights=str(weights), image_size=8, batch_size=4, **options)
    train, test = transfer.datasets(transfer.folders())
    return transfer.prepared(train), train, test


def names(dataset):
    return [dataset.name(i).rpartition("photos")[2] for i in range(len(dataset))]


# Data


def test_one_folder_is_split_by_the_seed_with_the_same_share_of_each_class(tmp_path, weights):
    folder = photographs(tmp_path / "photos", count=10)
    transfer, train, test = prepared(folder, weights)
    assert np.bincount(train.labels).tolist() == [8, 8]
    assert np.bincount(test.labels).tolist() == [2, 2]
    assert len({*names(train), *names(test)}) == 20
    _, again, _ = prepared(folder, weights)
    _, other, _ = prepared(folder, weights, seed=1)
    assert names(again) == names(train) != names(other)
    assert transfer.classes == ("a", "b")


@pytest.mark.parametrize("beside", ["test", "validation", "val"])
def test_two_folders_are_taken_as_they_are(tmp_path, weights, beside):
    photographs(tmp_path / "photos" / "train")
    photographs(tmp_path / "photos" / beside, count=2)
    _, train, test = prepared(tmp_path / "photos", weights)
    assert (len(train), len(test)) == (10, 4)
    assert {name.split("/")[1] for name in names(test)} == {beside}


def test_a_class_called_train_is_a_class(tmp_path, weights):
    transfer, *_ = prepared(photographs(tmp_path, ["car", "train"]), weights)
    assert transfer.classes == ("car", "train")


@pytest.mark.parametrize(("count", "expected"), [(1, 0), (2, 1), (3, 1), (5, 1), (8, 2), (100, 20)])
def test_the_share_of_a_class(count, expected):
    dataset = ArrayDataset(np.zeros((count, 1, 1, 3), np.uint8), np.zeros(count, int), ["a"])
    train, test = split(dataset, 0.2, 0)
    assert (len(train), len(test)) == (count - expected, expected)


# Network


def test_the_trunk_is_the_files_and_the_head_is_new(tmp_path, weights):
    transfer, *_ = prepared(photographs(tmp_path), weights, hidden=6)
    model = transfer.pretrained_model()
    file = models.load_state_dict_file(weights)
    for name, array in model.state_dict().items():
        if not name.startswith("fc."):
            assert np.array_equal(array, file[name]), name
    assert [layer.weight.shape for layer in (model.fc[0], model.fc[2])] == [(6, 64), (1, 6)]
    assert transfer.loss is F.binary_cross_entropy_with_logits
    three, *_ = prepared(photographs(tmp_path / "three", "abc"), weights, hidden=0)
    assert three.pretrained_model().fc.weight.shape == (3, 64)
    assert three.loss is F.cross_entropy


def test_stages_that_go_on_learning_do_so_at_a_tenth_of_the_rate(tmp_path, weights):
    transfer, *_ = prepared(photographs(tmp_path), weights, unfreeze=("layer3",), lr=0.01)
    model = transfer.pretrained_model().train()
    learning = {name.partition(".")[0] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learning == {"layer3", "fc"}
    assert model.layer3[0].bn1.training
    assert not model.layer2[0].bn1.training
    head, stage = transfer.build_optimizer(model).param_groups
    assert (head["lr"], stage["lr"]) == pytest.approx((0.01, 0.001))
    assert {id(p) for p in head["params"]} == {id(p) for p in model.fc.parameters()}
    assert {id(p) for p in stage["params"]} == {id(p) for p in model.layer3.parameters()}


@pytest.mark.parametrize(
    "options", [{}, {"augment": True}, {"unfreeze": ("layer3",)}], ids=["features", "augment", "unfreeze"]
)
def test_it_learns_light_from_dark_and_the_checkpoint_is_the_whole_network(tmp_path, weights, options):
    transfer, train, test = prepared(
        photographs(tmp_path / "photos", count=10), weights, epochs=25, lr=0.003, **options
    )
    model, history = fine_tune(transfer, train, test, tmp_path / "run")
    assert history.epochs[-1].val_accuracy == 1
    frozen = models.load_state_dict_file(weights)
    for name, array in model.state_dict().items():
        still = not name.startswith(("fc.", *options.get("unfreeze", ())))
        assert not still or np.array_equal(array, frozen[name]), name
    kept = read_checkpoint(tmp_path / "run" / "checkpoint.safetensors")[1]
    assert kept["classes"] == ["a", "b"]
    again = Transfer.from_dict(kept["configuration"])
    assert again == transfer
    fresh = again.build_model()
    load_checkpoint(tmp_path / "run" / "checkpoint.safetensors", fresh)
    result = evaluate(fresh, again.loader(train=False), again.loss)
    assert result.accuracy == 1
    assert result.loss == pytest.approx(history.epochs[-1].val_loss, abs=1e-4)
    cached = len(list((tmp_path / "run").glob("features-*.npy")))
    assert cached == (0 if options else 2)


def test_one_logit_as_two():
    z = np.array([[-3.0], [0.0], [2.0]], np.float32)
    shares = F.softmax(TwoLogits()(tinyres.Tensor(z)), 1).numpy()
    np.testing.assert_allclose(shares, np.hstack([1 / (1 + np.exp(z)), 1 / (1 + np.exp(-z))]), rtol=1e-6)


def test_weights_of_keras_are_given_what_they_were_trained_on(tmp_path):
    """Blue, green, red, 0 to 255, less a mean: what `keras.applications.resnet.preprocess_input` makes of an image."""
    h5py = pytest.importorskip("h5py", reason="h5py (extra 'keras') is not installed")
    tinyres.manual_seed(0)
    twin = models.resnet50(stride_in="1x1").eval()
    with h5py.File(tmp_path / "keras.h5", "w") as file:
        for name, array in twin.state_dict().items():
            module, _, variable = name.rpartition(".")
            stage, _, rest = module.partition(".")
            block, _, layer = rest.partition(".")
            number = "0" if "downsample" in layer else layer[-1:]
            kind = "conv" if array.ndim == 4 else "bn"
            keras = f"conv{int(stage[5:]) + 1}_block{int(block) + 1}_{number}_{kind}" if layer else f"conv1_{kind}"
            label = dict(bias="beta", running_mean="moving_mean", running_var="moving_variance", weight="gamma")
            if module != "fc" and variable in label:
                value = array.transpose(2, 3, 1, 0) if kind == "conv" else array
                file[f"{keras}/{keras}/{'kernel' if kind == 'conv' else label[variable]}:0"] = value
    folder = photographs(tmp_path / "photos")
    transfer = Transfer(data=str(folder), weights=str(tmp_path / "keras.h5"), image_size=64)
    train, _ = transfer.datasets(transfer.folders())
    transfer = transfer.prepared(train)
    assert transfer.model_options == {"stride_in": "1x1"}
    model = transfer.pretrained_model().eval()
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    own = transfer.transform(train=False)(image, np.random.default_rng(0)).transpose(2, 0, 1)
    theirs = (image[..., ::-1] - np.array([103.939, 116.779, 123.68])).astype(np.float32).transpose(2, 0, 1)
    with tinyres.no_grad():
        found = model.forward_features(tinyres.Tensor(own[None])).numpy()
        expected = twin.forward_features(tinyres.Tensor(theirs[None])).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    assert np.abs(expected).max() > 0
    fresh = transfer.build_model()
    fresh.load_state_dict(model.state_dict())  # as from the checkpoint
    with tinyres.no_grad():
        np.testing.assert_array_equal(fresh.eval().forward_features(tinyres.Tensor(own[None])).numpy(), found)


def test_bad_input_gets_a_sentence(tmp_path, weights):
    folder = photographs(tmp_path / "photos")
    with pytest.raises(ValueError, match="model is 'resnet19', expected one of"):
        Transfer(data=str(folder), model="resnet19")
    with pytest.raises(ValueError, match="has one class, a, expected at least two"):
        prepared(photographs(tmp_path / "one", "a"), weights)
    transfer, *_ = prepared(folder, weights, unfreeze=("layer4",))
    with pytest.raises(ValueError, match="unfreeze is 'layer4', expected one of layer1, layer2, layer3"):
        transfer.pretrained_model()
    photographs(tmp_path / "both" / "train", "ab")
    photographs(tmp_path / "both" / "test", "ac")
    with pytest.raises(ValueError, match=r"test has the classes a, c, expected a, b"):
        prepared(tmp_path / "both", weights)
    with pytest.raises(ValueError, match=r"train has the classes a, b, expected x, y"):
        Transfer(data=str(tmp_path / "both"), classes=("x", "y")).loader(train=False)
    tinyres.manual_seed(0)
    save_state_dict_file(models.resnet32().state_dict(), tmp_path / "resnet32.npz")
    transfer, *_ = prepared(folder, tmp_path / "resnet32.npz")
    with pytest.raises(ValueError, match=r"resnet32\.npz does not fit resnet20: .* left over"):
        transfer.pretrained_model()


def test_cats_against_dogs_on_a_trained_trunk(tmp_path):
    """ResNet-56 trained on CIFAR-10, frozen, with a new head for two of its classes. PyTorch's head on the same frozen
    features reached 85.9 % on all 2,000 test images; here a part of them."""
    import zipfile

    file = cifar.shared("weights/resnet56-4bfd9763.th")
    with zipfile.ZipFile(cifar.shared("data/cifar10-jpeg.zip")) as archive:
        for part, count in ("train", 300), ("test", 150):
            for name in ("cat", "dog"):
                wanted = sorted(n for n in archive.namelist() if n.startswith(f"cifar10/{part}/{name}/"))[-count:]
                archive.extractall(tmp_path, wanted)
    transfer = Transfer(data=str(tmp_path / "cifar10"), model="resnet56", weights=str(file), epochs=5)
    train, test = transfer.datasets(transfer.folders())
    _, history = fine_tune(transfer.prepared(train), train, test, tmp_path / "run")
    print(f"{history.epochs[-1].val_accuracy:.1%} of {len(test)} images right, after training on {len(train)}")
    assert history.epochs[-1].val_accuracy >= 0.8
