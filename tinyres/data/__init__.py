"""Data sets, image folders, transforms and the loader that turns them into batches."""

from __future__ import annotations

from tinyres.data import transforms
from tinyres.data.cifar import cifar10, cifar100
from tinyres.data.datasets import ArrayDataset, Dataset, Subset, digits, mnist_idx
from tinyres.data.folder import ImageFolder
from tinyres.data.loader import DataLoader

__all__ = [
    "ArrayDataset",
    "DataLoader",
    "Dataset",
    "ImageFolder",
    "Subset",
    "cifar10",
    "cifar100",
    "digits",
    "mnist_idx",
    "transforms",
]
