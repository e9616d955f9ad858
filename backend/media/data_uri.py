"""``data:`` URIs: the media is in the task itself (RFC 2397)."""

from __future__ import annotations

import base64
import binascii
import hashlib
from urllib.parse import unquote_to_bytes

from backend.media.errors import MediaError, Reason
from backend.media.sources import Download, Validators


class DataUri:
    """The bytes of one ``data:`` URI; a ``RemoteObject``.

    Args:
        uri: ``data:[<type>][;base64],<data>``.
    """

    proof = ""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self.identity = "data:" + hashlib.sha256(uri.encode()).hexdigest()

    def download(self, known: Validators | None) -> Download | None:
        """Decode it.

        Raises:
            MediaError: it is malformed.
        """
        if known:
            return None
        header, comma, data = self._uri.partition(",")
        raw = unquote_to_bytes(data)
        try:
            if not comma:
                raise ValueError("no comma")
            if header.lower().endswith(";base64"):
                raw = base64.b64decode(b"".join(raw.split()), validate=True)
        except (binascii.Error, ValueError):
            raise MediaError("The task's data: URI is malformed.", reason=Reason.DAMAGED) from None
        return Download(iter([raw]), Validators(size=len(raw), immutable=True))
