"""The part of Label Studio's REST API that sets up a project, as a logged-in user."""

from __future__ import annotations

import contextlib
import mimetypes
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import requests

from demo.label_studio import Account

_TIMEOUT_SECONDS = 120


class ApiError(Exception):
    """Label Studio refused a request. ``str()`` holds the request and the answer."""


class LabelStudioApi:
    """A session on one Label Studio.

    Args:
        url: its address.
        account: an existing user.

    Raises:
        ApiError: e-mail and password are not accepted.
    """

    def __init__(self, url: str, account: Account) -> None:
        self.url = url.rstrip("/")
        self._session = requests.Session()
        self._session.trust_env = False
        self._log_in(account)

    def request(self, method: str, path: str, **keywords: Any) -> Any:
        """Send one request; returns the JSON of the answer, or None where it has no body.

        Raises:
            ApiError: the status is not 2xx.
        """
        headers = {
            "X-CSRFToken": self._session.cookies.get("csrftoken") or "",
            "Referer": self.url + "/",
        }
        response = self._session.request(
            method, self.url + path, headers=headers, timeout=_TIMEOUT_SECONDS, **keywords
        )
        if not response.ok:
            raise ApiError(f"{method} {path}: {response.status_code} {response.text[:500]}")
        return response.json() if response.content else None

    def new_personal_access_token(self) -> str:
        """Create the user's personal access token. There is one per user, shown only now.

        Raises:
            ApiError: the user has one already (status 409).
        """
        return str(self.request("POST", "/api/token/")["token"])

    def accepts_token(self, token: str) -> bool:
        """Whether ``token`` is a living personal access token here."""
        with contextlib.suppress(ApiError):
            self.request("POST", "/api/token/refresh", json={"refresh": token})
            return True
        return False

    def find_project(self, title: str) -> int | None:
        """Id of the first project with this title."""
        projects = self.request("GET", "/api/projects", params={"title": title})["results"]
        return next((int(item["id"]) for item in projects if item["title"] == title), None)

    def create_project(self, title: str, label_config: str, **settings: Any) -> int:
        """Create a project; returns its id."""
        body = {"title": title, "label_config": label_config, **settings}
        return int(self.request("POST", "/api/projects", json=body)["id"])

    def upload(self, project: int, file: Path) -> str:
        """Upload ``file`` without making a task; returns its address for task data."""
        media_type = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        with file.open("rb") as stream:
            answer = self.request(
                "POST",
                f"/api/projects/{project}/import",
                params={"commit_to_project": "false"},
                files={file.name: (file.name, stream, media_type)},
            )
        upload = self.request("GET", f"/api/import/file-upload/{answer['file_upload_ids'][0]}")
        return f"/data/{upload['file']}"

    def create_tasks(self, project: int, data: Iterable[dict[str, Any]]) -> list[int]:
        """Create one task per item of ``data``; returns their ids in the same order."""
        return self.import_tasks(project, ({"data": item} for item in data))

    def import_tasks(self, project: int, tasks: Iterable[dict[str, Any]]) -> list[int]:
        """Create tasks from what Label Studio imports: ``data``, and ``predictions`` where there
        are any; returns their ids in the same order."""
        answer = self.request(
            "POST",
            f"/api/projects/{project}/import",
            params={"return_task_ids": "true"},
            json=list(tasks),
        )
        return [int(task) for task in answer["task_ids"]]

    def tasks(self, project: int) -> list[dict[str, Any]]:
        """The project's tasks (the first hundred), oldest first."""
        parameters = {"project": project, "fields": "all", "page_size": 100, "ordering": "id"}
        return list(self.request("GET", "/api/tasks", params=parameters)["tasks"])

    def annotations(self, task: int) -> list[dict[str, Any]]:
        """The submitted annotations of a task."""
        return list(self.request("GET", f"/api/tasks/{task}/annotations/"))

    def predictions(self, task: int) -> list[dict[str, Any]]:
        """The stored predictions of a task."""
        return list(self.request("GET", "/api/predictions", params={"task": task}))

    def connect_backend(
        self, project: int, url: str, *, title: str, login: tuple[str, str] | None = None
    ) -> None:
        """Make ``url`` the project's ML backend, with interactive pre-annotation on.

        Args:
            login: user name and password that the backend asks for.
        """
        body: dict[str, Any] = {"url": url, "title": title, "project": project}
        body["is_interactive"] = True
        if login is not None:
            body["auth_method"] = "BASIC_AUTH"
            body["basic_auth_user"], body["basic_auth_pass"] = login
        backends = self.request("GET", "/api/ml", params={"project": project})
        if backends:
            self.request("PATCH", f"/api/ml/{backends[0]['id']}", json=body)
        else:
            self.request("POST", "/api/ml", json=body)

    def retrieve_predictions(self, project: int, tasks: Iterable[int]) -> None:
        """The Data Manager's "Retrieve Predictions" for these tasks; waits until it is done."""
        self.request(
            "POST",
            "/api/dm/actions",
            params={"id": "retrieve_tasks_predictions", "project": project},
            json={"selectedItems": {"all": False, "included": list(tasks)}},
        )

    def _log_in(self, account: Account) -> None:
        page = self.url + "/user/login/"
        self._session.get(page, timeout=_TIMEOUT_SECONDS).raise_for_status()
        form = {
            "email": account.email,
            "password": account.password,
            "persist_session": "on",
            "csrfmiddlewaretoken": self._session.cookies.get("csrftoken") or "",
        }
        response = self._session.post(
            page,
            data=form,
            headers={"Referer": page},
            allow_redirects=False,
            timeout=_TIMEOUT_SECONDS,
        )
        if response.status_code != requests.codes.found:
            raise ApiError(f"Label Studio does not accept the login {account.email}")
