"""Where a Label Studio is, and which URLs are on it."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote

from urllib3.exceptions import LocationParseError
from urllib3.util import Url, parse_url

_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class ServerUrl:
    """The address of a Label Studio.

    Attributes:
        origin: scheme, lower-case host (IPv6 in brackets) and port.
        prefix: the sub-path it is served under, without a slash at the end; "" for none.
        text: the whole, without a slash at the end.
    """

    origin: tuple[str, str, int]
    prefix: str
    text: str

    @classmethod
    def parse(cls, url: str) -> ServerUrl:
        """Read a configured address. Raises ValueError, whose text continues "LABEL_STUDIO_URL"."""
        parsed = _parsed(url.strip())
        if parsed is None:
            raise ValueError("must be a full address such as http://label-studio:8080.")
        if parsed.auth or parsed.query:
            raise ValueError(
                "must not contain a user name, password or query; put the token into "
                "LABEL_STUDIO_API_KEY."
            )
        prefix = (parsed.path or "").rstrip("/")
        return cls(_origin(parsed), prefix, _origin_text(parsed) + prefix)

    def owns(self, url: str) -> bool:
        """Whether an absolute URL has the same origin and is under the sub-path.

        Paths with dot segments (also percent-encoded) are nobody's: servers and proxies
        disagree on what they mean.
        """
        parsed = _parsed(url)
        # The text as given: parsing resolves dot segments away.
        if parsed is None or parsed.auth or has_dot_segments(url.partition("?")[0]):
            return False
        inside = f"{parsed.path or ''}/".startswith(self.prefix + "/")
        return _origin(parsed) == self.origin and inside

    def absolute(self, path: str) -> str:
        """The full URL of a path, given with or without the sub-path in front."""
        path = "/" + path.lstrip("/")
        if self.prefix and f"{path}/".startswith(self.prefix + "/"):
            path = path[len(self.prefix) :]
        return self.text + path


def has_dot_segments(path: str) -> bool:
    """Whether a URL path climbs (``..``), also in percent-encoded or back-slashed spelling."""
    for _ in range(3):  # %252e%252e: some proxies decode more than once
        path = unquote(path)
    segments = path.replace("\\", "/").split("/")
    return ".." in segments or "." in segments


def shown_origin(url: str) -> str:
    """Scheme, host and port of a URL for a message, without anything that may be secret."""
    parsed = _parsed(url)
    return _origin_text(parsed) if parsed else "an address that is not a URL"


def _parsed(url: str) -> Url | None:
    """The parts of an http(s) URL, exactly as the HTTP library will read it."""
    try:
        parsed = parse_url(url)
    except LocationParseError:
        return None
    return parsed if parsed.scheme in _DEFAULT_PORTS and parsed.host else None


def _origin(parsed: Url) -> tuple[str, str, int]:
    scheme = parsed.scheme or ""
    return scheme, (parsed.host or "").lower(), parsed.port or _DEFAULT_PORTS[scheme]


def _origin_text(parsed: Url) -> str:
    port = f":{parsed.port}" if parsed.port else ""
    return f"{parsed.scheme}://{(parsed.host or '').lower()}{port}"
