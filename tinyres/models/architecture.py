"""Networks by name: `resnet50(num_classes=2, weights="IMAGENET1K_V2", strict=False)`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from tinyres.models.match import Match, load
from tinyres.models.pretrained import Preprocessing, find


@dataclass(frozen=True)
class Pretrained:
    """Where a network's weights are from, what of them was loaded, and what one must know to use it.

    preprocessing: how its images are prepared; classes: the names of its outputs. Both only where they are known, and
    the classes only with the head that knows them.
    """

    source: str
    match: Match
    preprocessing: Preprocessing | None
    classes: tuple[str, ...]


class Architecture:
    """A network's name, class and settings. Called, it makes one.

    Args of the call: those of the class (num_classes, in_channels, …), and

        weights: None for fresh ones, a path to a file that `read_weights` knows, or a name: torchvision's
            ("IMAGENET1K_V1"), or a model of timm on the Hugging Face hub ("timm/resnet50.a1_in1k").
        strict: whether every weight has to be the network's, name by name and shape by shape.

    Without `num_classes`, the network has as many outputs as the weights. What was loaded is in its `pretrained`.
    """

    def __init__(self, name: str, build: Any, *arguments: Any, **settings: Any) -> None:
        self.name, self.build, self.arguments, self.settings = name, build, arguments, settings

    def __call__(
        self, *arguments: Any, weights: str | os.PathLike[str] | None = None, strict: bool = True, **options: Any
    ) -> Any:
        if weights is None:
            return self.build(*self.arguments, *arguments, **self.settings | options)
        found = find(weights, self.name)
        for option, value in found.options.items():
            if options.setdefault(option, value) != value:
                raise ValueError(
                    f"{self.name}: {found.source} is of a network made with {option}={value!r}, not {options[option]!r}"
                )
        if not arguments and "fc.bias" in found.arrays:
            options.setdefault("num_classes", len(found.arrays["fc.bias"]))
        model: Any = self.build(*self.arguments, *arguments, **self.settings | options)
        match = load(model, found, strict, self.name)
        classes = found.classes if "fc.weight" in match.matched else ()
        model.pretrained = Pretrained(found.source, match, found.preprocessing, classes)
        return model

    def __repr__(self) -> str:
        return f"tinyres.models.{self.name}"
