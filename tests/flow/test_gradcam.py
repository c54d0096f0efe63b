"""Grad-CAM: the map, and that it leaves no trace."""

from __future__ import annotations

import numpy as np
import pytest

import tinyres
from tinyres import Tensor, flow, models
from tinyres import functional as F


@pytest.fixture
def model():
    tinyres.manual_seed(0)
    model = models.CifarResNet(8, width=0.5, in_channels=1)
    model(Tensor(images(16)))  # running statistics that are not those of the start
    return model.to("float64")


def images(count=3, size=16):
    return np.random.default_rng(0).standard_normal((count, 1, size, size), dtype=np.float32)


def state(model):
    """All that could change, as bytes."""
    arrays = {name: array.tobytes() for name, array in model.state_dict().items()}
    gradients = {name: None if p.grad is None else p.grad.data.tobytes() for name, p in model.named_parameters()}
    modes = {name: (m.training, list(m._forward_hooks)) for name, m in model.named_modules()}
    return arrays, gradients, modes, tinyres.backend.get_rng_state()


def features(model, x):
    return model.layer2(model.layer1(model.relu(model.bn1(model.conv1(Tensor(x.astype("float64")))))))


def test_before_mean_and_linear_layer_it_is_the_class_activation_map(model):
    """Selvaraju et al. 2017, §3.1: Σ_k w_k A^k with the head's own weights, which α differ from by 1/(h·w)."""
    heat = flow.gradcam(model, images(), target=[3, 1, 4])
    a = model.eval().layer3(features(model, images())).data  # (N, K, h, w)
    weights = model.fc.weight.data[[3, 1, 4]]  # (N, K)
    expected = np.maximum(np.einsum("nk,nkhw->nhw", weights, a), 0) / (a.shape[2] * a.shape[3])
    assert heat.shape == (3, 4, 4)
    np.testing.assert_allclose(heat, expected, rtol=1e-12, atol=1e-15)


def test_at_an_inner_layer_it_is_the_formula(model):
    heat = flow.gradcam(model, images(), target=5, layer="layer2")
    model.eval()
    a = Tensor(features(model, images()).data, requires_grad=True)
    scores = model.fc(model.flatten(model.avgpool(model.layer3(a))))
    F.sum(scores[:, 5]).backward()
    alpha = a.grad.data.mean(axis=(2, 3))
    expected = np.maximum(np.einsum("nk,nkhw->nhw", alpha, a.data), 0)
    assert heat.shape == (3, 8, 8)
    assert expected.max() > 0
    np.testing.assert_allclose(heat, expected, rtol=1e-10, atol=1e-15)


def test_the_highest_score_is_the_default(model):
    predicted = model.eval()(Tensor(images().astype("float64"))).data.argmax(axis=1)
    np.testing.assert_array_equal(flow.gradcam(model, images()), flow.gradcam(model, images(), predicted))
    np.testing.assert_array_equal(flow.gradcam(model, images()), flow.gradcam(model, images(), Tensor(predicted)))


def test_the_model_is_as_it_was(model):
    loss = F.cross_entropy(model.train()(Tensor(images().astype("float64"))), np.array([0, 1, 2]))
    loss.backward()
    model.bn1.weight.grad = None
    model.layer1.eval()
    before = state(model)
    flow.gradcam(model, images())
    with pytest.raises(ValueError):
        flow.gradcam(model, images(), target=10)
    assert state(model) == before


def test_frozen_checkpointed_and_under_no_grad_it_is_the_same(model):
    expected = flow.gradcam(model, images())
    for block in (*model.layer1, *model.layer2, *model.layer3):
        tinyres.checkpoint(block)
    np.testing.assert_array_equal(flow.gradcam(model, images()), expected)
    with tinyres.no_grad():
        np.testing.assert_array_equal(flow.gradcam(model.requires_grad_(False), images()), expected)


@pytest.mark.parametrize("network", [models.preact_resnet20, models.plain20, models.resnet18])
def test_the_last_stage_is_found_in_other_networks(network):
    size = 64 if network is models.resnet18 else 16
    model = network(num_classes=4).eval()
    x = np.random.default_rng(0).standard_normal((1, 3, size, size), dtype=np.float32)
    a = model.forward_features(Tensor(x)).data
    heat = flow.gradcam(model, x, target=2)
    expected = np.maximum(np.einsum("k,nkhw->nhw", model.fc.weight.data[2], a), 0) / (a.shape[2] * a.shape[3])
    np.testing.assert_allclose(heat, expected, rtol=1e-4, atol=1e-6)


def test_on_a_gpu_it_is_the_same(model, cupy):
    expected = flow.gradcam(model, images(), target=[3, 1, 4])
    heat = flow.gradcam(model.to("cuda"), images(), target=[3, 1, 4])
    assert type(heat) is np.ndarray
    np.testing.assert_allclose(heat, expected, rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(layer="layer9"), r"layer is 'layer9', expected one of conv1, bn1"),
        (dict(layer="fc"), r"layer fc gives no maps, expected one whose output is \(N, K, h, w\)"),
        (dict(target=10), "target is 10, expected a class below 10, or one for each of 3 images"),
        (dict(target=[1, 2]), r"target is \[1, 2\], expected a class below 10"),
        (dict(target=-1), "target is -1"),
        (dict(target=0.5), "target is 0.5"),
    ],
)
def test_what_it_cannot_do_it_says(model, options, message):
    with pytest.raises(ValueError, match=message):
        flow.gradcam(model, images(), **options)
