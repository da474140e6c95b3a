"""Tests of the host names that the server trusts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from flask.testing import FlaskClient
from werkzeug.test import EnvironBuilder, run_wsgi_app

from api.config import load_settings
from l2features.core.errors import ConfigError
from tests.support.api_app import TABLE
from tests.support.known_roots import random_roots
from tests.support.neuron_api import neuron_api

PREFIX = "/l2cache/api/v1"
VIEW = f"{TABLE}/view"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlaskClient]:
    roots, names = random_roots((3,)), "l2.example.org .other.org"
    with pytest.MonkeyPatch.context() as patch:
        yield neuron_api(tmp_path_factory.mktemp("hosts"), patch, roots, trusted_hosts=names).client


@pytest.mark.parametrize("host", ["l2.example.org", "l2.example.org:8443", "a.b.other.org"])
def test_links_begin_with_a_trusted_name(client: FlaskClient, host: str) -> None:
    answer: Any = client.get(VIEW, base_url=f"https://{host}", headers={"Accept": "application/json"})
    assert f"https://{host}/l2cache/api/v1/table/sample/precomputed/nodes" in unquote(answer.json["url"])


@pytest.mark.parametrize("host", ["evil.org", "l2.example.org.evil.org", "xother.org", "127.0.0.1", 'a"<b>'])
@pytest.mark.parametrize("path", ["/l2cache/", VIEW, f"{PREFIX}/openapi.json", "/nope", "/auth_info"])
def test_other_names_are_refused(client: FlaskClient, host: str, path: str) -> None:
    answer: Any = client.get(path, headers={"Accept": "text/html", "Host": host})
    assert (answer.status_code, answer.mimetype) == (400, "application/json")
    fields = [answer.json[name] for name in ("code", "field", "value")]
    assert fields == ["untrusted_host", "Host", host]


def test_a_request_without_a_host_is_refused(client: FlaskClient) -> None:
    environ = EnvironBuilder("/l2cache/", environ_overrides={"SERVER_NAME": "evil.org"}).get_environ()
    del environ["HTTP_HOST"]
    body, status, _ = run_wsgi_app(client.application, environ)
    assert status.startswith("400 ")
    assert "this server is not '': expected a host name" in json.loads(b"".join(body))["message"]


@pytest.mark.parametrize("path", ["/live", "/metrics", f"{PREFIX}/live"])
def test_probes_know_a_server_by_its_address(client: FlaskClient, path: str) -> None:
    assert client.get(path, base_url="http://10.0.0.7:8080").status_code == 200


def test_any_name_is_trusted_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    any_name = neuron_api(tmp_path, monkeypatch, random_roots((3,))).client
    assert any_name.get(VIEW, base_url="http://any", headers={"Accept": "text/html"}).status_code == 302


@pytest.mark.parametrize("hosts", ["https://a.org", "a.org:80", "a.org,b.org", "*"])
def test_settings_that_are_no_names(monkeypatch: pytest.MonkeyPatch, hosts: str) -> None:
    monkeypatch.setenv("L2CACHE_TRUSTED_HOSTS", hosts)
    with pytest.raises(ConfigError, match="L2CACHE_TRUSTED_HOSTS"):
        load_settings()
