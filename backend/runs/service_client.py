"""Asks the service over HTTP, with the credentials of the settings."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import requests

from backend.labelstudio.json_values import parse_json
from backend.runs.command_line import CommandError
from backend.settings import Settings

SECONDS = (5.0, 180.0)  # to connect, and to wait for an answer: a run asks Label Studio first
MAX_BYTES = 64 * 1024 * 1024


class ServiceGone(CommandError):
    """The service does not answer."""


class ServiceClient:
    """One service.

    Args:
        url: its address; None for that of the settings.
        verify: what verifies certificates, as in ``requests``.
    """

    def __init__(
        self, settings: Settings, url: str | None = None, *, verify: bool | str = True
    ) -> None:
        self.url = (url or address_of(settings)).rstrip("/")
        if not self.url.startswith(("http://", "https://")):
            raise CommandError(f"{self.url} is no address such as http://127.0.0.1:9090")
        if "@" in self.url:
            raise CommandError(
                "Credentials belong in the environment (BASIC_AUTH_USER and BASIC_AUTH_PASS, or "
                "AUTH_TOKEN), and not in the address, which others on this machine can read."
            )
        self._session = requests.Session()
        self._session.trust_env = False  # neither a proxy nor a .netrc has business with it
        self._session.verify = verify
        if settings.basic_auth_user is not None:
            self._session.auth = (settings.basic_auth_user, settings.basic_auth_pass or "")
        elif settings.auth_token is not None:
            self._session.headers["Authorization"] = f"Bearer {settings.auth_token}"

    def send(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        params: Any = None,
        seconds: tuple[float, float] = SECONDS,
    ) -> tuple[int, bytes]:
        """Status and body of the answer to a request; at most ``MAX_BYTES`` are read.

        Raises:
            requests.RequestException: there is none.
        """
        with self._session.request(
            method,
            f"{self.url}{path}",
            json=body,
            params=params,
            timeout=seconds,
            allow_redirects=False,
            stream=True,
        ) as response:
            return response.status_code, response.raw.read(MAX_BYTES, decode_content=True)

    def ask(self, method: str, path: str, *, body: Any = None, params: Any = None) -> Any:
        """The JSON that a request is answered with.

        Raises:
            ServiceGone: nothing answers there.
            CommandError: the service refuses; the text is its reason.
        """
        try:
            status, content = self.send(method, path, body=body, params=params)
        except requests.RequestException as error:
            raise ServiceGone(
                f"No service answers at {self.url} ({type(error).__name__}): start it "
                "(python -m backend serve), or name its address with --url."
            ) from None
        if status == HTTPStatus.UNAUTHORIZED:
            raise CommandError(
                f"The service at {self.url} has other credentials than these settings: set "
                "BASIC_AUTH_USER and BASIC_AUTH_PASS, or AUTH_TOKEN, as it has them."
            )
        try:
            found = parse_json(content)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise CommandError(f"{self.url} answered {status}, and not as the service does.")
        if status >= HTTPStatus.BAD_REQUEST:
            raise CommandError(str(found.get("error") or f"{self.url} answered {status}."))
        return found


def address_of(settings: Settings) -> str:
    """Where a service of these settings answers on its own machine."""
    host = settings.host if settings.host not in ("0.0.0.0", "::") else "127.0.0.1"  # noqa: S104
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"
