"""CIFAR from small archives in the official layout: Python 2 pickles in a tar, served over HTTP."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import pickle
import tarfile
import threading

import numpy as np
import pytest

from tinyres.data import cifar, cifar10, cifar100


class Python2Pickler(pickle._Pickler):
    """Writes bytes as the strings of Python 2, with the opcodes of its protocol 2."""

    dispatch = pickle._Pickler.dispatch.copy()

    def save_bytes(self, data):
        if len(data) < 256:
            self.write(pickle.SHORT_BINSTRING + bytes([len(data)]) + data)
        else:
            self.write(pickle.BINSTRING + len(data).to_bytes(4, "little") + data)
        self.memoize(data)

    dispatch[bytes] = save_bytes

    def save_str(self, text):
        self.save_bytes(text.encode("ascii"))

    dispatch[str] = save_str


def python2_pickle(value) -> bytes:
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(value)
    return file.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def tar(path, members) -> None:
    """Writes a tar.gz of members {name: bytes, or a TarInfo without content}."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
            else:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


def link(name, target, kind=tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, str(target)
    return info


RNG = np.random.default_rng(1)
BATCHES = [RNG.integers(0, 256, (4, 3072), dtype=np.uint8) for _ in range(6)]
LABELS = RNG.integers(0, 10, (6, 4))
NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def official_members() -> dict:
    files = [f"cifar-10-batches-py/data_batch_{i}" for i in range(1, 6)] + ["cifar-10-batches-py/test_batch"]
    members = {
        file: python2_pickle({b"batch_label": b"a batch", b"labels": labels.tolist(), b"data": data})
        for file, data, labels in zip(files, BATCHES, LABELS, strict=True)
    }
    meta = {b"num_cases_per_batch": 4, b"label_names": [n.encode() for n in NAMES], b"num_vis": 3072}
    return members | {"cifar-10-batches-py/batches.meta": python2_pickle(meta)}


ARCHIVE = "cifar-10-python.tar.gz"


def md5(path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Lays an archive of the given members into the folder `root` and makes its checksum the expected one."""

    def place(members):
        root = tmp_path / "root"
        root.mkdir()
        tar(root / ARCHIVE, members)
        monkeypatch.setattr(cifar, "_CIFAR10", cifar._CIFAR10._replace(md5=md5(root / ARCHIVE)))
        return root

    return place


class Handler(http.server.SimpleHTTPRequestHandler):
    failures = 0  # how many requests to answer with 503 first

    def do_GET(self):
        if type(self).failures:
            type(self).failures -= 1
            self.send_error(503)
        else:
            super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A server that offers the official-looking archive, from which `cifar10` now downloads."""
    folder = tmp_path / "served"
    folder.mkdir()
    tar(folder / ARCHIVE, official_members())
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("pooch.core.time.sleep", lambda seconds: None)  # the pause before another try
    url = f"http://127.0.0.1:{server.server_port}/{ARCHIVE}"
    monkeypatch.setattr(cifar, "_CIFAR10", cifar._CIFAR10._replace(url=url, md5=md5(folder / ARCHIVE)))
    yield folder / ARCHIVE
    server.shutdown()
    server.server_close()
    thread.join()


def expected_pixel(batch, image, row, column):
    """From the description of the format: 1024 red, 1024 green, 1024 blue values, row by row."""
    return [BATCHES[batch][image, colour * 1024 + row * 32 + column] for colour in range(3)]


def test_the_official_layout_is_read(place):
    root = place(official_members())
    train, test = cifar10(root, train=True), cifar10(root, train=False)
    assert train.images.shape == (20, 32, 32, 3)
    assert test.images.shape == (4, 32, 32, 3)
    assert train.image(4 * 2 + 3)[5, 30].tolist() == expected_pixel(2, 3, 5, 30)
    assert test.image(1)[31, 0].tolist() == expected_pixel(5, 1, 31, 0)
    assert train.labels.tolist() == LABELS[:5].ravel().tolist()
    assert test.labels.tolist() == LABELS[5].tolist()
    assert train.classes == NAMES


def test_cifar100_uses_the_fine_labels(tmp_path, monkeypatch):
    fine, coarse = [0, 99, 42, 7], [0, 19, 3, 1]
    batch = python2_pickle({b"fine_labels": fine, b"coarse_labels": coarse, b"data": BATCHES[0]})
    meta = python2_pickle(
        {
            b"fine_label_names": [b"fine%d" % i for i in range(100)],
            b"coarse_label_names": [b"coarse%d" % i for i in range(20)],
        }
    )
    path = tmp_path / "cifar-100-python.tar.gz"
    tar(
        path,
        {"cifar-100-python/train": batch, "cifar-100-python/test": batch, "cifar-100-python/meta": meta},
    )
    monkeypatch.setattr(cifar, "_CIFAR100", cifar._CIFAR100._replace(md5=md5(path)))
    dataset = cifar100(tmp_path)
    assert dataset.labels.tolist() == fine
    assert dataset.classes[42] == "fine42"


def test_download_is_verified_and_kept(served, tmp_path, capfd):
    root = tmp_path / "new" / "root"
    assert len(cifar10(root)) == 20
    assert ARCHIVE in capfd.readouterr().err  # the progress bar
    assert sorted(p.name for p in root.iterdir()) == [ARCHIVE, "cifar10.npz"]
    served.unlink()
    assert len(cifar10(root, train=False)) == 4  # neither server nor archive is asked again
    (root / ARCHIVE).unlink()
    assert len(cifar10(root)) == 20


def test_download_is_tried_again(served, tmp_path, monkeypatch):
    monkeypatch.setattr(Handler, "failures", 2)
    assert len(cifar10(tmp_path)) == 20


def test_download_with_another_checksum_is_not_kept(served, tmp_path):
    served.write_bytes(served.read_bytes()[:-100])
    root = tmp_path / "root"
    with pytest.raises(ValueError, match="sent is not the archive with md5") as caught:
        cifar10(root)
    assert str(root / ARCHIVE) in str(caught.value)
    assert list(root.iterdir()) == []


def test_offline_says_what_to_fetch_and_where_to_put_it(served, tmp_path, monkeypatch):
    url = f"http://127.0.0.1:1/{ARCHIVE}"  # nobody listens there
    monkeypatch.setattr(cifar, "_CIFAR10", cifar._CIFAR10._replace(url=url))
    with pytest.raises(ConnectionError) as caught:
        cifar10(tmp_path)
    assert str(caught.value) == (
        f"cifar10: could not download {url} (ConnectionError); "
        f"fetch it by other means and save it as {tmp_path / ARCHIVE}."
    )


def test_a_cut_archive_is_named(place):
    root = place(official_members())
    archive = root / ARCHIVE
    archive.write_bytes(archive.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="is cut short or damaged") as caught:
        cifar10(root)
    assert str(archive) in str(caught.value)
    assert archive.exists()  # it is the user's to delete


def test_a_damaged_cache_is_named(place):
    root = place(official_members())
    cifar10(root)
    cache = root / "cifar10.npz"
    for damaged in (cache.read_bytes()[:-1000], b"", b"not an archive"):
        cache.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"cifar10\.npz is damaged; delete it"):
            cifar10(root)


def test_other_members_are_never_unpacked(place, tmp_path):
    evil = {"../escaped": b"x", str(tmp_path / "absolute"): b"x", "way": link("way", tmp_path)}
    root = place(evil | official_members())
    assert len(cifar10(root)) == 20
    assert sorted(p.name for p in tmp_path.iterdir()) == ["root"]
    assert sorted(p.name for p in root.iterdir()) == [ARCHIVE, "cifar10.npz"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_a_link_in_place_of_a_batch_is_refused(place, kind):
    name = "cifar-10-batches-py/data_batch_3"
    members = official_members() | {name: link(name, "cifar-10-batches-py/data_batch_2", kind)}
    with pytest.raises(ValueError, match=r"data_batch_3 in .* cannot be read .it is a link or a device"):
        cifar10(place(members))


class Touch:
    """Unpickled with trust, it would make a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_a_hostile_pickle_is_refused(place, tmp_path):
    name = "cifar-10-batches-py/data_batch_1"
    hostile = python2_pickle({b"labels": [0], b"data": Touch(tmp_path / "touched")})
    with pytest.raises(ValueError, match=r"data_batch_1 in .*asks for \w+\.open, which is not allowed"):
        cifar10(place(official_members() | {name: hostile}))
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no pickle",
        python2_pickle([1, 2]),
        python2_pickle({b"labels": [0]}),
        python2_pickle({b"labels": [0], b"data": b"x" * 3072}),
        python2_pickle({b"labels": [0], b"data": np.zeros((1, 3072), np.float64)}),
        python2_pickle({b"labels": [0], b"data": np.zeros((1, 3071), np.uint8)}),
        b"cnumpy\nndarray\n(I3\ntR.",
    ],
)
def test_a_broken_batch_is_named(place, content):
    root = place(official_members() | {"cifar-10-batches-py/test_batch": content})
    with pytest.raises(ValueError, match=r"test_batch in .*cifar-10-python\.tar\.gz cannot be read"):
        cifar10(root)
    assert not (root / "cifar10.npz").exists()


def test_a_missing_batch_is_named(place):
    members = official_members()
    del members["cifar-10-batches-py/batches.meta"]
    with pytest.raises(ValueError, match=r"batches\.meta in .* cannot be read"):
        cifar10(place(members))
