"""Files in buckets of Google Cloud Storage and S3, and the choice of the storage for a URL.

cloud-files takes a second to import, so local files are opened without it.
"""

from __future__ import annotations

import json
import os.path
import posixpath
from pathlib import Path
from typing import Any

from .http import REACH_TIMEOUT_S, HttpStorage
from .storage import MISSING, FileBytes, Forbidden, LocalStorage, Request, Storage, StorageError, decompressed

TIMEOUT_S = 60.0
_LOCAL = "file://"


def open_storage(url: str) -> Storage:
    """Return the storage of the folder at a URL. Raises StorageError for an unsupported protocol."""
    if url.startswith(_LOCAL):
        return LocalStorage(os.path.abspath(os.path.expanduser(url.removeprefix(_LOCAL))))
    from cloudfiles import paths, secrets

    path = paths.extract(url)
    if path.protocol in ("http", "https"):
        known = secrets.http_credentials() or {}
        login = (known["user"], known["password"]) if {"user", "password"} <= set(known) else None
        return HttpStorage(posixpath.join(path.host, path.path), login=login)
    if path.protocol == "middleauth+https":
        host = path.host.removeprefix("https://")
        token = (secrets.cave_credentials(host) or {}).get("token")
        return HttpStorage(posixpath.join(path.host, path.path), token=token)
    if path.protocol == "gs":
        return GoogleStorage(path.bucket, path.path)
    if path.protocol == "s3":
        return S3Storage(path.bucket, path.path, path.host, path.alias or "s3")
    expected = "expected file, gs, s3, http, https or middleauth+https"
    raise StorageError(f"{url}: protocol {path.protocol} is not supported, {expected}")


class GoogleStorage(Storage):
    """A folder in a bucket of Google Cloud Storage."""

    def __init__(self, bucket: str, folder: str) -> None:
        super().__init__()
        self.folder, self.bucket = folder, _google_client(bucket).bucket(bucket)

    def get(self, request: Request) -> FileBytes:
        from google.api_core import exceptions
        from google.auth.exceptions import GoogleAuthError
        from google.cloud.storage.retry import DEFAULT_RETRY

        blob = self.bucket.blob(posixpath.join(self.folder, request.name))
        part = {} if request.stop is None else {"start": request.start or 0, "end": request.stop - 1}
        retry = DEFAULT_RETRY.with_timeout(TIMEOUT_S / 2)
        try:
            content = blob.download_as_bytes(raw_download=True, timeout=TIMEOUT_S, retry=retry, **part)
        except exceptions.NotFound:
            return MISSING
        except exceptions.Forbidden as error:
            raise Forbidden("HTTP 403 Forbidden") from error
        except exceptions.RequestRangeNotSatisfiable:
            return FileBytes(b"")
        except exceptions.GoogleAPICallError as error:
            raise StorageError(f"file {request.name}: HTTP {error.code}: {error.message}") from error
        except (GoogleAuthError, exceptions.GoogleAPIError, OSError) as error:
            raise StorageError(f"file {request.name}: {error}") from error
        return FileBytes(decompressed(content, blob.content_encoding, request))


def _google_client(bucket: str) -> Any:
    """Return a client with credentials from cloud-volume's secrets, else the environment, else none."""
    from cloudfiles import secrets
    from google.auth.exceptions import DefaultCredentialsError
    from google.cloud.storage import Client

    names = (f"{bucket}-google-secret.json", "google-secret.json")
    if any(Path(secrets.secretpath(name)).is_file() for name in names):
        project, credentials = secrets.google_credentials(bucket)
        return Client(project=project, credentials=credentials)
    try:
        return Client(project=None)
    except DefaultCredentialsError:
        return Client.create_anonymous_client()


class S3Storage(Storage):
    """A folder in a bucket of Amazon S3, or of another server with the S3 protocol."""

    def __init__(self, bucket: str, folder: str, endpoint: str | None, service: str) -> None:
        super().__init__()
        self.bucket, self.folder = bucket, folder
        self.client = _s3_client(bucket, endpoint, service)

    def get(self, request: Request) -> FileBytes:
        from botocore.exceptions import BotoCoreError, ClientError

        part = {} if request.stop is None else {"Range": f"bytes={request.start or 0}-{request.stop - 1}"}
        key = posixpath.join(self.folder, request.name)
        try:
            answer = self.client.get_object(Bucket=self.bucket, Key=key, **part)
            content: bytes = answer["Body"].read()
        except ClientError as error:
            return _judge_s3(request, error)
        except (BotoCoreError, OSError) as error:
            raise StorageError(f"file {request.name}: {error}") from error
        encodings = answer.get("ContentEncoding", "").split(",")
        encoding = ",".join(e.strip() for e in encodings if e.strip() != "aws-chunked")
        return FileBytes(decompressed(content, encoding, request))


def _judge_s3(request: Request, error: Any) -> FileBytes:
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    code = error.response.get("Error", {}).get("Code", "")
    if code in ("NoSuchKey", "404"):
        return MISSING
    if status == 403:
        raise Forbidden(f"HTTP 403 {code}") from error
    if status == 416:
        return FileBytes(b"")
    raise StorageError(f"file {request.name}: HTTP {status} {code}: {error}") from error


def _s3_client(bucket: str, endpoint: str | None, service: str) -> Any:
    """Return a client with credentials from cloud-volume's secrets, else the environment, else none."""
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config

    known = _s3_secret(bucket, "aws" if service == "s3" else service)
    session = boto3.Session(
        aws_access_key_id=known.get("AWS_ACCESS_KEY_ID"),
        aws_secret_access_key=known.get("AWS_SECRET_ACCESS_KEY"),
        aws_session_token=known.get("AWS_SESSION_TOKEN"),
        region_name=known.get("AWS_DEFAULT_REGION"),
    )
    config = Config(
        connect_timeout=REACH_TIMEOUT_S,
        read_timeout=TIMEOUT_S,
        retries={"max_attempts": 3, "mode": "standard"},
        max_pool_connections=Storage.threads,
    )
    if session.get_credentials() is None:
        config = config.merge(Config(signature_version=UNSIGNED))
    region = session.region_name or "us-east-1"
    return session.client("s3", region_name=region, endpoint_url=endpoint, config=config)


def _s3_secret(bucket: str, service: str) -> dict[str, str]:
    from cloudfiles import secrets

    for name in (f"{bucket}-{service}-secret.json", f"{service}-secret.json"):
        path = Path(secrets.secretpath(name))
        if path.is_file():
            return dict(json.loads(path.read_text()))
    return {}
