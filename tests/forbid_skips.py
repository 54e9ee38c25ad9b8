"""Pytest plugin: with BIGMODEL_FORBID_SKIPS=1 in the environment, a skipped test or file fails.

On a reader's laptop a test may skip, for example where no browser is installed. Continuous integration has
everything, so a skip there means that something was not tested.
"""

import os
from collections.abc import Generator

import pytest


def _forbid(report: pytest.CollectReport | pytest.TestReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"skips are forbidden here (BIGMODEL_FORBID_SKIPS=1): {reason}"


if os.environ.get("BIGMODEL_FORBID_SKIPS") == "1":

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Turn the report of a skipped test into a failure."""
        report = yield
        _forbid(report)
        return report

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """Turn the report of a file that skips itself into a failure."""
        report = yield
        _forbid(report)
        return report
