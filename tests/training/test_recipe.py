"""Recipe: plain data that says how to train, and the parts it makes."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tinyres import optim
from tinyres.data import digits, transforms
from tinyres.models import CifarResNet, ResNet
from tinyres.nn import Parameter
from tinyres.training.recipe import Recipe


def kinds(transform):
    return [type(step) for step in transform.transforms]


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def photographs(tmp_path):
    """A folder of random photographs in two classes: those of height 12 and width 20 in train/, one each in test/."""
    rng = np.random.default_rng(0)
    for part, count in ("train", 3), ("test", 1):
        for name in ("cat", "dog"):
            for i in range(count):
                save(tmp_path / part / name / f"{i}.png", rng.integers(0, 256, (12, 20, 3), dtype=np.uint8))
    return tmp_path


# What the data tells


def test_prepared_knows_the_digits():
    recipe = Recipe().prepared()
    assert recipe.classes == tuple("0123456789")
    assert recipe.image_size == 28
    images = digits().images / 255
    assert recipe.mean == pytest.approx([images.mean()], abs=0.01)  # of a sample of the images
    assert recipe.std == pytest.approx([images.std()], abs=0.01)


def test_prepared_facts_of_photographs(photographs):
    recipe = Recipe(data=str(photographs)).prepared()
    assert recipe.classes == ("cat", "dog")
    assert recipe.image_size == 12  # the shorter side: no image grows
    pixels = np.concatenate([np.asarray(Image.open(path)) for path in (photographs / "train").rglob("*.png")]) / 255
    np.testing.assert_allclose(recipe.mean, pixels.mean(axis=(0, 1)), atol=1e-4)
    np.testing.assert_allclose(recipe.std, pixels.std(axis=(0, 1)), atol=1e-4)


def test_prepared_leaves_a_size_that_was_said(photographs):
    assert Recipe(data=str(photographs), image_size=8).prepared().image_size == 8


def test_photographs_of_many_sizes_are_brought_to_224(photographs):
    save(photographs / "train" / "dog" / "tall.png", np.zeros((100, 30, 3), np.uint8))
    assert Recipe(data=str(photographs)).prepared().image_size == 224


def test_images_of_one_colour_do_not_divide_by_zero(tmp_path):
    save(tmp_path / "train" / "black" / "0.png", np.zeros((8, 8, 3), np.uint8))
    recipe = Recipe(data=str(tmp_path)).prepared()
    assert recipe.mean == (0, 0, 0)
    assert min(recipe.std) > 0


# Plain data


def test_through_json_and_back():
    recipe = Recipe(
        model="plain20", model_options={"width": 0.5, "shortcut": "B"}, optimizer="adamw", lr=1e-3, seed=7
    ).prepared()
    again = Recipe.from_dict(json.loads(json.dumps(recipe.to_dict())))
    assert again == recipe


@pytest.mark.parametrize("change", ["nothing", "less", "more"])
def test_other_dictionaries_are_refused(change):
    values = {"nothing": {}, "less": Recipe().to_dict(), "more": Recipe().to_dict() | {"colour": "red"}}[change]
    if change == "less":
        del values["lr"]
    with pytest.raises(ValueError, match="keeps no recipe"):
        Recipe.from_dict(values)


# Images and batches


@pytest.mark.parametrize(("augment", "train"), [(True, True), (True, False), (False, True)])
def test_digits_are_moved_in_training_but_never_mirrored(augment, train):
    steps = kinds(replace(Recipe().prepared(), augment=augment).transform(train))
    assert (transforms.RandomCrop in steps) == (augment and train)
    assert transforms.RandomHorizontalFlip not in steps
    assert steps[-2:] == [transforms.Rescale, transforms.Normalize]


def test_photographs_are_moved_and_mirrored_in_training_only(photographs):
    recipe = Recipe(data=str(photographs)).prepared()
    assert {transforms.RandomCrop, transforms.RandomHorizontalFlip} <= set(kinds(recipe.transform(train=True)))
    assert not {transforms.RandomCrop, transforms.RandomHorizontalFlip} & set(kinds(recipe.transform(train=False)))


def test_a_test_image_is_only_scaled():
    recipe = Recipe().prepared()
    ((images, labels), *_) = recipe.loader(train=False)
    expected = (digits(train=False).images[:250] / 255 - recipe.mean[0]) / recipe.std[0]
    np.testing.assert_allclose(images, expected.transpose(0, 3, 1, 2), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(labels, digits(train=False).labels[:250])


def test_photographs_of_all_sizes_come_in_one(photographs):
    save(photographs / "train" / "dog" / "tall.png", np.zeros((100, 30, 3), np.uint8))
    recipe = Recipe(data=str(photographs), image_size=16, batch_size=4).prepared()
    assert [images.shape for images, _ in recipe.loader(train=True)] == [(4, 3, 16, 16), (3, 3, 16, 16)]
    assert [images.shape for images, _ in recipe.loader(train=False)] == [(2, 3, 16, 16)]


def test_a_part_of_the_images_is_drawn_by_the_seed():
    def chosen(seed):
        dataset = Recipe(train_images=50, seed=seed).dataset(train=True)
        assert len(dataset) == 50
        return np.stack([dataset.image(i) for i in range(50)])

    np.testing.assert_array_equal(chosen(0), chosen(0))
    assert (chosen(0) != chosen(1)).any()
    assert len({image.tobytes() for image in chosen(0)}) == 50  # no image twice
    assert len(Recipe(train_images=50).dataset(train=False)) == 1000


@pytest.mark.parametrize("train_images", [0, 4000, 10**6])
def test_all_images(train_images):
    assert len(Recipe(train_images=train_images).dataset(train=True)) == 4000


def test_training_batches_are_shuffled_by_the_seed():
    def labels(seed):
        return np.concatenate([labels for _, labels in Recipe(seed=seed, train_images=40).prepared().loader(True)])

    np.testing.assert_array_equal(labels(0), labels(0))
    assert (labels(0) != labels(1)).any()


def test_other_classes_in_test_are_refused(photographs):
    save(photographs / "test" / "bird" / "0.png", np.zeros((12, 20, 3), np.uint8))
    recipe = Recipe(data=str(photographs)).prepared()
    with pytest.raises(ValueError, match=r"the test images of .* have the classes bird, cat, dog, expected cat, dog"):
        recipe.dataset(train=False)


# Network, optimiser, schedule


def test_network_fits_the_data(photographs):
    model = Recipe(model_options={"width": 0.5}).prepared().build_model()
    assert isinstance(model, CifarResNet)
    assert model.conv1.weight.shape == (8, 1, 3, 3)
    assert model.fc.weight.shape == (10, 32)
    model = Recipe(model="resnet18", data=str(photographs)).prepared().build_model()
    assert isinstance(model, ResNet)
    assert model.fc.weight.shape == (2, 512)


def test_the_seed_makes_the_network():
    recipe = Recipe(model_options={"width": 0.25}).prepared()
    weights = [
        replace(recipe, seed=seed).build_model().state_dict()["layer3.2.conv2.weight"].copy() for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(weights[0], weights[1])
    assert (weights[0] != weights[2]).any()


def test_optimizers():
    recipe = Recipe(lr=0.3, momentum=0.8, weight_decay=0.02, model_options={"width": 0.25}).prepared()
    model = recipe.build_model()
    (group,) = recipe.build_optimizer(model).param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.3, 0.8, 0.02)
    assert len(group["params"]) == len(list(model.parameters()))
    adamw = replace(recipe, optimizer="adamw").build_optimizer(model)
    decays = {name: None for name, _ in model.named_parameters()}
    for group in adamw.param_groups:
        for name, parameter in model.named_parameters():
            if any(parameter is other for other in group["params"]):
                decays[name] = group["weight_decay"]
    assert decays["conv1.weight"] == decays["fc.weight"] == 0.02
    assert decays["bn1.weight"] == decays["bn1.bias"] == decays["fc.bias"] == 0


COSINE = {0: 1, 25: (1 + math.sqrt(0.5)) / 2, 50: 0.5, 100: 0}
TENFOLD = {0: 1, 49: 1, 50: 0.1, 74: 0.1, 75: 0.01, 99: 0.01}
WARM = {0: 0.1, 5: 0.55}  # from a tenth, in ten steps


@pytest.mark.parametrize(
    ("schedule", "warmup_steps", "steps", "factors"),
    [
        ("cosine", 0, 100, COSINE),
        ("multistep", 0, 100, TENFOLD),
        ("cosine", 10, 110, WARM | {10 + t: factor for t, factor in COSINE.items()}),
        ("multistep", 10, 110, WARM | {10 + t: factor for t, factor in TENFOLD.items()}),
        ("constant", 10, 110, WARM | {10: 1, 50: 1, 110: 1}),
    ],
)
def test_learning_rates(schedule, warmup_steps, steps, factors):
    optimizer = optim.SGD([Parameter(np.zeros(1, np.float32))], 0.4)
    scheduler = Recipe(schedule=schedule, warmup_steps=warmup_steps).build_scheduler(optimizer, steps)
    for t in range(steps + 1):
        if t in factors:
            assert optimizer.param_groups[0]["lr"] == pytest.approx(0.4 * factors[t], abs=1e-9), t
        scheduler.step()


def test_a_constant_rate_needs_no_schedule():
    optimizer = optim.SGD([Parameter(np.zeros(1, np.float32))], 0.4)
    assert Recipe(schedule="constant").build_scheduler(optimizer, 100) is None


# What goes wrong


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("model", "resnet19", "model is 'resnet19', expected one of .*resnet20"),
        ("optimizer", "lion", "optimizer is 'lion', expected one of sgd, adamw"),
        ("schedule", "linear", "schedule is 'linear', expected one of cosine, multistep, constant"),
        ("device", "tpu", "device is 'tpu', expected one of cpu, cuda"),
        ("epochs", 0, "epochs is 0, expected at least 1"),
        ("batch_size", 0, "batch_size is 0, expected at least 1"),
        ("train_images", -1, "train_images is -1, expected at least 0"),
        ("image_size", -1, "image_size is -1, expected at least 0"),
        ("warmup_steps", -1, "warmup_steps is -1, expected at least 0"),
    ],
)
def test_bad_values(name, value, sentence):
    with pytest.raises(ValueError, match=sentence):
        Recipe(**{name: value})


def test_no_data():
    with pytest.raises(FileNotFoundError, match="data is 'nowhere', expected digits, cifar10, cifar100 or a folder"):
        Recipe(data="nowhere").prepared()
