"""A recipe: everything that must be said to train a network and to use it afterwards, as plain data.

The commands build their models, loaders and optimisers from one, and a checkpoint keeps it, so that evaluating or
predicting needs no more than the file.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from tinyres import functional as F
from tinyres import models, optim
from tinyres.backend import manual_seed
from tinyres.data import DataLoader, Dataset, ImageFolder, Subset, cifar10, cifar100, digits, transforms
from tinyres.nn import Module
from tinyres.training.loop import Loss

OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("cosine", "multistep", "constant")
DEVICES = ("cpu", "cuda")


class Plain:
    """A frozen dataclass as plain data, and back."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)  # type: ignore[call-overload,no-any-return]

    @classmethod
    def describes(cls, values: dict[str, Any]) -> bool:
        """Whether `values` can come from this class's `to_dict`."""
        return set(values) == {f.name for f in fields(cls)}  # type: ignore[arg-type]

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """What `to_dict` described; of what JSON gives back, lists become tuples again."""
        if not cls.describes(values):
            raise ValueError(
                "this checkpoint keeps no recipe of tinyres's commands: it was not written by 'tinyres train'"
            )
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


@dataclass(frozen=True)
class Recipe(Plain):
    """How to train a network.

    data: "digits" (embedded), "cifar10", "cifar100", or a folder that holds train/ and test/, one subfolder a class.
    train_images: how many training images to use, 0 for all. image_size: side to resize and crop to, 0 for the
    images' own. The last three, the facts of the data, `prepared` finds out.
    """

    model: str = "resnet20"
    model_options: dict[str, Any] = field(default_factory=dict)
    data: str = "digits"
    train_images: int = 0
    image_size: int = 0
    augment: bool = True
    epochs: int = 10
    batch_size: int = 32
    optimizer: str = "sgd"
    lr: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: str = "cosine"
    warmup_steps: int = 0
    seed: int = 0
    device: str = "cpu"
    classes: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name, value, choices in [
            ("model", self.model, models.names()),
            ("optimizer", self.optimizer, OPTIMIZERS),
            ("schedule", self.schedule, SCHEDULES),
            ("device", self.device, DEVICES),
        ]:
            if value not in choices:
                raise ValueError(f"{name} is {value!r}, expected one of {', '.join(choices)}")
        for least, names in {1: ("epochs", "batch_size"), 0: ("train_images", "image_size", "warmup_steps")}.items():
            for name in names:
                if getattr(self, name) < least:
                    raise ValueError(f"{name} is {getattr(self, name)}, expected at least {least}")

    def prepared(self) -> Recipe:
        """This recipe with what the data tells: classes, the images' size, their mean and std."""
        dataset = self.dataset(train=True)
        sample = [dataset.image(int(i)) for i in np.linspace(0, len(dataset) - 1, min(500, len(dataset)))]
        sizes = {image.shape[:2] for image in sample}
        common = min(sizes.pop()) if len(sizes) == 1 else 224  # photographs of many sizes: ImageNet's
        thinned = [image[:: -(-len(image) // 64), :: -(-image.shape[1] // 64)] for image in sample]
        pixels = np.concatenate([image.reshape(-1, image.shape[2]) for image in thinned]) / 255  # (P, C)
        mean, std = pixels.mean(axis=0), np.maximum(pixels.std(axis=0), 1e-3)
        return replace(
            self,
            classes=tuple(dataset.classes),
            image_size=self.image_size or common,
            mean=tuple(round(float(value), 4) for value in mean),
            std=tuple(round(float(value), 4) for value in std),
        )

    # What a prepared recipe makes

    def build_model(self) -> Module:
        """The network, freshly initialised from the seed, on the recipe's device."""
        manual_seed(self.seed)
        options = dict(num_classes=len(self.classes), in_channels=len(self.mean)) | self.model_options
        return models.get(self.model, **options).to(self.device)

    def dataset(self, train: bool) -> Dataset:
        """The training or test images; ValueError if their classes are not the recipe's."""
        part = "train" if train else "test"
        if self.data == "digits":
            dataset: Dataset = digits(train)
        elif self.data in ("cifar10", "cifar100"):
            dataset = (cifar10 if self.data == "cifar10" else cifar100)(train=train)
        elif Path(self.data).is_dir():
            dataset = ImageFolder(Path(self.data) / part)
        else:
            raise FileNotFoundError(
                f"data is {self.data!r}, expected digits, cifar10, cifar100 or a folder that holds train/ and test/"
            )
        if self.classes and tuple(dataset.classes) != self.classes:
            theirs, mine = ", ".join(dataset.classes), ", ".join(self.classes)
            raise ValueError(f"data: the {part} images of {self.data} have the classes {theirs}, expected {mine}")
        if train and 0 < self.train_images < len(dataset):
            chosen = np.random.default_rng(self.seed).permutation(len(dataset))[: self.train_images]
            return Subset(dataset, np.sort(chosen))
        return dataset

    def transform(self, train: bool) -> transforms.Transform:
        """From a stored image (H, W, C) to the network's input: augmented, if asked, in training."""
        size = self.image_size
        steps: list[transforms.Transform] = [transforms.Resize(size), transforms.CenterCrop(size)]
        if train and self.augment:
            steps += [transforms.RandomCrop(size, padding=size // 8)]
            steps += [transforms.RandomHorizontalFlip()] if self.data != "digits" else []  # a mirrored 3 is no 3
        return transforms.Compose([*steps, transforms.Rescale(), transforms.Normalize(self.mean, self.std)])

    def loader(self, train: bool) -> DataLoader:
        """Batches of the training images, shuffled by the seed, or of the test images in order."""
        batch_size = self.batch_size if train else 250
        return DataLoader(self.dataset(train), batch_size, self.transform(train), shuffle=train, seed=self.seed)

    def build_optimizer(self, model: Module) -> optim.Optimizer:
        """SGD with momentum, or AdamW; norms and biases are spared weight decay by AdamW, as is usual there."""
        if self.optimizer == "adamw":
            return optim.AdamW(optim.no_decay_groups(model, self.weight_decay), self.lr)
        return optim.SGD(model.parameters(), self.lr, self.momentum, weight_decay=self.weight_decay)

    @property
    def loss(self) -> Loss:
        return F.cross_entropy

    def build_scheduler(self, optimizer: optim.Optimizer, steps: int) -> optim.lr_scheduler.LRScheduler | None:
        """The learning rate over `steps` batches: a half cosine, or tenfold down at 1/2 and 3/4 (He et al. 2015, §4.2:
        32k and 48k of 64k), after a linear warm-up."""
        main: optim.lr_scheduler.LRScheduler | None = None
        rest = max(steps - self.warmup_steps, 1)
        if self.schedule == "cosine":
            main = optim.lr_scheduler.CosineAnnealingLR(optimizer, rest)
        elif self.schedule == "multistep":
            main = optim.lr_scheduler.MultiStepLR(optimizer, [rest // 2, rest * 3 // 4])
        if not self.warmup_steps:
            return main
        warmup = optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=self.warmup_steps)
        return optim.lr_scheduler.SequentialLR(
            optimizer, [warmup, main or optim.lr_scheduler.StepLR(optimizer, steps + 1)], [self.warmup_steps]
        )
