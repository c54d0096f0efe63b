"""Weight files from somebody who means harm: each is refused in a sentence, nothing in it runs, memory stays small."""

from __future__ import annotations

import contextlib
import copyreg
import io
import os
import pickle
import stat
import struct
import time
import tracemalloc
import zipfile

import numpy as np
import pytest

from tinyres.models.weights import load_state_dict_file

resource = pytest.importorskip("resource", reason="Windows does not say how much memory a process had")
MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"
EXTENSION = 0xF7  # an extension code for os.system, registered while the tests run


def text(string: str) -> bytes:
    return b"X" + struct.pack("<I", len(string.encode())) + string.encode()


ZERO = text("0")


def reduced(function: str, *arguments: bytes) -> bytes:
    """`module.name(*arguments)`, by GLOBAL and REDUCE."""
    module, name = function.rsplit(".", 1)
    return f"c{module}\n{name}\n(".encode() + b"".join(arguments) + b"tR"


def tensor(offset=b"K\x00", shape=b"K\x02\x85", stride=b"K\x01\x85", count=b"K\x02", key=ZERO) -> bytes:
    """A tensor of two float32 numbers; its parts are instructions."""
    pid = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + key + text("cpu") + count + b"tQ"
    return TENSOR + b"(" + pid + offset + shape + stride + b"\x89ccollections\nOrderedDict\n)RtR"


def state(value: bytes) -> bytes:
    """{"w": value}, as a whole pickle."""
    return b"\x80\x02}" + text("w") + value + b"s."


def nested(depth: int) -> bytes:
    """A tuple of two times the same tuple of two times …: `depth` instructions, 2 ** depth leaves."""
    return b")" + b"q\x01h\x01\x86" * depth


# What would run: instructions that make the file `mark`, given to a reader that obeys.

LIVE = {
    "GLOBAL, REDUCE": lambda mark: b"\x80\x02" + reduced("os.system", text(f"touch {mark}")) + b".",
    "posix.system": lambda mark: b"\x80\x02" + reduced("posix.system", text(f"touch {mark}")) + b".",
    "STACK_GLOBAL": lambda mark: (
        b"\x80\x04" + text("os") + text("system") + b"\x93" + text(f"touch {mark}") + b"\x85R."
    ),
    "FRAME": lambda mark: pickle.dumps(Reducing(os.system, f"touch {mark}"), 4),
    "protocol 0": lambda mark: pickle.dumps(Reducing(os.system, f"touch {mark}"), 0),
    "INST": lambda mark: f"(S'touch {mark}'\nios\nsystem\n.".encode(),
    "OBJ": lambda mark: f"(cos\nsystem\nS'touch {mark}'\no.".encode(),
    "EXT1": lambda mark: b"\x80\x02\x82" + bytes([EXTENSION]) + text(f"touch {mark}") + b"\x85R.",
    "EXT2": lambda mark: b"\x80\x02\x83" + struct.pack("<H", EXTENSION) + text(f"touch {mark}") + b"\x85R.",
    "EXT4": lambda mark: b"\x80\x02\x84" + struct.pack("<I", EXTENSION) + text(f"touch {mark}") + b"\x85R.",
    "nested REDUCE": lambda mark: (
        b"\x80\x02" + reduced("builtins.eval", text("__import__('os').system")) + text(f"touch {mark}") + b"\x85R."
    ),
    "exec": lambda mark: b"\x80\x02" + reduced("builtins.exec", text(f"open({str(mark)!r}, 'w').close()")) + b".",
    "eval in Python 2's name": lambda mark: (
        b"\x80\x02" + reduced("__builtin__.eval", text(f"open({str(mark)!r}, 'w').close()")) + b"."
    ),
    "getattr": lambda mark: (
        b"\x80\x02"
        + reduced("builtins.getattr", reduced("builtins.__import__", text("os")), text("system"))
        + text(f"touch {mark}")
        + b"\x85R."
    ),
    "a pickle in a pickle": lambda mark: (
        b"\x80\x03" + reduced("pickle.loads", short_bytes(LIVE["GLOBAL, REDUCE"](mark))) + b"."
    ),
    "Popen": lambda mark: (
        b"\x80\x02" + reduced("subprocess.Popen", b"(" + text("touch") + text(str(mark)) + b"t") + b"."
    ),
    "map, and a list of it": lambda mark: (
        b"\x80\x02"
        + reduced("builtins.list", reduced("builtins.map", b"cos\nsystem\n", b"]" + text(f"touch {mark}") + b"a"))
        + b"."
    ),
    "BUILD by __setstate__": lambda mark: (
        b"\x80\x02cfunctools\npartial\ncos\nsystem\n\x85R(cos\nsystem\n("
        + text(f"touch {mark}")
        + b"t}NtbN0(tR."  # partial(os.system) is told its arguments by its state, and called
    ),
    "a value in a state dict": lambda mark: state(reduced("os.system", text(f"touch {mark}"))),
    "in a tensor's offset": lambda mark: state(tensor(offset=reduced("os.system", text(f"touch {mark}")))),
}


class Reducing:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def short_bytes(content: bytes) -> bytes:
    return b"C" + bytes([len(content)]) + content


@pytest.fixture(autouse=True)
def extension_codes():
    copyreg.add_extension("os", "system", EXTENSION)
    yield
    copyreg.remove_extension("os", "system", EXTENSION)


class Obedient(pickle.Unpickler):
    def persistent_load(self, pid):
        return pid

    def find_class(self, module, name):
        return print if module.startswith("torch") else super().find_class(module, name)  # PyTorch may not be there


# What would fill memory, run for ever or crash.

BOMBS = {
    "a memo of two thousand million places": b"\x80\x02}r\xff\xff\xff\x7f.",
    "a place in the memo that is empty": b"\x80\x02h\x07.",
    "a key that takes 2 ** 60 steps to hash": b"\x80\x02}" + nested(60) + b"Ns.",
    "a key so deep that hashing it overflows the stack": b"\x80\x02})" + b"\x85" * 100_000 + b"Ns.",
    "pairs with such a key": b"\x80\x02ccollections\nOrderedDict\n](" + nested(60) + b"N\x86e\x85R.",
    "an offset of 2 ** 60 leaves": state(tensor(offset=nested(60))),
    "a shape of 2 ** 60 leaves": state(tensor(shape=nested(60))),
    "strides of 2 ** 60 leaves": state(tensor(stride=nested(60))),
    "a storage's name of 2 ** 60 leaves": state(tensor(key=nested(60))),
    "a shape of 100,000 dimensions": state(tensor(shape=b"(" + b"K\x01" * 100_000 + b"t")),
    "a number of 2 thousand million bytes": b"\x80\x02\x8b\xff\xff\xff\x7f\x01.",
    "a string of 2 ** 63 bytes": b"\x80\x04\x8d" + struct.pack("<Q", 2**63 - 1) + b"a.",
    "bytes of 2 ** 63": b"\x80\x04\x8e" + struct.pack("<Q", 2**63 - 1) + b"a.",
    "a bytearray of 2 ** 60": b"\x80\x05\x96" + struct.pack("<Q", 2**60) + b"a.",
    "a frame of 2 ** 63": b"\x80\x04\x95" + struct.pack("<Q", 2**63 - 1) + b"}.",
    "a number of a million digits": b"I" + b"9" * 1_000_000 + b"\n.",
    "doubling": b"\x80\x02]" + b"2" * 1000 + b".",
    "NEWOBJ": b"\x80\x02csubprocess\nPopen\n)\x81.",
    "NEWOBJ_EX": b"\x80\x04csubprocess\nPopen\n)}\x92.",
    "PERSID": b"\x80\x02Ptouch me\n.",
    "a persistent id that is a call": b"\x80\x02(" + text("storage") + TENSOR + text("0") + text("cpu") + b"K\x02tQ.",
    "a persistent id of another kind": b"\x80\x02(" + text("module") + b"ctorch\nFloatStorage\n" + text("0") + b"tQ.",
    "BUILD of a tensor": state(tensor() + b"}" + text("__reduce__") + b"Nsb"),
    "BUILD of a name": b"\x80\x02ctorch\nFloatStorage\n}" + text("__call__") + b"Nsb.",
    "a call of a dictionary": b"\x80\x02})R.",
    "a call of a string": b"\x80\x02" + text("os.system") + text("ls") + b"\x85R.",
    "a name that was never imported": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2.__globals__\n.",
    "an end too early": b"\x80\x02.",
    "no end": b"\x80\x02}" + b"0" * 10,
    "marks that nothing closes": b"\x80\x02" + b"(" * 100_000 + b".",
}


def in_zip(path, content):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", content)
        archive.writestr("net/data/0", bytes(8))
    return path


def first(path, content):
    """In the older format, instead of the magic number."""
    path.write_bytes(content)
    return path


def fourth(path, content):
    """In the older format, where the state dict is."""
    head = [MAGIC, pickle.dumps(1001, 2), pickle.dumps({"little_endian": True}, 2)]
    path.write_bytes(b"".join(head) + content + pickle.dumps(["0"], 2) + struct.pack("<Q", 2) + bytes(8))
    return path


carriers = pytest.mark.parametrize("carry", [in_zip, first, fourth])


@contextlib.contextmanager
def little_memory(limit=48 * 2**20):
    """What Python and NumPy hold at most, and what the process does, grows by less than `limit` bytes."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 2 * limit


def refused(path, says=None):
    with little_memory(), pytest.raises(ValueError, match=says) as caught:
        load_state_dict_file(path)
    message = str(caught.value)
    assert message.startswith(f"{path} cannot be read as a weight file: ")
    assert "\n" not in message and len(message) < 1000


@carriers
@pytest.mark.parametrize("name", LIVE)
def test_nothing_runs(tmp_path, name, carry):
    refused(carry(tmp_path / "net.pth", LIVE[name](tmp_path / "mark")))
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("name", LIVE)
def test_an_obedient_reader_would_have_run_it(tmp_path, name):
    """That the test above tests something."""
    with contextlib.suppress(Exception):
        process = Obedient(io.BytesIO(LIVE[name](tmp_path / "mark"))).load()
        process.wait()  # where that is what came
    for _ in range(400):  # what it started may take a while
        if (tmp_path / "mark").exists():
            return
        time.sleep(0.05)
    raise AssertionError("nothing was run")


@carriers
@pytest.mark.parametrize("name", BOMBS)
def test_bombs(tmp_path, name, carry):
    refused(carry(tmp_path / "net.pth", BOMBS[name]))


def test_the_harmless_file_is_read(tmp_path):
    """That the carriers are otherwise as they should be."""
    for carry in in_zip, fourth:
        assert load_state_dict_file(carry(tmp_path / "net.pth", state(tensor())))["w"].tolist() == [0, 0]


@pytest.mark.parametrize("carry", [in_zip, fourth])
@pytest.mark.parametrize(
    "part",
    [
        dict(shape=b"M\xff\xff\x85", stride=b"K\x00\x85", count=b"K\x02"),  # within reason, and still not in the file …
        dict(shape=b"J\xff\xff\xff\x7f\x85", stride=b"K\x00\x85"),  # one number, two thousand million times
        dict(shape=b"J\xff\xff\xff\x7f\x85"),
        dict(shape=b"J\xfe\xff\xff\xff\x85"),  # -2
        dict(offset=b"J\xff\xff\xff\xff"),  # -1
        dict(stride=b"J\xff\xff\xff\xff\x85"),
        dict(stride=b"\x8a\x08\x00\x00\x00\x00\x00\x00\x00\x40\x85"),  # 2 ** 62, times 4 bytes is 0 in 64 bits
        dict(offset=b"\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00\x01"),  # 2 ** 64
        dict(key=text("../../etc/passwd")),
        dict(key=text("")),
    ],
)
def test_tensors_that_lie_about_themselves(tmp_path, carry, part):
    if part.get("count"):
        part = part | dict(stride=b"K\x01\x85")
    refused(carry(tmp_path / "net.pth", state(tensor(**part))))


def test_many_large_views_of_little(tmp_path):
    """A hundred thousand tensors, each the whole of a storage of a megabyte."""
    names = b"".join(text(f"w{i}") + b"h\x01" for i in range(100_000))
    one = tensor(shape=b"J\x00\x00\x04\x00\x85", count=b"J\x00\x00\x04\x00")
    with zipfile.ZipFile(tmp_path / "net.pth", "w") as archive:
        archive.writestr("net/data.pkl", b"\x80\x02}(" + text("w") + one + b"q\x01" + names + b"u.")
        archive.writestr("net/data/0", bytes(2**20))
    refused(tmp_path / "net.pth", "its tensors would fill")


@pytest.mark.parametrize("count", [3, 2**40, 2**62, 2**63, 2**64 - 1])
def test_counts_of_the_older_format(tmp_path, count):
    path = fourth(tmp_path / "net.pth", state(tensor()))
    content = path.read_bytes()
    path.write_bytes(content[:-16] + struct.pack("<Q", count) + bytes(8))
    refused(path, "it ends after 8 of a storage's")


def test_keys_of_the_older_format(tmp_path):
    path = fourth(tmp_path / "net.pth", state(tensor()))
    keys = pickle.dumps(["0"], 2)
    path.write_bytes(path.read_bytes().replace(keys, b"\x80\x02]" + nested(60) + b"a."))
    refused(path, "its storages have no names")


@pytest.mark.parametrize("name", ["w\n\nerror: all is well", "\x1b[2J", "w" * 100_000])
def test_names_that_would_deceive_a_terminal(tmp_path, name):
    for broken in b"", b"K\x05":  # a tensor that is read, and one whose error quotes its name
        content = state(tensor(offset=broken or b"K\x00")).replace(text("w"), text(name))
        with pytest.raises(ValueError, match="cannot be read as a weight file") as caught:
            load_state_dict_file(in_zip(tmp_path / "net.pth", content))
        assert str(caught.value).isprintable() and len(str(caught.value)) < 1000


# Archives


def archive_of(path, **members):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", state(tensor()))
        archive.writestr("net/data/0", bytes(8))
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_zip_bomb(tmp_path):
    with zipfile.ZipFile(tmp_path / "net.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("net/data.pkl", state(tensor()))
        with archive.open("net/data/0", "w", force_zip64=True) as member:
            for _ in range(256):
                member.write(bytes(2**20))
    assert (tmp_path / "net.pth").stat().st_size < 2**20
    refused(tmp_path / "net.pth", "its members are compressed")


def test_declared_sizes(tmp_path):
    """The table at the end says that a member of 8 bytes has four thousand million."""
    path = archive_of(tmp_path / "net.pth")
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\x01\x02")  # data/0's in the table: compressed and real size at 20 and 24
    content[entry + 20 : entry + 28] = struct.pack("<2I", 2**32 - 2, 2**32 - 2)
    path.write_bytes(content)
    refused(path, "larger than the file")


def test_overlapping_members(tmp_path):
    """The table names the same bytes a thousand times."""
    path = archive_of(tmp_path / "net.pth", **{"net/data/1": bytes(2**16)})
    content = path.read_bytes()
    entry = content.rindex(b"PK\x01\x02")
    end = content.rindex(b"PK\x05\x06")
    table_at = content.index(b"PK\x01\x02")
    last = content[entry:end]
    copies = b"".join(last.replace(b"net/data/1", b"net/d/%04d" % i) for i in range(1000))
    table = content[table_at:end] + copies
    tail = bytearray(content[end:])
    tail[8:12] = struct.pack("<2H", 1003, 1003)
    tail[12:16] = struct.pack("<I", len(table))
    path.write_bytes(content[:table_at] + table + tail)
    refused(path, "overlap")


@pytest.mark.parametrize("name", ["../evil", "net/../../evil", "/etc/evil", "C:/evil", "net\\..\\evil"])
def test_members_that_lead_out(tmp_path, name):
    refused(archive_of(tmp_path / "net.pth", **{name: b"evil"}), "leads out of the archive")
    assert [path.name for path in tmp_path.iterdir()] == ["net.pth"]


def test_links_and_doubles(tmp_path):
    path = archive_of(tmp_path / "net.pth")
    with zipfile.ZipFile(path, "a") as archive:
        link = zipfile.ZipInfo("net/data/1")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    refused(path, "is a link")
    path = archive_of(tmp_path / "net.pth")
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("net/data.pkl", state(tensor()))
    refused(path, "two members of one name")


def test_every_truncation(tmp_path):
    whole = archive_of(tmp_path / "net.pth").read_bytes()
    for length in range(0, len(whole), 7):
        (tmp_path / "net.pth").write_bytes(whole[:length])
        with pytest.raises(ValueError, match="cannot be read as a weight file"):
            load_state_dict_file(tmp_path / "net.pth")


# NumPy


def npy(dtype="<f4", shape="(2,)", numbers=bytes(8)):
    header = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + numbers


def npz(path, content, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("w.npy", content)
    return path


def test_npz_with_a_pickle(tmp_path):
    array = np.array([Reducing(os.system, f"touch {tmp_path / 'mark'}")], dtype=object)
    np.savez(tmp_path / "net.npz", w=array)
    refused(tmp_path / "net.npz", "dtype object, expected numbers")
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (npy(shape="(1099511627776,)"), "which 8 bytes are not"),
        (npy(shape="(4294967296, 4294967296)"), "which 8 bytes are not"),
        (npy(shape="(-2,)"), "."),
        (npy(shape="__import__('os').system('touch mark')"), "malformed"),
        (npy(shape="(" * 5000), "."),
        (npy(dtype="|O"), "dtype object"),
        (npy(dtype="|V8"), "dtype"),
        (npy(dtype="<U2"), "dtype"),
        (npy()[:20], "."),
        (b"\x93NUMPY\x09\x00" + npy()[8:], "."),
    ],
)
def test_npz_headers(tmp_path, content, says, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_state_dict_file(npz(tmp_path / "net.npz", npy()))["w"].tolist() == [0, 0]
    refused(npz(tmp_path / "net.npz", content), says)
    assert not (tmp_path / "mark").exists()


def test_npz_bomb(tmp_path):
    refused(
        npz(tmp_path / "net.npz", npy(shape=f"({2**20},)", numbers=bytes(2**22)), zipfile.ZIP_DEFLATED), "compressed"
    )


# safetensors


def safetensors(path, header: bytes, numbers=bytes(8), length=None):
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + numbers)
    return path


def entry(dtype="F32", shape="[2]", offsets="[0,8]"):
    return f'{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}'


@pytest.mark.parametrize(
    "header",
    [
        f'{{"w":{entry(offsets="[0,16]")}}}',
        f'{{"w":{entry(offsets="[-8,0]")}}}',
        f'{{"w":{entry(offsets="[8,0]")}}}',
        f'{{"w":{entry(offsets="[4,12]")}}}',
        f'{{"w":{entry(offsets="[0,18446744073709551615]")}}}',
        f'{{"w":{entry(shape="[3]")}}}',
        f'{{"w":{entry(shape="[4294967296,4294967296]")}}}',
        f'{{"w":{entry(shape="[-2]")}}}',
        f'{{"w":{entry()},"v":{entry()}}}',  # the same bytes twice
        f'{{"w":{entry(dtype="F8_E4M3", shape="[8]")}}}',
        f'{{"w":{entry(dtype="PICKLE")}}}',
        '{"w":' + "[" * 200_000 + "]" * 200_000 + "}",
        "{",
        '{"w":null}',
    ],
)
def test_safetensors_headers(tmp_path, header):
    assert load_state_dict_file(safetensors(tmp_path / "net", f'{{"w":{entry()}}}'.encode()))["w"].tolist() == [0, 0]
    refused(safetensors(tmp_path / "net", header.encode()))


@pytest.mark.parametrize("length", [0, 1, 2**20, 2**32, 2**63 - 1, 2**64 - 1])
def test_safetensors_header_lengths(tmp_path, length):
    refused(safetensors(tmp_path / "net", f'{{"w":{entry()}}}'.encode(), length=length))


# HDF5


@pytest.fixture
def h5py():
    return pytest.importorskip("h5py", reason="h5py (extra 'keras') is not installed")


def test_hdf5_links(tmp_path, h5py):
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["kernel"] = np.arange(4.0)
    for link in h5py.ExternalLink("secret.h5", "/kernel"), h5py.SoftLink("/layers"):
        with h5py.File(tmp_path / "net.h5", "w") as file:
            file["conv1_conv/kernel"] = link
        refused(tmp_path / "net.h5", "conv1_conv/kernel is a link, and links are not followed")


def test_hdf5_numbers_in_other_files(tmp_path, h5py):
    (tmp_path / "secret").write_bytes(b"password" * 4)
    with h5py.File(tmp_path / "net.h5", "w") as file:
        outside = [(str(tmp_path / "secret"), 0, 32)]
        file.create_dataset("conv1_conv/kernel", (8,), "<f4", external=outside)
    refused(tmp_path / "net.h5", "the numbers of conv1_conv/kernel are in other files")
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["kernel"] = np.arange(4.0)
    with h5py.File(tmp_path / "net.h5", "w") as file:
        layout = h5py.VirtualLayout((4,), "<f8")
        layout[:] = h5py.VirtualSource(tmp_path / "secret.h5", "kernel", (4,))
        file.create_virtual_dataset("conv1_conv/kernel", layout)
    refused(tmp_path / "net.h5", "the numbers of conv1_conv/kernel are in other files")


def test_hdf5_bombs(tmp_path, h5py):
    with h5py.File(tmp_path / "net.h5", "w") as file:
        file.create_dataset("conv1_conv/kernel", (2**40,), "<f4")  # never written: a terabyte of zeros if read
    refused(tmp_path / "net.h5", "which the file does not hold")
    with h5py.File(tmp_path / "net.h5", "w") as file:
        file.create_dataset("conv1_conv/kernel", (2**20,), "<f4", chunks=(2**20,), compression="gzip")
        file["conv1_conv/kernel"][:] = 0
    refused(tmp_path / "net.h5", "is compressed")
    with h5py.File(tmp_path / "net.h5", "w") as file:
        file["a"] = np.zeros(2)
        file["again"] = file["a"]  # a hard link: the same numbers under two names
    refused(tmp_path / "net.h5", "is there twice")
    with h5py.File(tmp_path / "net.h5", "w") as file:
        group = file.create_group("layers")
        group["layers"] = group  # a folder in itself
    refused(tmp_path / "net.h5", "is there twice")
    with h5py.File(tmp_path / "net.h5", "w") as file:
        file["conv1_conv/kernel"] = "not numbers"
    refused(tmp_path / "net.h5", "expected numbers")


def test_hdf5_cut_short(tmp_path, h5py):
    with h5py.File(tmp_path / "net.h5", "w") as file:
        file["conv1_conv/kernel"] = np.zeros(1000)
    whole = (tmp_path / "net.h5").read_bytes()
    for length in (10, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "net.h5").write_bytes(whole[:length])
        refused(tmp_path / "net.h5")
