"""The request target in each of its forms, the host, and the framing that the fields announce."""

import ipaddress
import re
from typing import Final, NamedTuple

import h11

from service.problems import InvalidHost, MalformedRequest, UnsupportedVersion

REG_NAME: Final = rb"(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+"
AUTHORITY: Final = re.compile(
    rb"(?:"
    + REG_NAME
    + rb"|\[(?P<literal>[0-9A-Za-z:._~!$&'()*+,;=-]+)\])(?::(?P<port>[0-9]{0,5}))?"
)
IP_FUTURE: Final = re.compile(rb"[vV][0-9A-Fa-f]+\.[A-Za-z0-9._~!$&'()*+,;=:-]+")
ABSOLUTE_FORM: Final = re.compile(rb"(?i:https?)://(?P<authority>[^/?#]*)(?P<rest>.*)")
LONGEST_HOST_BYTES: Final = 1024

Fields = list[tuple[bytes, bytes]]


class Target(NamedTuple):
    """A request target.

    `path` begins with a slash and is percent-encoded as the client sent it. `query` is the part
    after the question mark.
    """

    path: bytes
    query: bytes


def check_version(request: h11.Request) -> None:
    """Raise UnsupportedVersion unless the major version is 1 (RFC 9110, section 15.6.6)."""
    if not request.http_version.startswith(b"1."):
        raise UnsupportedVersion("the HTTP version must be 1.1")


def check_framing(request: h11.Request) -> None:
    """Refuse a body whose end two recipients may interpret differently. Raises MalformedRequest.

    These are a Content-Length beside Transfer-Encoding (RFC 9112, section 6.3, rule 3), and
    Transfer-Encoding in HTTP/1.0 (section 6.1).
    """
    names = {name for name, _ in request.headers}
    if b"transfer-encoding" not in names:
        return
    if b"content-length" in names:
        raise MalformedRequest("Content-Length and Transfer-Encoding must not be used together")
    if request.http_version == b"1.0":
        raise MalformedRequest("Transfer-Encoding: must not be used in HTTP/1.0")


def read_target(request: h11.Request) -> tuple[Target, Fields]:
    """Return the target, and the fields with the effective host.

    Raises InvalidHost or MalformedRequest.

    All forms of RFC 9112, section 3.2, are read. The authority of the absolute form replaces Host
    (section 3.2.2). CONNECT and `*` have no path here, so the root path is used, where the
    application supports neither.
    """
    fields = list(request.headers)
    check_host(fields, is_required=request.http_version != b"1.0")
    target = request.target
    if b"#" in target:
        raise MalformedRequest("the request target must not have a fragment")
    if request.method == b"CONNECT":
        return Target(b"/", b""), fields
    if target == b"*" and request.method == b"OPTIONS":
        return Target(b"/", b""), fields
    if absolute := ABSOLUTE_FORM.fullmatch(target):
        check_authority(absolute["authority"])
        fields = [
            (b"host", absolute["authority"]),
            *((name, value) for name, value in fields if name != b"host"),
        ]
        target = absolute["rest"] if absolute["rest"].startswith(b"/") else b"/" + absolute["rest"]
    if not target.startswith(b"/"):
        raise MalformedRequest("the request target must be a path or an http URL")
    path, _, query = target.partition(b"?")
    return Target(path, query), fields


def check_host(fields: Fields, *, is_required: bool) -> None:
    """Raise InvalidHost if Host is missing or malformed (RFC 9112, section 3.2). h11 refuses a
    repeated Host.
    """
    hosts = [value for name, value in fields if name == b"host"]
    if not hosts and is_required:
        raise InvalidHost("Host: the field is missing")
    for host in hosts:
        check_authority(host)


def check_authority(text: bytes) -> None:
    """Raise InvalidHost for anything but `uri-host [":" port]`.

    The syntax is that of RFC 9110, section 7.2, and RFC 3986, section 3.2.2.
    """
    found = AUTHORITY.fullmatch(text) if len(text) <= LONGEST_HOST_BYTES else None
    if (
        found is None
        or int(found["port"] or 0) > 65535
        or not (found["literal"] is None or is_address(found["literal"]))
    ):
        raise InvalidHost("Host: must be a name or an address, with an optional port")


def is_address(literal: bytes) -> bool:
    if IP_FUTURE.fullmatch(literal):
        return True
    try:
        ipaddress.IPv6Address(literal.decode())
    except ValueError:
        return False
    return True
