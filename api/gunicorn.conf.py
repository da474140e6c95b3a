"""The server: processes, threads, limits, and what happens when they begin and end.

gunicorn -c api/gunicorn.conf.py "api.app:create_app()"
"""

import logging
import sys
from pathlib import Path
from typing import Any

# This package is meant, wherever the server is started, and not what may be called "api" there.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from l2features.core.errors import ConfigError

from .. import port, server
from ..config import load_settings, set_environment

set_environment(
    # The metrics' library looks for its folder when it is imported.
    PROMETHEUS_MULTIPROC_DIR=server.metrics_folder(),
    # gRPC's own log is not JSON; what it says reaches us in exceptions.
    GRPC_VERBOSITY="NONE",
    # Linear algebra would start threads before the fork.
    OPENBLAS_NUM_THREADS="1",
)
from .. import logs  # noqa: E402

logs.configure()
try:
    settings = load_settings()
except ConfigError as error:
    logging.getLogger("l2features.api").critical("%s", error)
    sys.exit(1)

bind = settings.bind
worker_class = "api.worker.Worker"
workers = settings.workers
threads = settings.threads
worker_connections = max(512, 2 * threads)
graceful_timeout = settings.graceful_timeout_s
logger_class = logs.ServerLog
loglevel = settings.log_level

# The application is loaded once, and its code and compiled kernels are shared by the processes. Nothing is
# open at that time: connections and threads do not survive a fork, so there is no control socket either.
preload_app = True
control_socket_disable = True

# A load balancer keeps its connections for up to 600 s (Google's). Were this server the first to close one,
# a request that is just being sent on it would fail.
keepalive = 620

limit_request_line = 4094
limit_request_fields = 64
limit_request_field_size = 8190

# In containers, /tmp may be a disk on which a write can take long.
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None


def on_starting(arbiter: Any) -> None:
    server.load_kernels(arbiter.app.wsgi())


def when_ready(arbiter: Any) -> None:
    port.refuse_before_stop(arbiter)


def post_worker_init(worker: Any) -> None:
    server.worker_begins(worker)


def worker_exit(_arbiter: Any, worker: Any) -> None:
    server.worker_ends(worker)


def child_exit(_arbiter: Any, worker: Any) -> None:
    server.worker_is_gone(worker)
