"""Runners that hand a job to a job service: how long is waited for it, and what is said when it fails."""

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
"""A year, as Beam takes it for the most that a whole job may last; without it a job ends after 300 s."""
EMBEDDED = "embed"
LISTENER, LISTENER_SECONDS = "wait_until_finish_read", 5.0
_LAST_OF_A_TRACEBACK = re.compile(r"^(?:\w+\.)*(?!Traceback)(\w+(?:: .*)?)$", re.MULTILINE)
_DETAILS = re.compile(r'^\s*details = "(.*)"$', re.MULTILINE)


class JobFailed(L2FeaturesError):
    """A job service cannot be reached, or says that a job has failed."""


def portable_flags(flags: Sequence[str]) -> list[str]:
    """Beam's flags, where they name a job service with the defaults before them: what comes later counts."""
    named = any(flag.partition("=")[0] == "--job_endpoint" for flag in flags)
    return [*DEFAULTS, *flags] if named else list(flags)


def reason(text: str) -> str:
    """What a traceback, or a chain of them, ends with."""
    ends = _LAST_OF_A_TRACEBACK.findall(text)
    details = _DETAILS.findall(text)
    return str(details[-1] if details else ends[-1] if ends else text)


@contextmanager
def plain_errors(options: PipelineOptions) -> Iterator[None]:
    """Raise JobFailed where the job service of the options is not there, goes away, or fails the job.

    Other runners' errors pass. The log of the job service has the tracebacks of workers.
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
    """Hide those that Beam prints: of workers, and of its thread that listens to the job service."""
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
                f"job service {endpoint}: no answer in {CONNECT_SECONDS:g} s; --job_endpoint is expected to "
                "be the HOST:PORT of one that runs"
            ) from None


def _is_no_traceback(record: logging.LogRecord) -> bool:
    return "Traceback (most recent call last)" not in record.getMessage()
