"""Networks in words: what they compute, and what their initialisers promise."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

import tinyres
from tinyres import Tensor, models, nn
from tinyres.experiments.identity_mappings import NETS as MAPPINGS
from tinyres.experiments.normalisation_free import NETS as FREE
from tinyres.experiments.variants import Block, Net, Variant, fixup, layers, stochastic_depth, zero_gamma

X = np.random.default_rng(0).normal(size=(4, 3, 8, 8)).astype(np.float32)
VARIANTS = MAPPINGS | {name: variant for name, (variant, _) in FREE.items()}


@pytest.fixture(autouse=True)
def seed():
    tinyres.manual_seed(0)


def run(net, x=X):
    with tinyres.no_grad():
        return net(Tensor(x)).numpy().copy()


@pytest.mark.parametrize("name", VARIANTS)
def test_all_variants_run_and_have_a_gradient_everywhere(name):
    net = Net(VARIANTS[name], 20, width=0.25)
    logits = net(Tensor(X))
    assert logits.shape == (4, 10)
    logits.backward(np.ones((4, 10), np.float32))
    assert all(parameter.grad is not None for parameter in net.parameters())


@pytest.mark.parametrize(
    ("variant", "model"),
    [("original", partial(models.resnet20)), ("full pre-activation", partial(models.preact_resnet20))],
)
def test_two_of_them_are_networks_that_the_package_has(variant, model):
    theirs, mine = model(width=0.25), Net(MAPPINGS[variant], 20, width=0.25)
    assert [p.shape for p in theirs.parameters() if p.ndim == 4] == [p.shape for p in mine.parameters() if p.ndim == 4]
    for kind in (nn.Conv2d, nn.Linear):
        pairs = zip(*([m for m in net.modules() if isinstance(m, kind)] for net in (theirs, mine)), strict=True)
        for their_layer, my_layer in pairs:
            for own, other in zip(my_layer.parameters(), their_layer.parameters(), strict=True):
                own.data[...] = other.data
    np.testing.assert_allclose(run(mine), run(theirs), rtol=1e-4, atol=1e-5)


def block(**words):
    return Block(4, 4, variant=Variant(**words))


def test_what_stands_on_the_skip():
    """With a branch that gives zero, a block is its shortcut."""
    x = np.abs(np.random.default_rng(1).normal(size=(2, 4, 5, 5))).astype(np.float32)
    bare = dict(branch="conv zero", after="")
    np.testing.assert_array_equal(run(block(**bare), x), x)
    np.testing.assert_array_equal(run(block(**bare, shortcut="half"), x), x / 2)
    gated = block(**bare, shortcut="gate")
    weight, bias = (parameter.data for parameter in gated.shortcut.parameters())
    gate = 1 / (1 + np.exp(-(np.einsum("oc,nchw->nohw", weight[:, :, 0, 0], x) + bias[:, None, None])))
    np.testing.assert_allclose(run(gated, x), (1 - gate) * x, rtol=1e-5)
    dropping = block(**bare, shortcut="dropout")
    assert set(np.unique((run(dropping, x) / x).round(5))) == {0, 2}
    np.testing.assert_array_equal(run(dropping.eval(), x), x)


@pytest.mark.parametrize("name", ["no norm, SkipInit", "no norm, Fixup", "BN, zero-γ"])
def test_blocks_that_start_as_the_identity(name):
    variant, start = FREE[name]
    net = Net(variant, 20, width=0.25)
    if start is not None:
        start(net)
    x = np.abs(np.random.default_rng(1).normal(size=(2, 4, 5, 5))).astype(np.float32)
    for one in net.layer1:
        np.testing.assert_array_equal(run(one, x), x)


def test_fixup_is_as_the_paper_says():
    """Nine branches of two convolutions: the first is He's times 9^(−1/2), the second zero, the head zero."""
    tinyres.manual_seed(5)
    before = Net(FREE["no norm, Fixup"][0], 20, width=1)
    tinyres.manual_seed(5)
    after = Net(FREE["no norm, Fixup"][0], 20, width=1)
    fixup(after)
    for old, new in zip(before.blocks(), after.blocks(), strict=True):
        was, now = ([m.weight.data for m in b.branch if isinstance(m, nn.Conv2d)] for b in (old, new))
        np.testing.assert_allclose(now[0], was[0] / 3, rtol=1e-6)
        assert not now[1].any()
        assert sorted(p.data.item() for p in new.parameters() if p.shape == (1,)) == [0, 0, 0, 0, 1]
    assert not any(parameter.data.any() for parameter in after.fc.parameters())


def test_zero_gamma_is_the_last_norm_of_each_branch():
    net = Net(Variant(), 20, width=0.25)
    zero_gamma(net)
    norms = [m.weight.data for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert [bool(weight.any()) for weight in norms] == [True, *[True, False] * 9]


def test_stochastic_depth():
    net = Net(Variant(), 20, width=0.25)
    stochastic_depth(net)
    np.testing.assert_allclose([b.survival for b in net.blocks()], 1 - np.arange(1, 10) / 9 / 2)
    one = block(branch="conv", after="")
    one.survival = 0.25
    x = X[:, [0, 1, 2, 0]]
    branch = run(one.branch, x)
    outputs = [run(one, x) for _ in range(200)]
    kept = [not np.array_equal(output, x) for output in outputs]
    assert 30 <= sum(kept) <= 70  # 50 of 200 expected, 6 is the standard deviation
    for output, branch_ran in zip(outputs, kept, strict=True):
        np.testing.assert_allclose(output, x + branch_ran * branch, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(run(one.eval(), x), x + branch / 4, rtol=1e-5, atol=1e-6)


def test_a_word_that_is_no_layer():
    with pytest.raises(ValueError, match=r"no layer 'gelu'.*conv.*norm"):
        layers("conv gelu", 3, 3)
