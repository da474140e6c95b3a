"""gunicorn's configuration: processes, threads, limits and hooks.

gunicorn -c api/gunicorn.conf.py "api.app:create_app()"

nginx (deploy/nginx.conf) stands in front of gunicorn, so that slow clients do not occupy gunicorn's threads.
"""

import logging
import sys
from pathlib import Path
from typing import Any

# Import this package, not another "api" of the folder in which the server starts.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from api import gunicorn_hooks as hooks
from api.config import load_settings, set_environment
from l2features.core.errors import ConfigError

set_environment(
    # prometheus_client reads its folder at import.
    PROMETHEUS_MULTIPROC_DIR=hooks.metrics_folder(),
    # gRPC's log is not JSON; its errors reach us as exceptions.
    GRPC_VERBOSITY="NONE",
    # OpenBLAS would start threads before the fork.
    OPENBLAS_NUM_THREADS="1",
)
from api import logs  # noqa: E402

logs.configure()
try:
    settings = load_settings()
except ConfigError as error:
    logging.getLogger("l2features.api").critical("%s", error)
    sys.exit(1)

bind = settings.bind
worker_class = "gthread"
workers = settings.workers
threads = settings.threads
worker_connections = max(512, 2 * threads)
graceful_timeout = settings.graceful_timeout_s
logger_class = logs.ServerLog
loglevel = settings.log_level

# Load the application once; the processes share its code and compiled kernels. Connections and threads do not
# survive a fork, so nothing is open by then: no control socket either.
preload_app = True
control_socket_disable = True

# Longer than a load balancer keeps an idle connection (Google's: 600 s), or a request sent on it could fail.
keepalive = 620

limit_request_line = 4094
limit_request_fields = 64
limit_request_field_size = 8190

# In containers, /tmp may be a slow disk.
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None


post_worker_init = hooks.warm_worker
worker_exit = hooks.close_worker
child_exit = hooks.forget_worker


def on_starting(arbiter: Any) -> None:
    if settings.drain_file:
        settings.drain_file.unlink(missing_ok=True)
    hooks.prepare_fork(arbiter.app.wsgi())


def pre_request(_worker: Any, _request: Any) -> None:
    hooks.in_flight().inc()


def post_request(_worker: Any, _request: Any, _environ: Any, _response: Any) -> None:
    hooks.in_flight().dec()
