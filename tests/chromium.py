"""Chromium for the tests that look at pages: the one on the path, or the one in BIGMODEL_CHROMIUM."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, sync_playwright

from tools.chromium import FLAGS, find_chromium


@contextmanager
def running_chromium() -> Iterator[Browser]:
    """Start Chromium; without one the test skips, or fails where skips are forbidden."""
    program = find_chromium()
    if program is None:
        missing = "no Chromium found: install chromium or name one in BIGMODEL_CHROMIUM"
        if os.environ.get("BIGMODEL_FORBID_SKIPS") == "1":
            pytest.fail(missing)
        pytest.skip(missing)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        browser.close()
