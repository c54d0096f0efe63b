"""Cats or dogs: a trained ResNet, frozen, with a new head of one sigmoid. FOLDER holds train/ and test/."""

import sys

from tinyres import functional as F
from tinyres import models, nn, optim, training
from tinyres.data import DataLoader, ImageFolder
from tinyres.data import transforms as T


def main(folder, weights, name="resnet50", side=224, batch_size=32, epochs=5):
    model = nn.freeze(models.get(name, weights=weights))
    models.replace_head(model, 256, 1)  # global average pooling, then 256 with ReLU, then one logit
    resize, augment = [T.Resize(side), T.CenterCrop(side)], [T.RandomHorizontalFlip(), T.RandomRotation(40)]
    rescale = [T.Rescale(), T.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]
    train = DataLoader(ImageFolder(f"{folder}/train"), batch_size, T.Compose(resize + augment + rescale), shuffle=True)
    test = DataLoader(ImageFolder(f"{folder}/test"), batch_size, T.Compose(resize + rescale))
    adam = optim.Adam(model.fc.parameters())
    return training.fit(model, train, adam, epochs, loss=F.binary_cross_entropy_with_logits, validation=test)


if __name__ == "__main__":  # python cats_and_dogs.py FOLDER WEIGHTS, or FOLDER WEIGHTS resnet56 32
    main(*sys.argv[1:4], *map(int, sys.argv[4:]))
