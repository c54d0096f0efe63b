"""Weight files: what torch.save wrote comes back, and nothing else does anything."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from tinyres.models.weights import load_state_dict_file

LEGACY_HEAD = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}]
NUMBERS = np.arange(12, dtype="<f4")


class Global:
    """Pickles as a reference to `module.name`, whatever that is."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name


class Call:
    """Pickles as a call of a global, and, if given, a state for the result."""

    def __init__(self, function: Global, *arguments: object, state: object = None) -> None:
        self.function, self.arguments, self.state = function, arguments, state


class Storage:
    """Pickles as a persistent reference."""

    def __init__(self, *pid: object) -> None:
        self.pid = pid


class Writer(pickle._Pickler):
    """Pickles of the classes above, by the opcodes themselves: torch need not be there, nor what they name exist."""

    def save(self, obj: object, save_persistent_id: bool = True) -> None:
        if isinstance(obj, Global):
            self.write(f"c{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, Call):
            self.save(obj.function)
            self.save(obj.arguments)
            self.write(pickle.REDUCE)
            if obj.state is not None:
                self.save(obj.state)
                self.write(pickle.BUILD)
        elif isinstance(obj, Storage):
            self.save(obj.pid)
            self.write(pickle.BINPERSID)
        else:
            super().save(obj, save_persistent_id)


def pickled(content: object) -> bytes:
    file = io.BytesIO()
    Writer(file, protocol=2).dump(content)
    return file.getvalue()


def view(offset=0, shape=(3, 4), stride=(4, 1), storage=None):
    storage = storage or Storage("storage", Global("torch", "FloatStorage"), "0", "cpu", 12)
    return Call(Global("torch._utils", "_rebuild_tensor_v2"), storage, offset, shape, stride, False, OrderedDict())


def write_zip(path: Path, content: object, numbers: bytes = NUMBERS.tobytes(), **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", pickled(content))
        archive.writestr("net/data/0", numbers)
        for name, value in members.items():
            archive.writestr(f"net/{name}", value)
    return path


def write_legacy(path: Path, content: object, numbers: bytes = NUMBERS.tobytes(), head: list = LEGACY_HEAD) -> Path:
    pickles = [*map(pickled, head), pickled(content), pickled(["0"])]
    path.write_bytes(b"".join(pickles) + struct.pack("<q", 12) + numbers)
    return path


writers = pytest.mark.parametrize("write", [write_zip, write_legacy])


def refuse(path: Path, match: str | None = None) -> None:
    """Reading raises one sentence that names the file."""
    with pytest.raises(ValueError, match=match) as caught:
        load_state_dict_file(path)
    assert str(caught.value).startswith(f"{path} cannot be read as a weight file: ")
    assert "\n" not in str(caught.value)


# What is read


@writers
def test_offset_and_strides_are_honoured(tmp_path, write):
    path = write(tmp_path / "net.pth", {"all": view(), "t": view(1, (4, 2), (1, 4)), "one": view(7, (), ())})
    found = load_state_dict_file(path)
    assert found["all"].dtype == np.float32
    assert np.array_equal(found["all"], NUMBERS.reshape(3, 4))
    assert np.array_equal(found["t"], [[1, 5], [2, 6], [3, 7], [4, 8]])
    assert found["one"].shape == () and found["one"] == 7


@writers
def test_tensors_of_one_storage_share_memory_and_can_be_written(tmp_path, write):
    found = load_state_dict_file(write(tmp_path / "net.pth", {"a": view(), "b": view(0, (2,), (1,))}))
    found["a"][0, 1] = -1
    assert found["b"][1] == -1


@writers
def test_checkpoint_is_unwrapped_and_the_prefix_taken_off(tmp_path, write):
    weights = {"module.conv.weight": view(), "module.fc.module.bias": view()}
    assert list(load_state_dict_file(write(tmp_path / "a", {"epoch": 3, "best": 0.5, "state_dict": weights}))) == [
        "conv.weight",
        "fc.module.bias",
    ]
    assert list(load_state_dict_file(write(tmp_path / "b", {**weights, "fc.bias": view()}))) == [*weights, "fc.bias"]


@writers
def test_parameters_and_empty_tensors(tmp_path, write):
    parameter = Call(Global("torch._utils", "_rebuild_parameter"), view(), True, OrderedDict())
    found = load_state_dict_file(write(tmp_path / "net.pth", {"p": parameter, "e": view(0, (0, 3), (3, 1))}))
    assert np.array_equal(found["p"], NUMBERS.reshape(3, 4))
    assert found["e"].shape == (0, 3)


@pytest.mark.parametrize("zipped", [True, False])
def test_round_trip_with_torch(tmp_path, zipped):
    torch = pytest.importorskip("torch", reason="PyTorch (extra 'oracle') is not installed")
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(4, 6, 3, 3, generator=generator)
    state = OrderedDict(
        float=base,
        sliced=base[1:, 2::2],
        channels_last=base.contiguous(memory_format=torch.channels_last),
        expanded=base[:1, :1].expand(5, 7, 3, 3),
        scalar=torch.tensor(3.5),
        empty=torch.zeros(0, 3),
        parameter=torch.nn.Parameter(torch.randn(2, 3, generator=generator)),
    )
    for dtype in ("float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"):
        state[dtype] = (3 * torch.randn(3, 5, generator=generator)).abs().to(getattr(torch, dtype))
    path = tmp_path / "net.pth"
    torch.save({"state_dict": state, "epoch": 7}, path, _use_new_zipfile_serialization=zipped)
    found = load_state_dict_file(path)
    assert list(found) == list(state)
    for name, tensor in state.items():
        expected = (tensor.float() if name == "bfloat16" else tensor).detach().numpy()
        assert found[name].dtype == expected.dtype, name
        assert np.array_equal(found[name], expected), name


@pytest.mark.parametrize("zipped", [True, False])
def test_state_dict_of_a_torch_module(tmp_path, zipped):
    """Its OrderedDict carries `_metadata`, an attribute that the pickle sets."""
    torch = pytest.importorskip("torch", reason="PyTorch (extra 'oracle') is not installed")
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    torch.save(net.state_dict(), tmp_path / "net.pth", _use_new_zipfile_serialization=zipped)
    found = load_state_dict_file(tmp_path / "net.pth")
    assert {name: array.shape for name, array in found.items()} == {
        name: tuple(tensor.shape) for name, tensor in net.state_dict().items()
    }


def test_safetensors(tmp_path):
    numpy_api = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    rng = np.random.default_rng(0)
    arrays = {
        f"module.{dtype}": rng.integers(0, 2, (3, 4)).astype(dtype)
        for dtype in ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u1", "?")
    }
    numpy_api.save_file(arrays, tmp_path / "net.safetensors")
    found = load_state_dict_file(tmp_path / "net.safetensors")
    for name, array in arrays.items():
        read = found[name.removeprefix("module.")]
        assert read.dtype == array.dtype and np.array_equal(read, array)


def test_safetensors_bfloat16(tmp_path):
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    header = b'{"w":{"dtype":"BF16","shape":[3],"data_offsets":[0,6]}}'
    path = tmp_path / "net.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + struct.pack("<3H", 0x3F80, 0xC040, 0x0000))
    found = load_state_dict_file(path)["w"]
    assert found.dtype == np.float32 and found.tolist() == [1.0, -3.0, 0.0]


# What is refused

HOSTILE = {
    "os.system": lambda mark: Call(Global("os", "system"), f"touch {mark}"),
    "posix.system": lambda mark: Call(Global("posix", "system"), f"touch {mark}"),
    "builtins.eval": lambda mark: Call(
        Global("builtins", "eval"), f"__import__('pathlib').Path({str(mark)!r}).touch()"
    ),
    "builtins.getattr": lambda mark: Call(Global("builtins", "getattr"), "", "join"),
    "torch.load": lambda mark: Call(Global("torch", "load"), str(mark)),
    "torch.FloatTensor": lambda mark: Call(Global("torch", "FloatTensor"), 3),
    "torch._utils.sys.modules": lambda mark: Global("torch._utils", "sys.modules"),
    "collections.OrderedDict.__init__": lambda mark: Global("collections", "OrderedDict.__init__"),
    "numpy.ndarray": lambda mark: Global("numpy", "ndarray"),
}


@writers
@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize(
    "wrap",
    [
        lambda call: call,
        lambda call: {"w": call},
        lambda call: {"state_dict": {"w": view()}, "optimizer": [(call,)]},
        lambda call: {"w": view(offset=call)},
        lambda call: {"w": view(storage=Storage("storage", call, "0", "cpu", 12))},
        lambda call: Call(Global("collections", "OrderedDict"), state={"_metadata": call}),
        lambda call: Call(call, 1),
    ],
    ids=["alone", "value", "beside", "offset", "storage", "metadata", "called"],
)
def test_anything_else_is_refused_and_not_run(tmp_path, write, name, wrap):
    mark = tmp_path / "mark"
    refuse(write(tmp_path / "net.pth", wrap(HOSTILE[name](mark))), f"asks for {name},")
    assert not mark.exists()


def test_hostile_magic_number(tmp_path):
    """The older format's first pickles are as dangerous as the one that matters."""
    for position in range(3):
        head = LEGACY_HEAD.copy()
        head[position] = HOSTILE["os.system"](tmp_path / "mark")
        refuse(write_legacy(tmp_path / "net.pth", {"w": view()}, head=head), r"asks for os\.system,")
    assert not (tmp_path / "mark").exists()


def test_a_plain_reader_would_have_run_it(tmp_path):
    """That the hostile files are hostile: pickle.loads does what they say."""
    pickle.loads(pickled({"w": HOSTILE["builtins.eval"](tmp_path / "mark")}))
    assert (tmp_path / "mark").exists()


@writers
@pytest.mark.parametrize(
    ("attack", "says"),
    [
        (Call(Global("torch._utils", "_rebuild_parameter"), view(), state=(None, {"shape": (2**40,)})), "attributes"),
        (
            Call(Global("collections", "OrderedDict"), state=(None, {"__class__": Global("torch", "FloatStorage")})),
            "something else than tensors",
        ),
        (Call(Global("torch", "FloatStorage"), 3), "a call that torch.save does not write"),
    ],
    ids=["change a view", "change a class", "call a storage"],
)
def test_what_the_pickle_was_given_cannot_be_turned(tmp_path, write, attack, says):
    refuse(write(tmp_path / "net.pth", {"w": attack}), says)


@writers
def test_attributes_set_on_a_stand_in_do_not_last(tmp_path, write):
    function = Global("torch._utils", "_rebuild_tensor_v2")
    poison = Call(Global("torch._utils", "_rebuild_parameter"), function, state=(None, {"__defaults__": (1, 2, 3)}))
    refuse(write(tmp_path / "net.pth", {"w": poison}), "a call that torch.save does not write")
    assert np.array_equal(load_state_dict_file(write(tmp_path / "b.pth", {"w": view()}))["w"], NUMBERS.reshape(3, 4))


@writers
@pytest.mark.parametrize(
    ("where", "says"),
    [
        (dict(offset=1), "needs 13 numbers of a storage that has 12"),
        (dict(stride=(5, 1)), "needs 14 numbers"),
        (dict(shape=(4, 4)), "needs 16 numbers"),
        (dict(offset=12, shape=(), stride=()), "needs 13 numbers"),
        (dict(offset=-1), "offset -1"),
        (dict(stride=(-4, 1)), r"strides \(-4, 1\)"),
        (dict(shape=(-3, 4)), r"shape \(-3, 4\)"),
        (dict(shape=(3,)), r"shape \(3,\) and strides \(4, 1\)"),
        (dict(shape=(5,), stride=(2**62,)), "needs"),  # 4 · 2**62 bytes wrap round to 0 in 64 bits
        (dict(shape=(2**62, 4)), "would fill"),
        (dict(shape=(2**40, 2**40), stride=(0, 0)), "would fill"),
        (dict(shape=(3.0, 4)), "a call that"),
        (dict(shape="34"), "a call that"),
        (dict(offset=None), "a call that"),
        (dict(shape=(1,) * 70, stride=(1,) * 70), "."),
    ],
)
def test_views_stay_inside_their_storage(tmp_path, write, where, says):
    refuse(write(tmp_path / "net.pth", {"w": view(**where)}), says)


@writers
@pytest.mark.parametrize(
    "pid",
    [("module", Global("torch", "FloatStorage"), "0", "cpu", 12), ("storage",), (), ("storage", 1, "0", "cpu", 3)],
)
def test_other_persistent_references(tmp_path, write, pid):
    refuse(write(tmp_path / "net.pth", {"w": view(storage=Storage(*pid))}), "it points at something that is no storage")


@writers
@pytest.mark.parametrize("content", [[view()], 3, {"w": 3}, {3: view()}, {"state_dict": "w"}, {"w": {"v": view()}}])
def test_no_state_dict(tmp_path, write, content):
    refuse(write(tmp_path / "net.pth", content), "something else than tensors by name")


@writers
def test_truncated_anywhere(tmp_path, write):
    path = write(tmp_path / "net.pth", {"conv1.weight": view(), "conv1.bias": view(0, (2,), (1,))})
    whole = path.read_bytes()
    for length in range(0, len(whole), 3):
        path.write_bytes(whole[:length])
        refuse(path)


def test_storage_shorter_than_its_tensors(tmp_path):
    refuse(write_zip(tmp_path / "a.pth", {"w": view()}, NUMBERS[:-1].tobytes()), "needs 12 numbers")
    refuse(write_legacy(tmp_path / "b.pth", {"w": view()}, NUMBERS[:-1].tobytes()), "ends after 44 of .* 48 bytes")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    "content",
    [b"", b"no weights", b"\x89PNG\r\n\x1a\n", b"\x80\x02K\x01.", b"PK\x03\x04", b"\xff" * 100],
    ids=["empty", "text", "png", "pickle", "zip", "ones"],
)
def test_foreign_files(tmp_path, content, suffix):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors", reason="safetensors is not installed")
    path = tmp_path / f"net{suffix}"
    path.write_bytes(content)
    refuse(path)


def test_other_archives(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    refuse(tmp_path / "a.zip", r"zip archive without data\.pkl")
    refuse(write_zip(tmp_path / "b.pth", {"w": view()}, byteorder=b"big"), "big-endian")
    head = [*LEGACY_HEAD[:2], {"little_endian": False}]
    refuse(write_legacy(tmp_path / "c.pth", {"w": view()}, head=head), "big-endian")
    with zipfile.ZipFile(tmp_path / "d.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("net/data.pkl", pickled({"w": view()}))
    refuse(tmp_path / "d.pth", "compressed")


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"net\.pth"):
        load_state_dict_file(tmp_path / "net.pth")
