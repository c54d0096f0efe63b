"""audit: every check that applies, in one table, in Python and as a command."""

from __future__ import annotations

import contextlib
import io
import sys

import numpy as np
import pytest

from kernel_cases import CASES
from tinyres import functional as F
from tinyres import kernels, models, nn, testing
from tinyres.cli import main
from tinyres.testing import Audit, audit
from tinyres.testing.audit import find, read_shape

RNG = np.random.default_rng(0)
X, IMAGES = RNG.standard_normal((2, 3)), RNG.standard_normal((4, 3, 2, 5))
WEIGHT = RNG.standard_normal((2, 3, 2, 3))


def halved(x):
    """A rectifier with half its gradient."""
    y, pullback = kernels.relu(x)
    return y, lambda dy: pullback(dy) / 2


def outcomes(result):
    """By check: passed, failed, or None where it does not apply."""
    found = {}
    for report in result.reports:
        found.setdefault(report.check.removeprefix("check_"), []).append(report.passed if report.applies else None)
    return {name: values[0] if len(values) == 1 else values for name, values in found.items()}


# What applies


@pytest.mark.parametrize("row", CASES, ids=lambda row: row.name)
def test_every_kernel_passes(row):
    result = audit(row.kernel, *row.arguments, **row.options)
    assert isinstance(result, Audit)
    assert result
    assert outcomes(result)["vjp"] and outcomes(result)["pure"]


@pytest.mark.parametrize(
    ("f", "args", "expected"),
    [
        (
            kernels.relu,
            (X,),
            dict(vjp=True, linear=True, adjoint=None, conservation=True, equivariant=[True, True], pure=True),
        ),
        (
            F.conv2d,
            (IMAGES, WEIGHT),
            # along N, C and, the kernel being as high as the image, H
            dict(vjp=True, linear=True, adjoint=True, conservation=True, equivariant=[True] * 3, pure=True),
        ),
        (kernels.exp, (np.ones(()),), dict(vjp=True, linear=True, adjoint=None, conservation=None, pure=True)),
        (
            nn.BatchNorm2d(3),
            (IMAGES,),
            dict(vjp=True, linear=True, adjoint=True, conservation=True, equivariant=[True] * 4, pure=True)
            | dict(batch_norm=True),
        ),
        (
            nn.PreActBlock(3, 3),
            (IMAGES,),
            dict(vjp=True, linear=True, adjoint=True, conservation=True, equivariant=True, pure=True, residual=True),
        ),
    ],
    ids=["relu", "conv2d", "a number", "batch norm", "residual block"],
)
def test_what_applies_is_found(f, args, expected):
    assert outcomes(audit(f, *args)) == expected


def test_batch_norm_in_evaluation_is_affine():
    result = audit(nn.BatchNorm2d(3).eval(), IMAGES)
    assert "batch_norm" not in outcomes(result)
    assert "affine in input, weight, bias" in str(result)


def test_the_fused_batch_norm_is_none_alone():
    result = audit(kernels.batch_norm_add_relu, IMAGES, IMAGES, None, None, training=True)
    assert "batch_norm" not in outcomes(result)
    assert result


@pytest.mark.parametrize("seed", range(3))
def test_symmetries_are_not_seen_where_there_are_none(seed):
    """Vectors of ones may be permuted without effect, and N may be C: neither is a symmetry."""
    for module in (nn.Bottleneck(3, 3), nn.BasicBlock(3, 3), nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))):
        assert audit(module, RNG.standard_normal((3, 3, 3, 4)), seed=seed)


def test_a_whole_network():
    assert audit(models.CifarResNet(8, width=0.25), IMAGES)


# What it says


def test_the_table():
    lines = str(audit(kernels.relu, X)).splitlines()
    assert lines[0] == "audit of relu"
    assert lines[1].split() == ["check", "outcome", "worst", "error"]
    assert [line.split()[:2] for line in lines[2:6]] == [
        ["check_vjp", "passed"],
        ["check_linear", "passed"],
        ["check_adjoint", "–"],
        ["check_conservation", "passed"],
    ]
    assert lines[4].endswith("relu is affine in no input")


def test_what_fails_is_told_in_full_below():
    result = audit(halved, X)
    assert not result.passed
    assert outcomes(result) == dict(
        vjp=False, linear=True, adjoint=None, conservation=False, equivariant=[True, True], pure=True
    )
    with pytest.raises(AssertionError) as failure:
        assert result
    table, *details = str(failure.value).split("\n\n")
    assert "check_vjp          FAILED" in table
    assert details == [str(report) for report in result.reports if report.applies and not report.passed]
    assert "a factor of 1/2" in details[0]


def test_an_error_within_a_check_is_a_failure_of_it():
    def touchy(x):
        def pullback(dy):
            raise ZeroDivisionError("so it goes")

        return x * x, pullback

    result = audit(touchy, X)
    assert outcomes(result)["vjp"] is False and not result.passed
    assert "it raised ZeroDivisionError: so it goes" in str(result)


def test_a_wrong_call_is_an_error_at_once():
    with pytest.raises(ValueError, match="linear: weight"):
        audit(kernels.linear, X, X[:, :2])


def test_seeds():
    assert str(audit(kernels.tanh, X, seed=1)) == str(audit(kernels.tanh, X, seed=1)) != str(audit(kernels.tanh, X))


# The public names


def test_public_names():
    assert all(callable(getattr(testing, name)) for name in testing.__all__)
    assert testing.audit is audit
    assert callable(testing.kill_matrix) and callable(testing.mutants.mutants)
    assert testing.strategies.__name__ == "tinyres.testing.strategies"
    with pytest.raises(AttributeError, match="has no attribute 'check_everything'"):
        testing.check_everything  # noqa: B018


# Finding what to audit

MINE = """
import numpy as np
from tinyres import kernels, nn

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.ReLU())

net = Net()
number = 3

def halved(x):
    y, pullback = kernels.relu(x)
    return y, lambda dy: pullback(dy) / 2

def case():
    return kernels.linear, np.ones((2, 3)), np.arange(12.0).reshape(4, 3)

class Holder:
    relu = staticmethod(kernels.relu)
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "my_operations.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    yield "my_operations"
    sys.modules.pop("my_operations", None)


@pytest.mark.parametrize("place", ["my_operations", "my_operations.py"])
def test_find(mine, place):
    path = list(sys.path)
    net, x = find(f"{place}:Net", [(4, 2, 3, 5)])
    assert isinstance(net, nn.Module) and x.shape == (4, 2, 3, 5)
    assert isinstance(find(f"{place}:net", [(4, 2, 3, 5)])[0], nn.Module)
    f, *args = find(f"{place}:case", [])
    assert f is kernels.linear and [arg.shape for arg in args] == [(2, 3), (4, 3)]
    assert find(f"{place}:Holder.relu", [(2,)])[0] is kernels.relu
    assert sys.path == path


def test_found_arrays_are_drawn_by_the_seed():
    (_, x), (_, again), (_, other) = (find("tinyres.nn:ReLU", [(2, 3)], seed) for seed in (1, 1, 2))
    assert np.array_equal(x, again) and not np.array_equal(x, other)


@pytest.mark.parametrize(
    ("target", "error", "sentence"),
    [
        ("tinyres.nn", ValueError, "the target is 'tinyres.nn', expected MODULE:NAME"),
        ("tinyres.nn:", ValueError, "expected MODULE:NAME"),
        ("tinyres.nn:Rectifier", ValueError, "there is no Rectifier in tinyres.nn"),
        ("nowhere_at_all:f", ModuleNotFoundError, "nowhere_at_all"),
        ("nowhere.py:f", FileNotFoundError, "there is no file nowhere.py"),
        ("my_operations:number", ValueError, "my_operations:number is a int, expected something to call"),
        ("my_operations:halved", ValueError, "takes arrays: give the --shape of each"),
        ("my_operations:net", ValueError, "takes arrays: give the --shape of each"),
        ("tinyres.nn:Conv2d", TypeError, "missing 3 required positional arguments"),
    ],
)
def test_what_cannot_be_found_is_a_sentence(mine, target, error, sentence):
    with pytest.raises(error, match=sentence):
        find(target, [])


def test_read_shape():
    assert [read_shape(text) for text in ("2,3,8,8", "5", "", "0")] == [(2, 3, 8, 8), (5,), (), (0,)]
    for text in ("2,a", "-1", "2.5", "2 x 3"):
        with pytest.raises(ValueError, match=r"shape is '.*', expected sizes and commas, for instance 2,3,8,8"):
            read_shape(text)


# The command


def tinyres(*args):
    """Exit code, output and errors of a command."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", ["tinyres", *args])
        with pytest.raises(SystemExit) as stop:
            main()
    return stop.value.code or 0, out.getvalue(), err.getvalue()


def test_the_command_prints_the_table():
    code, out, err = tinyres("audit", "tinyres.kernels:conv2d", "--shape", "2,3,5,4", "--shape", "4,3,3,2")
    assert (code, err) == (0, "")
    assert out.startswith("audit of conv2d\ncheck ")
    assert "affine in input, weight" in out


def test_the_command_fails_with_what_fails(mine):
    code, out, err = tinyres("audit", "my_operations.py:halved", "--shape", "2,3")
    assert (code, err) == (1, "")
    assert "check_vjp of halved: FAILED" in out and "a factor of 1/2" in out
    code, out, _ = tinyres("audit", "my_operations:case")
    assert code == 0 and "audit of linear" in out


def test_the_command_draws_by_its_seed():
    runs = [tinyres("audit", "tinyres.nn:Tanh", "--shape", "2,3", "--seed", seed)[1] for seed in ("1", "1", "2")]
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["tinyres.kernels:nothing"], "error: there is no nothing in tinyres.kernels\n"),
        (["tinyres.kernels:relu"], "error: tinyres.kernels:relu takes arrays: give the --shape of each, or"),
        (["tinyres.kernels:relu", "--shape", "two"], "error: shape is 'two', expected sizes and commas"),
        (["tinyres.kernels:relu", "--shape", "2", "--shape", "3"], "error: relu: too many positional arguments\n"),
        (["tinyres.kernels:linear", "--shape", "2,3", "--shape", "4,2"], "error: linear: weight (4, 2) does not fit"),
    ],
)
def test_the_command_says_what_is_wrong_in_one_sentence(args, sentence):
    code, out, err = tinyres("audit", *args)
    assert (code, out) == (1, "")
    assert err.startswith(sentence) and err.count("\n") == 1
