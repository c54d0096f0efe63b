"""What a check found: enough, alone, to find the bug."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Report:
    """The outcome of one check.

    ``assert check_vjp(f, x)`` passes, or raises an AssertionError with the whole text; `passed` asks quietly.

    Attributes:
        check, subject: which check, of what. passed: whether it holds.
        applies: False if there was nothing to check, and so nothing passed; `message` says why.
        error: the largest relative error met.
        message: what was compared and how far it is off: which input, which element, both values.
        cause: what it looks like, if it looks like something known. notes: what else was noticed, kinks above all.
        snippet: code that shows the failure again.
    """

    check: str
    subject: str
    passed: bool
    error: float = 0.0
    message: str = ""
    cause: str = ""
    notes: tuple[str, ...] = ()
    snippet: str = ""
    applies: bool = True

    def __bool__(self) -> bool:
        if not self.passed:
            raise AssertionError(str(self))
        return True

    def __str__(self) -> str:
        outcome = f"{'passed' if self.passed else 'FAILED'}, worst error {self.error:.1e}"
        lines = [f"{self.check} of {self.subject}: {outcome if self.applies else 'does not apply'}"]
        lines += [self.message] if self.message else []
        lines += [f"suspected cause: {self.cause}"] if self.cause else []
        lines += [f"note: {note}" for note in self.notes]
        lines += ["to see it again:", *("    " + line for line in self.snippet.splitlines())] if self.snippet else []
        return "\n".join(lines)
