"""Downloads with a progress bar: what pooch is given to fetch with."""

from __future__ import annotations

from typing import Any


def download_with_progress(url: str, output_file: str, store: Any) -> None:
    """Fetch `url` into `output_file`, with a bar on standard error. `store` is pooch's own business."""
    import pooch
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = ProgressBar(progress, url.rsplit("/", 1)[-1])
        pooch.HTTPDownloader(progressbar=bar)(url, output_file, store)


class ProgressBar:
    """The progress bar that pooch expects, drawn by rich."""

    total = 0  # set by pooch once the server has told the size

    def __init__(self, progress: Any, description: str) -> None:
        self.progress = progress
        self.task = progress.add_task(description, total=None)

    def update(self, advance: int) -> None:
        self.progress.update(self.task, total=self.total, advance=advance)

    def reset(self) -> None:
        self.progress.reset(self.task)

    def close(self) -> None:
        self.progress.stop()
