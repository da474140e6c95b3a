"""The server: processes, threads and what happens when they begin and end.

gunicorn -c api/gunicorn.conf.py "api.app:create_app()"
"""

from api.config import load_settings

settings = load_settings()

bind = settings.bind
worker_class = "gthread"
workers = settings.workers
threads = settings.threads
graceful_timeout = settings.graceful_timeout_s
preload_app = True
control_socket_disable = True
