"""Tests of the OpenAPI document and its page: the document is valid, complete and true of the server."""

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

from api.response_bodies import ARROW, JSON, PARQUET
from l2features.core.schema import NAMES
from l2features.testing.small_table import DATASET, node_ids, small_table
from tests.support.api_app import app_of

DUPLICATES = {
    *("root_slash", "root_index", "api_index", "root_openapi"),
    *("health0.live", "health0.ready", "health0.metrics_text"),
}
"""Routes that answer as others do, at another path; the document leaves them out."""
FOR_PEOPLE = {
    *("docs", "swagger.static", "swagger.swagger", "swagger.oauth2-redirect"),
    *("viewer", "viewer_asset", "dashboard_page", "home", "page_files", "login"),
}
"""Routes outside the document: pages, the viewer, and what these load."""
PREFIX = "/l2cache/api/v1"
READ = f"{PREFIX}/table/{{dataset}}/attributes"
METHODS = {"get", "post", "put", "patch", "delete"}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_table(tmp_path_factory.mktemp("openapi"))


def document_of(app: OpenAPI) -> dict[str, Any]:
    """Return the OpenAPI document without authenticating."""
    return app.view_functions["openapi"]().get_json()


@pytest.fixture(scope="module")
def app(config: Path, without_tokens: None) -> Iterator[OpenAPI]:
    app = app_of(config)
    with app.test_request_context():
        yield app


@pytest.fixture(scope="module")
def document(app: OpenAPI) -> dict[str, Any]:
    return document_of(app)


@pytest.fixture(scope="module")
def with_tokens(config: Path) -> dict[str, Any]:
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
    rules = [rule for rule in app.url_map.iter_rules() if rule.endpoint not in FOR_PEOPLE | DUPLICATES]
    known = {(path, method) for path, method, _ in operations(document)}
    assert known == {
        (parse_rule(rule.rule), method.lower())
        for rule in rules
        for method in rule.methods or ()
        if method.lower() in METHODS
    }
    assert {r.endpoint for r in app.url_map.iter_rules()} >= FOR_PEOPLE | DUPLICATES


def test_duplicates_answer_as_what_is_documented(app: OpenAPI, document: dict[str, Any]) -> None:
    client, hidden = app.test_client(), {r.rule for r in app.url_map.iter_rules() if r.endpoint in DUPLICATES}
    assert len(hidden) == len(DUPLICATES)
    assert not hidden & set(document["paths"])
    for path in hidden:
        name = path.rsplit("/", 1)[-1].replace("index", "")
        assert f"{PREFIX}/{name}" in document["paths"]
        ours, other = client.get(path), client.get(f"{PREFIX}/{name}")
        assert (
            (ours.status_code, ours.mimetype) == (other.status_code, other.mimetype) == (200, ours.mimetype)
        )
        assert name == "metrics" or ours.data == other.data


def test_every_operation_is_named_and_described(document: dict[str, Any]) -> None:
    ids = Counter(operation["operationId"] for _, _, operation in operations(document))
    assert set(ids.values()) == {1}
    reads = {"attributes", "table", "attribute_metadata", "table_mapping", "chunk_nodes", "nodes"}
    reads |= {"root_summaries", "root", "root_nodes", "root_graph", "root_skeleton"}
    reads |= {"layers", "layer", "layer_info", "layer_node", "layer_root", "layer_chunk"}
    reads |= {"layer_overview"}
    reads |= {"skeletons_info", "skeletons_root", "segment_properties", "segments", "auth_info"}
    reads |= {"root_view", "view", "version_segments"}
    reads |= {"versions", "version", "version_query", "dashboard", "dashboard_cell"}
    assert reads | {"live", "ready", "metrics", "openapi", "api_slash"} == set(ids)
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
    assert set(errors) == {"200", "400", "404", "406", "413", "415", "422", "429", "503"}
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
    assert free == {"live", "ready", "metrics", "auth_info"}
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


def examples_of(operation: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], Any]]:
    """Yield status, schema and value of each example of an error response."""
    for status, response in operation["responses"].items():
        content = response.get("content", {}).get(JSON, {})
        if status >= "400":
            named = content["examples"].values() if "examples" in content else [{"value": content["example"]}]
            yield from ((status, content["schema"], example["value"]) for example in named)


def test_each_error_has_an_example_of_its_own(document: dict[str, Any], with_tokens: dict[str, Any]) -> None:
    for each in (document, with_tokens):
        for path, _, operation in operations(each):
            found = list(examples_of(operation))
            found_statuses = {status for status, _, _ in found}
            assert found_statuses == {status for status in operation["responses"] if status >= "400"}, path
            bodies = [str(value) for _, _, value in found]
            assert len(set(bodies)) == len(bodies), path
            for _, schema, value in found:
                validator(each, schema).validate(value)


BAD_REQUESTS: list[tuple[str, str, dict[str, Any]]] = [
    ("400", DATASET, {"data": b'{"l2_ids":[NaN]}'}),
    ("404", "minie65", {}),
    ("406", DATASET, {"headers": {"Accept": "text/csv"}}),
    ("413", DATASET, {"json": {"l2_ids": [int(node_ids()[0])] * 250_001}}),
    ("415", DATASET, {"headers": {"Content-Encoding": "br"}}),
    ("422", DATASET, {"data": b'{"l2_ids":[1.4411518807585587e17]}'}),
]


@pytest.mark.parametrize(("status", "dataset", "sent"), BAD_REQUESTS)
def test_examples_of_errors_are_what_the_server_answers(
    app: OpenAPI, document: dict[str, Any], status: str, dataset: str, sent: dict[str, Any]
) -> None:
    answer = app.test_client().post(READ.format(dataset=dataset), **sent)
    shown = document["paths"][READ]["post"]["responses"][status]["content"][JSON]["example"]
    assert answer.status_code == int(status)
    assert answer.json == {**shown, "request_id": answer.json["request_id"]}


def test_examples_of_a_busy_server_are_what_it_answers(document: dict[str, Any]) -> None:
    responses = document["paths"][READ]["post"]["responses"]
    known = {"429": "too_many_requests", "503": "store_unavailable"}
    for status, code in known.items():
        assert responses[status]["content"][JSON]["example"]["code"] == code


@pytest.mark.parametrize("query", ["", "?int64_as_str=true", "?with_status=true", "?attribute_names=pca"])
def test_answers_are_as_described(app: OpenAPI, document: dict[str, Any], query: str) -> None:
    ids = [*node_ids().tolist(), 5 << 56, (2 << 56) + 5]
    answer = app.test_client().post(READ.format(dataset=DATASET) + query, json={"l2_ids": ids})
    assert answer.status_code == 200
    schema = document["paths"][READ]["post"]["responses"]["200"]["content"][JSON]["schema"]
    validator(document, schema).validate(answer.json)
    assert len(answer.json) == len(ids)


@pytest.mark.parametrize("graph", ["flat", "bigtable://project/instance/table"])
def test_the_time_of_a_data_set_is_named_for_what_it_is(
    tmp_path: Path, document: dict[str, Any], graph: str, without_tokens: None
) -> None:
    """Check that a data set with a graph reports `timestamp`, and one without a graph `ingested_at`."""
    config = small_table(tmp_path)
    config.write_text(config.read_text().replace('"flat"', f'"{graph}"'))
    info = app_of(config).test_client().get(f"{PREFIX}/table/{DATASET}").json
    times, time = ("timestamp", "ingested_at"), "2026-01-01T00:00:00Z"
    assert [info[name] for name in times] == ([None, time] if graph == "flat" else [time, None])
    validator(document, document["components"]["schemas"]["TableInfo"]).validate(info)


def test_attributes_are_those_of_the_table(document: dict[str, Any]) -> None:
    node = document["components"]["schemas"]["Node"]["properties"]
    assert set(node) == {*NAMES, "status", "reason"}
    assert node["rep_coord_nm"]["description"].endswith("(nm)")


# ------------------------------------------------------------------ the page
def test_the_page_loads_nothing_from_elsewhere(app: OpenAPI) -> None:
    client, page_url = app.test_client(), f"{PREFIX}/docs/"
    page = client.get(page_url).text
    assets = re.findall(r"""<(?:script|link)[^>]* (?:src|href)=["']([^"']+)""", page)
    assert len(assets) >= 4
    assert "//" not in page
    for asset in assets:
        assert not urlsplit(asset).netloc
        answer = client.get(urljoin(page_url, asset))
        assert answer.status_code == 200, asset
        assert len(answer.data) > 100, asset
        if asset.endswith(".css"):
            assert not re.findall(r"url\((?![\"']?data:)[^)]*\)|@import", answer.text), asset
    found = re.search(r'data-document="([^"]+)"', page)
    assert found
    assert client.get(urljoin(page_url, found[1])).get_json()["openapi"]
