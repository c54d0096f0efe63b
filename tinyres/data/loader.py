"""From a data set to batches: shuffled, augmented and made ahead of time, the same for the same seed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from tinyres.data.datasets import Dataset, Image, Labels, name_of
from tinyres.data.picture import Unreadable
from tinyres.data.transforms import Transform

Batch = tuple[npt.NDArray[np.float32], Labels]


class DataLoader:
    """Batches of a data set: (images float32 (N, C, H, W), labels int64 (N,)), host arrays.

    The images are channels-last in memory. (Of vectors, which `training.features` makes of images, a batch is (N, C).)
    Images that are still uint8 after `transform` are rescaled to
    0..1. Order and augmentation follow from (seed, epoch, index of the image) alone, never from the number of
    workers or from what was drawn before, so a resumed run sees what an unbroken one would have seen.
    The epoch is what `set_epoch` was last told, 0 at first.

    `workers` threads read, decode and augment batches while the consumer works on another. They end with the
    iteration, also when it is left early, by Ctrl-C for instance, after the batches they are at. With 0 workers
    there is no thread: each batch is made when it is asked for.

    Raises ValueError where there is nothing to load, and while iterating where images of a batch differ in
    size; an error in a transform or an unreadable image reaches the consumer as it is, with a note that names the
    image.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        transform: Transform | None = None,
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
        workers: int = 1,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"DataLoader: batch_size should be at least 1, got {batch_size}.")
        if workers < 0:
            raise ValueError(f"DataLoader: workers should be 0 or positive, got {workers}.")
        if seed < 0:
            raise ValueError(f"DataLoader: seed should be 0 or positive, got {seed}.")
        if not len(dataset):
            raise ValueError("DataLoader: the data set is empty.")
        if drop_last and len(dataset) < batch_size:
            raise ValueError(f"DataLoader: drop_last leaves no batch of {batch_size} from {len(dataset)} images.")
        self.dataset = dataset
        self.batch_size = batch_size
        self.transform = transform
        self.shuffle = shuffle
        self.seed = seed
        self.drop_last = drop_last
        self.workers = workers
        self.epoch = 0

    def __len__(self) -> int:
        """Batches in an epoch."""
        full, rest = divmod(len(self.dataset), self.batch_size)
        return full if self.drop_last or not rest else full + 1

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration draws."""
        if epoch < 0:
            raise ValueError(f"DataLoader: epoch should be 0 or positive, got {epoch}.")
        self.epoch = epoch

    def __iter__(self) -> Iterator[Batch]:
        return self.batches()

    def batches(self, start: int = 0) -> Iterator[Batch]:
        """The batches of the epoch from number `start` on, as a run resumed in the middle needs them."""
        if not 0 <= start <= len(self):
            raise ValueError(f"DataLoader: start should be from 0 to {len(self)} batches, got {start}.")
        order = np.arange(len(self.dataset))
        if self.shuffle:
            order = self._rng(self.epoch, 0).permutation(order)
        parts = (order[i * self.batch_size : (i + 1) * self.batch_size] for i in range(start, len(self)))
        epoch = self.epoch  # what `set_epoch` is told meanwhile is for the next iteration
        if not self.workers:
            return (self._batch(epoch, indices) for indices in parts)
        return self._prefetch(epoch, parts)

    def _prefetch(self, epoch: int, parts: Iterator[Labels]) -> Iterator[Batch]:
        """Yields batches in order, with one batch a worker under way or ready meanwhile."""
        pending: deque[Future[Batch]] = deque()
        # Leaving the block, early or not, waits for the threads to end.
        with ThreadPoolExecutor(self.workers, "tinyres-loader") as pool:
            try:
                for indices in parts:
                    pending.append(pool.submit(self._batch, epoch, indices))
                    if len(pending) > self.workers:
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _batch(self, epoch: int, indices: Labels) -> Batch:
        images = [self._image(epoch, int(index)) for index in indices]
        for index, image in zip(indices, images, strict=True):
            if image.shape != images[0].shape:
                first, other = (name_of(self.dataset, int(i)) for i in (indices[0], index))
                raise ValueError(
                    f"DataLoader: images {first} and {other} differ in size, {images[0].shape} and "
                    f"{image.shape}; end the transform with Resize((height, width)) or CenterCrop(size)."
                )
        batch = np.stack(images).astype(np.float32, copy=False)  # (N, H, W, C), or (N, C) of vectors
        # Channels-last in memory, channels first to read.
        return np.moveaxis(batch, -1, 1), self.dataset.labels[indices]

    def _image(self, epoch: int, index: int) -> Image:
        try:
            image = self.dataset.image(index)
            if self.transform is not None:
                image = self.transform(image, self._rng(epoch, index + 1))
        except Unreadable:  # names its file
            raise
        except Exception as error:
            error.add_note(f"while making image {name_of(self.dataset, index)}")
            raise
        if image.ndim not in (1, 3):
            raise ValueError(
                f"DataLoader: image {name_of(self.dataset, index)} has shape {image.shape} but should be (H, W, C)."
            )
        return np.divide(image, 255, dtype=np.float32) if image.dtype == np.uint8 else image

    def _rng(self, epoch: int, stream: int) -> np.random.Generator:
        """Stream 0 draws the order of an epoch; stream 1 + i the augmentation of image i."""
        return np.random.default_rng([self.seed, epoch, stream])
