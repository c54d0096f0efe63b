"""Networks in their parts: new heads on old trunks, and the maps of all stages."""

from __future__ import annotations

import numpy as np
import pytest

import tinyres
from tinyres import models, nn
from tinyres.models.trunk import pooled


def images(side, seed=0, count=2):
    return tinyres.Tensor(np.random.default_rng(seed).normal(size=(count, 3, side, side)).astype(np.float32))


@pytest.mark.parametrize(
    ("name", "side", "expected"),
    [
        ("resnet18", 64, [(64, 16), (128, 8), (256, 4), (512, 2)]),
        ("resnet50", 64, [(256, 16), (512, 8), (1024, 4), (2048, 2)]),
        ("resnet20", 32, [(16, 32), (32, 16), (64, 8)]),
        ("plain20", 32, [(16, 32), (32, 16), (64, 8)]),
        ("preact_resnet20", 32, [(16, 32), (32, 16), (64, 8)]),
    ],
)
def test_the_maps_of_all_stages(name, side, expected):
    tinyres.manual_seed(0)
    model = models.get(name).eval()
    backbone = models.features(model)
    with tinyres.no_grad():
        maps = backbone(images(side))
        assert [m.shape for m in maps] == [(2, channels, s, s) for channels, s in expected]
        np.testing.assert_array_equal(maps[-1].numpy(), model.forward_features(images(side)).numpy())
        seen = []
        handles = [
            getattr(model, f"layer{i}").register_forward_hook(lambda *args: seen.append(args[2])) for i in (1, 2)
        ]
        model(images(side))
        for handle in handles:
            handle.remove()
        for own, through_hook in zip(maps, seen, strict=False):
            np.testing.assert_array_equal(own.numpy(), through_hook.numpy())


def test_a_backbone_shares_the_trunk_and_lacks_the_head():
    model = models.resnet20(width=0.25)
    backbone = models.features(model)
    own = {id(parameter) for parameter in backbone.parameters()}
    assert own == {id(p) for name, p in model.named_parameters() if not name.startswith("fc.")}
    assert hasattr(model, "fc")
    sum(m.sum() for m in backbone(images(8))).backward()
    assert model.conv1.weight.grad is not None


@pytest.mark.parametrize("name", ["resnet20", "resnet50", "preact_resnet20"])
def test_a_new_head_is_made_of_linear_layers_behind_the_pooling(name):
    model = models.get(name)
    channels = model.fc.in_features
    assert models.replace_head(model, 7, 3) is model
    assert [type(layer) for layer in model.fc] == [nn.Linear, nn.ReLU, nn.Linear]
    assert [layer.weight.shape for layer in (model.fc[0], model.fc[2])] == [(7, channels), (3, 7)]
    assert "fc.2.bias" in model.state_dict()
    models.replace_head(model, 1)  # a new one in place of the new one
    assert model.fc.weight.shape == (1, channels)
    x = images(32)
    with tinyres.no_grad():
        model.eval()
        maps = model.forward_features(x).numpy()
        expected = maps.mean(axis=(2, 3)) @ model.fc.weight.numpy().T + model.fc.bias.numpy()
        np.testing.assert_allclose(model(x).numpy(), expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(pooled(model, x).numpy(), maps.mean(axis=(2, 3)), rtol=1e-5, atol=1e-6)


def test_bad_arguments_get_a_sentence():
    with pytest.raises(ValueError, match="widths is empty, expected at least the number of outputs"):
        models.replace_head(models.resnet20())
    for function in (models.features, lambda model: models.replace_head(model, 2)):
        with pytest.raises(TypeError, match="networks, with trunk and head, got a Linear"):
            function(nn.Linear(2, 2))
