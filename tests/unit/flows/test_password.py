"""A server that a network can reach wants a password."""

from __future__ import annotations

import os

import pytest

from flows.server import require_password
from medvision.core.errors import UsageError


def test_only_this_machine_may_come_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_AUTH_STRING", raising=False)
    monkeypatch.delenv("PREFECT_SERVER_API_AUTH_STRING", raising=False)
    require_password("127.0.0.1")
    require_password("localhost")
    for host in ("0.0.0.0", "10.1.2.3", "node1"):
        with pytest.raises(UsageError, match="PREFECT_SERVER_API_AUTH_STRING=USER:PASSWORD"):
            require_password(host)
    for secret in ("no colon", ":", "user:", ":secret"):
        monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", secret)
        with pytest.raises(UsageError):
            require_password("10.1.2.3")
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "user:secret")
    require_password("10.1.2.3")
    assert os.environ["PREFECT_API_AUTH_STRING"] == "user:secret"
