"""Weights by name: torchvision's, and timm's on the Hugging Face hub. Fetched once, verified, kept.

Nothing is asked of the network when the file is there already, so a machine without one needs the files only: each
error says which, from where, and where to put it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from tinyres.files import atomic_write
from tinyres.models.weights import Weights, read_weights


@dataclass(frozen=True)
class Preprocessing:
    """How an image is prepared: the shorter side to `resize`, the middle `crop`, values 0 to 1, then normalised."""

    resize: int
    crop: int
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: str = "bilinear"

    def transform(self) -> Any:
        """The same as one of `tinyres.data.transforms`: image (H, W, 3) uint8 → (crop, crop, 3) float32."""
        from tinyres.data import transforms

        return transforms.Compose(
            [
                transforms.Resize(self.resize, self.interpolation),
                transforms.CenterCrop(self.crop),
                transforms.Rescale(),
                transforms.Normalize(self.mean, self.std),
            ]
        )


DOWNLOADS = "https://download.pytorch.org/models"
# The names of torchvision 0.29 (torchvision/models/resnet.py): the first digits of the file's sha256, which are part of
# its name, and the side that images are resized to.
TORCHVISION = {
    ("resnet18", "IMAGENET1K_V1"): ("f37072fd", 256),
    ("resnet34", "IMAGENET1K_V1"): ("b627a593", 256),
    ("resnet50", "IMAGENET1K_V1"): ("0676ba61", 256),
    ("resnet50", "IMAGENET1K_V2"): ("11ad3fa6", 232),
    ("resnet101", "IMAGENET1K_V1"): ("63fe2227", 256),
    ("resnet101", "IMAGENET1K_V2"): ("cd907fc2", 232),
    ("resnet152", "IMAGENET1K_V1"): ("394f9c45", 256),
    ("resnet152", "IMAGENET1K_V2"): ("f82ba261", 232),
}


class Pin(NamedTuple):
    """A commit of a repository on the hub, and the sha256 of its model.safetensors."""

    revision: str
    sha256: str


# What several projects recorded independently of each other. Of all others, the hub is asked at the first download.
PINS = {
    "timm/resnet18.tv_in1k": Pin(
        "bbd144b3e5565108aad885f145491d11bc6ce807", "694f673df6520a3158624e8a89af086f59923ee4cd7436fe5bc3bc71d295ad81"
    ),
    "timm/resnet18.a1_in1k": Pin(
        "491b427b45c94c7fb0e78b5474cc919aff584bbf", "80c49dee3da4822c009c5a7fe591e9223c5a2cfcf95a4067ca4dfb5a7b89c612"
    ),
    "timm/resnet50.tv_in1k": Pin(
        "78f3ecfdb38e06d9b8397f662e7ab8fee96026fa", "5d061a3c593d795bfe682d9b152bafbcf550579873492def3515b46db1189888"
    ),
    "timm/resnet50.a1_in1k": Pin(
        "767268603ca0cb0bfe326fa87277f19c419566ef", "773525d5821de224f8f30c33377b7a795d7863e08522698200d3217d3f2a41bb"
    ),
}


def find(weights: str | os.PathLike[str], network: str) -> Weights:
    """The weights in a file, or of that name for `network` ("resnet50"), with what is known about them.

    Raises:
        FileNotFoundError: if it is neither a file nor a name.
        ConnectionError: if it has to be fetched and cannot.
        ValueError: if the file is damaged, not the one that its name promises, or of another network.
    """
    if Path(weights).is_file():
        return read_weights(weights)
    if (network, weights) in TORCHVISION:
        return from_torchvision(network, str(weights))
    if isinstance(weights, str) and weights.startswith("timm/"):
        return from_hub(weights, network)
    names = [name for owner, name in TORCHVISION if owner == network]
    names += [f"timm/{network}.…, a model of timm on the Hugging Face hub"] if names else []
    known = f", nor one of {', '.join(names)}" if names else f", and {network} knows none by name"
    raise FileNotFoundError(f"weights is {os.fspath(weights)!r}, which is no file{known}")


def folder() -> Path:
    """Where fetched weights are kept: in the user's cache."""
    import pooch

    return Path(pooch.os_cache("tinyres")) / "weights"


def from_torchvision(network: str, name: str) -> Weights:
    """torchvision's weights of that name. Its files are called after their contents."""
    import pooch

    from tinyres.download import download_with_progress

    digits, resize = TORCHVISION[network, name]
    path = folder() / f"{network}-{digits}.pth"
    url = f"{DOWNLOADS}/{path.name}"
    if not path.exists():
        try:
            pooch.retrieve(url, None, path.name, path.parent, downloader=download_with_progress)
        except OSError as error:
            raise ConnectionError(missing(f"{network}'s {name}", [(url, path)], error)) from error
    verify(path, digits)
    found = read_weights(path)
    return replace(found, source=name, preprocessing=Preprocessing(resize, 224), classes=imagenet_classes())


def from_hub(repository: str, network: str) -> Weights:
    """The weights of a model of timm, in the hub's own cache; its config.json says how images are prepared."""
    pin = PINS.get(repository) or resolved(repository)
    path = hub_file(repository, "model.safetensors", pin.revision)
    config = json.loads(hub_file(repository, "config.json", pin.revision).read_text(encoding="utf-8"))
    if config["architecture"] != network:
        raise ValueError(f"weights is {repository!r}, which is a {config['architecture']}, expected a {network}")
    verify(path, pin.sha256)
    known = config["pretrained_cfg"]
    crop = known["input_size"][-1]
    preprocessing = Preprocessing(
        resize=math.floor(crop / known["crop_pct"]),
        crop=crop,
        mean=tuple(known["mean"]),
        std=tuple(known["std"]),
        interpolation=known["interpolation"],
    )
    classes = imagenet_classes() if repository.endswith("_in1k") else ()
    return replace(read_weights(path), source=repository, preprocessing=preprocessing, classes=classes)


def resolved(repository: str) -> Pin:
    """The commit and checksum that the hub named when it was first asked, and that were noted then."""
    note = folder() / f"{repository.replace('/', '--')}.json"
    if not note.exists():
        try:
            from huggingface_hub import HfApi

            model = HfApi().model_info(repository, files_metadata=True)
            sha256 = next(
                file.lfs.sha256 for file in model.siblings or () if file.rfilename == "model.safetensors" and file.lfs
            )
        except Exception as error:  # of the hub's library or of those under it
            raise unreachable(repository, error, "main") from error
        with atomic_write(note) as file:
            json.dump(Pin(str(model.sha), sha256)._asdict(), file)
    return Pin(**json.loads(note.read_text(encoding="utf-8")))


def hub_file(repository: str, name: str, revision: str) -> Path:
    """A file of a repository at that commit, from the hub's cache or, if it is not there, from the hub."""
    try:
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(repository, name, revision=revision))
    except Exception as error:  # of the hub's library or of those under it
        raise unreachable(repository, error, revision) from error


def unreachable(repository: str, error: Exception, revision: str) -> Exception:
    if isinstance(error, ImportError):
        return ImportError(f"weights {repository!r} need huggingface_hub: pip install 'tinyres[hub]'")
    from huggingface_hub.constants import HF_HUB_CACHE

    url = f"https://huggingface.co/{repository}/resolve/{revision}"
    place = Path(HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}" / "snapshots" / revision
    files = [(f"{url}/{name}", place / name) for name in ("model.safetensors", "config.json")]
    if revision == "main":  # which commit that is, only the hub knows: any place will do
        return ConnectionError(
            f"{repository}: could not ask the Hugging Face hub ({type(error).__name__}); fetch {files[0][0]} by other "
            "means and pass its path as weights"
        )
    return ConnectionError(missing(repository, files, error))


def missing(name: str, files: list[tuple[str, Path]], error: Exception) -> str:
    steps = " and ".join(f"{url} as {path}" for url, path in files)
    return f"{name} could not be downloaded ({type(error).__name__}); fetch it by other means and save {steps}"


def verify(path: Path, sha256: str) -> None:
    """Raise ValueError unless the file's sha256 begins with these digits."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not digest.startswith(sha256):
        raise ValueError(
            f"{path} is cut short, damaged or another file (sha256 {digest}, expected {sha256}); delete it, and it is "
            "downloaded afresh"
        )


@cache
def imagenet_classes() -> tuple[str, ...]:
    """The names of ImageNet's 1,000 classes, in the order of the outputs: those of torchvision."""
    return tuple((Path(__file__).parent / "imagenet_classes.txt").read_text(encoding="utf-8").splitlines())
