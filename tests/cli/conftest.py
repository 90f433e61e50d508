"""Every test of the command line runs where `cli_nets` can be imported, on a terminal of 100 columns if on one."""

import sys

import pytest

from tests.cli.helpers import NETS


@pytest.fixture(autouse=True)
def nets(tmp_path, monkeypatch):
    (tmp_path / "cli_nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("COLUMNS", "100")
    yield
    sys.modules.pop("cli_nets", None)
