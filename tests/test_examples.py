"""The scripts of examples/ do what they say."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tinyres
from tinyres import models
from tinyres.models import save_state_dict_file

EXAMPLES = Path(__file__).parents[1] / "examples"


def example(name):
    """The script as a module."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("name", "side"), [("resnet56", 32), ("resnet50", 224)])
def test_cats_and_dogs_with_either_network(name, side, tmp_path):
    """Two steps of four images: the same script, the CIFAR network or the ImageNet one, with random weights."""
    rng = np.random.default_rng(0)
    for part, count in ("train", 4), ("test", 1):
        for animal in ("cat", "dog"):
            (tmp_path / part / animal).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (40 + i, 30, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / animal / f"{i}.jpg")
    tinyres.manual_seed(1)
    save_state_dict_file(models.get(name).state_dict(), tmp_path / "weights.safetensors")
    weights = tmp_path / "weights.safetensors"
    history = example("cats_and_dogs").main(tmp_path, weights, name, side, batch_size=4, epochs=1)
    assert [row.images for row in history.steps] == [4, 4]
    assert np.isfinite(history.epochs[0].val_loss)


def test_cats_and_dogs_is_as_short_as_the_tutorials():
    assert len((EXAMPLES / "cats_and_dogs.py").read_text().splitlines()) <= 25


def test_segmentation_learns_shapes(tmp_path):
    everywhere, of_shapes = example("segmentation").main(steps=40, picture=tmp_path / "seen.png")
    assert everywhere > 0.85
    assert of_shapes > 0.25  # background everywhere would be 0
    assert (tmp_path / "seen.png").stat().st_size > 10_000
