"""What was found in a folder of images: what is used, what is not, and why not."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Report:
    """What `ImageFolder` found; printed, it is a table.

    Attributes:
        root: the folder.
        images: how many of each class.
        sizes: how many of each (height, width), as stored. modes: of each of Pillow's modes: "RGB", "L" (grey), …
        left_out: what should have been images but is not used, by its path below `root`, and why, in a sentence.
        passed_over: how many files never were to be images, by their ending, or "hidden".
    """

    root: Path
    images: dict[str, int] = field(default_factory=dict)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)

    def leave_out(self, path: Path, why: str) -> None:
        self.left_out.append((str(path.relative_to(self.root)), why))

    def __str__(self) -> str:
        width = max(map(len, self.images), default=0)
        lines = [f"{self.root}: {sum(self.images.values()):,} images in {len(self.images)} classes"]
        lines += [f"  {name:{width}}  {count:>8,}" for name, count in self.images.items()]
        if self.sizes:
            common, count = self.sizes.most_common(1)[0]
            least, most = (choose(self.sizes, key=lambda size: size[0] * size[1]) for choose in (min, max))
            lines.append(
                f"sizes (height×width): {len(self.sizes)}, {least[0]}×{least[1]} to {most[0]}×{most[1]}; "
                f"most often {common[0]}×{common[1]} ({count:,})"
            )
            lines.append(f"modes: {listed(self.modes)}")
        if self.left_out:
            lines.append(f"left out: {len(self.left_out):,}")
            lines += [f"  {path}: {why}" for path, why in self.left_out[:10]]
            lines += [f"  and {len(self.left_out) - 10:,} more, in .left_out"] if len(self.left_out) > 10 else []
        if self.passed_over:
            lines.append(f"passed over: {listed(self.passed_over)}")
        return printable("\n".join(lines))

    def warning(self) -> str:
        """One sentence on what was left out: how many, and the first few."""
        first = "; ".join(f"{path}: {why}" for path, why in self.left_out[:3])
        more = f"; and {len(self.left_out) - 3:,} more" if len(self.left_out) > 3 else ""
        return printable(f"{len(self.left_out):,} left out of the images in {self.root} ({first}{more})")


def listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.most_common())


def printable(text: str) -> str:
    """File names may hold bytes that are no text; they become question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")
