"""Media that Label Studio serves: uploads, local files, and cloud storage connected to it.

Uploads and local files are plain downloads. For ``s3://``, ``gs://`` and ``azure-blob://``
Label Studio resolves ``/tasks/<id>/presign/`` in one of two ways: it redirects to a signed URL
of the storage, or, where presigning is off, it passes the bytes through itself. That proxy
stops after 20 seconds and cuts ranges at 8 MiB (``io_storages/proxy_api.py`` of Label Studio
1.23), so such objects are read range by range from the start.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from urllib.parse import parse_qs

import requests

from backend.labelstudio.client import LabelStudioClient, LabelStudioError
from backend.labelstudio.connection import has_dot_segments
from backend.media.addresses import parse_http_url
from backend.media.errors import MediaError, Reason, shown
from backend.media.http import HttpObject, HttpTransport
from backend.media.sources import Deadline, RangeRequest, Validators, host_of

CLOUD_SCHEMES = ("s3", "gs", "azure-blob")
_CLOUD_PREFIXES = tuple(f"{scheme}://" for scheme in CLOUD_SCHEMES)

# Where Label Studio serves media. Nothing else of it is asked for with the API key: task data
# must not be able to call its API.
_MEDIA_PATHS = re.compile(
    r"/data/upload/.+|/data/local-files/?|/storage-data/uploaded/?"
    r"|/(tasks|projects)/\d+/(presign|resolve)/?"
)
_UPLOAD_PATH = re.compile(r"/data/upload/\d+/[0-9a-f]{8}-.+")
_PROXY_RANGE_BYTES = 8 * 1024 * 1024
_SIGNATURE_REFUSED = (400, 401, 403)  # what storages answer to a signature that has expired
# The proxy's entity tag is the user id in front of the storage's own. Where the storage has
# none, only the user id is left, which says nothing about the object.
_BARE_USER_TAG = re.compile(r'"\d{1,12}"')


class LabelStudioMedia:
    """Finds the objects that one Label Studio serves.

    Args:
        client: the Label Studio, with the credential.
        transport: how to get there; its policy must allow the client's address.
    """

    def __init__(self, client: LabelStudioClient, transport: HttpTransport) -> None:
        self._client = client
        self._transport = transport

    def served(self, uri: str) -> LabelStudioObject | None:
        """The object behind a path or own URL of this Label Studio; None where it is neither.

        A URL of another host that can only be a Label Studio's local file or upload counts as
        this one's: Label Studio writes the HOST it was started with into task data, which need
        not be the name under which the backend reaches it.

        Raises:
            MediaError: a path of Label Studio that holds no media.
        """
        target = self._path_and_query(uri)
        if target is None:
            return None
        path, _, query = target.partition("?")
        if has_dot_segments(path) or not _MEDIA_PATHS.fullmatch(path):
            raise MediaError(
                f"{shown(uri)} is not a place where Label Studio keeps media.",
                "Expected are /data/upload/..., /data/local-files/?d=... or a storage address.",
                reason=Reason.REFUSED,
            )
        resolved = _resolved_cloud_uri(path, query)
        if resolved:
            return self.cloud(*resolved)
        # As the library will write it: other spellings of the path are the same object.
        url = parse_http_url(self._client.server.absolute(target)).url
        return LabelStudioObject(
            self._client,
            self._transport,
            target,
            identity=f"label-studio {url}",
            name=shown(local_files_path(target) or path.rsplit("/", 1)[-1] or path),
            host="",
            is_alias="://" in uri and not self._client.server.owns(uri),
        )

    def owns(self, uri: str) -> bool:
        """Whether an address is a URL of this Label Studio, by the name that the backend has."""
        return self._client.server.owns(uri)

    def cloud(self, uri: str, task_id: int) -> LabelStudioObject:
        """The object behind a cloud storage URI that a task of this Label Studio holds.

        The task is part of its identity: Label Studio decides by the task which storage, with
        whose credentials, the URI is read from.
        """
        encoded = base64.urlsafe_b64encode(uri.encode()).decode()
        return LabelStudioObject(
            self._client,
            self._transport,
            f"/tasks/{task_id}/presign/?fileuri={encoded}",
            identity=f"label-studio {self._client.url} task {task_id} {uri}",
            name=shown(uri),
            host=host_of(uri),
        )

    def _path_and_query(self, uri: str) -> str | None:
        """The path on Label Studio, without its sub-path, and the query; None for others."""
        prefix = self._client.server.prefix
        if uri.startswith("/") and not uri.startswith("//"):
            return uri[len(prefix) :] if prefix and uri.startswith(prefix + "/") else uri
        if uri[:7].lower() != "http://" and uri[:8].lower() != "https://":
            return None
        parsed = parse_http_url(uri)
        query = f"?{parsed.query}" if parsed.query else ""
        path = parsed.path or "/"
        if self._client.server.owns(uri):
            path = path[len(prefix) :]
            return path + query if _MEDIA_PATHS.fullmatch(path) else None
        at = max(path.find("/data/local-files/"), path.find("/data/upload/"))
        local = path.endswith("/data/local-files/") and query.startswith("?d=")
        if at >= 0 and (local or _UPLOAD_PATH.fullmatch(path[at:])):
            return path[at:] + query
        return None


class LabelStudioObject(HttpObject):
    """One object served by Label Studio itself or by the storage it redirects to.

    Args:
        target: path and query on Label Studio.
        identity, name, host: see ``RangedObject``.

    Attributes:
        is_alias: its address in the task was a URL of another host.
    """

    def __init__(
        self,
        client: LabelStudioClient,
        transport: HttpTransport,
        target: str,
        *,
        identity: str,
        name: str,
        host: str,
        is_alias: bool = False,
    ) -> None:
        url = client.server.absolute(target)
        super().__init__(transport, url, identity=identity, name=name, host=host)
        self.is_alias = is_alias
        self._client = client
        self._path = target.partition("?")[0]
        self._proxied = target.startswith(("/tasks/", "/projects/"))
        self._signed: str | None = None  # where Label Studio redirected to last

    def _open(self, request: RangeRequest, deadline: Deadline) -> requests.Response:
        """Ask the storage at the URL that Label Studio signed before, as long as it is good; else
        ask Label Studio, which signs a new one."""
        signed = self._signed
        if signed and request.version:
            response = self._transport.get(signed, lambda hop: request.headers, deadline)
            if response.status_code not in _SIGNATURE_REFUSED:
                return response
            response.close()
            self._signed = None
        try:
            response = self._ask_label_studio(request, deadline)
        except LabelStudioError as error:
            reason = Reason.UNREACHABLE if error.status is None else Reason.UNAUTHORIZED
            raise MediaError(str(error), reason=reason) from None
        if response.ok and self._proxied and not self._client.server.owns(response.url):
            self._signed = response.url
        return response

    def _ask_label_studio(self, request: RangeRequest, deadline: Deadline) -> requests.Response:
        auth = self._client.auth_headers()
        response = self._get(request, auth, deadline)
        expired = response.status_code == 401 and self._client.server.owns(response.url)
        if not (expired and self._client.can_renew):
            return response
        response.close()
        return self._get(request, self._client.auth_headers(rejected=auth), deadline)

    def _get(
        self, request: RangeRequest, auth: Mapping[str, str], deadline: Deadline
    ) -> requests.Response:
        left = False

        def headers_for(hop: str) -> dict[str, str]:
            # Once another server was asked, it chose the way: back to Label Studio it may lead,
            # but not to its API with the user's credential.
            nonlocal left
            left = left or not self._client.server.owns(hop)
            if left:
                # A signed URL: the signature is the authorisation, and S3 answers 400 to two.
                return request.headers
            self._refuse_elsewhere(hop)
            if self._proxied:
                length = min(request.length or _PROXY_RANGE_BYTES, _PROXY_RANGE_BYTES)
                # Some storages refuse more than there is.
                if request.version and request.version.size:
                    length = min(length, request.version.size - request.start)
                return {**auth, **RangeRequest(request.start, length).headers}
            return {**auth, **request.headers}

        return self._transport.get(self._url, headers_for, deadline)

    def _refuse_elsewhere(self, hop: str) -> None:
        """Refuse to follow Label Studio, with the credential, to where it keeps no media."""
        path = (parse_http_url(hop).path or "/")[len(self._client.server.prefix) :]
        if has_dot_segments(path) or not _MEDIA_PATHS.fullmatch(path):
            raise MediaError(
                f"Label Studio leads from {self.name} to {shown(hop)}, where it keeps no media.",
                "Open the address in a browser to see where it leads.",
                reason=Reason.REFUSED,
            )

    def _validators(self, response: requests.Response) -> Validators:
        found = super()._validators(response)
        etag = found.etag
        if etag and _BARE_USER_TAG.fullmatch(etag) and self._client.server.owns(response.url):
            etag = None
        # Label Studio puts eight random digits before the name of every upload and never
        # writes to it again; it sends no validators for uploads either.
        immutable = bool(_UPLOAD_PATH.fullmatch(self._path))
        return Validators(etag, found.last_modified, found.size, immutable)

    def _explain(self, response: requests.Response) -> MediaError:
        if not self._client.server.owns(response.url):
            return super()._explain(response)
        status = response.status_code
        if status == 424 or (self._proxied and status >= 500):
            return MediaError(
                f"Label Studio could not read {self.name} from its storage (HTTP {status}).",
                "Check the storage's credentials with Test Connection in the project settings.",
                reason=Reason.FAILED,
            )
        if status == 404 and self._proxied:
            return MediaError(
                f"Label Studio knows no storage of this project that holds {self.name}.",
                "Add the bucket as a source storage of the project.",
                reason=Reason.NOT_FOUND,
            )
        if self._path.startswith("/data/local-files") and status in (403, 404):
            return MediaError(
                f"Label Studio does not serve the local file {self.name} (HTTP {status}).",
                "Add its folder as a local storage of the project, and start Label Studio with "
                "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true.",
                reason=Reason.NOT_FOUND,
            )
        if self._path.startswith("/data/upload/") and status in (404, 500):
            # 1.23 answers 500 for an upload it does not know.
            return MediaError(
                f"Label Studio has no upload {self.name} (HTTP {status}).",
                "It may have been deleted; import the file again.",
                reason=Reason.NOT_FOUND,
            )
        reason = Reason.UNAUTHORIZED if status in (401, 403) else Reason.FAILED
        return MediaError(str(self._client.explain(response)), reason=reason)


def _resolved_cloud_uri(path: str, query: str) -> tuple[str, int] | None:
    """URI and task id where Label Studio has already replaced a cloud address by its own, as
    its API does (``/api/tasks/<id>/``); None for other paths."""
    match = re.fullmatch(r"/tasks/(\d+)/(?:presign|resolve)/?", path)
    encoded = parse_qs(query).get("fileuri", [""])[-1]
    if not match or not encoded:
        return None
    try:
        uri = base64.urlsafe_b64decode(encoded).decode()
    except ValueError:
        return None
    return (uri, int(match[1])) if uri.startswith(_CLOUD_PREFIXES) else None


def local_files_path(uri: str) -> str | None:
    """The file a ``/data/local-files/?d=...`` address names; None for any other address.

    Read as Label Studio reads it: percent-decoded once, the last ``d`` wins.
    """
    address, _, query = uri.partition("?")
    if not address.rstrip("/").endswith("/data/local-files"):
        return None
    values = parse_qs(query, keep_blank_values=True).get("d")
    return values[-1] if values else None
