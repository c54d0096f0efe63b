"""Checkpointed modules: the same bits as ever, each hook and each running statistic once, and less memory."""

from __future__ import annotations

import copy
import gc
import pickle
import re
import weakref
from pathlib import Path

import numpy as np
import pytest

import tinyres
from tinyres import Tensor, differentiable, flow, models, nn, no_grad, optim
from tinyres import functional as F
from tinyres.backend import generator, get_rng_state
from tinyres.nn import is_recomputing


class Noisy(nn.Module):
    """A block with all that a second run could get wrong: batch norm, dropout, a state of its own, two uses of x."""

    def __init__(self, channels=4):
        self.conv, self.bn = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)
        self.dropout, self.relu = nn.Dropout(0.4), nn.ReLU()
        self.scale = nn.Buffer(np.ones((), np.float32))

    def forward(self, x):
        self.scale.data *= np.float32(0.75)  # used after it was changed, as spectral norm does
        return self.relu(self.dropout(self.bn(self.conv(x))) * self.scale + x)


NETWORKS = {
    "resnet": lambda: models.CifarResNet(14, width=0.25),
    "plain": lambda: models.CifarResNet(14, width=0.25, residual=False),
    "preact": lambda: models.PreActResNet(14, width=0.25, shortcut="B"),
    "bottleneck": lambda: models.ResNet(nn.Bottleneck, (2, 1, 1, 1), num_classes=10),
    "noisy": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), *(Noisy() for _ in range(3)), nn.Flatten(), nn.Linear(400, 10)),
}
BLOCKS = nn.BasicBlock | nn.PreActBlock | nn.Bottleneck | Noisy


def of(kind):
    return lambda model: [module for module in model.modules() if isinstance(module, kind)]


GRAINS = {
    "blocks": of(BLOCKS),
    "stages": of(nn.Sequential),  # projections, too; and "noisy" as a whole
    "everything": lambda model: list(model.modules()),  # checkpoints in checkpoints in checkpoints
    "the model": lambda model: [model],
}


def make(network="resnet", grain=None, seed=0):
    tinyres.manual_seed(seed)
    model = NETWORKS[network]()
    for module in GRAINS[grain](model) if grain else ():
        assert tinyres.checkpoint(module) is module
    return model


def batch(seed=0, n=4, size=12):
    rng = np.random.default_rng(seed)
    return Tensor(rng.standard_normal((n, 3, size, size), dtype=np.float32)), Tensor(rng.integers(0, 10, n))


def train(model, steps=3, between=lambda: None):
    """Everything that training makes: losses, gradients, weights, running statistics, random numbers."""
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    trace = []
    for step in range(steps):
        x, y = batch(step)
        loss = F.cross_entropy(model(x), y)
        between()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        trace += [
            loss.data,
            *(p.grad.data for p in model.parameters()),
            *(a.copy() for a in model.state_dict().values()),
        ]
    return [*trace, generator().random(3)]


def assert_same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def counting(module):
    """A list that grows by one at each run of the module's forward: whether it was a second one."""
    runs, forward = [], module.forward
    module.forward = lambda *inputs: (runs.append(is_recomputing()), forward(*inputs))[1]
    return runs


# The same bits


@pytest.mark.parametrize("grain", GRAINS)
@pytest.mark.parametrize("network", NETWORKS)
def test_training_is_the_same_to_the_bit(network, grain):
    assert_same(train(make(network, grain)), train(make(network)))


@pytest.mark.parametrize("grain", GRAINS)
def test_training_with_gradients_by_the_input_is_the_same_to_the_bit(grain):
    def gradients(grain):
        model, (x, y) = make("noisy", grain), batch()
        x.requires_grad = True
        F.cross_entropy(model(x), y).backward()
        return [x.grad.data, *(p.grad.data for p in model.parameters())]

    assert_same(gradients(grain), gradients(None))


def test_a_batch_is_counted_once_and_moves_the_statistics_once():
    model = tinyres.checkpoint(nn.BatchNorm2d(3))
    x = np.random.default_rng(0).standard_normal((8, 3, 2, 2)).astype(np.float32)
    model(Tensor(x)).sum().backward()
    assert model.num_batches_tracked.data == 1
    np.testing.assert_allclose(model.running_mean.data, 0.1 * x.mean((0, 2, 3)), rtol=1e-5)


def test_dropout_drops_the_same_and_draws_once():
    model, x = tinyres.checkpoint(nn.Dropout(0.5)), Tensor(np.ones((50, 50)), requires_grad=True)
    tinyres.manual_seed(1)
    y = model(x)
    generator().random(7)  # drawn by others before backward
    after = get_rng_state()
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.data, y.data)
    assert get_rng_state() == after


@pytest.mark.parametrize("grain", [None, "blocks", "everything"])
def test_backward_twice_with_retain_graph_gives_twice_the_gradient(grain):
    model, (x, y) = make("noisy", grain), batch()
    loss = F.cross_entropy(model(x), y)
    loss.backward(retain_graph=True)
    once = [p.grad.data for p in model.parameters()]
    loss.backward()
    assert_same([p.grad.data for p in model.parameters()], [2 * gradient for gradient in once])
    with pytest.raises(RuntimeError, match="cross_entropy was run backward before"):
        loss.backward()


def test_a_freed_module_says_so_as_others_do():
    y = tinyres.checkpoint(nn.ReLU())(Tensor([1.0], requires_grad=True))
    y.backward()
    with pytest.raises(RuntimeError, match="relu was run backward before and what it held is freed"):
        (y * 2).backward()


def test_sums_are_made_in_the_same_order():
    """A weight used in two modules, an input used outside, gradients from before: the last bits tell the order."""

    def gradients(checkpointed):
        tinyres.manual_seed(0)
        first, second = nn.Linear(50, 50), nn.Linear(50, 50)
        second.weight = first.weight
        block = nn.Sequential(first, nn.Tanh(), first, second)
        block.checkpointed = checkpointed
        x = Tensor(np.random.default_rng(0).standard_normal((20, 50)).astype(np.float32), requires_grad=True)
        for _ in range(2):
            (block(x) * x.exp() + block(block(x)) + x * first.weight.sum()).sum().backward()
        return [t.grad.data for t in (x, first.weight, first.bias, second.bias)]

    assert_same(gradients(True), gradients(False))


def test_frozen_parameters_and_an_input_without_gradient():
    def gradients(grain):
        model = make("resnet", grain)
        for name, parameter in model.named_parameters():
            parameter.requires_grad = "layer1" not in name and "conv" in name
        F.cross_entropy(model(batch()[0]), batch()[1]).backward()
        return {name: p.grad.data for name, p in model.named_parameters() if p.grad is not None}

    found, expected = gradients("blocks"), gradients(None)
    assert list(found) == list(expected) and "conv1.weight" in found and "layer1.0.conv1.weight" not in found
    assert_same(list(found.values()), list(expected.values()))


def test_where_nothing_needs_a_gradient_nothing_is_run_again():
    block = make("noisy", "blocks")[1].requires_grad_(False)
    runs = counting(block)
    y = block(Tensor(np.ones((2, 4, 5, 5), np.float32)))
    assert not y.requires_grad and runs == [False]


def test_without_recording_it_is_a_plain_call():
    model, (x, _) = make("resnet", "blocks"), batch()
    expected = make("resnet").eval()(x)
    runs = counting(model.layer1[0])
    with no_grad():
        y = model.eval()(x)
    assert not y.requires_grad and runs == [False]
    assert_same([y.data], [expected.data])


def test_in_evaluation_mode_gradients_are_the_same_too():
    def gradients(grain):
        model, (x, y) = make("noisy", grain), batch()
        train(model, steps=1)
        x.requires_grad = True
        F.cross_entropy(model.eval()(x), y).backward()
        return [x.grad.data, *(p.grad.data for p in model.parameters())]

    assert_same(gradients("blocks"), gradients(None))


@pytest.mark.parametrize("grain", ["blocks", "the model"])
def test_what_happens_between_forward_and_backward_does_not_matter(grain):
    """Another mode, another batch, other random numbers."""

    def gradients(grain):
        model, (x, y) = make("noisy", grain), batch()
        loss = F.cross_entropy(model(x), y)
        state = get_rng_state()
        model(batch(1)[0])
        model.eval()
        tinyres.manual_seed(99)
        loss.backward()
        assert not any(module.training for module in model.modules())
        assert get_rng_state() != state
        return [p.grad.data for p in model.parameters()] + list(model.state_dict().values())

    assert_same(gradients(grain), gradients(None))


def test_backward_works_under_no_grad():
    model, x = tinyres.checkpoint(nn.Tanh()), Tensor([0.5], requires_grad=True)
    y = model(x)
    with no_grad():
        y.backward()
    assert x.grad.item() == pytest.approx(1 - np.tanh(0.5) ** 2)


def test_a_backward_pass_within_the_forward_pass_of_another_module():
    class Steep(nn.Module):
        def forward(self, x):
            if not is_recomputing():
                other.backward()
            return F.tanh(x * z.grad.detach())

    def gradient(checkpointed):
        inner.checkpointed = outer.checkpointed = checkpointed
        nonlocal other, z
        z, x = (Tensor([0.5, -2.0], requires_grad=True) for _ in range(2))
        other = inner(z).sum()
        outer(x).sum().backward()
        return x.grad.data

    inner, outer, other, z = nn.Sequential(nn.Tanh(), nn.Tanh()), Steep(), None, None
    assert_same(gradient(True), gradient(False))


class TwoByTwo(nn.Module):
    def __init__(self):
        self.layer = nn.Linear(3, 3)

    def forward(self, x, y, factor):
        return {"sum": self.layer(x) + y, "rest": [F.tanh(self.layer(y)) * factor, x]}


def test_several_inputs_and_outputs():
    def gradients(checkpointed):
        tinyres.manual_seed(0)
        model = TwoByTwo()
        model.checkpointed = checkpointed
        x, y = (
            Tensor(np.random.default_rng(i).standard_normal((2, 3)).astype("f"), requires_grad=True) for i in (1, 2)
        )
        out = model(x, y, 3)
        (out["rest"][0].sum() + out["rest"][1].sum()).backward(retain_graph=True)  # without "sum", the last operation
        (out["rest"][0] * out["sum"]).sum().backward()
        return [t.grad.data for t in (x, y, *model.parameters())]

    assert_same(gradients(True), gradients(False))


def test_a_chain_of_10_000_modules():
    """Forward, backward and deletion are loops, not recursions."""
    model, x = tinyres.checkpoint(nn.Tanh()), Tensor([0.1], requires_grad=True)
    y = x
    for _ in range(10_000):
        y = model(y)
    y.backward()
    assert x.grad is not None
    for _ in range(10_000):
        y = model(y)
    del y


def test_on_a_gpu_nothing_waits(cupy):
    def gradients(grain):
        model, (x, y) = make("noisy", grain).to("cuda"), batch()
        x, y = x.to("cuda"), y.to("cuda")
        before = cupy.synchronisations()
        F.cross_entropy(model(x), y).backward()
        assert cupy.synchronisations() == before
        return [p.grad.numpy() for p in model.parameters()] + [b.numpy() for _, b in model.named_buffers()]

    assert_same(gradients("everything"), gradients(None))


# What watches


@pytest.mark.parametrize("grain", GRAINS)
@pytest.mark.parametrize("network", ["resnet", "bottleneck", "noisy"])
def test_a_snapshot_records_the_same_rows(network, grain):
    found, expected = (flow.snapshot(make(network, g), *batch()).rows for g in (grain, None))
    assert not np.isnan(expected["rms"]).any()
    assert found.tobytes() == expected.tobytes()  # with every NaN: most rows have no cosine


@pytest.mark.parametrize("grain", GRAINS)
@pytest.mark.parametrize("with_optimizer", [True, False])
def test_a_watch_records_the_same_rows(grain, with_optimizer):
    def rows(grain):
        model = make("noisy", grain)
        optimizer = optim.SGD(model.parameters(), lr=0.1) if with_optimizer else None
        with flow.watch(model, optimizer, every=2) as record:
            for step in range(3):
                x, y = batch(step)
                loss = F.cross_entropy(model(x), y)
                model.eval()(x)  # a look aside
                model.train().zero_grad()
                loss.backward()
                if optimizer:
                    optimizer.step()
        assert record.steps == [0, 2]
        return record.rows

    assert rows(grain).tobytes() == rows(None).tobytes()


@pytest.mark.parametrize("grain", ["blocks", "everything"])
def test_hooks_on_tensors_inside_are_called_once_and_may_replace(grain):
    def run(grain):
        model, (x, y) = make("noisy", grain), batch()
        seen, kept = [], []

        def look(module, inputs, output):
            if not is_recomputing():
                kept.append(output)
                output.retain_grad()
                output.register_hook(lambda grad: seen.append(grad.data))
                output.register_hook(lambda grad: grad * 2)

        handles = [module.register_forward_hook(look) for module in model.modules() if not list(module.children())]
        loss = F.cross_entropy(model(x), y)
        for handle in handles:
            handle.remove()
        kept[1].register_hook(lambda grad: seen.append(grad.data))  # late, on the first tensor inside a block
        loss.backward()
        return [*seen, *(tensor.grad.data for tensor in kept), *(p.grad.data for p in model.parameters())]

    assert_same(run(grain), run(None))


def test_forward_hooks_inside_run_twice_even_if_removed_and_may_replace_and_compute():
    def gradients(checkpointed):
        tinyres.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
        model.checkpointed = checkpointed
        runs = []
        watch = model[1].register_forward_hook(lambda *_: runs.append(is_recomputing()))
        measure = model[1].register_forward_hook(lambda m, i, output: (output.abs() + 1).sum() and None)
        replace = model[1].register_forward_hook(lambda m, inputs, output: output * inputs[0])
        y = model(Tensor(np.eye(3, dtype=np.float32)))
        for handle in (watch, measure, replace):
            handle.remove()
        y.sum().backward()
        assert runs == ([False, True] if checkpointed else [False])
        assert not model[1]._forward_hooks
        return [p.grad.data for p in model.parameters()]

    assert_same(gradients(True), gradients(False))


def test_a_hook_that_takes_itself_off_is_there_in_the_second_run():
    def gradients(checkpointed):
        model = nn.Sequential(nn.Tanh(), nn.Tanh())
        model.checkpointed = checkpointed

        def once(module, inputs, output):
            handle.remove()
            return output * 3

        handle = model[0].register_forward_hook(once)
        x = Tensor([0.5], requires_grad=True)
        model(x).backward()
        return x.grad.data

    assert_same(gradients(True), gradients(False))


def test_hooks_on_the_module_itself_are_called_once():
    model = tinyres.checkpoint(nn.Tanh())
    calls = []
    model.register_forward_hook(lambda module, inputs, output: calls.append(inputs) or output * 3)
    x = Tensor([0.5], requires_grad=True)
    model(x).backward()
    assert len(calls) == 1 and calls[0][0] is x
    assert x.grad.item() == pytest.approx(3 * (1 - np.tanh(0.5) ** 2))


def test_a_loss_on_a_tensor_from_inside():
    def gradients(grain):
        model, (x, y) = make("resnet", grain), batch()
        inner = []
        model.layer2[0].relu1.register_forward_hook(
            lambda m, i, output: None if is_recomputing() else inner.append(output)
        )
        logits = model(x)
        inner[0].mean().backward(retain_graph=True)
        (F.cross_entropy(logits, y) + inner[0].sum()).backward()
        return [np.zeros(0) if p.grad is None else p.grad.data for p in model.parameters()]

    assert_same(gradients("blocks"), gradients(None))


def test_anomaly_detection_names_operation_and_line():
    @differentiable
    def broken(x):
        return x + 1, lambda dy: dy * np.nan

    class Block(nn.Module):
        def forward(self, x):
            return F.tanh(broken(x))  # this line

    x = Tensor([1.0, 2.0], requires_grad=True)
    line = 1 + next(i for i, text in enumerate(Path(__file__).read_text().splitlines()) if "# this line" in text)
    with tinyres.detect_anomaly():
        y = tinyres.checkpoint(Block())(x).sum()
        with pytest.raises(FloatingPointError) as caught:
            y.backward()
    assert "broken: the gradient for input 0 has 2 NaN or Inf of 2 values (x: (2,))" in str(caught.value)
    assert f"{__file__}:{line}:" in str(caught.value)
    assert not is_recomputing()


# What it is


def test_a_checkpointed_module_is_itself_in_all_else():
    model, plain = make("resnet", "blocks"), make("resnet")
    assert isinstance(model.layer1[0], nn.BasicBlock)
    assert list(model.state_dict()) == list(plain.state_dict())
    assert [name for name, _ in model.named_modules()] == [name for name, _ in plain.named_modules()]
    assert repr(model) == repr(plain)
    train(model, steps=1)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert twin.layer1[0].checkpointed and not twin.checkpointed
        assert_same(train(twin)[:-1], train(copy.deepcopy(model))[:-1])


def test_it_can_be_taken_back():
    model = tinyres.checkpoint(nn.Tanh())
    model.checkpointed = False
    runs = counting(model)
    model(Tensor([1.0], requires_grad=True)).backward()
    assert runs == [False]


@pytest.mark.parametrize("wrong", [lambda x: x, nn.ReLU, None], ids=["function", "class", "None"])
def test_what_is_no_module_gets_a_sentence(wrong):
    with pytest.raises(TypeError, match="checkpoint: expected a Module, but it is a"):
        tinyres.checkpoint(wrong)


class Fickle(nn.Module):
    def __init__(self, *operations):
        self.operations = list(operations)

    def forward(self, x):
        for operation in self.operations.pop(0):
            x = operation(x)
        return x


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        ([F.tanh], [F.relu], "did tanh of (2,) when it was first run but relu of (2,) when it was run again"),
        ([F.tanh], [F.tanh, F.relu], "did nothing more when it was first run but relu of (2,)"),
        ([F.tanh, F.exp], [F.tanh], "did exp of (2,) when it was first run but nothing more"),
    ],
)
def test_a_module_that_does_something_else_the_second_time(first, second, says):
    model, x = tinyres.checkpoint(Fickle(first, second)), Tensor([1.0, 2.0], requires_grad=True)
    y = model(x).sum()
    with pytest.raises(RuntimeError, match=r"checkpoint: Fickle " + re.escape(says)):
        y.backward()


def test_an_error_in_the_second_run_leaves_everything_as_it_was():
    class Once(nn.Module):
        def __init__(self):
            self.norm, self.dropout = nn.BatchNorm2d(4), nn.Dropout(0.5)

        def forward(self, x):
            x = self.dropout(self.norm(x))
            if is_recomputing():
                raise KeyboardInterrupt
            return x

    model = tinyres.checkpoint(Once())
    y = model(
        Tensor(
            np.random.default_rng(0).standard_normal((3, 4)),
        ).to("float32")
    ).sum()
    model.eval()
    state, random = {name: array.copy() for name, array in model.state_dict().items()}, get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        y.backward()
    assert not is_recomputing() and not model.norm.training and get_rng_state() == random
    assert_same(list(model.state_dict().values()), list(state.values()))
    assert (Tensor([1.0], requires_grad=True) * 2).requires_grad


# Memory


class Alive:
    """Counts arrays of some size that are alive, seen as outputs of an operation."""

    def __init__(self):
        self.references = []
        self.most = 0

    def step(self):
        """tanh, which keeps its output."""

        @differentiable
        def step(x):
            y = np.tanh(x)
            self.references.append(weakref.ref(y))
            self.most = max(self.most, self.count())
            return y, lambda dy: dy * (1 - y * y)

        return step

    def count(self):
        return sum(reference() is not None for reference in self.references)


class Steps(nn.Module):
    def __init__(self, alive, count):
        self.step, self.count = alive.step(), count

    def forward(self, x):
        for _ in range(self.count):
            x = self.step(x)
        return x


@pytest.fixture
def no_gc():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def test_between_the_runs_inputs_alone_are_kept(no_gc):
    alive = Alive()
    model = nn.Sequential(*(tinyres.checkpoint(Steps(alive, 10)) for _ in range(5)))
    x = Tensor(np.ones(7), requires_grad=True)
    y = model(x).sum()
    assert alive.count() == 4  # the inputs of all but the first module
    alive.most = 0
    y.backward()
    assert (
        alive.most == 4 + 10 + 1 - 1
    )  # at the last module: its operations' outputs; the one that is made has no tensor yet
    assert alive.count() == 0


def test_checkpoints_in_checkpoints_keep_still_less(no_gc):
    def most(nested):
        alive = Alive()
        blocks = [nn.Sequential(*(Steps(alive, 5) for _ in range(5))) for _ in range(5)]
        for stage in blocks:
            tinyres.checkpoint(stage)
            for block in stage if nested else ():
                tinyres.checkpoint(block)
        x = Tensor(np.ones(7), requires_grad=True)
        nn.Sequential(*blocks)(x).sum().backward()
        assert alive.count() == 0
        return alive.most

    assert most(nested=False) == 4 + 25
    assert most(nested=True) == 4 + 4 + 5


@pytest.mark.parametrize("backward", ["none", "freed", "retained"])
def test_a_deleted_graph_is_gone_at_once(no_gc, backward):
    alive = Alive()
    model = tinyres.checkpoint(nn.Sequential(*(tinyres.checkpoint(Steps(alive, 3)) for _ in range(3))))
    y = model(Tensor(np.ones(7), requires_grad=True))
    loss = y.sum()
    if backward != "none":
        loss.backward(retain_graph=backward == "retained")
    del y, loss
    assert alive.count() == 0
    parameters = [weakref.ref(module) for module in model.modules()]
    del model
    assert [reference() for reference in parameters] == [None] * 4


def test_with_retain_graph_it_keeps_little_all_the_same(no_gc):
    alive = Alive()
    model = nn.Sequential(*(tinyres.checkpoint(Steps(alive, 10)) for _ in range(5)))
    y = model(Tensor(np.ones(7), requires_grad=True)).sum()
    y.backward(retain_graph=True)
    assert alive.count() == 4
