"""One request of the SPARQL 1.1 Protocol (section 2.1): a query by POST, URL-encoded, its answer read within limits.

Only the standard library's HTTP client. Redirects are not followed: an endpoint can't send the query, or the password
that goes with it, elsewhere.
"""

import time
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

_BLOCK = 1 << 16


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        """Follow none: the status then is an error as any other."""


_OPENER = urllib.request.build_opener(_NoRedirect)


def post_query(url: str, query: str, headers: Mapping[str, str], timeout: float, most_bytes: int) -> tuple[bytes, str]:
    """Body and media type of the answer.

    Args:
        url: of the endpoint, http or https, checked by the caller.
        query: SPARQL.
        headers: sent with the request.
        timeout: seconds, for the answer as a whole.
        most_bytes: largest answer.

    Raises:
        urllib.error.HTTPError: any status but success, redirects among them.
        TimeoutError: the answer is not whole in time.
        OSError: nobody answers (`urllib.error.URLError`), or the answer is cut or too large.
        http.client.HTTPException: the answer is no HTTP.
    """
    request = urllib.request.Request(  # noqa: S310 - the caller looked at the scheme
        url, urlencode({"query": query}).encode(), {"User-Agent": "groundwire", **headers}
    )
    deadline = time.monotonic() + timeout
    with _OPENER.open(request, timeout=timeout) as response:
        body = bytearray()
        while block := response.read1(_BLOCK):
            body += block
            if time.monotonic() > deadline:
                raise TimeoutError(f"no whole answer within {timeout:g} s")
            if len(body) > most_bytes:
                raise OSError(f"an answer of more than {most_bytes >> 20} MiB; ask for smaller pages")
        if response.length:
            raise OSError(f"the answer ends {response.length} bytes too early")
        return bytes(body), response.headers.get_content_type()
