"""The commands of `tinyres`, and nothing else: each reads its options, calls the library, and prints."""

from __future__ import annotations

import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tinyres import __version__, models
from tinyres.data.report import printable
from tinyres.files import write_csv
from tinyres.nn import Sequential
from tinyres.training import Recipe, Transfer
from tinyres.training.transfer import TwoLogits

app = typer.Typer(
    help="Train residual networks written from scratch, and watch how gradients flow through them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
out = Console(highlight=False, markup=False, emoji=False)  # names of files and classes stay what they are
err = Console(stderr=True, highlight=False, emoji=False)

Model = Annotated[str, typer.Argument(help="Network, for instance resnet20, plain56, preact_resnet110, resnet50.")]
Data = Annotated[str, typer.Option(help="digits (embedded), cifar10, cifar100, or a folder with train/ and test/.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of all that is drawn at random.")]
Output = Annotated[Path, typer.Option(file_okay=False, writable=True, help="Folder for what is written.")]
CsvFolder = Annotated[
    Path | None, typer.Option(file_okay=False, writable=True, help="Folder to write the table to, as CSV.")
]
Checkpoint = Annotated[Path, typer.Argument(help="A checkpoint that `tinyres train` or `tinyres finetune` wrote.")]
TrainImages = Annotated[int, typer.Option(min=0, help="Training images to use, 0 for all.")]
Epochs = Annotated[int, typer.Option(min=1, help="Passes over the training images.")]
BatchSize = Annotated[int, typer.Option(min=2, help="Images a step.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]


@app.command()
def gradflow(
    depth: Annotated[int, typer.Option(help="Layers of both networks: 20, 32, 44, 56 or 110.")] = 56,
    width: Annotated[float, typer.Option(help="Factor on the channels 16, 32, 64.")] = 0.25,
    data: Data = "digits",
    train_images: TrainImages = 2000,
    epochs: Epochs = 4,
    batch_size: BatchSize = 64,
    lr: Annotated[float, typer.Option(help="Learning rate, after a warm-up of 10 steps.")] = 0.05,
    seed: Seed = 0,
    output: Output = Path("runs/gradflow"),
    device: Device = "cpu",
) -> None:
    """Train a plain network and its residual twin, and draw how gradients flow through both.

    Writes gradflow.png, and the numbers behind it as CSV and npz.
    """
    from tinyres.experiments.gradflow import run

    recipe = Recipe(
        data=data,
        train_images=train_images,
        augment=False,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        schedule="constant",
        warmup_steps=10,
        seed=seed,
        device=device,
    )
    result = run(recipe, depth, width)
    for path in result.save(output):
        out.print(f"wrote {path}", soft_wrap=True)
    out.print(table("", *result.table()))
    out.print(result.finding(), soft_wrap=True)


@app.command()
def experiment(
    name: Annotated[str | None, typer.Argument(help="Which one; without a name, they are listed.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="At a size that takes less than a minute.")] = False,
    seeds: Annotated[int | None, typer.Option(min=1, help="How often each case is measured.")] = None,
    setting: Annotated[list[str] | None, typer.Option("--set", help="Another setting, as NAME=VALUE.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that measure cases side by side.")] = 1,
    output: Annotated[
        Path | None, typer.Option(file_okay=False, writable=True, help="Folder for what is written. [runs/NAME]")
    ] = None,
) -> None:
    """Repeat a published experiment in miniature: a picture, its numbers, and whether the claim was seen.

    Finished cases are kept in the output folder: after Ctrl-C the same command goes on.
    """
    from tinyres import experiments

    if name is None:
        rows = [(known, experiments.what(known)) for known in experiments.NAMES]
        out.print(table("", ("experiment", "what it shows"), rows))
        return
    chosen = experiments.get(name)
    settings = {**(chosen.quick if quick else {}), **({} if seeds is None else {"seeds": seeds})}
    study = chosen(**{**settings, **experiments.parse(chosen, setting or [])})
    folder = output or Path("runs") / name
    with experiments.processes(workers) as executor:
        result = experiments.run(study, folder, executor)
    for path in result.save(folder):
        out.print(f"wrote {path}", soft_wrap=True)
    out.print(str(result.claim()), soft_wrap=True)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Records that `Record.save` or `tinyres gradflow` wrote, .npz.")],
    steps: Annotated[
        list[Path] | None, typer.Option(help="For each record its steps.csv, for the curve of the loss.")
    ] = None,
    output: Annotated[Path, typer.Option(dir_okay=False, help="The page to write.")] = Path("report.html"),
) -> None:
    """Make one HTML page of recorded runs: figures that move with the step, every layer's numbers, no network."""
    from tinyres import flow

    names = [path.stem for path in runs]
    if len(set(names)) < len(names):
        raise ValueError(f"report: the records are named {', '.join(names)}, expected a file name for each run")
    if steps and len(steps) != len(runs):
        raise ValueError(f"report: {len(steps)} --steps came, expected none or one for each of {len(runs)} records")
    history = dict(zip(names, steps, strict=True)) if steps else None
    path = flow.report(dict(zip(names, runs, strict=True)), output, history)
    out.print(f"wrote {path}", soft_wrap=True)


@app.command()
def train(
    model: Model = Recipe.model,
    data: Data = Recipe.data,
    train_images: TrainImages = Recipe.train_images,
    image_size: Annotated[
        int, typer.Option(min=0, help="Side that images are resized and cropped to, 0 for their own.")
    ] = Recipe.image_size,
    width: Annotated[float | None, typer.Option(help="Factor on the channels of a CIFAR network.")] = None,
    shortcut: Annotated[str | None, typer.Option(help="Shortcut where the shape changes: A, B or C.")] = None,
    zero_init_residual: Annotated[bool, typer.Option("--zero-gamma", help="Start each block as the identity.")] = False,
    epochs: Epochs = Recipe.epochs,
    batch_size: BatchSize = Recipe.batch_size,
    optimizer: Annotated[str, typer.Option(help="sgd or adamw.")] = Recipe.optimizer,
    lr: Annotated[float | None, typer.Option(help="Learning rate; 0.05 for sgd, 0.001 for adamw.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="1e-4 for sgd, 0.01 for adamw.")] = None,
    schedule: Annotated[str, typer.Option(help="cosine, multistep or constant.")] = Recipe.schedule,
    warmup_steps: Annotated[int, typer.Option(min=0, help="Steps in which lr rises from a tenth.")] = 0,
    augment: Annotated[bool, typer.Option(help="Random crops and, for photographs, flips.")] = Recipe.augment,
    seed: Seed = 0,
    output: Output = Path("runs/train"),
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the output folder's checkpoint, if there is one.")
    ] = False,
    device: Device = "cpu",
) -> None:
    """Train a network. Ctrl-C saves and stops; --resume goes on, to the bit.

    Writes checkpoint.safetensors, history.csv (a row an epoch) and steps.csv (a row a step).
    """
    from tinyres.training import CHECKPOINT, fit

    options = dict(width=width, shortcut=shortcut, zero_init_residual=zero_init_residual or None)
    adam = optimizer == "adamw"
    recipe = Recipe(
        model=model,
        model_options={name: value for name, value in options.items() if value is not None},
        data=data,
        train_images=train_images,
        image_size=image_size,
        augment=augment,
        epochs=epochs,
        batch_size=batch_size,
        optimizer=optimizer,
        lr=lr if lr is not None else (1e-3 if adam else Recipe.lr),
        weight_decay=weight_decay if weight_decay is not None else (1e-2 if adam else Recipe.weight_decay),
        schedule=schedule,
        warmup_steps=warmup_steps,
        seed=seed,
        device=device,
    ).prepared()
    if (output / CHECKPOINT).exists():
        refuse_other_recipe(output, recipe, resume)
    network, loader = recipe.build_model(), recipe.loader(train=True)
    stepper = recipe.build_optimizer(network)
    history = fit(
        network,
        loader,
        stepper,
        epochs,
        scheduler=recipe.build_scheduler(stepper, epochs * len(loader)),
        schedule_per="step",
        validation=recipe.loader(train=False),
        output=output,
        resume=resume,
        configuration=recipe.to_dict(),
    )
    if history.interrupted:
        out.print("the same command with --resume goes on")
        raise typer.Exit(130)
    out.print(f"wrote checkpoint.safetensors, history.csv and steps.csv to {output}", soft_wrap=True)


@app.command()
def finetune(
    folder: Annotated[
        Path, typer.Argument(help="Class folders of images, or train/ and validation/ or test/ that hold such.")
    ],
    weights: Annotated[
        str, typer.Option(help="Trained weights, a file or a name such as IMAGENET1K_V2; their head is not used.")
    ],
    model: Annotated[str, typer.Option(help="Network, for instance resnet50, or resnet56 for small images.")] = (
        Transfer.model
    ),
    hidden: Annotated[int, typer.Option(min=0, help="Width of the new head's hidden layer, 0 for none.")] = (
        Transfer.hidden
    ),
    unfreeze: Annotated[
        list[str] | None, typer.Option(help="Stage that goes on learning, for instance layer4; may be repeated.")
    ] = None,
    augment: Annotated[bool, typer.Option("--augment", help="Mirror images, and turn them by up to 40°.")] = False,
    image_size: Annotated[
        int, typer.Option(min=0, help="Side that images are resized and cropped to, 0 for what the network expects.")
    ] = 0,
    epochs: Epochs = Transfer.epochs,
    batch_size: BatchSize = Transfer.batch_size,
    lr: Annotated[float, typer.Option(help="Adam's learning rate for the head; stages take a tenth.")] = Transfer.lr,
    workers: Annotated[int, typer.Option(min=0, help="Threads that read and augment images.")] = Transfer.workers,
    seed: Seed = 0,
    output: Output = Path("runs/finetune"),
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the output folder's checkpoint, if there is one.")
    ] = False,
    device: Device = "cpu",
) -> None:
    """Teach a trained network the classes of a folder: its trunk is frozen, a new head is trained.

    Without train/ and test/, a fifth of each class is kept for testing. Says first what is in the folder, and what of
    it cannot be used. Writes checkpoint.safetensors, history.csv, steps.csv and curves.png.
    """
    from tinyres.training import CHECKPOINT, curves, fine_tune

    transfer = Transfer(
        data=str(folder),
        model=model,
        weights=weights,
        hidden=hidden,
        unfreeze=tuple(unfreeze or ()),
        augment=augment,
        image_size=image_size,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        workers=workers,
        seed=seed,
        device=device,
    )
    folders = transfer.folders()
    for part in folders:
        out.print(str(part.report), soft_wrap=True)
    train, test = transfer.datasets(folders)
    out.print(f"{len(train):,} images to train on, {len(test):,} to test on")
    transfer = transfer.prepared(train)
    if (output / CHECKPOINT).exists():
        refuse_other_recipe(output, transfer, resume)
    _, history = fine_tune(transfer, train, test, output, resume)
    if history.interrupted:
        out.print("the same command with --resume goes on")
        raise typer.Exit(130)
    save_figure(output / "curves.png", curves(history))
    out.print(f"wrote checkpoint.safetensors, history.csv and steps.csv to {output}", soft_wrap=True)


@app.command()
def evaluate(
    checkpoint: Checkpoint,
    data: Annotated[str | None, typer.Option(help="Other data than the checkpoint was trained on.")] = None,
    output: CsvFolder = None,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Show a trained network the test images: loss, accuracy, and each class's share of right answers."""
    from tinyres import training

    recipe, model = restore(checkpoint, device, seed)
    loader = replace(recipe, data=data or recipe.data).loader(train=False)
    result = training.evaluate(model, loader, recipe.loss)
    rows = []
    for label, name in enumerate(recipe.classes):
        mine = result.labels == label
        share = f"{(result.predictions[mine] == label).mean():.1%}" if mine.any() else "–"
        rows.append((name, str(int(mine.sum())), share))
    out.print(table("", ("class", "images", "right"), rows))
    out.print(f"loss {result.loss:.4f}, accuracy {result.accuracy:.2%} on {len(result.labels)} images")
    if output is not None:
        names = np.array(recipe.classes)
        predicted = zip(names[result.labels], names[result.predictions], strict=True)
        save_csv(output / "predictions.csv", ("label", "prediction"), predicted)


@app.command()
def predict(
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    checkpoint: Annotated[Path, typer.Option(help="A checkpoint that `tinyres train` or `tinyres finetune` wrote.")],
    top: Annotated[int, typer.Option(min=1, help="How many classes to name for each image.")] = 5,
    explain: Annotated[
        bool, typer.Option("--explain", help="Draw where the first class is seen (Grad-CAM): IMAGE.gradcam.png.")
    ] = False,
    output: CsvFolder = None,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Say what is on images, by a trained network."""
    from tinyres import Tensor, no_grad
    from tinyres import functional as F
    from tinyres.data.picture import read_image

    recipe, model = restore(checkpoint, device, seed)
    if recipe.loss is F.binary_cross_entropy_with_logits:
        model = Sequential(model, TwoLogits())
    transform, rng = recipe.transform(train=False), np.random.default_rng(seed)
    rows = []
    for path in images:
        image = transform(read_image(path, channels=len(recipe.mean)), rng).transpose(2, 0, 1)  # (C, H, W)
        with no_grad():
            logits = model.eval()(Tensor(image[None]).to(device))
        shares = F.softmax(logits, 1).numpy()[0]
        best = np.argsort(-shares)[:top]
        rows += [(path, rank, recipe.classes[i], shares[i]) for rank, i in enumerate(best, start=1)]
        if explain:
            save_figure(path.with_name(f"{path.stem}.gradcam.png"), explanation(model, image, best[0], recipe.classes))
    header = ("image", "rank", "class", "probability")
    shown = [(path if rank == 1 else "", rank, name, f"{share:.1%}") for path, rank, name, share in rows]
    out.print(table("", header, shown))
    if output is not None:
        save_csv(output / "predictions.csv", header, rows)


@app.command()
def summary(
    model: Model,
    image_size: Annotated[int | None, typer.Option(min=1, help="Its side; 32 for CIFAR networks, else 224.")] = None,
    in_channels: Annotated[int, typer.Option(min=1, help="Channels of the image.")] = 3,
    num_classes: Annotated[int | None, typer.Option(min=1, help="10 for CIFAR networks, else 1000.")] = None,
    stride_in: Annotated[
        str | None, typer.Option(help="3x3 (torchvision) or 1x1 (paper), for resnet50 to 152.")
    ] = None,
    output: CsvFolder = None,
    seed: Seed = 0,
) -> None:
    """Print a network's layers: output shape, parameters, multiply-adds, and the memory of the output in float32."""
    from tinyres import manual_seed

    manual_seed(seed)
    options = dict(in_channels=in_channels, num_classes=num_classes, stride_in=stride_in)
    network = models.get(model, **{name: value for name, value in options.items() if value is not None})
    side = image_size or (224 if isinstance(network, models.ResNet) else 32)
    result = models.summary(network, (in_channels, side, side))
    rows = [
        (
            layer.name,
            layer.kind,
            "×".join(map(str, layer.output_shape[1:])),
            layer.parameters,
            layer.multiply_adds,
            layer.bytes,
        )
        for layer in result.layers
    ]
    header = ("layer", "kind", "output", "parameters", "multiply-adds", "bytes")
    out.print(table(model, header, [(*row[:3], *(f"{number:,}" for number in row[3:])) for row in rows]))
    out.print(result.totals(), soft_wrap=True)
    if output is not None:
        save_csv(output / "summary.csv", header, rows)


@app.command()
def convert(
    source: Annotated[
        str, typer.Argument(metavar="IN", help="A weight file (.pth, .safetensors, .npz, .h5), or with --model a name.")
    ],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="A .safetensors or .npz file.")],
    model: Annotated[str | None, typer.Option(help="Network to compare the weights with.")] = None,
) -> None:
    """Read weights of PyTorch, safetensors, NumPy or Keras, and write them by torchvision's names.

    Numbers and dtypes are kept to the bit, but for bfloat16, which becomes float32, and Keras's biases, which go into
    the norms. With --model, a table of what is missing, left over or mis-shaped; exit code 1 if anything is.
    """
    network = models.get(model) if model else None
    weights = models.find(source, model) if model else models.read_weights(source)
    rows = [(name, array.dtype, "×".join(map(str, array.shape)) or "1") for name, array in weights.arrays.items()]
    out.print(table("", ("name", "dtype", "shape"), rows))
    size = sum(array.nbytes for array in weights.arrays.values())
    out.print(f"read {source}: {weights.kind}, {len(rows)} arrays, {size / 2**20:.1f} MiB", soft_wrap=True)
    models.save_state_dict_file(weights.arrays, target, weights.options)
    out.print(f"wrote {target}", soft_wrap=True)
    if weights.options:
        made = ", ".join(f"{option}={value!r}" for option, value in weights.options.items())
        out.print(f"a network for these weights is made with {made}", soft_wrap=True)
    if model and network:
        match = models.compare(network, weights, model)
        out.print(str(match), soft_wrap=True)
        if not match.exact:
            raise typer.Exit(1)


@app.command()
def audit(
    target: Annotated[
        str, typer.Argument(metavar="MODULE:NAME", help="A kernel, operation or Module, for instance tinyres.nn:ReLU.")
    ],
    shape: Annotated[
        list[str] | None, typer.Option(help="Of each array it takes, in order, for instance 2,3,8,8.")
    ] = None,
    seed: Seed = 0,
) -> None:
    """Check a backward pass in every way that applies. Exit code 1 if a check fails.

    MODULE is a dotted name or a .py file. Without --shape, NAME is a function that returns (f, *args), what to check
    and its arguments.
    """
    from tinyres.testing.audit import audit, find, read_shape

    result = audit(*find(target, [read_shape(text) for text in shape or ()], seed), seed=seed)
    out.print(str(result), soft_wrap=True)
    if not result.passed:
        raise typer.Exit(1)


@app.command()
def mutants(
    output: Annotated[
        Path | None,
        typer.Option(file_okay=False, writable=True, help="Folder to write the table to, as CSV and as a page."),
    ] = None,
) -> None:
    """Break operations on purpose, one mistake each, and show which check notices.

    ● noticed, · not noticed, blank where a check does not apply. Exit code 1 if no check notices one of them.
    """
    from tinyres.testing.mutants import kill_matrix

    matrix = kill_matrix()
    marks = table("", matrix.header()[1:], [row[1:] for row in matrix.rows()])
    marks.padding = 0, 1, 0, 0  # narrow enough for a terminal of 80 columns
    marks.columns[0].no_wrap = True
    for column in marks.columns[1:]:
        column.max_width = 4
    out.print(marks)
    for path in matrix.save(output) if output is not None else ():
        out.print(f"wrote {path}", soft_wrap=True)
    if matrix.survivors:
        err.print(f"not noticed: {', '.join(mutant.name for mutant in matrix.survivors)}", soft_wrap=True)
        raise typer.Exit(1)


@app.callback(invoke_without_command=True)
def version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    if version:
        out.print(f"tinyres {__version__}")
        raise typer.Exit()


def recipe_of(checkpoint: Path) -> Recipe | Transfer:
    """The recipe that a checkpoint keeps."""
    from tinyres.training.checkpoint import read_checkpoint

    values = read_checkpoint(checkpoint)[1]["configuration"]
    return (Transfer if Transfer.describes(values) else Recipe).from_dict(values)


def restore(checkpoint: Path, device: str, seed: int) -> tuple[Recipe | Transfer, Any]:
    """The recipe that a checkpoint keeps, and its network with the trained weights."""
    from tinyres.training.checkpoint import load_checkpoint

    recipe = replace(recipe_of(checkpoint), device=device, seed=seed)
    model = recipe.build_model()
    load_checkpoint(checkpoint, model)
    return recipe, model


def refuse_other_recipe(output: Path, recipe: Recipe | Transfer, resume: bool) -> None:
    """Raise FileExistsError unless the folder's checkpoint is to go on, and ValueError unless it was made by this
    recipe: only for longer, or elsewhere, it may go on."""
    from tinyres.training import CHECKPOINT

    if not resume:
        raise FileExistsError(f"{output} holds a checkpoint: pass --resume to go on, or choose another --output")
    checkpoint = output / CHECKPOINT
    for name, theirs in type(recipe).from_dict(recipe_of(checkpoint).to_dict()).to_dict().items():
        mine = getattr(recipe, name)
        if theirs != mine and name not in ("epochs", "device", "workers"):
            raise ValueError(
                f"{checkpoint} was trained with {name} {theirs}, not {mine}: resume with what it began with"
            )


def table(title: str, header: Any, rows: Any) -> Table:
    """A Rich table; columns of numbers to the right."""
    result = Table(title=title or None, title_justify="left", box=None, pad_edge=False)
    for index, name in enumerate(header):
        numeric = index > 0 and all(str(row[index])[:1].isdigit() for row in rows)
        result.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        result.add_row(*map(str, row))
    return result


def explanation(model: Any, image: Any, label: int, classes: tuple[str, ...]) -> Any:
    """A figure of where on an image (C, H, W) a network sees a class."""
    from tinyres import flow

    ax = flow.plots.gradcam(image, flow.gradcam(model, image[None], int(label))[0])
    ax.set_title(printable(classes[label]), parse_math=False)
    return ax.figure


def save_figure(path: Path, figure: Any) -> None:
    from tinyres.flow import style

    style.save_figure(figure, path)
    out.print(f"wrote {path}", soft_wrap=True)


def save_csv(path: Path, header: Any, rows: Any) -> None:
    write_csv(path, header, rows)
    out.print(f"wrote {path}", soft_wrap=True)


def warn(message: Warning | str) -> None:
    err.print(f"[yellow]warning:[/yellow] {escape(str(message))}", soft_wrap=True)


def main() -> None:
    """Run a command; what was wrong with its input is one sentence on standard error, and exit code 1."""
    warnings.showwarning = lambda message, *_, **__: warn(message)
    try:
        app(prog_name="tinyres")
    except (ArithmeticError, ImportError, MemoryError, OSError, RuntimeError, TypeError, ValueError) as error:
        said = ", ".join([str(error).strip() or type(error).__name__, *getattr(error, "__notes__", ())])
        err.print(f"[red]error:[/red] {escape(said)}", soft_wrap=True)
        sys.exit(1)
