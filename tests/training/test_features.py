"""Features computed once: those that the head would have been given, and never others."""

from __future__ import annotations

import os

import numpy as np
import pytest
from PIL import Image

import tinyres
from tinyres import functional as F
from tinyres import models, nn, optim
from tinyres.data import ArrayDataset, DataLoader, ImageFolder, Subset
from tinyres.data.transforms import Compose, Normalize, RandomHorizontalFlip, Rescale
from tinyres.nn import BatchNorm2d
from tinyres.training import OnFeatures, features, fit

PREPARE = Compose([Rescale(), Normalize([0.5] * 3, [0.25] * 3)])


@pytest.fixture
def model():
    """A frozen network whose norms have seen something, with a head for two classes."""
    tinyres.manual_seed(0)
    model, rng = models.CifarResNet(8, width=0.25), np.random.default_rng(0)
    for module in model.modules():
        if isinstance(module, BatchNorm2d):
            module.running_mean.data[...] = rng.normal(size=module.running_mean.shape)
            module.running_var.data[...] = rng.uniform(0.5, 2, module.running_var.shape)
    return models.replace_head(nn.freeze(model), 5, 1)


@pytest.fixture
def dataset():
    rng = np.random.default_rng(1)
    return ArrayDataset(rng.integers(0, 256, (23, 8, 8, 3), dtype=np.uint8), np.arange(23) % 2, ["a", "b"])


def as_the_network(model, dataset, transform=PREPARE):
    """The pooled maps (N, C), by forward_features and NumPy."""
    images = np.concatenate([images for images, _ in DataLoader(dataset, 23, transform)])
    with tinyres.no_grad():
        return model.eval().forward_features(tinyres.Tensor(images)).numpy().mean(axis=(2, 3))


def test_features_are_what_the_head_is_given(model, dataset):
    found = features(model, dataset, PREPARE, batch_size=5, workers=2)
    np.testing.assert_allclose(found.vectors, as_the_network(model, dataset), rtol=1e-4, atol=1e-5)
    assert found.vectors.dtype == np.float32
    assert found.labels is dataset.labels
    assert found.classes == ["a", "b"]
    assert repr(found) == "Features(23 vectors of 16, 2 classes)"


def test_a_head_trained_on_features_is_the_head_trained_on_images(model, dataset):
    start = {name: array.copy() for name, array in model.state_dict().items()}
    options = dict(epochs=3, loss=F.binary_cross_entropy_with_logits, progress=False)

    def loader(dataset, transform):
        return DataLoader(dataset, 5, transform, shuffle=True, seed=1)

    on_images = fit(model, loader(dataset, PREPARE), optim.Adam(model.fc.parameters(), 0.01), **options)
    expected = {name: array.copy() for name, array in model.state_dict().items()}
    model.load_state_dict(start)
    batches = loader(features(model, dataset, PREPARE), None)
    on_features = fit(OnFeatures(model), batches, optim.Adam(model.fc.parameters(), 0.01), **options)
    assert [row.loss for row in on_features.steps] == pytest.approx([row.loss for row in on_images.steps], abs=1e-5)
    for name, array in model.state_dict().items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-3, atol=1e-4, err_msg=name)
    assert np.abs(expected["fc.0.weight"] - start["fc.0.weight"]).max() > 1e-3  # and it did learn


def test_a_network_on_features_has_the_names_of_the_network(model):
    state = OnFeatures(model).state_dict()
    assert list(state) == list(model.state_dict())
    assert all(state[name] is array for name, array in model.state_dict().items())


# The cache


def test_the_cache_is_used_for_the_same_and_for_nothing_else(model, dataset, tmp_path):
    ran = []
    model.layer1.register_forward_hook(lambda *args: ran.append(1))  # the fused copy is hooked, too

    def computed(model=model, dataset=dataset, transform=PREPARE):
        ran.clear()
        found = features(model, dataset, transform, cache=tmp_path, batch_size=23)
        np.testing.assert_allclose(found.vectors, as_the_network(model, dataset, transform), rtol=1e-4, atol=1e-5)
        return len(ran) > 1  # once by the check itself

    assert computed()
    assert not computed()
    models.replace_head(model, 3)  # another head sees the same
    assert not computed()
    assert computed(transform=Compose([Rescale(), Normalize([0.5] * 3, [0.5] * 3)]))
    assert computed(dataset=Subset(dataset, np.arange(22)))
    assert computed(dataset=Subset(dataset, np.arange(22)[::-1]))
    changed = ArrayDataset(dataset.images.copy(), dataset.labels, dataset.classes)
    assert not computed(dataset=changed)
    changed.images[7, 3, 3, 0] ^= 1
    assert computed(dataset=changed)
    model.layer3[0].bn2.running_var.data[0] += 1
    assert computed()
    model.conv1.weight.data[0, 0, 0, 0] += 1
    assert computed()
    assert not computed()


def test_a_folder_that_changed_is_another(model, tmp_path):
    for i in range(3):
        (tmp_path / "photos" / "a").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (80 * i, 0, 0)).save(tmp_path / "photos" / "a" / f"{i}.bmp")

    def found():
        return features(model, ImageFolder(tmp_path / "photos"), PREPARE, cache=tmp_path / "cache").vectors

    before = found()
    assert np.array_equal(found(), before)
    assert len(list((tmp_path / "cache").iterdir())) == 1
    path = tmp_path / "photos" / "a" / "1.bmp"
    time = path.stat().st_mtime_ns
    Image.new("RGB", (8, 8), "white").save(path)  # of the same size in bytes
    os.utime(path, ns=(time + 1, time + 1))
    after = found()
    assert np.array_equal(after[[0, 2]], before[[0, 2]])
    assert not np.allclose(after[1], before[1])


def test_a_damaged_cache_is_made_afresh(model, dataset, tmp_path):
    expected = features(model, dataset, PREPARE, cache=tmp_path).vectors
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    for damaged in (content[:-100], b"", b"something else"):
        path.write_bytes(damaged)
        assert np.array_equal(features(model, dataset, PREPARE, cache=tmp_path).vectors, expected)
        assert path.read_bytes() == content


def test_what_cannot_be_told_apart_is_not_cached(model, dataset, tmp_path):
    with pytest.raises(TypeError, match=r"transforms that say what they do, as those of tinyres\.data, got <function"):
        features(model, dataset, lambda image, rng: image, cache=tmp_path)

    class Own:
        classes, labels = dataset.classes, dataset.labels

        def __len__(self):
            return 23

        def image(self, index):
            return dataset.image(index)

    with pytest.raises(TypeError, match="needs an ImageFolder, an ArrayDataset or a Subset of one, got a Own"):
        features(model, Own(), PREPARE, cache=tmp_path)
    assert len(features(model, Own(), Compose([RandomHorizontalFlip(), *PREPARE.transforms]))) == 23
    assert not list(tmp_path.iterdir())
