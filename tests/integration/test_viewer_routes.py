"""Tests of the viewer at /viewer/: files, content types, security policies and errors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from api.config import load_settings
from api.viewer_routes import content_policy
from l2features.core.errors import ConfigError
from l2features.pictures.viewers import BUCKETS, browsable, origins_of
from l2features.testing.small_table import small_table
from tests.support.api_app import client_of

FILES = {
    "index.html": "<!doctype html>",
    "assets/index-B2.js": "export {}",
    "assets/index-C3.css": "",
    "assets/draco-D4.wasm": "\0asm",
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_table(tmp_path_factory.mktemp("viewer"))


@pytest.fixture(scope="module")
def client(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlaskClient]:
    """Yield a client of a server with a built viewer; a secret lies beside the viewer's folder."""
    folder = tmp_path_factory.mktemp("built") / "viewer"
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder.parent / "secret.js").write_text("secret")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("api.viewer_routes.BUILT", folder)
        yield client_of(config)


def test_the_files_and_how_browsers_keep_them(client: FlaskClient) -> None:
    page = client.get("/viewer/")
    assert (page.status_code, page.mimetype) == (200, "text/html")
    assert page.headers["Cache-Control"] == "private, no-cache"
    assert client.get("/viewer/", headers={"If-None-Match": page.headers["ETag"]}).status_code == 304
    assert client.get("/viewer").headers["Location"].endswith("/viewer/")
    types = {".js": "text/javascript", ".css": "text/css", ".wasm": "application/wasm"}
    for name in list(FILES)[1:]:
        answer = client.get(f"/viewer/{name}")
        assert (answer.status_code, answer.mimetype) == (200, types[Path(name).suffix])
        assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Content-Security-Policy"] == page.headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    "path",
    [
        "assets/../../secret.js",
        "assets/..%2f..%2fsecret.js",
        "assets/%2e%2e/%2e%2e/secret.js",
        "assets/..%5c..%5csecret.js",
        "assets//etc/passwd",
        "assets/",
        "assets/none.js",
        "index.html.bak",
        "../api/config.py",
    ],
)
def test_no_other_file_is_served(client: FlaskClient, path: str) -> None:
    answer = client.get(f"/viewer/{path}")
    assert answer.status_code in (308, 404)
    assert b"secret" not in answer.data


def test_a_server_without_it_says_how_to_build_it(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.viewer_routes.BUILT", tmp_path)
    answer = client_of(config).get("/viewer/")
    assert (answer.status_code, answer.mimetype) == (404, "text/html")
    assert "npm run build --prefix viewer" in answer.text


def test_the_viewer_reads_only_its_own_origin_and_the_segmentations() -> None:
    policy = dict(part.split(" ", 1) for part in content_policy(["https://a.org"]).split("; "))
    assert policy["connect-src"] == "'self' data: blob: https://a.org"
    others = " ".join(sources for name, sources in policy.items() if name != "connect-src")
    assert "http" not in others
    assert policy["script-src"] == "'self' 'unsafe-eval'"  # annotations with properties need it


@pytest.mark.usefixtures("client")
def test_more_origins(config: Path) -> None:
    page = client_of(config, viewer_origins="https://b.org http://127.0.0.1:9000").get("/viewer/")
    assert "blob: https://b.org http://127.0.0.1:9000;" in page.headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    ("variable", "value"),
    [("L2CACHE_VIEWER_ORIGINS", "https://a.org;script-src *"), ("L2CACHE_VIEWER", "javascript:alert(1)")],
)
def test_settings_that_are_no_urls(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=variable):
        load_settings()


@pytest.mark.parametrize(
    ("cv_path", "source", "origin"),
    [
        ("gs://bucket/seg", "precomputed://gs://bucket/seg", "https://storage.googleapis.com"),
        (
            "precomputed://https://a.org:8080/seg/",
            "precomputed://https://a.org:8080/seg",
            "https://a.org:8080",
        ),
        ("gs://bucket/seg|zarr3:s0", "zarr3://gs://bucket/seg/s0", "https://storage.googleapis.com"),
        (
            "graphene://https://a.org/segmentation/table/m",
            "graphene://https://a.org/segmentation/table/m",
            "https://a.org",
        ),
        (
            "precomputed://middleauth+https://a.org/s",
            "precomputed://middleauth+https://a.org/s",
            "https://a.org",
        ),
        ("precomputed://file:///data/seg", None, None),
        ("/data/seg", None, None),
        ("precomputed://matrix://bucket/seg", None, None),
        ("precomputed://nothing", None, None),
    ],
)
def test_segmentations_that_a_browser_reads(cv_path: str, source: str | None, origin: str | None) -> None:
    assert browsable(cv_path) == source
    assert origins_of(cv_path)[:1] == (() if origin is None else (origin,))
    more = tuple(BUCKETS.values()) if cv_path.startswith("graphene://") else ()  # its server names a bucket
    assert origins_of(cv_path)[1:] == more


def test_a_graph_with_tokens_is_read_with_a_token() -> None:
    table = "https://a.org/segmentation/table/m"
    assert browsable(f"graphene://{table}", with_login=True) == f"graphene://middleauth+{table}"
    assert browsable("gs://bucket/seg", with_login=True) == "precomputed://gs://bucket/seg"
