"""Runners that submit to a job service: time-outs, and one-line errors."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import grpc
from apache_beam.options.pipeline_options import PipelineOptions, PortableOptions

from l2features.core.errors import L2FeaturesError

CONNECT_SECONDS = 20.0
DEFAULTS = ("--job_server_timeout=31536000",)
"""A year: Beam applies it to the whole job, which otherwise ends after 300 s."""
EMBEDDED = "embed"
LISTENER, LISTENER_SECONDS = "wait_until_finish_read", 5.0
"""Name of Beam's thread that listens to the job service (in 2.77, to which Beam is pinned)."""
_LAST_OF_A_TRACEBACK = re.compile(r"^(?:\w+\.)*(?!Traceback)(\w+(?:: .*)?)$", re.MULTILINE)
_DETAILS = re.compile(r'^\s*details = "(.*)"$', re.MULTILINE)


class JobFailed(L2FeaturesError):
    """A job service is unreachable, or reports a failed job."""


def portable_flags(flags: Sequence[str]) -> list[str]:
    """Return Beam's flags, after defaults if they name a job service; a given flag overrides its default."""
    named = any(flag.partition("=")[0] == "--job_endpoint" for flag in flags)
    return [*DEFAULTS, *flags] if named else list(flags)


def reason(text: str) -> str:
    """Return the last line of a traceback, or of a chain of tracebacks."""
    ends = _LAST_OF_A_TRACEBACK.findall(text)
    details = _DETAILS.findall(text)
    return str(details[-1] if details else ends[-1] if ends else text)


@contextmanager
def plain_errors(options: PipelineOptions) -> Iterator[None]:
    """Raise JobFailed if the job service in the options is missing or disappears, or if the job fails.

    Errors of other runners are raised unchanged. The log of the job service has the workers' tracebacks.
    """
    endpoint = options.view_as(PortableOptions).job_endpoint
    if endpoint is None or endpoint == EMBEDDED:
        yield
        return
    _find(endpoint)
    try:
        with _without_tracebacks():
            yield
    except grpc.RpcError as error:
        details = error.details() if isinstance(error, grpc.Call) else error
        raise JobFailed(f"job service {endpoint}: {details}") from error
    except RuntimeError as error:
        raise JobFailed(f"job service {endpoint}: {reason(str(error))}") from error


@contextmanager
def _without_tracebacks() -> Iterator[None]:
    """Hide the tracebacks that Beam prints, of workers and of `LISTENER`."""
    forwarded, hook = logging.getLogger(), threading.excepthook
    forwarded.addFilter(_is_no_traceback)
    threading.excepthook = lambda args: None if issubclass(args.exc_type, grpc.RpcError) else hook(args)
    try:
        yield
    finally:
        for thread in threading.enumerate():
            if thread.name == LISTENER:
                thread.join(LISTENER_SECONDS)
        threading.excepthook = hook
        forwarded.removeFilter(_is_no_traceback)


def _find(endpoint: str) -> None:
    with grpc.insecure_channel(endpoint) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=CONNECT_SECONDS)
        except grpc.FutureTimeoutError:
            raise JobFailed(
                f"job service {endpoint}: no answer in {CONNECT_SECONDS:g} s; expected "
                "--job_endpoint with the HOST:PORT of a running job service"
            ) from None


def _is_no_traceback(record: logging.LogRecord) -> bool:
    return "Traceback (most recent call last)" not in record.getMessage()
