"""Hooks of mkdocs: reference tables from the code, notebooks as pages, the list of decisions.

A comment such as ``<!-- generated: settings -->`` in a page is replaced by the table of this name.
"""

from __future__ import annotations

import base64
import contextlib
import importlib
import io
import json
import os
import posixpath
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    import numpy as np
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

JOBS = ("ingest", "update", "audit", "materialize", "precomputed")
COLUMNS = 96
SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
PIPE = re.compile(r"(`[^`]*`)|\|")
GENERATED = re.compile(r"<!-- generated: (\w+) -->")
LINK = re.compile(r"\[([^\[\]]+)\]\(([^()\s:#]+)(#[-\w]+)?\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List all decisions at the end of the navigation."""
    decisions = sorted(f"decisions/{path.name}" for path in Path(config.docs_dir, "decisions").glob("*.md"))
    config.nav = [*(config.nav or ()), {"Decisions": decisions}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Replace each notebook by a Markdown page, with the pictures of the notebook's outputs."""
    from mkdocs.structure.files import File

    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        files.remove(file)
        for uri, content in notebook_files(Path(config.docs_dir) / file.src_uri, file.src_uri):
            files.append(File.generated(config, uri, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Replace comments ``<!-- generated: NAME -->`` by their tables; rewrite links as `link` does."""
    text = GENERATED.sub(lambda found: REFERENCES[found[1]](), markdown)
    parts = re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)
    parts[::2] = [LINK.sub(lambda found: link(found, page, config), part) for part in parts[::2]]
    return "".join(parts)


def link(found: re.Match[str], page: Page, config: MkDocsConfig) -> str:
    """Return a Markdown link as the site needs it.

    A link to a notebook leads to the notebook's page, a link to README.md to the index page, and a link to
    another file outside the docs to the repository, or becomes plain text without a repository URL.
    """
    text, target, anchor = found[1], found[2], found[3] or ""
    if target.endswith(".ipynb"):
        return f"[{text}]({target.removesuffix('.ipynb')}.md{anchor})"
    folder = posixpath.dirname(page.file.src_uri) or "."
    place = posixpath.normpath(posixpath.join(folder, target))
    if not place.startswith("../"):
        return found[0]
    if place == "../README.md":
        return f"[{text}]({posixpath.relpath('index.md', folder)}{anchor})"
    return f"[{text}]({config.repo_url}/blob/main/{place[3:]})" if config.repo_url else text


def commands() -> str:
    """Return the help of every command as Markdown."""
    from l2features.cli.commands import main

    return "\n".join(f"## {path}\n\n```text\n{text}\n```\n" for path, text in helps(main, "l2features", None))


def helps(command: click.Command, name: str, parent: click.Context | None) -> Iterator[tuple[str, str]]:
    """Yield pairs (path, help text) of a command and all its subcommands; a group comes first."""
    context = click.Context(command, parent, name, terminal_width=COLUMNS, help_option_names=["-h", "--help"])
    yield context.command_path, command.get_help(context)
    if isinstance(command, click.Group):
        for subcommand in command.list_commands(context):
            one = command.get_command(context, subcommand)
            assert one
            yield from helps(one, subcommand, context)


def jobs() -> str:
    """Return the help of every Beam job as Markdown."""
    os.environ["COLUMNS"], text = str(COLUMNS), ""
    for name in JOBS:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            importlib.import_module(f"beam_jobs.{name}").parse(["--help"])
        text += f"## beam_jobs.{name}\n\n```text\n{printed.getvalue()}```\n\n"
    return text


def table(header: str, rows: Iterable[Iterable[object]]) -> str:
    """Return a Markdown table; ``header`` has the names of the columns, separated by commas."""
    columns = header.split(",")
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(cell, line))} |" for line in lines) + "\n"


def cell(value: object) -> str:
    """Return a value as the text of a table cell, with pipes outside of code escaped."""
    return PIPE.sub(lambda found: found[1] or r"\|", str(value))


def attributes() -> str:
    """Return a table of the attributes of L2 nodes."""
    from l2features.core.schema import ATTRIBUTES

    rows = []
    for one in ATTRIBUTES:
        meaning = one.meaning + (f"; {one.condition.absent}" if one.condition else "")
        rows.append((f"`{one.name}`", kind(one.shape, one.dtype), one.unit, one.served_unit, meaning))
    return table("attribute,stored type,stored unit,served unit,meaning", rows)


def measures() -> str:
    """Return a table of the measures of roots."""
    from l2features.neurons.neuron_summary import SUMMARY

    rows = []
    for one in SUMMARY:
        graph = "yes" if one.needs_graph else ""
        rows.append((f"`{one.name}`", kind(one.shape, one.dtype), one.unit, graph, one.meaning))
    return table("measure,type,unit,needs the L2 graph,meaning", rows)


def kind(shape: tuple[int, ...], dtype: np.dtype[Any]) -> str:
    return " × ".join([*map(str, shape), dtype.name])


def reasons() -> str:
    """Return a table of the reasons for dead letters."""
    from l2features.messages.decoding import Reason

    rows = [(f"`{reason}`", reason.meaning, reason.action) for reason in Reason]
    return table("reason,the message or id …,what to do", rows)


def settings() -> str:
    """Return a table of the server's settings: environment variables with defaults, limits and meaning."""
    from api.config import Settings

    rows = []
    for name, field in Settings.model_fields.items():
        found = ((sign, getattr(one, key, None)) for one in field.metadata for key, sign in SIGNS.items())
        limits = ", ".join(f"{sign} {value}" for sign, value in found if value is not None)
        default = "" if field.default in (None, "") else f"`{field.default}`"
        variable = field.validation_alias or f"L2CACHE_{name.upper()}"
        rows.append((f"`{variable}`", default, limits, field.description))
    return table("variable,default,limits,meaning", rows)


def metrics() -> str:
    """Return a table of the server's metrics."""
    from prometheus_client.metrics import MetricWrapperBase

    from api import metrics as module

    rows = []
    for metric in vars(module).values():
        if isinstance(metric, MetricWrapperBase):
            (family,) = metric.describe()
            name = f"{family.name}_total" if family.type == "counter" else family.name
            labels = ", ".join(f"`{label}`" for label in metric._labelnames)  # has no public name
            rows.append((f"`{name}`", family.type, labels, family.documentation))
    return table("metric,type,labels,meaning", rows)


def counters() -> str:
    """Return a table of the counters of jobs."""
    from beam_jobs.counters import COUNTERS

    return table("counter,meaning", [(f"`{name}`", meaning) for name, meaning in COUNTERS.items()])


def alerts() -> str:
    """Return a table of the Prometheus alerts in deploy/prometheus/rules.yml."""
    import yaml

    file = Path(__file__).parent / "deploy" / "prometheus" / "rules.yml"
    rows = []
    for rule in yaml.safe_load(file.read_text())["groups"][0]["rules"]:
        condition, notes = " ".join(rule["expr"].split()), rule["annotations"]
        lasting = f" for {rule['for']}" if "for" in rule else ""
        rows.append((notes["summary"], f"`{condition}`{lasting}", notes["action"]))
    return table("alert,condition,what to do", rows)


def routes() -> str:
    """Return a table of error statuses, and the operations of the OpenAPI document by tag."""
    from api.config import Settings, set_environment

    set_environment(AUTH_DISABLED="true")
    from api.app import create_app
    from api.problems import AUTH_PROBLEMS, PROBLEMS

    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "datasets.yml"
        config.write_text(f"minnie: {{cv_path: 'file://{folder}', l2cache_id: minnie, graph: flat}}")
        app = create_app(Settings(GRAPH_L2CACHE_CONFIG_PATH=str(config)))
        document = app.test_client().get("/openapi.json").get_json()
    problems = sorted({**PROBLEMS, **AUTH_PROBLEMS}.items())
    text = table("error,meaning", [(status, problem.meaning) for status, problem in problems])
    for tag in document["tags"]:
        text += f"\n## {tag['name'].capitalize()}\n\n"
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                if tag["name"] in operation["tags"]:
                    text += route(f"{method.upper()} {path}", operation)
    return text


def default(parameter: dict[str, Any]) -> str:
    if parameter["in"] == "path":
        return "in the path"
    value = parameter["schema"].get("default")
    if value is None:
        return "required" if parameter.get("required") else ""
    return str(value)


def route(title: str, operation: dict[str, Any]) -> str:
    """Return the Markdown section of one operation of the OpenAPI document."""
    lines = [f"### {operation['summary']}", f"`{title}`", operation.get("description", "")]
    if given := operation.get("parameters"):
        rows = [(f"`{one['name']}`", default(one), one.get("description", "")) for one in given]
        lines.append(table("parameter,default,meaning", rows))
    if body := operation.get("requestBody"):
        kinds = ", ".join(f"`{kind}`" for kind in body["content"])
        lines.append(f"Body: {kinds}. {body.get('description', '')}")
    answers = operation["responses"]
    lines += [f"{status}: {one['description']}" for status, one in answers.items() if status < "400"]
    lines.append(f"Errors: {', '.join(status for status in answers if status >= '400') or 'none'}")
    return "\n\n".join(line for line in lines if line) + "\n\n"


REFERENCES = {
    function.__name__: function
    for function in (
        alerts,
        attributes,
        commands,
        counters,
        jobs,
        measures,
        metrics,
        reasons,
        routes,
        settings,
    )
}


def notebook_files(path: Path, uri: str) -> Iterator[tuple[str, str | bytes]]:
    """Yield pairs (path, content): the pictures of a notebook's outputs, then the notebook's page."""
    name = uri.removesuffix(".ipynb")
    parts = []
    for number, cell in enumerate(json.loads(path.read_text())["cells"]):
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", ()):
            data = {kind: "".join(value) for kind, value in output.get("data", {}).items()}
            if png := data.get("image/png"):
                yield f"{name}_{number}.png", base64.b64decode(png)
                parts.append(f"![Output of the cell above]({posixpath.basename(name)}_{number}.png)")
            elif html := data.get("text/html"):
                parts.append(f'<div class="output">{html}</div>')
            elif text := "".join(output.get("text", ())) or data.get("text/plain"):
                parts.append(f"```text\n{text.rstrip()}\n```")
    yield f"{name}.md", "\n\n".join(parts)
