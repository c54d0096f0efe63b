"""Really trained CIFAR-10 networks, saved by PyTorch and read without it, on real images."""

from __future__ import annotations

import numpy as np
import pytest

import tinyres
from oracle import cifar, reference
from tinyres import models

torch = pytest.importorskip("torch", reason="PyTorch (extra 'oracle') is not installed")

BATCH = 200


def predictions(net, images):
    """The largest logit's class for each image."""
    logits = [np.asarray(net(images[start : start + BATCH])) for start in range(0, len(images), BATCH)]
    return np.concatenate(logits).argmax(axis=1)


@pytest.mark.parametrize(
    ("depth", "file", "expected"),
    [(20, "resnet20-12fca82f.th", 81.35), (56, "resnet56-4bfd9763.th", 83.15)],
)
def test_predictions_equal_torch(depth, file, expected):
    path = cifar.shared(f"weights/{file}")
    images, labels = cifar.images("test", np.random.default_rng(0).choice(10_000, 2_000, replace=False))

    model = models.get(f"resnet{depth}", weights=path).eval()

    net = reference.CifarResNet(depth).eval()
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    state = {key.removeprefix("module.").replace("linear.", "fc."): tensor for key, tensor in state.items()}
    missing = net.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys
    assert all(key.endswith("num_batches_tracked") for key in missing.missing_keys)  # files older than that buffer

    with torch.no_grad(), tinyres.no_grad():
        own = predictions(lambda x: model(tinyres.Tensor(x)).numpy(), images)
        theirs = predictions(lambda x: net(torch.tensor(x)), images)
    same = np.sum(own == theirs)
    ours_right, theirs_right = 100 * np.mean(own == labels), 100 * np.mean(theirs == labels)
    print(f"resnet{depth}: {ours_right:.2f} % right, PyTorch {theirs_right:.2f} %, {same} of 2000 predictions alike")
    assert same >= 1_999
    assert abs(ours_right - expected) <= 0.2
    assert abs(theirs_right - expected) <= 0.2
