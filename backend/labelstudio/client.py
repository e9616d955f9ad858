"""Label Studio's REST API: one client per Label Studio, with the token it accepts.

The Authorization header goes to the configured Label Studio and nowhere else: redirects are
never followed to another origin.
"""

from __future__ import annotations

import itertools
import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import requests

from backend.expected import ExpectedError
from backend.labelstudio.connection import (
    AccessToken,
    Credential,
    ServerUrl,
    credential_expiry,
    credential_kind,
    shown_origin,
)
from backend.labelstudio.json_values import parse_json
from backend.labelstudio.model_names import shown_version
from backend.labelstudio.session import new_session, redirect_target
from backend.retries import send_with_retries

_MAX_REDIRECTS = 3
_BYTES_PER_SECOND = 1e6  # of a prediction, which Label Studio parses, checks and stores
_PIECE, _PIECES = 1 << 16, 16  # of an answer that is read whole
_ID_FIRST = re.compile(rb'\s*\{\s*"id"\s*:\s*(\d+)')
_TASKS_PER_PAGE = 20
_NUMBERS_PER_PAGE = 200  # of tasks without annotations and predictions
_REASON = 400
_HTML_TAG = re.compile(r"<[^<>]*>")
_CREATE_TOKEN = "create a personal access token under Account & Settings and use that"  # noqa: S105


class LabelStudioError(ExpectedError):
    """A request to Label Studio failed; the text is one or two sentences fit for a person.

    It names the host tried, the kind of credential (never its value) and the next step.

    Attributes:
        status: the HTTP status Label Studio answered with, or None when it did not answer.
    """

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class LabelStudioClient:
    """Talks to one Label Studio; safe to share between threads.

    Args:
        url: its address, with a sub-path where it has one (``https://host/label-studio``).
        api_key: a personal access token, an access token or a legacy token; None or "" for none.
        timeout: seconds to wait for an answer (connecting waits five seconds at most).
        verify: True, False, or the path of a CA bundle, as in ``requests``.

    Raises:
        LabelStudioError: the URL or the key cannot be what it should be.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None,
        *,
        timeout: float = 10.0,
        verify: bool | str = True,
    ) -> None:
        try:
            self.server = ServerUrl.parse(url)
        except ValueError as error:
            raise LabelStudioError(f"LABEL_STUDIO_URL {error}") from None
        self.url = self.server.text
        self.name = f"Label Studio at {self.url}"  # in messages
        self._timeout = (min(5.0, timeout), timeout)
        self._api_key = _checked_key(api_key)
        self.credential = credential_kind(self._api_key)
        self.expires = credential_expiry(self._api_key)
        self._session = new_session(verify)
        self._access = AccessToken(self._exchange)

    # --- credentials -----------------------------------------------------------------------

    def auth_headers(self, *, rejected: Mapping[str, str] | None = None) -> dict[str, str]:
        """The Authorization header for a request to this Label Studio; empty without a key.

        Args:
            rejected: the headers that just drew a 401. A personal access token is then
                exchanged anew, unless another thread has done so in the meantime.

        Raises:
            LabelStudioError: the personal access token could not be exchanged.
        """
        if self.credential is Credential.NONE:
            return {}
        word, key = "Bearer", self._api_key
        if self.credential in (Credential.LEGACY, Credential.UNKNOWN):
            word = "Token"
        elif self.credential is Credential.PERSONAL_ACCESS:
            refused = (rejected or {}).get("Authorization", "").removeprefix("Bearer ")
            key = self._access.get(rejected=refused)
        return {"Authorization": f"{word} {key}"}

    @property
    def can_renew(self) -> bool:
        """Whether a 401 may be cured by exchanging the key again."""
        return self.credential is Credential.PERSONAL_ACCESS

    def _exchange(self) -> str:
        """Trade the personal access token for an access token."""
        body = {"refresh": self._api_key}
        response = self._send("POST", self.url + "/api/token/refresh", json=body)
        self._refuse_redirect(response)
        if response.status_code in (400, 401, 403):
            raise LabelStudioError(
                f"{self.name} refused the personal access token ({response.status_code}): it is "
                f"expired, revoked or from another Label Studio; {_CREATE_TOKEN}.",
                status=response.status_code,
            )
        access = _json_object(response.content).get("access")
        if response.status_code != 200 or not isinstance(access, str):
            raise LabelStudioError(
                f"{self.name} answered {response.status_code} instead of exchanging the personal "
                "access token; check LABEL_STUDIO_URL, including the sub-path if there is one.",
                status=response.status_code,
            )
        return access

    # --- requests --------------------------------------------------------------------------

    def request(self, method: str, path_or_url: str, **kwargs: Any) -> requests.Response:
        """Send an authorised request and return the answer, whose status is below 400.

        Args:
            method: "GET", "POST", ...
            path_or_url: a path on this Label Studio or a full URL on it.
            kwargs: ``json``, ``params``, ``stream`` and ``timeout`` as in ``requests``; ``data`` is
                a file of JSON.

        Raises:
            LabelStudioError: another host's URL, no answer, or a status of 400 or more.
        """
        url = path_or_url if "://" in path_or_url else self.server.absolute(path_or_url)
        if not self.server.owns(url):
            raise LabelStudioError(
                f"Refused to send the API key of {self.name} anywhere but to that Label Studio."
            )
        headers = self.auth_headers()
        response = self._follow(method, url, headers=headers, **kwargs)
        if response.status_code == 401 and self.can_renew:
            headers = self.auth_headers(rejected=headers)
            response = self._follow(method, url, headers=headers, **kwargs)
        if response.status_code >= 400:
            answer = b"" if kwargs.get("stream") else response.content
            raise self.explain(response, _invalid(answer))
        return response

    def get_task(self, task: int) -> dict[str, Any]:
        """The task with its annotations, drafts and predictions; its data as it was imported, which
        is how Label Studio sends it to ML backends."""
        return self._object("GET", f"/api/tasks/{int(task)}/", params={"resolve_uri": "false"})

    def get_project(self, project: int) -> dict[str, Any]:
        """The project with its label config, as the API has it."""
        return self._object("GET", f"/api/projects/{int(project)}/")

    def list_tasks(self, project: int) -> Iterator[dict[str, Any]]:
        """All tasks of a project with annotations and predictions, data as it was imported.

        Asked for page by page, as they are consumed: one task can hold megabytes of masks.
        """
        seen = 0
        for page in itertools.count(1):
            parameters = {
                "project": int(project),
                "fields": "all",
                "resolve_uri": "false",
                "page": page,
                "page_size": _TASKS_PER_PAGE,
            }
            found = self._object("GET", "/api/tasks/", params=parameters)
            tasks = found.get("tasks") or []
            yield from tasks
            seen += len(tasks)
            if not tasks or seen >= found.get("total", 0):  # a page behind the last is a 404
                return

    def list_task_numbers(
        self, project: int, *, view: int | None = None, only_unlabelled: bool = False
    ) -> Iterator[int]:
        """The tasks of a project, or of a tab of its Data Manager with its filters and ticks, in
        the order in which that shows them.

        Args:
            only_unlabelled: leave out those that have an annotation.
        """
        seen = 0
        for page in itertools.count(1):
            parameters = {
                "project": int(project),
                "resolve_uri": "false",
                "page": page,
                "page_size": _NUMBERS_PER_PAGE,
                **({} if view is None else {"view": int(view)}),
            }
            found = self._object("GET", "/api/tasks/", params=parameters)
            tasks = found.get("tasks") or []
            for task in tasks:
                if not (only_unlabelled and task.get("total_annotations")):
                    yield int(task["id"])
            seen += len(tasks)
            if not tasks or seen >= found.get("total", 0):  # a page behind the last is a 404
                return

    def tasks_after(self, project: int, task: int, count: int) -> list[dict[str, Any]]:
        """The next tasks of a project in its order, which is that of their numbers; data as it was
        imported."""
        query = {
            "filters": {
                "conjunction": "and",
                "items": [
                    {
                        "filter": "filter:tasks:id",
                        "operator": "greater",
                        "type": "Number",
                        "value": int(task),
                    }
                ],
            },
            "ordering": ["tasks:id"],
        }
        parameters = {
            "project": int(project),
            "resolve_uri": "false",
            "page": 1,
            "page_size": int(count),
            "query": json.dumps(query),
        }
        found = self._object("GET", "/api/tasks/", params=parameters)
        return [each for each in found.get("tasks") or () if isinstance(each, dict)]

    def list_predictions(self, task: int) -> list[dict[str, Any]]:
        """The predictions of a task, whole."""
        response = self.request("GET", "/api/predictions/", params={"task": int(task)})
        try:
            found = parse_json(response.content)
        except ValueError:
            found = None
        if not isinstance(found, list):
            raise self._strange(response.status_code)
        return [each for each in found if isinstance(each, dict)]

    def create_prediction(
        self,
        task: int,
        result: Iterable[Mapping[str, Any]],
        model_version: str,
        score: float | None,
    ) -> dict[str, Any]:
        """Store a prediction for a task; returns it as stored, of a large one only its id.

        Args:
            result: consumed one item at a time. All of them may take gigabytes, so they wait in a
                temporary file: Label Studio's server reads no body of unknown length.
        """
        version = shown_version(model_version)
        head = {"task": task, "model_version": version, "score": score}
        with tempfile.TemporaryFile() as body:
            body.write(json.dumps(head, allow_nan=False).encode()[:-1] + b', "result": [')
            for number, item in enumerate(result):
                body.write(b", " if number else b"")
                body.write(json.dumps(item, allow_nan=False).encode())
            body.write(b"]}")
            connect, read = self._timeout
            patience = connect, read + body.tell() / _BYTES_PER_SECOND
            with self.request(
                "POST", "/api/predictions/", data=body, stream=True, timeout=patience
            ) as response:
                return self._checked(response, self._prediction(response))

    def _prediction(self, response: requests.Response) -> dict[str, Any]:
        """What an answer says of a stored prediction, which it repeats whole, after its id."""
        try:
            answer = b"".join(itertools.islice(response.iter_content(_PIECE), _PIECES))
        except requests.RequestException as error:
            raise LabelStudioError(self._explain_no_answer(error)) from None
        if len(answer) < _PIECE * _PIECES:
            return _json_object(answer)
        found = _ID_FIRST.match(answer)
        return {"id": int(found[1])} if found else {}

    def delete_prediction(self, prediction: int) -> None:
        """Delete a prediction; one that is not there any more is no error."""
        try:
            self.request("DELETE", f"/api/predictions/{int(prediction)}/")
        except LabelStudioError as error:
            if error.status != 404:
                raise

    def whoami(self) -> dict[str, Any]:
        """The user the API key belongs to."""
        return self._object("GET", "/api/current-user/whoami")

    def version(self) -> str | None:
        """Label Studio's release, e.g. "1.23.2"; None where nothing says so. Never raises."""
        try:
            response = self._send("GET", self.url + "/api/version")
        except LabelStudioError:
            return None
        release = _json_object(response.content).get("release")
        return release if isinstance(release, str) else None

    def _object(self, method: str, path: str, **kwargs: Any) -> dict[str, Any]:
        """The JSON object that a request is answered with."""
        response = self.request(method, path, **kwargs)
        return self._checked(response, _json_object(response.content))

    def _checked(self, response: requests.Response, found: dict[str, Any]) -> dict[str, Any]:
        if not found:
            raise self._strange(response.status_code)
        return found

    def _strange(self, status: int) -> LabelStudioError:
        return LabelStudioError(
            f"{self.name} answered with something other than its API does, perhaps a login "
            "page of a proxy in front of it; check LABEL_STUDIO_URL.",
            status=status,
        )

    # --- below HTTP ------------------------------------------------------------------------

    def _follow(self, method: str, url: str, **kwargs: Any) -> requests.Response:
        for _ in range(1 + _MAX_REDIRECTS):
            response = self._send(method, url, **kwargs)
            url = redirect_target(response) if response.is_redirect else ""
            if method not in ("GET", "HEAD") or not self.server.owns(url):
                break
        self._refuse_redirect(response)
        return response

    def _send(self, method: str, url: str, **kwargs: Any) -> requests.Response:
        options = {"timeout": self._timeout, **kwargs}
        body = kwargs.get("data")
        if body is not None:
            options["headers"] = {**kwargs["headers"], "Content-Type": "application/json"}

        def send() -> requests.Response:
            if body is not None:
                body.seek(0)
            return self._session.request(method, url, allow_redirects=False, **options)

        try:
            return send_with_retries(send, idempotent=method in ("GET", "HEAD"))
        except requests.RequestException as error:
            # The chain is cut: these exceptions carry the request, and with it the header.
            raise LabelStudioError(self._explain_no_answer(error)) from None

    def _refuse_redirect(self, response: requests.Response) -> None:
        if not response.is_redirect:
            return
        target = shown_origin(redirect_target(response))
        raise LabelStudioError(
            f"{self.name} redirects to {target}; set LABEL_STUDIO_URL to the address it is "
            "really served at, with https and the sub-path if there is one.",
            status=response.status_code,
        )

    def explain(self, response: requests.Response, invalid: str = "") -> LabelStudioError:
        """What an answer of 400 or more from this Label Studio means, and what to do.

        Args:
            invalid: what Label Studio itself finds wrong with the request, where it says so.
        """
        status = response.status_code
        meaning = f": {invalid}" if invalid else self._explain_status(status)
        return LabelStudioError(f"{self.name} answered {status}{meaning}", status=status)

    def _explain_status(self, status: int) -> str:
        if status == 401:
            return {
                Credential.NONE: ": it wants an API key and none is configured; "
                f"{_CREATE_TOKEN} as LABEL_STUDIO_API_KEY.",
                Credential.LEGACY: " to a legacy token: a default Label Studio 1.23 refuses legacy "
                f"tokens, and the one it hands to ML backends is such a token; {_CREATE_TOKEN}.",
                Credential.PERSONAL_ACCESS: " to a freshly exchanged personal access token; check "
                "that its user is active and that API tokens are enabled for the organisation.",
                Credential.ACCESS: " to a short-lived access token, which has probably expired; "
                f"{_CREATE_TOKEN} instead.",
                Credential.UNKNOWN: ": LABEL_STUDIO_API_KEY is neither a personal access token, "
                "which has three parts with dots between them, nor a legacy token of 40 "
                f"hexadecimal digits; {_CREATE_TOKEN}.",
            }[self.credential]
        if status == 403:
            return f": the user of {self.credential.value} has no access to this."
        if status == 404:
            return (
                f": it is not there, or the user of {self.credential.value} cannot see it; "
                "check LABEL_STUDIO_URL and the user's access to the project."
            )
        if status == 400 and "_" in self.server.origin[1]:
            return (
                ": it refuses host names with an underscore; give the container or host a "
                "name without one and change LABEL_STUDIO_URL."
            )
        return "; its own log says why." if status >= 500 else "."

    def _explain_no_answer(self, error: requests.RequestException) -> str:
        if isinstance(error, requests.exceptions.SSLError):
            return (
                f"The TLS certificate of {self.name} was not accepted; set CA_BUNDLE to the "
                "certificates of whoever signed it."
            )
        if isinstance(error, requests.Timeout):
            return f"{self.name} did not answer within {self._timeout[1]:g} s."
        where = (
            "inside a container localhost is the container itself: use the host's name"
            if self.server.origin[1] in ("localhost", "127.0.0.1", "[::1]")
            else "check LABEL_STUDIO_URL and that this machine can reach it"
        )
        return f"{self.name} cannot be reached ({type(error).__name__}); {where}."


def _checked_key(api_key: str | None) -> str | None:
    key = (api_key or "").strip()
    if not all("!" <= char <= "~" for char in key):
        raise LabelStudioError(
            "LABEL_STUDIO_API_KEY contains spaces or characters no token has; give the bare "
            "token, without a word such as Token or Bearer in front."
        )
    return key or None


def _invalid(answer: bytes) -> str:
    """What a refusal of Label Studio says is wrong with the request, on one line of at most
    ``_REASON`` characters; "" where it does not say."""
    found = _json_object(answer).get("validation_errors")
    fields = found.values() if isinstance(found, dict) else [found]
    texts = [text for each in fields for text in (each if isinstance(each, list) else [each])]
    line = _HTML_TAG.sub("", " ".join(text for text in texts if isinstance(text, str)))
    return " ".join("".join(char if char.isprintable() else " " for char in line).split())[:_REASON]


def _json_object(answer: bytes) -> dict[str, Any]:
    """The JSON object of an answer; {} where it is something else."""
    try:
        body = parse_json(answer)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
