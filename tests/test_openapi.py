"""The OpenAPI document: valid, complete, true of the server; and the page that shows it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import pytest
from flask_openapi3 import OpenAPI
from flask_openapi3.utils import parse_rule
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from openapi_spec_validator import OpenAPIV31SpecValidator

from api.answers import ARROW, JSON, PARQUET
from api.app import create_app
from api.config import Settings
from l2features.schema import NAMES

from .fuzz_api import fuzz
from .table import DATASET, node_ids, small_table

FOR_PEOPLE = {"docs", "swagger.static", "swagger.swagger", "swagger.oauth2-redirect"}
"""Routes outside the document: a page that shows it, and what the page loads."""
PREFIX = "/l2cache/api/v1"
READ = f"{PREFIX}/table/{{dataset}}/attributes"
METHODS = {"get", "post", "put", "patch", "delete"}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_table(tmp_path_factory.mktemp("openapi"))


def app_of(config: Path, **limits: Any) -> OpenAPI:
    return create_app(Settings(GRAPH_L2CACHE_CONFIG_PATH=str(config), **limits))


def document_of(app: OpenAPI) -> dict[str, Any]:
    """The document, as `register_document` gives it, whatever the authentication says."""
    return app.view_functions["openapi"]().get_json()


@pytest.fixture(scope="module")
def app(config: Path) -> Iterator[OpenAPI]:
    """The app where everyone may read everything."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("api.app.auth_disabled", lambda: True)
        patch.setattr("middle_auth_client.decorators.AUTH_DISABLED", True)
        app = app_of(config)
        with app.test_request_context():
            yield app


@pytest.fixture(scope="module")
def document(app: OpenAPI) -> dict[str, Any]:
    return document_of(app)


@pytest.fixture(scope="module")
def with_tokens(config: Path) -> dict[str, Any]:
    """The document of an app that asks for tokens."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("api.app.auth_disabled", lambda: False)
        app = app_of(config)
        with app.test_request_context():
            return document_of(app)


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def test_it_is_valid(document: dict[str, Any], with_tokens: dict[str, Any]) -> None:
    for each in (document, with_tokens):
        assert each["openapi"].startswith("3.1")
        OpenAPIV31SpecValidator(each).validate()


def test_it_has_every_route(app: OpenAPI, document: dict[str, Any]) -> None:
    rules = [rule for rule in app.url_map.iter_rules() if rule.endpoint not in FOR_PEOPLE]
    known = {(path, method) for path, method, _ in operations(document)}
    assert known == {
        (parse_rule(rule.rule), method.lower())
        for rule in rules
        for method in rule.methods or ()
        if method.lower() in METHODS
    }
    assert {r.endpoint for r in app.url_map.iter_rules()} >= FOR_PEOPLE


def test_every_operation_is_named_and_described(document: dict[str, Any]) -> None:
    ids = Counter(operation["operationId"] for _, _, operation in operations(document))
    assert set(ids.values()) == {1}
    reads = {"attributes", "table", "attribute_metadata", "table_mapping"}
    assert reads | {"live", "ready", "metrics", "openapi", "root_live"} <= set(ids)
    for path, _, operation in operations(document):
        assert operation["summary"], path
        assert operation["description"], path
        assert operation["tags"], path
        for parameter in operation.get("parameters", ()):
            assert parameter["description"], (path, parameter)
        for status, response in operation["responses"].items():
            assert response["description"], (path, status)
            assert ("Retry-After" in response["headers"]) == (status in ("429", "503"))


def test_errors_have_the_one_form(document: dict[str, Any]) -> None:
    assert not {"ValidationErrorModel", "UnprocessableEntity"} & set(document["components"]["schemas"])
    errors = document["paths"][READ]["post"]["responses"]
    assert set(errors) == {"200", "400", "404", "408", "413", "415", "422", "429", "503"}
    for path, _, operation in operations(document):
        for status, response in operation["responses"].items():
            if status >= "400" and not path.endswith("/ready"):
                schema = response["content"][JSON]["schema"]
                assert schema == {"$ref": "#/components/schemas/ErrorBody"}, (path, status)


def test_who_needs_a_token(document: dict[str, Any], with_tokens: dict[str, Any]) -> None:
    assert "securitySchemes" not in document["components"]
    assert not any("security" in operation for _, _, operation in operations(document))
    scheme = with_tokens["components"]["securitySchemes"]["token"]
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    free = {
        operation["operationId"] for _, _, operation in operations(with_tokens) if "security" not in operation
    }
    health = {"live", "ready", "metrics", "root_live", "root_ready", "root_metrics"}
    assert free == health | {"root_slash", "root_index"}
    for _, _, operation in operations(with_tokens):
        if "security" in operation:
            assert {"302", "400", "401", "403"} <= set(operation["responses"])


def test_limits_are_those_of_the_settings(config: Path) -> None:
    app = app_of(config, max_ids=77, max_wait_s=3, max_body_bytes=12345)
    with app.test_request_context():
        document = document_of(app)
    read = document["paths"][READ]["post"]
    assert document["components"]["schemas"]["Ids"]["anyOf"][1]["maxItems"] == 77
    assert read["requestBody"]["content"]["application/octet-stream"]["schema"]["maxLength"] == 77 * 8
    assert "12345" in read["requestBody"]["description"]
    parameters = {p["name"]: p for p in read["parameters"]}
    assert parameters["wait"]["schema"]["maximum"] == 3
    assert parameters["dataset"]["schema"]["enum"] == [DATASET]


def validator(document: dict[str, Any], schema: dict[str, Any]) -> Draft202012Validator:
    return Draft202012Validator({**schema, "components": document["components"]})


def test_examples_are_what_they_are_examples_of(document: dict[str, Any]) -> None:
    read = document["paths"][READ]["post"]
    assert set(read["responses"]["200"]["content"]) == {JSON, ARROW, PARQUET}
    for content in (read["requestBody"]["content"][JSON], read["responses"]["200"]["content"][JSON]):
        validator(document, content["schema"]).validate(content["example"])
    for schema in document["components"]["schemas"].values():
        for example in schema.get("examples", ()):
            validator(document, schema).validate(example)


@pytest.mark.parametrize("query", ["", "?int64_as_str=true", "?with_status=true", "?attribute_names=pca"])
def test_answers_are_as_described(app: OpenAPI, document: dict[str, Any], query: str) -> None:
    ids = [*node_ids().tolist(), 5 << 56, (2 << 56) + 5]
    answer = app.test_client().post(READ.format(dataset=DATASET) + query, json={"l2_ids": ids})
    assert answer.status_code == 200
    schema = document["paths"][READ]["post"]["responses"]["200"]["content"][JSON]["schema"]
    validator(document, schema).validate(answer.json)
    assert len(answer.json) == len(ids)


def test_attributes_are_those_of_the_table(document: dict[str, Any]) -> None:
    node = document["components"]["schemas"]["Node"]["properties"]
    assert set(node) == {*NAMES, "status", "reason"}
    assert node["rep_coord_nm"]["description"].endswith("(nm)")


# ------------------------------------------------------------------ the page
def test_the_page_loads_nothing_from_elsewhere(app: OpenAPI) -> None:
    client, page_url = app.test_client(), f"{PREFIX}/docs/"
    page = client.get(page_url).text
    assets = re.findall(r"""(?:src|href)=["']([^"']+)""", page)
    assert len(assets) >= 4
    assert "//" not in re.sub(r"^\s*//.*$", "", page, flags=re.M)
    for asset in assets:
        assert not urlsplit(asset).netloc
        answer = client.get(urljoin(page_url, asset))
        assert answer.status_code == 200, asset
        assert len(answer.data) > 100, asset
        if asset.endswith(".css"):
            assert not re.findall(r"url\((?![\"']?data:)[^)]*\)|@import", answer.text), asset
    found = re.search(r'new URL\("([^"]+)"', page)
    assert found
    assert client.get(urljoin(page_url, found[1])).get_json()["openapi"]


# ------------------------------------------------------------------ Schemathesis
def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    ran = fuzz(tmp_path, examples=15, arguments=["--seed", "1"])
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "15 selected / 15 total" in ran.stdout
    assert "No issues found" in ran.stdout
    assert "⚠" not in ran.stdout
