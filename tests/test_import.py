"""`import tinyres` needs NumPy alone, and offers what it says."""

from __future__ import annotations

import subprocess
import sys

import tinyres

HEAVY = {"matplotlib", "PIL", "cupy", "h5py", "huggingface_hub", "pooch", "rich", "safetensors", "threadpoolctl"}
HEAVY |= {"torch", "typer"}
ROOMS_ABOVE = {"tinyres.cli", "tinyres.data", "tinyres.experiments", "tinyres.flow", "tinyres.training"}


def modules_after(statement):
    """What a fresh interpreter has imported after `statement`."""
    code = f"import sys; {statement}; print('\\n'.join(sys.modules))"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())


def test_import_needs_numpy_alone():
    loaded = modules_after("import tinyres")
    assert "numpy" in loaded
    assert not loaded & (HEAVY | ROOMS_ABOVE)


def test_it_works_where_the_others_are_not_installed():
    """A whole step: nothing heavy is needed later, either."""
    code = f"""
import sys
for name in {sorted(HEAVY)}:
    sys.modules[name] = None  # importing it fails
import numpy as np
import tinyres
from tinyres import Tensor, functional as F, models, optim
model = models.resnet20(in_channels=1, width=0.25)
optimizer = optim.SGD(model.parameters(), 0.1)
F.cross_entropy(model(Tensor(np.ones((2, 1, 8, 8), np.float32))), Tensor(np.array([0, 1]))).backward()
optimizer.step()
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_data_training_and_flow_import_the_others_where_they_use_them():
    assert not modules_after("import tinyres.flow, tinyres.training, tinyres.data") & HEAVY


def test_public_names():
    for name in ("Tensor", "differentiable", "no_grad", "manual_seed", "functional", "nn", "models", "optim"):
        assert name in tinyres.__all__
    for name in tinyres.__all__:
        assert getattr(tinyres, name) is not None
    assert tinyres.__version__.count(".") == 2
