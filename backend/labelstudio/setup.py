"""The body of ``POST /setup``: what Label Studio says about a project when it connects."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from backend.labelstudio.json_values import text, whole_number


class SetupError(ValueError):
    """The body is not one of /setup; the message is one line, fit for an HTTP reason phrase."""


@dataclass(frozen=True)
class SetupRequest:
    """A /setup request.

    ``access_token`` is the legacy token of the project's creator, which a default Label Studio 1.23
    rejects; it is kept out of the repr. ``hostname`` is how Label Studio names itself, often
    ``http://localhost:8080``.
    """

    project: str  # "<id>.<creation time>"
    schema: str
    hostname: str = ""
    access_token: str = field(default="", repr=False)
    extra_params: Mapping[str, object] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()

    @property
    def project_id(self) -> int | None:
        """The number before the dot, None if there is none."""
        return whole_number(self.project.partition(".")[0])


def parse_setup(body: object) -> SetupRequest:
    """Read the body of /setup.

    ``extra_params`` comes from the form in the UI as text ("" if left empty) and by API as any
    JSON; what is not an object is left out and named in ``ignored``.

    Raises:
        SetupError: the body is no object or has no label config.
    """
    if not isinstance(body, Mapping):
        raise SetupError("the body of /setup is not a JSON object")
    schema = body.get("schema")
    if not isinstance(schema, str) or not schema.strip():
        raise SetupError("/setup has no schema: the project has no label config yet")
    extra, reason = _extra_params(body.get("extra_params"))
    return SetupRequest(
        project=text(body.get("project")) or "",
        schema=schema,
        hostname=text(body.get("hostname")) or "",
        access_token=text(body.get("access_token")) or "",
        extra_params=extra,
        ignored=(reason,) if reason else (),
    )


def _extra_params(value: object) -> tuple[Mapping[str, object], str | None]:
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return {}, "extra_params is not JSON"
    if isinstance(value, Mapping):
        return {str(key): item for key, item in value.items()}, None
    if value is None or (isinstance(value, str) and not value.strip()):
        return {}, None
    return {}, "extra_params is not a JSON object"
