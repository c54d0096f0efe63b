"""Watching: the right numbers at the right steps, and nothing changed by it."""

from __future__ import annotations

import copy
from functools import partial

import numpy as np
import pytest

import tinyres
from tinyres import Tensor, flow, models, nn, no_grad, optim
from tinyres import functional as F
from tinyres.backend import get_rng_state

NETWORKS = {
    "resnet": lambda: models.CifarResNet(14, width=0.25),
    "resnet B": lambda: models.CifarResNet(8, width=0.25, shortcut="B"),
    "plain": lambda: models.CifarResNet(14, width=0.25, residual=False),
    "preact": lambda: models.PreActResNet(14, width=0.25),
    "bottleneck": lambda: models.ResNet(nn.Bottleneck, (1, 1, 1, 1), num_classes=10),
}


def batch(seed: int, n: int = 4, size: int = 12) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    return Tensor(rng.standard_normal((n, 3, size, size), dtype=np.float32)), Tensor(rng.integers(0, 10, n))


def train_step(model, optimizer=None, seed=0):
    x, y = batch(seed)
    loss = F.cross_entropy(model(x), y)
    model.zero_grad()
    loss.backward()
    if optimizer is not None:
        optimizer.step()


def tiny_network(seed: int = 0) -> nn.Sequential:
    tinyres.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 10))


def row(record, name, role, step=0):
    rows = record.rows
    (found,) = rows[(rows["name"] == name) & (rows["role"] == role) & (rows["step"] == step)]
    return found


def check(record, name, role, array, step=0):
    found, values = row(record, name, role, step), array.astype(np.float64)
    want = [values.mean(), values.std(), np.sqrt((values**2).mean()), np.abs(values).max(), (values == 0).mean(), 0]
    atol = 1e-10 * np.abs(values).max()  # the mean may cancel
    np.testing.assert_allclose([found[key] for key in flow.STATISTICS], want, rtol=1e-9, atol=atol)


def graph(loss):
    """All nodes that a loss was made from."""
    nodes, queue = set(), [loss._node]
    while queue:
        node = queue.pop()
        if node is not None and node not in nodes:
            nodes.add(node)
            queue.extend(node.inputs)
    return nodes


def hooks(model):
    return [hook for module in model.modules() for hook in module._forward_hooks.values()] + [
        hook for parameter in model.parameters() if parameter._node for hook in parameter._node.hooks.values()
    ]


def assert_untouched(model, optimizer=None):
    assert not hooks(model)
    assert "forward" not in vars(model)
    assert optimizer is None or "step" not in vars(optimizer)


# The right numbers


def test_a_network_worked_out_by_hand():
    """tanh(x A) B with the loss Σ c·y, whose gradients fit on a page."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((5, 7)), rng.standard_normal((7, 2))
    x, c = rng.standard_normal((3, 5)), rng.standard_normal((3, 2))
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 2)).to("float64")
    for layer, weight in ((model[0], a), (model[2], b)):
        layer.weight.data[...] = weight.T
        layer.bias.data[...] = 0
    record = flow.snapshot(model, x, c, loss=lambda output, c: (output * Tensor(c)).sum())
    h = np.tanh(x @ a)
    by_h = c @ b.T
    by_xa = by_h * (1 - h**2)
    for name, role, array in [
        ("0", "activation", x @ a),
        ("1", "activation", h),
        ("2", "activation", h @ b),
        ("2", "activation_grad", c),
        ("1", "activation_grad", by_h),
        ("0", "activation_grad", by_xa),
        ("0", "weight", a),
        ("2", "weight", b),
        ("0", "weight_grad", x.T @ by_xa),
        ("2", "weight_grad", h.T @ c),
    ]:
        check(record, name, role, array)
    assert len(record.rows) == 10


def test_gradients_are_those_that_backward_keeps_elsewhere():
    model = tiny_network()
    x, y = batch(0)
    outputs, out = {}, x
    for name, module in model.named_children():
        outputs[name] = out = module(out)
        out.retain_grad()
    F.cross_entropy(out, y).backward()
    record = flow.snapshot(model, x, y)
    for name, output in outputs.items():
        check(record, name, "activation", output.data)
        check(record, name, "activation_grad", output.grad.data)
    for name in ("0", "3"):
        check(record, name, "weight_grad", model[int(name)].weight.grad.data)


def test_update_is_what_momentum_makes_of_the_gradients():
    model = tiny_network()
    lr, momentum = 0.05, 0.9
    optimizer = optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    velocity, weight = 0.0, model[0].weight.data.astype(np.float64)
    with flow.watch(model, optimizer) as record:
        for step in range(3):
            train_step(model, optimizer, seed=step)
            gradient = model[0].weight.grad.data.astype(np.float64)
            velocity = momentum * velocity + gradient
            check(record, "0", "weight_grad", gradient, step)
            np.testing.assert_allclose(row(record, "0", "weight", step)["rms"], np.sqrt((weight**2).mean()), rtol=1e-6)
            found, want = row(record, "0", "update", step)["rms"], lr * np.sqrt((velocity**2).mean())
            np.testing.assert_allclose(found, want, rtol=1e-4)  # the difference of two float32 weights
            weight = weight - lr * velocity


def test_the_weights_gradient_is_taken_before_clipping():
    model = tiny_network()
    x, y = batch(0)
    with flow.watch(model) as record:
        F.cross_entropy(model(x), y).backward()
        before = model[3].weight.grad.data.copy()
        optim.clip_grad_norm_(model.parameters(), 1e-3)
    check(record, "3", "weight_grad", before)


# Which rows


def test_positions_names_kinds_and_blocks_follow_the_forward_pass():
    record = flow.snapshot(NETWORKS["resnet B"](), *batch(0))
    rows = record.rows[record.rows["role"] == "activation"]
    assert rows["position"].tolist() == list(range(len(rows)))
    start = [("conv1", "Conv2d", ""), ("bn1", "BatchNorm2d", ""), ("relu", "ReLU", "")]
    layers = ["conv1", "bn1", "relu1", "conv2", "downsample.0", "downsample.1", "bn2", "add", "relu2"]
    kinds = ["Conv2d", "BatchNorm2d", "ReLU", "Conv2d", "Conv2d", "BatchNorm2d", "BatchNorm2d", "Add", "ReLU"]
    block = [(f"layer2.0.{layer}", kind, "layer2.0") for layer, kind in zip(layers, kinds, strict=True)]
    found = list(zip(rows["name"].tolist(), rows["kind"].tolist(), rows["block"].tolist(), strict=True))
    assert found[:3] == start
    assert found[10:19] == block
    assert found[-1] == ("fc", "Linear", "")
    parts = {"skip", "branch", "skip_grad", "branch_grad"}
    assert {*record.rows["role"]} == {"activation", "activation_grad", "weight", "weight_grad", *parts}
    assert {*record.rows["name"][np.isin(record.rows["role"], [*parts])]} == {f"layer{i}.0.add" for i in (1, 2, 3)}


class Reused(nn.Module):
    """One layer, used `times` times, and one that is used only sometimes."""

    def __init__(self, times):
        self.layer, self.extra, self.times, self.use_extra = nn.Linear(4, 4), nn.Tanh(), times, False

    def forward(self, x):
        for _ in range(self.times):
            x = self.layer(x)
        return self.extra(x) if self.use_extra else x


def test_a_module_used_twice_has_two_positions_and_one_weight():
    model, x = Reused(2), np.ones((2, 4), np.float32)
    with flow.watch(model) as record:
        for model.use_extra in (False, True, False):
            model(Tensor(x)).sum().backward()
    rows = record.rows
    places = [(int(r["step"]), int(r["position"]), str(r["name"])) for r in rows[rows["role"] == "activation"]]
    layer, extra = [(0, "layer"), (1, "layer")], [(2, "extra")]
    assert places == [(s, *p) for s, seen in enumerate((layer, layer + extra, layer)) for p in seen]
    assert rows["position"][rows["role"] == "weight"].tolist() == [0, 0, 0]


class Pair(nn.Module):
    def forward(self, x):
        return x, x * 2


def test_outputs_that_are_no_tensors_are_missing():
    class TwoHeads(nn.Module):
        def __init__(self):
            self.layer, self.pair = nn.Linear(4, 4), Pair()

        def forward(self, x):
            return self.pair(self.layer(x))[1]

    record = flow.snapshot(TwoHeads(), np.ones((2, 4), np.float32), None, loss=lambda output, _: output.sum())
    assert np.isnan(row(record, "pair", "activation")["rms"])
    assert row(record, "layer", "activation_grad")["rms"] == 2


def test_frozen_and_unused_layers_are_missing_and_named():
    class Frozen(nn.Module):
        def __init__(self):
            self.stem, self.body, self.unused = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
            self.stem.requires_grad_(False)

        def forward(self, x):
            out = self.body(self.stem(x))
            self.unused(out)
            return out

    model = Frozen()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    with flow.watch(model, optimizer) as record:
        model(Tensor(np.ones((2, 4), np.float32))).sum().backward()
        optimizer.step()
    for name, role in [("stem", "activation_grad"), ("stem", "weight_grad"), ("unused", "activation_grad")]:
        assert all(np.isnan(row(record, name, role)[statistic]) for statistic in flow.STATISTICS)
    assert row(record, "stem", "update")["abs_max"] == 0
    assert row(record, "unused", "update")["abs_max"] == 0
    assert row(record, "body", "update")["rms"] > 0
    assert "stem" in str(record)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning", "ignore:overflow:RuntimeWarning")
def test_a_network_full_of_nan_is_counted():
    model = NETWORKS["resnet"]()
    model.layer1[0].conv1.weight.data[0, 0, 0, 0] = np.nan
    record = flow.snapshot(model, *batch(0))
    assert row(record, "layer1.0.conv1", "weight")["nonfinite_fraction"] == 1 / model.layer1[0].conv1.weight.data.size
    assert row(record, "layer1.0.conv1", "activation")["nonfinite_fraction"] > 0
    assert row(record, "conv1", "weight_grad")["nonfinite_fraction"] == 1
    (line,) = [line for line in str(record).splitlines() if line.startswith("conv1 ")]
    assert "100 % of weight_grad" in line


# Which steps


@pytest.mark.parametrize("with_optimizer", [True, False])
def test_every_third_step(with_optimizer):
    model = tiny_network()
    optimizer = optim.SGD(model.parameters(), lr=0.1) if with_optimizer else None
    watched = []
    with flow.watch(model, optimizer, every=3) as record:
        for step in range(8):
            x, y = batch(step)
            loss = F.cross_entropy(model(x), y)
            if step % 3 == 0:
                watched.append(model[3].weight.data.copy())
            assert bool(hooks(model)) == (step % 3 == 0)
            loss.backward()
            if optimizer is not None:
                optimizer.step()
    assert record.steps == [0, 3, 6]
    for step, weight in zip(record.steps, watched, strict=True):
        check(record, "3", "weight", weight, step)
        assert np.isfinite(row(record, "0", "weight_grad", step)["rms"])


@pytest.mark.parametrize("with_optimizer", [True, False])
def test_passes_that_do_not_train_are_ignored(with_optimizer):
    model = NETWORKS["resnet"]()
    optimizer = optim.SGD(model.parameters(), lr=0.1) if with_optimizer else None

    def look_aside():
        x, _ = batch(99)
        model.eval()(x)
        model.train()
        with no_grad():
            model(x)

    with flow.watch(model, optimizer) as record:
        for step in range(3):
            look_aside()
            x, y = batch(step)
            loss = F.cross_entropy(model(x), y)
            look_aside()
            loss.backward()
            if optimizer is not None:
                optimizer.step()
    assert record.steps == [0, 1, 2]
    assert len(record.rows) == 3 * len(record.rows[record.rows["step"] == 0])
    assert not np.isnan(record.rows["rms"]).any()


def test_of_several_passes_in_a_step_the_first_is_recorded():
    model = tiny_network()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    outputs = []
    with flow.watch(model, optimizer) as record:
        for _ in range(2):
            for seed in range(2):
                x, y = batch(seed)
                outputs.append(model(x))
                F.cross_entropy(outputs[-1], y).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert record.steps == [0, 1]
    check(record, "3", "activation", outputs[0].data, 0)
    check(record, "3", "activation", outputs[2].data, 1)


def test_a_pass_that_fails_is_forgotten():
    model = tiny_network()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    with flow.watch(model, optimizer) as record:
        with pytest.raises(ValueError):
            model(Tensor(np.zeros((2, 3, 5, 5), np.float32)))  # too small for the linear layer
        assert not hooks(model)
        train_step(model, optimizer)
    assert record.rows["position"][record.rows["role"] == "activation"].tolist() == [0, 1, 2, 3]


# Nothing is changed


@pytest.mark.parametrize("network", NETWORKS)
def test_watching_changes_no_bit(network):
    def run(watched):
        tinyres.manual_seed(3)
        model = NETWORKS[network]()
        optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        gradients = []
        if watched:
            with flow.watch(model, optimizer, every=2) as record:
                for step in range(3):
                    train_step(model, optimizer, step)
                    gradients.append([parameter.grad.data for parameter in model.parameters()])
            assert record.steps == [0, 2]
            assert not np.isnan(record.rows["rms"]).any()
        else:
            for step in range(3):
                train_step(model, optimizer, step)
                gradients.append([parameter.grad.data for parameter in model.parameters()])
        assert_untouched(model, optimizer)
        return gradients, model.state_dict()

    (gradients, state), (plain_gradients, plain_state) = run(True), run(False)
    for step, plain_step in zip(gradients, plain_gradients, strict=True):
        for one, other in zip(step, plain_step, strict=True):
            np.testing.assert_array_equal(one, other)
    for key, array in state.items():
        np.testing.assert_array_equal(array, plain_state[key], err_msg=key)


FAMILIES = {
    **{name: partial(models.get, name) for name in ("resnet20", "plain20", "preact_resnet20", "resnet18", "plain18")},
    "resnet50": lambda: models.ResNet(nn.Bottleneck, (3, 4, 6, 3), num_classes=10, stride_in="1x1"),
    **{f"shortcut {option}": partial(models.resnet20, width=0.25, shortcut=option) for option in "ABC"},
    **{f"preact {option}": partial(models.preact_resnet20, width=0.25, shortcut=option) for option in "BC"},
}


@pytest.mark.parametrize("checkpointed", [False, True], ids=["", "checkpointed"])
@pytest.mark.parametrize("family", FAMILIES)
def test_no_family_of_networks_notices(family, checkpointed):
    """Gradients to the bit, and a graph without hooks afterwards, whether or not the pass comes to its end."""
    tinyres.manual_seed(0)
    model = FAMILIES[family]()
    x, y = batch(0, n=2, size=16)
    F.cross_entropy(model(x), y).backward()
    expected = [parameter.grad.data for parameter in model.parameters()]
    model.zero_grad()
    if checkpointed:
        for block in model.layer2:
            tinyres.checkpoint(block)
    with flow.watch(model) as record:
        loss = F.cross_entropy(model(x), y)
        loss.backward(retain_graph=True)
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        np.testing.assert_array_equal(parameter.grad.data, gradient)
    rows = record.rows
    assert not np.isnan(rows["rms"]).any()
    assert rows["histogram"].any(axis=1).all()
    compared = np.isin(rows["role"], ["skip", "branch", "skip_grad", "branch_grad"])
    np.testing.assert_array_equal(np.isfinite(rows["cosine"]), compared)
    additions = sum(isinstance(module, nn.Add) for module in model.modules())
    assert compared.sum() == 4 * additions
    assert (additions == 0) == ("plain" in family)
    with pytest.raises(ZeroDivisionError), flow.watch(model):
        unfinished = F.cross_entropy(model(x), y)
        raise ZeroDivisionError
    for node in graph(loss) | graph(unfinished):
        assert not node.hooks
        assert not node.part_hooks
    assert_untouched(model)


@pytest.mark.parametrize("when", ["before", "between", "after"])
def test_nothing_stays_behind_after_an_error(when):
    model = NETWORKS["resnet"]()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(KeyboardInterrupt), flow.watch(model, optimizer) as record:
        if when == "between":
            model(batch(0)[0])
        if when == "after":
            train_step(model, optimizer)
        raise KeyboardInterrupt
    assert_untouched(model, optimizer)
    assert record.steps == ([] if when == "before" else [0])


def test_watches_can_be_nested():
    model = tiny_network()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    with flow.watch(model, optimizer) as outer:
        train_step(model, optimizer)
        with flow.watch(model, optimizer) as inner:
            train_step(model, optimizer)
        train_step(model, optimizer)
    assert_untouched(model, optimizer)
    assert (outer.steps, inner.steps) == ([0, 1, 2], [0])
    of_step_1 = outer.rows[outer.rows["step"] == 1]
    for name in (*flow.STATISTICS, "position", "name", "role"):
        np.testing.assert_array_equal(of_step_1[name], inner.rows[name])


def test_a_copy_made_meanwhile_is_a_network_of_its_own():
    model = tiny_network()
    with flow.watch(model) as record:
        twin = copy.deepcopy(model)
        twin[3].weight.data[...] = 0
        twin[3].bias.data[...] = 7
        assert (twin(batch(0)[0]).data == 7).all()
    assert record.steps == []


def test_snapshot_leaves_everything_as_it_was():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.3), nn.Flatten(), nn.Linear(400, 10))
    train_step(model)
    model.eval()
    model[2].training = True
    gradients = [parameter.grad for parameter in model.parameters()]
    values = [gradient.data.copy() for gradient in gradients]
    state = {key: array.copy() for key, array in model.state_dict().items()}
    arrays, random = model.state_dict(), get_rng_state()
    x, y = batch(1)
    x.requires_grad = True
    record = flow.snapshot(model, x, y)
    assert row(record, "2", "activation")["zero_fraction"] > 0.1  # it was in training mode
    assert_untouched(model)
    assert x.grad is None
    assert [module.training for module in model.modules()] == [False, False, False, True, False, False]
    assert get_rng_state() == random
    for parameter, gradient, value in zip(model.parameters(), gradients, values, strict=True):
        assert parameter.grad is gradient
        np.testing.assert_array_equal(gradient.data, value)
    for key, array in model.state_dict().items():
        assert array is arrays[key]
        np.testing.assert_array_equal(array, state[key])


def test_snapshot_tidies_up_after_an_error():
    model = tiny_network().eval()
    with pytest.raises(ValueError, match="label"):
        flow.snapshot(model, batch(0)[0], np.full(4, 99))
    assert_untouched(model)
    assert not model.training
    assert model[0].weight.grad is None


# Elsewhere


def test_on_a_gpu_nothing_waits_until_the_rows_are_read(cupy):
    model = models.CifarResNet(8, width=0.25)
    on_host = flow.snapshot(model, *batch(0))
    x, y = batch(0)
    model.to("cuda")
    x, y = x.to("cuda"), y.to("cuda")

    def waits(watch):
        before = cupy.synchronisations()
        if watch:
            with flow.watch(model) as record:
                F.cross_entropy(model(x), y).backward()
        else:
            record = None
            F.cross_entropy(model(x), y).backward()
        return cupy.synchronisations() - before, record

    unwatched, (watched, record) = waits(False)[0], waits(True)
    assert watched == unwatched
    np.testing.assert_allclose(record.rows["rms"], on_host.rows["rms"], rtol=1e-3)


@pytest.mark.parametrize("every", [0, -1])
def test_every_must_be_positive(every):
    with pytest.raises(ValueError, match=f"every is {every}"), flow.watch(tiny_network(), every=every):
        pass


def test_a_single_layer_is_refused():
    with pytest.raises(ValueError, match="single Linear"), flow.watch(nn.Linear(2, 2)):
        pass
