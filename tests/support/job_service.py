"""Beam's local job service, changed to fail a job whose worker is lost instead of waiting forever."""

import logging
import sys
from typing import Any

from apache_beam.runners.portability import local_job_service_main
from apache_beam.runners.portability.fn_api_runner.worker_handlers import ControlConnection


def fail_when_a_worker_is_lost() -> None:
    """Abort the requests to a worker that is lost, as other job services do."""
    read = ControlConnection._read

    def read_all(connection: Any) -> None:
        try:
            read(connection)
        finally:
            connection.abort(RuntimeError("a worker is lost"))

    ControlConnection._read = read_all


if __name__ == "__main__":
    fail_when_a_worker_is_lost()
    logging.basicConfig(level=logging.INFO)
    local_job_service_main.run(sys.argv[1:])
