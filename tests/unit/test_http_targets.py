"""The targets, hosts and framing of requests, as RFC 9112 and RFC 3986 define them."""

import h11
import pytest

from service.http.server.targets import (
    Target,
    check_authority,
    check_framing,
    check_version,
    read_target,
)
from service.problems import InvalidHost, MalformedRequest, UnsupportedVersion

VALID = [
    b"h",
    b"files.example.com",
    b"my_api:8000",
    b"h:",
    b"h:0",
    b"h:65535",
    b"127.0.0.1:80",
    b"[::1]",
    b"[2001:db8::7]:443",
    b"[::ffff:192.0.2.1]",
    b"[v1.a:b]",
    b"a%20b",
    b"xn--bcher-kva.example.",
]
INVALID = [
    b"",
    b":80",
    b"h:99999",
    b"h:65536",
    b"h:8a",
    b"h:-1",
    b"h:80:80",
    b"u@evil",
    b"u:p@evil",
    b"[::1",
    b"::1",
    b"[::1]x",
    b"[1.2.3.4]",
    b"[::1%25eth0]",
    b"[]",
    b"a b",
    b"a/b",
    b"a?b",
    b"a#b",
    b"a\\b",
    b"a%2",
    b"h\xc3\xa9",
    b"a" * 1025,
]


def make_request(
    target: bytes = b"/",
    *fields: tuple[bytes, bytes],
    method: bytes = b"GET",
    version: bytes = b"1.1",
    host: bytes | None = b"h",
) -> h11.Request:
    hosts = [] if host is None else [(b"Host", host)]
    return h11.Request(
        method=method, target=target, headers=[*hosts, *fields], http_version=version
    )


@pytest.mark.parametrize("host", VALID)
def test_a_valid_host_is_accepted(host: bytes) -> None:
    check_authority(host)


@pytest.mark.parametrize("host", INVALID)
def test_an_invalid_host_is_refused(host: bytes) -> None:
    with pytest.raises(InvalidHost):
        check_authority(host)


@pytest.mark.parametrize(
    ("target", "read"),
    [
        (b"/", Target(b"/", b"")),
        (b"/a%20b?c=d?e", Target(b"/a%20b", b"c=d?e")),
        (b"//a/b", Target(b"//a/b", b"")),
        (b"http://other", Target(b"/", b"")),
        (b"HTTPS://other:443/a?b", Target(b"/a", b"b")),
        (b"http://other?b", Target(b"/", b"b")),
    ],
)
def test_a_target_is_read_as_a_path_and_a_query(target: bytes, read: Target) -> None:
    assert read_target(make_request(target))[0] == read


def test_the_authority_of_the_absolute_form_is_the_host() -> None:
    fields = read_target(make_request(b"http://other:1/", (b"X-A", b"b"), host=b"one"))[1]
    assert fields == [(b"host", b"other:1"), (b"x-a", b"b")]


@pytest.mark.parametrize("target", [b"a", b"*", b"h:443", b"ftp://h/", b"/a#b", b"http:/h/", b"?a"])
def test_other_targets_are_refused(target: bytes) -> None:
    with pytest.raises(MalformedRequest):
        read_target(make_request(target))


@pytest.mark.parametrize(
    "target", [b"http://", b"http:///a", b"http://u@h/", b"http://h:99999/", b"http://[::1/"]
)
def test_an_absolute_target_needs_a_valid_authority(target: bytes) -> None:
    with pytest.raises(InvalidHost):
        read_target(make_request(target))


@pytest.mark.parametrize(("method", "target"), [(b"CONNECT", b"h:443"), (b"OPTIONS", b"*")])
def test_a_target_without_a_path_means_the_root(method: bytes, target: bytes) -> None:
    assert read_target(make_request(target, method=method))[0] == Target(b"/", b"")


def test_http_1_0_needs_no_host_but_it_must_be_valid() -> None:
    assert read_target(make_request(version=b"1.0", host=None))[0] == Target(b"/", b"")
    with pytest.raises(InvalidHost):
        read_target(make_request(version=b"1.0", host=b"u@evil"))


def test_http_1_2_is_read_as_1_1_and_needs_a_host() -> None:
    check_version(make_request(version=b"1.2"))
    with pytest.raises(InvalidHost):
        read_target(make_request(version=b"1.2", host=None))


@pytest.mark.parametrize("version", [b"0.9", b"2.0", b"3.1"])
def test_another_major_version_is_refused(version: bytes) -> None:
    with pytest.raises(UnsupportedVersion):
        check_version(make_request(version=version))


CHUNKED = (b"Transfer-Encoding", b"chunked")


def test_a_single_framing_is_accepted() -> None:
    check_framing(make_request(b"/", CHUNKED))
    check_framing(make_request(b"/", (b"Content-Length", b"5"), version=b"1.0"))


@pytest.mark.parametrize(
    "request_",
    [
        make_request(b"/", CHUNKED, (b"Content-Length", b"5")),
        make_request(b"/", CHUNKED, version=b"1.0"),
    ],
)
def test_an_ambiguous_framing_is_refused(request_: h11.Request) -> None:
    with pytest.raises(MalformedRequest):
        check_framing(request_)
