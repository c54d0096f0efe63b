"""The whole thing at once: a ResNet-20 learns to read handwritten digits, with the defaults of `tinyres train`."""

from __future__ import annotations

import csv
import sys

import pytest

from tinyres.cli import main


@pytest.mark.slow
def test_resnet20_reads_98_percent_of_the_digits(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["tinyres", "train", "resnet20", "--data", "digits", "--output", str(tmp_path)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    with open(tmp_path / "history.csv", newline="") as file:
        *_, last = csv.DictReader(file)
    assert float(last["val_accuracy"]) >= 0.98  # of 1,000 images that training never sees
