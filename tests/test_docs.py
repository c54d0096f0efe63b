"""The pages under docs/: their examples are run, and the code they quote is there."""

from __future__ import annotations

import ast
import doctest
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted(path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts)
FENCE = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
INCLUDE = re.compile(r"^```\{literalinclude\} (\S+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
OPTION = re.compile(r"^:([\w-]+): *(.*)$", re.MULTILINE)


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_examples_print_what_the_page_says(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    examples = "\n".join(block for block in FENCE.findall(text) if ">>>" in block)  # names carry on through a page
    test = doctest.DocTestParser().get_doctest(examples, {"__name__": "__main__"}, name(page), name(page), 0)
    report: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS).run(test, out=report.append)
    assert not report, "".join(report)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_quoted_code_exists(page: Path) -> None:
    for target, block in INCLUDE.findall(page.read_text(encoding="utf-8")):
        options = dict(OPTION.findall(block))
        code = source(page.parent / target, options.get("pyobject"))
        for mark in ("start-at", "end-before"):
            assert options.get(mark, "") in code, f"{name(page)}: {target} has no {options[mark]!r}"


def source(path: Path, qualified_name: str | None) -> str:
    """The text of a file or of one function, class or method (`Class.method`) in it."""
    text = path.read_text(encoding="utf-8")
    if qualified_name is None:
        return text
    scope: ast.AST = ast.parse(text)
    for part in qualified_name.split("."):
        found = [node for node in ast.iter_child_nodes(scope) if getattr(node, "name", None) == part]
        assert found, f"{path.name} has no {qualified_name}"
        scope = found[0]
    return ast.get_source_segment(text, scope) or ""


def test_every_kernel_file_is_quoted_on_a_page() -> None:
    files = {path.name for path in (ROOT / "tinyres/kernels").glob("*.py")} - {"__init__.py"}
    pages = [page.read_text(encoding="utf-8") for page in PAGES if page.parent.name == "kernels"]
    assert files <= {Path(target).name for page in pages for target, _ in INCLUDE.findall(page)}


def test_every_page_is_reached_from_the_index() -> None:
    index = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    listed = {line for block in re.findall(r"```\{toctree\}\n(.*?)```", index, re.DOTALL) for line in block.split()}
    for page in PAGES:
        entry = page.relative_to(ROOT / "docs").with_suffix("").as_posix()
        assert entry == "index" or entry in listed, f"no toctree of docs/index.md lists {entry}"
