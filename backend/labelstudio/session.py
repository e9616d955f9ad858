"""An HTTP session that keeps nothing, and follows no redirect by itself."""

from __future__ import annotations

from http.cookiejar import DefaultCookiePolicy
from urllib.parse import urljoin

import requests
from requests.adapters import HTTPAdapter

CONNECTIONS = 16  # that are kept open to one server


class _HandDrivenSession(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """Nowhere: redirects are judged one by one. Even with ``allow_redirects=False`` requests
        prepares the next hop, and reads the whole body of the redirect for it, however long."""


def new_session(verify: bool | str, adapter: HTTPAdapter | None = None) -> requests.Session:
    """A session without cookies, retries, or anything from the environment.

    Args:
        verify: True, False, or the path of a CA bundle.
        adapter: makes the connections; the usual one where None.
    """
    session = _HandDrivenSession()
    # With trust_env, requests lets ~/.netrc replace the Authorization header, and a proxy would
    # hide which address is connected to.
    session.trust_env = False
    session.verify = verify
    # Cookies know no ports: a Label Studio session cookie would go to its neighbours too.
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    for scheme in ("http://", "https://"):
        session.mount(scheme, adapter or HTTPAdapter(pool_maxsize=CONNECTIONS))
    return session


def redirect_target(response: requests.Response) -> str:
    """The URL that a redirect leads to; "" where it is none."""
    try:
        return urljoin(response.url, response.headers["Location"])
    except ValueError:  # unbalanced brackets of an IPv6 address
        return ""
