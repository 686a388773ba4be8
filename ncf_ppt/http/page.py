"""The page at ``/``, where a person looks at the lists."""

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files

Headers = tuple[tuple[bytes, bytes], ...]


@cache
def page() -> tuple[Headers, bytes]:
    """The page, and headers that let it load nothing, run nothing but its own script, and ask nobody but its server."""
    content = (files("ncf_ppt.http") / "page.html").read_bytes()
    script, style = (
        _hash(re.search(rb"<%s>(.*?)</%s>" % (tag, tag), content, re.DOTALL)) for tag in (b"script", b"style")
    )
    policy = (
        f"default-src 'none'; script-src '{script}'; style-src '{style}'; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    )
    headers = ((b"content-type", b"text/html; charset=utf-8"), (b"content-security-policy", policy.encode()))
    return (*headers, (b"referrer-policy", b"no-referrer")), content


def _hash(found: "re.Match[bytes] | None") -> str:
    assert found is not None
    return f"sha256-{base64.b64encode(hashlib.sha256(found[1]).digest()).decode()}"
