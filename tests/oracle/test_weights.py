"""Weight files between PyTorch and tinyres: what PyTorch saves gives its logits here, and the other way round."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

import tinyres
from oracle import reference
from oracle.test_models import random_state
from tinyres import models

torch = pytest.importorskip("torch", reason="PyTorch (extra 'oracle') is not installed")

DEPTHS = (18, 34, 50, 101, 152)


@pytest.fixture(scope="module", params=DEPTHS, ids=lambda depth: f"resnet{depth}")
def net(request):
    """A network of PyTorch's with random weights, the branches small beside the skip, as in trained ones."""
    net = reference.ImageNetResNet(request.param).eval()
    state = random_state(net, np.random.default_rng(request.param), branch=(0.03, 0.1))
    net.load_state_dict({name: torch.tensor(value) for name, value in state.items()})
    net.depth = request.param
    return net


def save_zip(state, path):
    torch.save(state, path)


def save_legacy(state, path):
    torch.save({"state_dict": state, "epoch": 3}, path, _use_new_zipfile_serialization=False)


def save_safetensors(state, path):
    pytest.importorskip("safetensors.torch").save_file(state, path)


WRITERS = {"pth": save_zip, "th": save_legacy, "safetensors": save_safetensors}


def image(side, dtype):
    return np.random.default_rng(0).standard_normal((1, 3, side, side)).astype(dtype)


def logits(net, x):
    with torch.no_grad(), tinyres.no_grad():
        if isinstance(net, torch.nn.Module):
            return net(torch.tensor(x)).numpy()
        return net.eval()(tinyres.Tensor(x)).numpy()


def compare(own, theirs, tolerance):
    assert own.dtype == theirs.dtype and own.shape == theirs.shape == (1, 1000)
    error = np.abs(own - theirs).max() / max(np.abs(theirs).max(), 1)
    assert error <= tolerance, f"relative error {error:.1e}"


def test_pytorchs_files_give_pytorchs_logits(net, tmp_path):
    """In float32 at 224² within 1e-4; all three kinds of file hold the same numbers."""
    states = {}
    for suffix, save in WRITERS.items():
        save(net.state_dict(), tmp_path / f"net.{suffix}")
        states[suffix] = models.load_state_dict_file(tmp_path / f"net.{suffix}")
    expected = {name: tensor.numpy() for name, tensor in net.state_dict().items()}
    for suffix, state in states.items():
        assert state.keys() == expected.keys(), suffix
        for name, array in expected.items():
            assert state[name].dtype == array.dtype and np.array_equal(state[name], array), (suffix, name)
    model = models.get(f"resnet{net.depth}", weights=tmp_path / "net.pth")
    assert model.pretrained.match.exact
    x = image(224, np.float32)
    compare(logits(model, x), logits(net, x), 1e-4)


def test_in_float64(net, tmp_path):
    """Within 1e-10: nothing is rounded on the way."""
    double = reference.ImageNetResNet(net.depth).eval().double()
    double.load_state_dict({name: tensor.double() for name, tensor in net.state_dict().items()})
    with torch.no_grad():
        for parameter in double.parameters():
            parameter *= 1 + 1e-9  # so that float32 would not hold it
    save_zip(double.state_dict(), tmp_path / "net.pth")
    model = models.get(f"resnet{net.depth}").to("float64")
    models.load(model, models.read_weights(tmp_path / "net.pth"))
    x = image(64, np.float64)
    compare(logits(model, x), logits(double, x), 1e-10)


def test_and_back(net, tmp_path):
    """Saved here, read by PyTorch: every array to the bit, and so the same logits."""
    load_file = pytest.importorskip("safetensors.torch").load_file
    tinyres.manual_seed(net.depth)
    model = models.get(f"resnet{net.depth}")
    models.save_state_dict_file(model.state_dict(), tmp_path / "net.safetensors")
    state = load_file(tmp_path / "net.safetensors")
    for name, array in model.state_dict().items():
        assert state[name].numpy().tobytes() == np.ascontiguousarray(array).tobytes(), name
    other = reference.ImageNetResNet(net.depth).eval()
    other.load_state_dict(state)
    x = image(64, np.float32)
    compare(logits(model, x), logits(other, x), 1e-4)


@pytest.mark.filterwarnings("ignore")  # theirs
@pytest.mark.parametrize("library", ["torchvision.models", "timm.models"])
def test_networks_of_torchvision_and_timm(tmp_path, library):
    """Their own state dicts, as files, give their own logits. timm calls the layers as torchvision does."""
    try:
        net = importlib.import_module(library).resnet50().eval()
    except (ImportError, RuntimeError) as error:  # one made for another PyTorch fails in its own way
        pytest.skip(f"{library} is not installed, or not for this PyTorch ({type(error).__name__})")
    state = random_state(net, np.random.default_rng(0), branch=(0.03, 0.1))
    net.load_state_dict({name: torch.tensor(value) for name, value in state.items()})
    save_zip(net.state_dict(), tmp_path / "net.pth")
    x = image(224, np.float32)
    compare(logits(models.resnet50(weights=tmp_path / "net.pth"), x), logits(net, x), 1e-4)
