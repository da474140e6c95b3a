"""Write the metadata of the Flex Templates from the options of the jobs.

Dataflow validates a launch against ``templates/JOB.json``. Names, defaults and help come from the job's
parser; the rest is in `FIELDS`. An option that is neither in `FIELDS` nor in `LOCAL` is an error.

example, after an option changed:
  python -m beam_jobs.templates

example, a template for a bucket (gcloud can build it too, but does not mark it as streaming):
  python -m beam_jobs.templates --spec update --image IMAGE >update.json &&
      gcloud storage cp update.json gs://bucket/update.json
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from apache_beam.options.pipeline_options import PipelineOptions

from l2features.config.datasets import DATASET_NAME
from l2features.core.errors import ConfigError
from l2features.core.times import TIME_PATTERN
from l2features.jobs import audit_run, ingest_run, materialize_run
from l2features.jobs.job_options import actions, boolean
from l2features.pubsub.topic import PROJECT
from l2features.versions.materialization import LATEST, TODAY

from . import command, precomputed, update
from .dataflow import DEFAULTS

FOLDER = Path("templates")
MACHINE_TYPE = "n2-standard-4"
"""4 GB of memory per core; one chunk is computed on each core."""
LOCAL = {"help", "runner", "workers", "dask_client_address", "scratch", "messages", "ready_file"}
"""Options that templates lack, because they do not apply to Dataflow."""

WHAT, PART, HOW, WORKERS = "Data set", "Part of the grid", "What is computed", "Workers"
_NAME = r"[A-Za-z][-A-Za-z0-9_.~+%]{2,254}"
_PROJECT = f"projects/{PROJECT}"
_SUBSCRIPTION = f"{_PROJECT}/subscriptions/{_NAME}"
_AT_LEAST_1 = "^[1-9][0-9]*$"
_IMAGE = "^[^ ]+/[^ ]+[:@][^ /]+$"


class Field(NamedTuple):
    """Metadata that a template adds to an option of the job's parser. ``regex`` is in RE2 syntax."""

    label: str
    group: str
    regex: str | None = None
    kind: str | None = None
    required: bool = False


FIELDS = {
    "dataset": Field("Data set", WHAT, f"^{DATASET_NAME.pattern}$", required=True),
    "config": Field("Data sets file", WHAT, "^gs://[^/]+/.+$", "GCS_READ_FILE", required=True),
    "timestamp": Field("Time of the graph", WHAT, f"^({TODAY}|{TIME_PATTERN})$"),
    "output": Field("Folder of the output", WHAT, "^gs://[^/]+/.+$", required=True),
    "base": Field("Version to renew", WHAT, f"^({LATEST}|[1-9][0-9]*)$"),
    "rebase": Field("Fresh version", HOW),
    "delta": Field("Delta Lake table", HOW),
    "settle_seconds": Field("Time to settle", HOW, r"^[0-9]+(\.[0-9]+)?$"),
    "version": Field("Version", WHAT, _AT_LEAST_1),
    "layers": Field("Layers", WHAT, "^[a-z_]+(,[a-z_]+)*$"),
    "segments": Field("Segments", WHAT, _AT_LEAST_1),
    "shard_size": Field("Size of files", HOW, _AT_LEAST_1),
    "cell_nodes": Field("Nodes of a cell", HOW, _AT_LEAST_1),
    "create": Field("Create the table", WHAT),
    "test": Field("Eight chunks only", PART),
    "chunks": Field("Chunks", PART, "^[0-9]+:[0-9]+,[0-9]+:[0-9]+,[0-9]+:[0-9]+$"),
    "recompute": Field("Compute again", HOW),
    "retry_missing": Field("Retry missing files", HOW),
    "allow_empty": Field("Allow an empty segmentation", HOW),
    "repair": Field("Repair", HOW),
    "sink": Field("Sink", HOW),
    "attempts": Field("Attempts", HOW, _AT_LEAST_1),
    "subscriptions": Field("Subscriptions", WHAT, f"^{_SUBSCRIPTION}(,{_SUBSCRIPTION})*$", required=True),
    "dead_letters": Field(
        "Dead letters", WHAT, f"^{_PROJECT}/topics/{_NAME}$", "PUBSUB_TOPIC", required=True
    ),
    "sdk_container_image": Field("Image", WORKERS, _IMAGE, required=True),
    "number_of_worker_harness_threads": Field("Threads per core", WORKERS, _AT_LEAST_1),
    "disk_size_gb": Field("Disk", WORKERS, _AT_LEAST_1),
}
BEAM_HELP = {
    "sdk_container_image": "image of the workers: the one that this template was built with",
    "number_of_worker_harness_threads": "threads of each worker process, one process per core; a "
    "second thread competes for the core, and keeps a second chunk in memory",
    "disk_size_gb": "disk of a worker in GB; it stores the image",
}
"""Help of the Beam options that our templates list. Dataflow accepts more for every Flex Template."""


@dataclass(frozen=True)
class Template:
    """The description of a job's template."""

    description: str
    add_options: Callable[[argparse.ArgumentParser], None]
    max_workers: int
    streaming: bool = False


TEMPLATES = {
    "ingest": Template(
        "Compute the features of every level-2 node of a segmentation, and store them.",
        ingest_run.add_options,
        max_workers=100,
    ),
    "audit": Template(
        "Check that every level-2 node of the graph has its row in the store; repair what is missing.",
        audit_run.add_options,
        max_workers=20,
    ),
    "materialize": Template(
        "Make a version: all nodes valid at one time, with their roots and features, as Parquet files.",
        materialize_run.add_options,
        max_workers=100,
    ),
    "precomputed": Template(
        "Export a version as layers for Neuroglancer, which any file server serves.",
        precomputed.add_options,
        max_workers=100,
    ),
    "update": Template(
        "Compute and store the features of the nodes that Pub/Sub messages name: edits and missing ids.",
        update.add_options,
        max_workers=5,
        streaming=True,
    ),
}


def metadata(job: str) -> dict[str, Any]:
    """Return the metadata of a template. Raises ConfigError for an option in neither `FIELDS` nor `LOCAL`."""
    template = TEMPLATES[job]
    described: dict[str, Any] = {
        "name": f"l2features {job}",
        "description": template.description,
        "streaming": template.streaming,
    }
    if template.streaming:
        described |= {
            "supportsAtLeastOnce": True,
            "supportsExactlyOnce": True,
            "defaultStreamingMode": "AT_LEAST_ONCE",
        }
    parser = command.new_parser(job, None)
    template.add_options(parser)
    parameters = [_parameter(job, action) for action in actions(parser) if action.dest not in LOCAL]
    return described | {"parameters": [*parameters, *_beam_parameters()]}


def spec(job: str, image: str, **environment: str) -> dict[str, Any]:
    """Return the complete template of a job: image, metadata and default environment.

    ``environment`` adds or overrides entries of the default environment.
    """
    template = TEMPLATES[job]
    defaults: dict[str, Any] = {
        "machineType": MACHINE_TYPE,
        "maxWorkers": template.max_workers,
        "autoscalingAlgorithm": "AUTOSCALING_ALGORITHM_BASIC",
        "ipConfiguration": "WORKER_IP_PRIVATE",
        "additionalUserLabels": {"application": "l2features", "l2features-job": job},
    }
    if template.streaming:
        defaults["enableStreamingEngine"] = True
    return {
        "image": image,
        "sdkInfo": {"language": "PYTHON"},
        "metadata": metadata(job),
        "defaultEnvironment": defaults | environment,
    }


def _beam_parameters() -> Iterator[dict[str, Any]]:
    defaults = dict(flag.removeprefix("--").split("=") for flag in DEFAULTS if "=" in flag)
    known = PipelineOptions([]).get_all_options()
    for name, text in BEAM_HELP.items():
        if name not in known:
            raise ConfigError(f"option --{name} in BEAM_HELP: expected an option of Beam")
        kind = int if name in defaults else str
        yield _parameter(
            "Beam", argparse.Action([f"--{name}"], name, type=kind, help=text), defaults.get(name)
        )


def _parameter(job: str, action: argparse.Action, default: str | None = None) -> dict[str, Any]:
    if action.dest not in FIELDS:
        raise ConfigError(f"option --{action.dest} of {job}: expected in FIELDS or LOCAL of {__name__}")
    field = FIELDS[action.dest]
    required = field.required or action.required
    parameter: dict[str, Any] = {
        "name": action.dest,
        "label": field.label,
        "helpText": (action.help or "") % vars(action),
        "groupName": field.group,
        "isOptional": not required,
        "paramType": field.kind or "TEXT",
    }
    if action.choices:
        parameter["paramType"] = "ENUM"
        parameter["enumOptions"] = [{"value": choice, "label": choice} for choice in action.choices]
    elif action.type is boolean:
        parameter |= {"paramType": "BOOLEAN", "regexes": ["^(true|false)$"]}
    elif action.type is int:
        parameter["paramType"] = "NUMBER"
    if field.regex:
        parameter["regexes"] = [field.regex]
    if default is None and action.default is not None:
        default = str(action.default).lower() if action.type is boolean else str(action.default)
    return parameter if default is None else parameter | {"defaultValue": default}


def as_text(job: str) -> str:
    """Return the content of the metadata file of a job's template."""
    return json.dumps(metadata(job), indent=2, ensure_ascii=False) + "\n"


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options; exit with status 2 for a wrong option.

    The attribute ``error`` of the options is a function that prints the usage and a message, then exits.
    """
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "python -m beam_jobs.templates", None, __doc__, formatter_class=formatter
    )
    parser.add_argument("--folder", type=Path, default=FOLDER, help="folder for the metadata files")
    parser.add_argument(
        "--spec", choices=TEMPLATES, help="print the complete template of this job instead of writing files"
    )
    parser.add_argument("--image", help="image of the job, with its tag; required with --spec")
    parser.add_argument("--service_account", metavar="EMAIL", help="service account of the workers")
    parser.add_argument("--subnetwork", help="regions/REGION/subnetworks/NAME, with Private Google Access")
    parser.set_defaults(error=parser.error)
    args = parser.parse_args(argv)
    if args.spec and not args.image:
        parser.error("--image IMAGE is required with --spec")
    if args.image and not re.search(_IMAGE, args.image):
        parser.error(f"--image {args.image!r}: expected HOST/PATH/NAME:TAG or HOST/PATH/NAME@DIGEST")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Write each job's metadata file or, with --spec, print the specification of one job's template.

    Exits with status 2 for a wrong option.
    """
    args = parse(argv)
    if args.spec:
        environment = {"serviceAccountEmail": args.service_account, "subnetwork": args.subnetwork}
        given = {name: value for name, value in environment.items() if value}
        print(json.dumps(spec(args.spec, args.image, **given), indent=2, ensure_ascii=False))
        return 0
    try:
        for job in TEMPLATES:
            (args.folder / f"{job}.json").write_text(as_text(job))
    except OSError as error:
        args.error(f"--folder {args.folder}: {error.strerror}: expected a folder that can be written to")
    return 0


if __name__ == "__main__":
    sys.exit(main())
