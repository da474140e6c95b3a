"""Time-outs and one-line errors for Beam runners that submit jobs to a job service."""

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
"""A year, in seconds. Beam applies this time-out to the whole job; its own default ends a job after 300 s."""
EMBEDDED = "embed"
LISTENER, LISTENER_SECONDS = "wait_until_finish_read", 5.0
"""Name of Beam's thread that listens to the job service (in the pinned Beam 2.77); seconds to wait for it."""
_LAST_OF_A_TRACEBACK = re.compile(r"^(?:\w+\.)*(?!Traceback)(\w+(?:: .*)?)$", re.MULTILINE)
_DETAILS = re.compile(r'^\s*details = "(.*)"$', re.MULTILINE)


class JobFailed(L2FeaturesError):
    """A job service cannot be reached, or reports that a job failed."""


def portable_flags(flags: Sequence[str]) -> list[str]:
    """Return ``flags``, with `DEFAULTS` first if ``flags`` name a job service.

    Given flags override defaults.
    """
    named = any(flag.partition("=")[0] == "--job_endpoint" for flag in flags)
    return [*DEFAULTS, *flags] if named else list(flags)


def reason(text: str) -> str:
    """Find the reason of a failure in a text that may contain tracebacks.

    This is the last detail of a gRPC error, else the error at the end of the last traceback, else the text.
    """
    ends = _LAST_OF_A_TRACEBACK.findall(text)
    details = _DETAILS.findall(text)
    return str(details[-1] if details else ends[-1] if ends else text)


@contextmanager
def plain_errors(options: PipelineOptions) -> Iterator[None]:
    """Raise JobFailed if the job service in the options cannot be reached, or if the job fails.

    The workers' tracebacks are not printed: the job service logs them. Without a job service, errors are
    raised unchanged, except that Beam's RuntimeError after Ctrl-C becomes KeyboardInterrupt.
    """
    endpoint = options.view_as(PortableOptions).job_endpoint
    if endpoint is None or endpoint == EMBEDDED:
        try:
            yield
        except RuntimeError as error:
            if _is_interrupt(error):
                raise KeyboardInterrupt from error
            raise
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
    """Hide tracebacks that Beam prints: those of workers, and gRPC errors of its thread `LISTENER`."""
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


def _is_interrupt(error: BaseException | None) -> bool:
    """Return whether an error was raised while a KeyboardInterrupt was handled."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _is_no_traceback(record: logging.LogRecord) -> bool:
    return "Traceback (most recent call last)" not in record.getMessage()
