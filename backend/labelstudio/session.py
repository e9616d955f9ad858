"""The HTTP session towards Label Studio: it keeps nothing, and follows no redirect by itself."""

from __future__ import annotations

from http.cookiejar import DefaultCookiePolicy
from urllib.parse import urljoin

import requests
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry


class _HandDrivenSession(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """Nowhere: redirects are judged one by one, and requests would parse them in advance."""


def new_session(verify: bool | str) -> requests.Session:
    """A session that asks again where a server that is busy may answer the next time.

    Args:
        verify: True, False, or the path of a CA bundle.
    """
    session = _HandDrivenSession()
    # With trust_env, requests lets ~/.netrc replace the Authorization header.
    session.trust_env = False
    session.verify = verify
    # Cookies know no ports: a Label Studio session cookie would go to its neighbours too.
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    retry = Retry(
        total=3,
        backoff_factor=0.2,
        status_forcelist=(429, 502, 503, 504),
        allowed_methods=("GET", "HEAD"),
        redirect=False,
        raise_on_status=False,
        retry_after_max=5,
    )
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry, pool_maxsize=16))
    return session


def redirect_target(response: requests.Response) -> str:
    """The URL that a redirect leads to; "" where it is none."""
    try:
        return urljoin(response.url, response.headers["Location"])
    except ValueError:  # unbalanced brackets of an IPv6 address
        return ""
