"""`weights=`: files and names, what fits and what does not, downloads from a server of our own."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import threading

import numpy as np
import pytest

from tinyres import Tensor, models, no_grad
from tinyres.models import pretrained


def small(**options):
    return models.resnet20(width=0.25, **options)


def state(model):
    return {name: array.copy() for name, array in model.state_dict().items()}


def changed(model, rng=None):
    """The model's state, every number of it another."""
    rng = rng or np.random.default_rng(0)
    return {name: rng.uniform(0.5, 1.5, a.shape).astype(a.dtype) for name, a in model.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def refuse(match, error, call, *args, **kwargs):
    with pytest.raises(error, match=match) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)


# Files


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_what_is_saved_is_loaded(tmp_path, suffix):
    wanted = changed(small())
    models.save_state_dict_file(wanted, tmp_path / f"net.{suffix}")
    model = small(weights=tmp_path / f"net.{suffix}")
    assert equal(state(model), wanted)
    assert model.pretrained.match.exact and len(model.pretrained.match.matched) == len(wanted)
    assert model.pretrained.source == str(tmp_path / f"net.{suffix}")
    assert models.get("resnet20", width=0.25, weights=str(tmp_path / f"net.{suffix}")).fc.bias.shape == (10,)


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_round_trip_to_the_bit(tmp_path, suffix):
    rng = np.random.default_rng(0)
    arrays = {
        dtype: rng.integers(0, 2, (3, 4)).astype(dtype) for dtype in ("f8", "f2", "i8", "i4", "i2", "i1", "u1", "?")
    }
    arrays |= {
        "channels last": rng.standard_normal((2, 3, 3, 5)).astype("f4").transpose(0, 3, 1, 2),
        "scalar": np.array(3, np.int64),
        "empty": np.zeros((0, 3), "f4"),
        "odd": np.array([np.nan, -np.nan, np.inf, -0.0, 1e-45], "f4"),
        "a slice": np.arange(10.0)[::-3],
    }
    models.save_state_dict_file(arrays, tmp_path / f"a.{suffix}")
    found = models.load_state_dict_file(tmp_path / f"a.{suffix}")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes(), name


def test_what_cannot_be_saved(tmp_path):
    refuse(
        r"to \.safetensors or \.npz, not to .*net\.pth",
        ValueError,
        models.save_state_dict_file,
        {},
        tmp_path / "net.pth",
    )
    bad = {"w": np.array(["text"])}
    refuse("w has the dtype <U4", ValueError, models.save_state_dict_file, bad, tmp_path / "net.npz")
    assert not list(tmp_path.iterdir())


def test_names_of_cifar_files_and_of_own_checkpoints(tmp_path):
    from tinyres import optim
    from tinyres.training import save_checkpoint

    wanted = changed(small())
    renamed = {f"module.{name.replace('fc.', 'linear.')}": array for name, array in wanted.items()}
    models.save_state_dict_file(renamed, tmp_path / "cifar.npz")
    assert equal(state(small(weights=tmp_path / "cifar.npz")), wanted)

    model = small()
    model.load_state_dict(wanted)
    optimizer = optim.SGD(model.parameters(), 0.1, momentum=0.9)
    save_checkpoint(tmp_path / "own.safetensors", model, optimizer)
    assert equal(state(small(weights=tmp_path / "own.safetensors")), wanted)


def test_as_many_classes_as_the_weights(tmp_path):
    models.save_state_dict_file(changed(small(num_classes=3)), tmp_path / "net.npz")
    assert small(weights=tmp_path / "net.npz").fc.weight.shape == (3, 16)


def test_another_head(tmp_path):
    wanted = changed(small())
    models.save_state_dict_file(wanted, tmp_path / "net.npz")
    sentence = r"net\.npz has a head of 10 classes, resnet20 one of 2: strict=False loads all but the head"
    refuse(sentence, ValueError, small, num_classes=2, weights=tmp_path / "net.npz")
    model = small(num_classes=2, weights=tmp_path / "net.npz", strict=False)
    assert model.fc.weight.shape == (2, 16) and model.fc.weight.numpy().max() <= 0.25  # as drawn: within 1/√16
    found = state(model)
    assert all(np.array_equal(found[name], wanted[name]) for name in found if not name.startswith("fc."))
    assert model.pretrained.match.misshaped == (("fc.weight", (10, 16), (2, 16)), ("fc.bias", (10,), (2,)))
    assert model.pretrained.classes == ()


def test_the_table_of_what_differs(tmp_path):
    arrays = changed(small())
    del arrays["layer1.0.conv1.weight"], arrays["bn1.num_batches_tracked"]  # the second is missing in old files
    arrays["layer4.0.conv1.weight"] = np.zeros(3)
    arrays["bn1.bias"] = np.zeros(5)
    models.save_state_dict_file(arrays, tmp_path / "net.npz")
    sentence = (
        r"does not fit resnet20: 1 missing \(layer1\.0\.conv1\.weight\); 1 left over \(layer4\.0\.conv1\.weight\); "
        r"1 mis-shaped \(bn1\.bias\); strict=False loads the \d+ that fit"
    )
    refuse(sentence, ValueError, small, weights=tmp_path / "net.npz")
    lines = str(small(weights=tmp_path / "net.npz", strict=False).pretrained.match).splitlines()
    assert [line.split() for line in lines[:3]] == [
        ["missing", "layer1.0.conv1.weight"],
        ["left", "over", "layer4.0.conv1.weight"],
        ["mis-shaped", "bn1.bias", "(5,)", "in", "the", "file,", "(4,)", "here"],
    ]
    assert lines[3].endswith("in resnet20: 113 matched, 1 missing, 1 left over, 1 mis-shaped")


def test_nothing_that_fits(tmp_path):
    models.save_state_dict_file({"w": np.zeros(3)}, tmp_path / "net.npz")
    refuse(
        "does not fit resnet20: .* loads the 0 that fit", ValueError, small, weights=tmp_path / "net.npz", strict=False
    )


def test_a_network_with_the_stride_elsewhere(tmp_path):
    """Keras's, once converted, keep saying so."""
    arrays = state(models.resnet50(num_classes=2, stride_in="1x1"))
    path = tmp_path / "net.safetensors"
    models.save_state_dict_file(arrays, path, {"stride_in": "1x1"})
    assert models.resnet50(weights=path).layer2[0].conv1.stride == 2
    sentence = "of a network made with stride_in='1x1', not '3x3'"
    refuse(sentence, ValueError, models.resnet50, weights=path, stride_in="3x3")
    other = models.resnet50(num_classes=2)
    refuse(
        "made with stride_in='1x1', ResNet has it in the 3×3", ValueError, models.load, other, models.read_weights(path)
    )


def test_neither_file_nor_name(tmp_path):
    refuse("weights is 'IMAGENET1K_V2', which is no file, nor one of IMAGENET1K_V1, timm/resnet18", FileNotFoundError,
           models.resnet18, weights="IMAGENET1K_V2")  # fmt: skip
    refuse("'nothing.pth', which is no file, and resnet20 knows none", FileNotFoundError, small, weights="nothing.pth")
    refuse("which is no file", FileNotFoundError, small, weights=tmp_path)


# Names


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and no network but this machine's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy":
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return pretrained.folder()


@contextlib.contextmanager
def server(answers):
    """A server on this machine that answers paths: {path: (content, headers)}; yields its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            found = answers.get(self.path.partition("?")[0])
            self.send_response(200 if found else 404)
            content, headers = found or (b"", {})
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{running.server_port}"
        finally:
            running.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A ResNet-18 and its file, in safetensors, which is read whatever its name."""
    arrays = changed(models.resnet18())
    path = tmp_path_factory.mktemp("weights") / "net.safetensors"
    models.save_state_dict_file(arrays, path)
    return arrays, path.read_bytes()


def test_torchvisions_names(cache, weights, monkeypatch):
    arrays, content = weights
    digits = hashlib.sha256(content).hexdigest()[:8]
    monkeypatch.setitem(pretrained.TORCHVISION, ("resnet18", "IMAGENET1K_V1"), (digits, 256))
    with server({f"/resnet18-{digits}.pth": (content, {})}) as address:
        monkeypatch.setattr(pretrained, "DOWNLOADS", address)
        model = models.resnet18(weights="IMAGENET1K_V1")
    assert equal(state(model), arrays)
    assert (cache / f"resnet18-{digits}.pth").read_bytes() == content
    assert model.pretrained.source == "IMAGENET1K_V1"
    assert model.pretrained.classes[281] == "tabby"
    assert model.pretrained.preprocessing == models.Preprocessing(256, 224)
    again = models.resnet18(weights="IMAGENET1K_V1", num_classes=2, strict=False)  # the server is gone
    assert again.pretrained.classes == () and again.pretrained.preprocessing is not None


def test_another_file_than_its_name_says(cache, weights, monkeypatch):
    with server({"/resnet18-f37072fd.pth": (weights[1], {})}) as address:
        monkeypatch.setattr(pretrained, "DOWNLOADS", address)
        for _ in range(2):
            refuse("is cut short, damaged or another file .*expected f37072fd.*; delete it", ValueError,
                   models.resnet18, weights="IMAGENET1K_V1")  # fmt: skip


def test_torchvisions_names_without_a_network(cache):
    sentence = (
        rf"resnet50's IMAGENET1K_V2 could not be downloaded \(\w+\); fetch it by other means and save "
        rf"https://download\.pytorch\.org/models/resnet50-11ad3fa6\.pth as {cache}/resnet50-11ad3fa6\.pth"
    )
    refuse(sentence, ConnectionError, models.resnet50, weights="IMAGENET1K_V2")


CONFIG = {
    "architecture": "resnet18",
    "pretrained_cfg": {
        "input_size": [3, 224, 224],
        "crop_pct": 0.95,
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.3, 0.4],
        "interpolation": "bicubic",
    },
}
REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(cache, tmp_path, monkeypatch):
    """The hub's cache, empty."""
    reason = "huggingface_hub (extra 'hub') is not installed"
    constants = pytest.importorskip("huggingface_hub.constants", reason=reason)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def hub_answers(repository, content, config=CONFIG, sha256=None):
    """What the hub says of a repository with weights and a configuration."""
    sha256 = sha256 or hashlib.sha256(content).hexdigest()
    described = json.dumps(config).encode()
    siblings = [{"rfilename": "config.json"}]
    siblings += [{"rfilename": "model.safetensors", "lfs": {"sha256": sha256, "size": len(content), "pointerSize": 1}}]
    about = json.dumps({"id": repository, "sha": REVISION, "siblings": siblings}).encode()

    def file(body, etag):
        return body, {"ETag": f'"{etag}"', "X-Repo-Commit": REVISION}

    return {
        f"/api/models/{repository}": (about, {"Content-Type": "application/json"}),
        f"/{repository}/resolve/{REVISION}/model.safetensors": file(content, sha256),
        f"/{repository}/resolve/{REVISION}/config.json": file(described, hashlib.sha1(described).hexdigest()),
    }


def test_timm_on_the_hub(hub, cache, weights, monkeypatch):
    """Nothing is pinned: the commit and checksum are asked for once, noted, and then nobody is asked any more."""
    from huggingface_hub import constants

    arrays, content = weights
    with server(hub_answers("timm/resnet18.test_in1k", content)) as address:
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        model = models.resnet18(weights="timm/resnet18.test_in1k")
    assert equal(state(model), arrays)
    note = json.loads((cache / "timm--resnet18.test_in1k.json").read_text())
    assert note == {"revision": REVISION, "sha256": hashlib.sha256(content).hexdigest()}
    expected = models.Preprocessing(235, 224, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), "bicubic")  # 224 / 0.95 = 235.8
    assert model.pretrained.preprocessing == expected
    assert len(model.pretrained.classes) == 1000
    assert equal(state(models.resnet18(weights="timm/resnet18.test_in1k")), arrays)  # the server is gone


def put(hub, repository, content, config=CONFIG, revision=REVISION):
    """Files where an error tells the user to put them."""
    folder = hub / f"models--{repository.replace('/', '--')}" / "snapshots" / revision
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(content)
    (folder / "config.json").write_text(json.dumps(config))


def test_files_put_by_hand(hub, weights, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # else the hub's library tries for long
    arrays, content = weights
    pin = pretrained.Pin(REVISION, hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(pretrained.PINS, "timm/resnet18.a1_in1k", pin)
    sentence = (
        rf"timm/resnet18\.a1_in1k could not be downloaded \(\w+\); fetch it by other means and save "
        rf"https://huggingface\.co/timm/resnet18\.a1_in1k/resolve/{REVISION}/model\.safetensors as "
        rf"{hub}/models--timm--resnet18\.a1_in1k/snapshots/{REVISION}/model\.safetensors and "
    )
    refuse(sentence, ConnectionError, models.resnet18, weights="timm/resnet18.a1_in1k")
    put(hub, "timm/resnet18.a1_in1k", content)
    assert equal(state(models.resnet18(weights="timm/resnet18.a1_in1k")), arrays)
    refuse("which is a resnet18, expected a resnet34", ValueError, models.resnet34, weights="timm/resnet18.a1_in1k")


def test_a_file_that_is_not_the_pinned_one(hub, weights):
    pin = pretrained.PINS["timm/resnet18.a1_in1k"]
    put(hub, "timm/resnet18.a1_in1k", weights[1], revision=pin.revision)
    refuse(f"expected {pin.sha256}", ValueError, models.resnet18, weights="timm/resnet18.a1_in1k")


def test_timm_without_a_network_or_a_hub(hub, monkeypatch):
    sentence = (
        r"timm/resnet18\.test_in1k: could not ask .*; fetch https://huggingface\.co/timm/resnet18\.test_in1k/resolve"
    )
    refuse(sentence, ConnectionError, models.resnet18, weights="timm/resnet18.test_in1k")
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    sentence = r"need huggingface_hub: pip install 'tinyres\[hub\]'"
    for name in "timm/resnet18.a1_in1k", "timm/resnet18.test_in1k":
        refuse(sentence, ImportError, models.resnet18, weights=name)


def test_pins_are_whole():
    for repository, pin in pretrained.PINS.items():
        assert repository.startswith("timm/resnet")
        assert len(bytes.fromhex(pin.revision)) == 20 and len(bytes.fromhex(pin.sha256)) == 32


def test_preprocessing():
    """A wide image: 256 high, the middle 224 of both, and normalised."""
    image = np.random.default_rng(0).integers(0, 256, (256, 300, 3), dtype=np.uint8)
    prepared = models.Preprocessing(256, 224).transform()(image, np.random.default_rng(0))
    middle = image[16:240, 38:262] / 255
    expected = (middle - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(prepared, expected, rtol=1e-4, atol=1e-5)


def test_class_names():
    classes = models.imagenet_classes()
    assert len(set(classes)) == 1000
    assert [classes[i] for i in (0, 1, 151, 281, 999)] == ["tench", "goldfish", "Chihuahua", "tabby", "toilet tissue"]


def test_a_network_with_weights_is_like_any_other(tmp_path):
    """What it remembers of its weights is in nobody's way."""
    import copy
    import pickle

    models.save_state_dict_file(changed(small()), tmp_path / "net.npz")
    model = small(weights=tmp_path / "net.npz").eval()
    x = Tensor(np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32))
    with no_grad():
        assert np.array_equal(copy.deepcopy(model)(x).numpy(), model(x).numpy())
    assert equal(state(pickle.loads(pickle.dumps(model))), state(model))
    assert pickle.loads(pickle.dumps(models.resnet20)).name == "resnet20" and repr(models.resnet20).endswith("resnet20")
