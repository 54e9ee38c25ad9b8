"""Pytest plugin: the files that take longest come first, so that the processes that share the tests end together."""

from collections import Counter

import pytest

# `test_browser` waits for the book, which it builds; meanwhile the others need none.
LONG = [
    "book/test_browser.py",
    "distributed/test_launch_recipes.py",
    "models/test_compile.py",
    "distributed/test_distributed.py",
    "distributed/test_mesh_recipe.py",
    "chapters/test_chapter_07.py",
    "book/test_notebook_machinery.py",
    "book/test_planted.py",
    "book/test_editions_live.py",
    "training/test_recipes.py",
    "chapters/test_chapter_14.py",
    "models/test_base_lm.py",
    "training/test_resume.py",
    "book/test_robust_runs.py",
    "training/test_ranks.py",
    "book/test_bindings.py",
    "book/test_build.py",
    "book/test_pdf.py",
]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the tests by file: those in `LONG`, then those of the files with most tests."""
    places = {name: place for place, name in enumerate(LONG)}
    counts = Counter(item.path for item in items)
    items.sort(key=lambda item: (places.get("/".join(item.path.parts[-2:]), len(LONG)), -counts[item.path]))
