"""A training run small enough to be stopped, killed and repeated many times."""

from __future__ import annotations

import tinyres
from tinyres import nn, optim
from tinyres.data import ArrayDataset, DataLoader, digits, transforms
from tinyres.models import CifarResNet
from tinyres.training import fit

COUNT, BATCH = 36, 8  # images and images a step: 5 steps an epoch, the last of 4 images


class Run:
    """A small run with all that has a state: batch norm, dropout, augmentation, momentum, a schedule, validation."""

    def __init__(self, seed=0, optimizer="SGD", width=0.25):
        tinyres.manual_seed(seed)
        self.model = nn.Sequential(CifarResNet(8, width=width, in_channels=1), nn.Dropout(0.2))
        if optimizer == "SGD":
            self.optimizer = optim.SGD(self.model.parameters(), 0.05, momentum=0.9, weight_decay=1e-3)
        else:
            self.optimizer = optim.AdamW(optim.no_decay_groups(self.model, 1e-3), 0.01)
        self.scheduler = optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 20)
        train, test = digits(True), digits(False)
        self.loader = DataLoader(
            ArrayDataset(train.images[:COUNT], train.labels[:COUNT], train.classes),
            BATCH,
            transforms.Compose([transforms.RandomCrop(28, padding=2), transforms.Rescale()]),
            shuffle=True,
            seed=seed,
        )
        self.validation = DataLoader(ArrayDataset(test.images[:10], test.labels[:10], test.classes), 5)

    @property
    def state(self):
        return self.model, self.optimizer, self.scheduler, self.loader

    def fit(self, epochs=3, **options):
        options = dict(scheduler=self.scheduler, schedule_per="step", validation=self.validation) | options
        return fit(self.model, self.loader, self.optimizer, epochs, progress=False, **options)
