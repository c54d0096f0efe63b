"""Transfer: what was learnt from a million pictures, for the few of one's own (Yosinski et al. 2014).

The trunk of a trained network is frozen, and a new head is trained on what the trunk sees. Then, if that is not
enough, its last stages go on learning, at a tenth of the head's rate.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tinyres import functional as F
from tinyres import models, nn, optim
from tinyres.autograd import Tensor
from tinyres.backend import manual_seed
from tinyres.data import DataLoader, Dataset, ImageFolder, Subset, transforms
from tinyres.models.match import HEAD
from tinyres.nn import Module
from tinyres.training.features import OnFeatures, features
from tinyres.training.history import History
from tinyres.training.loop import Loss, fit
from tinyres.training.recipe import DEVICES, Plain

# Keras's ResNets take values to 255 less a mean, and blue first: this is its `preprocess_input`, but for the order.
KERAS = models.Preprocessing(224, 224, mean=(123.68 / 255, 116.779 / 255, 103.939 / 255), std=(1 / 255,) * 3)
HELD_OUT = ("validation", "valid", "val", "test")  # what the folder beside train/ may be called
SHARE = 0.2  # of the images, to test on, where no such folder is there
SLOWER = 0.1  # factor on the learning rate of what was trained before


@dataclass(frozen=True)
class Transfer(Plain):
    """How to fine-tune a trained network to a folder of images.

    data: a folder of class folders, or one that holds train/ and validation/ or test/, each a folder of class folders.
    weights: a file or a name, see `models.get`; their head is not used. hidden: width of the new head's hidden layer,
    0 for none. unfreeze: stages that go on learning, such as "layer4". augment: mirror, and turn by up to 40°.
    image_size: side to resize and crop to, 0 for what the network was made for. model_options, and from `classes` on
    all others, follow from data and weights: `prepared` finds them out.
    """

    data: str
    model: str = "resnet50"
    weights: str = ""
    model_options: dict[str, Any] = field(default_factory=dict)
    hidden: int = 256
    unfreeze: tuple[str, ...] = ()
    augment: bool = False
    image_size: int = 0
    epochs: int = 5
    batch_size: int = 32
    lr: float = 1e-3
    workers: int = 2
    seed: int = 0
    device: str = "cpu"
    classes: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    blue_first: bool = False

    def __post_init__(self) -> None:
        for name, value, choices in (("model", self.model, models.names()), ("device", self.device, DEVICES)):
            if value not in choices:
                raise ValueError(f"{name} is {value!r}, expected one of {', '.join(choices)}")

    def prepared(self, dataset: Dataset) -> Transfer:
        """This with the classes of `dataset`, and with what the weights were trained on, where it is known."""
        if len(dataset.classes) < 2:
            raise ValueError(f"{self.data} has one class, {dataset.classes[0]}, expected at least two to tell apart")
        found = models.find(self.weights, self.model)
        keras = found.kind == "Keras HDF5"
        side = 224 if getattr(models, self.model).build is models.ResNet else 32
        known = KERAS if keras else found.preprocessing or models.Preprocessing(side, side)
        return replace(
            self,
            model_options=dict(found.options),
            classes=tuple(dataset.classes),
            image_size=self.image_size or known.crop,
            mean=known.mean,
            std=known.std,
            blue_first=keras,
        )

    def folders(self) -> list[ImageFolder]:
        """What `data` holds: the images to train on and those to test on, or one folder of both."""
        root = Path(self.data)
        beside = next((root / name for name in HELD_OUT if (root / name).is_dir()), None)
        if beside is None or not (root / "train").is_dir():
            return [ImageFolder(root)]
        return [ImageFolder(root / "train"), ImageFolder(beside)]

    def datasets(self, folders: list[ImageFolder]) -> tuple[Dataset, Dataset]:
        """Images to train and to test on: the two folders, or a split by the seed that takes a fifth of each class.

        Raises ValueError if they have different classes, or others than those found out before.
        """
        expected = self.classes or tuple(folders[0].classes)
        for folder in folders:
            if tuple(folder.classes) != expected:
                theirs, mine = ", ".join(folder.classes), ", ".join(expected)
                raise ValueError(f"{folder.root} has the classes {theirs}, expected {mine}")
        if len(folders) == 1:
            return split(folders[0], SHARE, self.seed)
        train, test = folders
        return train, test

    def transform(self, train: bool) -> transforms.Transform:
        """From a stored image (H, W, C) to the network's input: augmented, if asked, in training."""
        steps: list[transforms.Transform] = [transforms.Resize(self.image_size), transforms.CenterCrop(self.image_size)]
        if train and self.augment:
            steps += [transforms.RandomHorizontalFlip(), transforms.RandomRotation(40)]
        return transforms.Compose([*steps, transforms.Rescale(), transforms.Normalize(self.mean, self.std)])

    def loader(self, train: bool, dataset: Dataset | None = None) -> DataLoader:
        """Batches of the training images, shuffled by the seed, or of the test images in order."""
        dataset = dataset or self.datasets(self.folders())[0 if train else 1]
        size = self.batch_size if train else 64
        return DataLoader(dataset, size, self.transform(train), shuffle=train, seed=self.seed, workers=self.workers)

    def build_model(self, **weights: Any) -> Module:
        """The network with its new head, freshly initialised from the seed: for two classes, one output."""
        manual_seed(self.seed)
        outputs = len(self.classes) if len(self.classes) > 2 else 1
        widths = (self.hidden, outputs) if self.hidden else (outputs,)
        return models.replace_head(models.get(self.model, **self.model_options, **weights), *widths).to(self.device)

    def pretrained_model(self) -> Module:
        """That network with the trained trunk, frozen up to the stages that are to go on learning."""
        model = self.build_model(weights=self.weights, strict=False)
        match = model.pretrained.match  # type: ignore[attr-defined]
        if match.left_over or not {*match.missing, *(name for name, *_ in match.misshaped)} <= HEAD:
            raise ValueError(match.complaint())
        if self.blue_first:  # a first kernel in the reverse order makes it a network for red, green, blue
            model.conv1.weight.data[...] = model.conv1.weight.data[:, ::-1].copy()  # type: ignore[attr-defined]
        nn.freeze(model)
        nn.unfreeze(model.fc)  # type: ignore[attr-defined]
        for stage in self.unfreeze:
            if not stage.startswith("layer") or not hasattr(model, stage):
                known = [name for name, _ in model.named_children() if name.startswith("layer")]
                raise ValueError(f"unfreeze is {stage!r}, expected one of {', '.join(known)}")
            nn.unfreeze(getattr(model, stage))
        return model

    def build_optimizer(self, model: Module) -> optim.Optimizer:
        """Adam: the head at `lr`, the stages that go on learning at a tenth of it."""
        groups = [{"params": model.fc.parameters()}]  # type: ignore[attr-defined]
        groups += [{"params": getattr(model, name).parameters(), "lr": SLOWER * self.lr} for name in self.unfreeze]
        return optim.Adam(groups, self.lr)

    @property
    def loss(self) -> Loss:
        return F.binary_cross_entropy_with_logits if len(self.classes) == 2 else F.cross_entropy


def fine_tune(
    transfer: Transfer, train: Dataset, test: Dataset, output: str | os.PathLike[str], resume: bool = False
) -> tuple[Module, History]:
    """Train as a prepared `transfer` says, writing what `fit` writes to `output`. Returns the network and its history.

    Where nothing of the trunk learns and nothing is augmented, its features are computed once, and kept in `output`.
    """
    model = transfer.pretrained_model()
    network: Module = model
    loaders = [transfer.loader(True, train), transfer.loader(False, test)]
    if not transfer.augment and not transfer.unfreeze:
        network = OnFeatures(model)
        for loader in loaders:
            loader.dataset = features(
                model, loader.dataset, loader.transform, workers=transfer.workers, cache=output, progress=True
            )
            loader.transform = None
    history = fit(
        network,
        loaders[0],
        transfer.build_optimizer(model),
        transfer.epochs,
        loss=transfer.loss,
        validation=loaders[1],
        output=output,
        resume=resume,
        configuration=transfer.to_dict(),
    )
    return model, history


def split(dataset: Dataset, share: float, seed: int) -> tuple[Subset, Subset]:
    """Two subsets, drawn by the seed: the second has `share` of each class, at least one image where there are two."""
    rng = np.random.default_rng(seed)
    test: list[int] = []
    for label in range(len(dataset.classes)):
        mine = rng.permutation(np.flatnonzero(dataset.labels == label))
        test += mine[: max(round(share * len(mine)), min(1, len(mine) - 1))].tolist()
    chosen = np.zeros(len(dataset), bool)
    chosen[test] = True
    return Subset(dataset, np.flatnonzero(~chosen)), Subset(dataset, np.flatnonzero(chosen))


class TwoLogits(Module):
    """One logit z for two classes as two, −z/2 and z/2: (N, 1) → (N, 2). Their softmax is (1 − σ(z), σ(z))."""

    def forward(self, z: Tensor) -> Tensor:
        return F.cat([-0.5 * z, 0.5 * z], 1)
