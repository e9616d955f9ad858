"""The body of ``POST /setup``: what Label Studio says about a project when it connects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from backend.expected import ExpectedError
from backend.labelstudio.json_values import text


class SetupError(ExpectedError):
    """The body is not one of /setup; the message is one line, fit for an HTTP reason phrase."""


@dataclass(frozen=True)
class SetupRequest:
    """What is used of a /setup request.

    Its ``hostname`` is often ``http://localhost:8080``, and its ``access_token`` the legacy token
    of the project's creator, which a default Label Studio 1.23 rejects: neither is read.
    """

    project: str  # "<id>.<creation time>"
    label_config: str


def parse_setup(body: object) -> SetupRequest:
    """Read the body of /setup.

    Raises:
        SetupError: the body is no object or has no label config.
    """
    if not isinstance(body, Mapping):
        raise SetupError("the body of /setup is not a JSON object")
    schema = body.get("schema")
    if not isinstance(schema, str) or not schema.strip():
        raise SetupError("/setup has no schema: the project has no label config yet")
    return SetupRequest(text(body.get("project")) or "", schema)
