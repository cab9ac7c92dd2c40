"""What reaches a log, and what does not."""

import io
import json
import logging
from datetime import UTC, datetime

import pytest
import structlog

from service.auth.principals import make_key
from service.auth.tokens import Purpose, Token, sign_token
from service.model import make_id
from service.telemetry.logs import configure_logs, find_request_id, hide_secrets
from tests.support.running import logging_as_before


@pytest.fixture
def output() -> io.StringIO:
    stream = io.StringIO()
    configure_logs("info", stream=stream)
    return stream


def test_a_line_is_json_with_time_and_level(output: io.StringIO) -> None:
    structlog.get_logger().info("transition", bytes=3)
    line = json.loads(output.getvalue())
    assert line["event"] == "transition"
    assert line["bytes"] == 3
    assert line["level"] == "info"
    assert line["timestamp"].endswith("Z")


def test_whoever_logged_before_logs_on_afterwards() -> None:
    first, second = io.StringIO(), io.StringIO()
    with logging_as_before():
        configure_logs("info", stream=first)
        with logging_as_before():
            configure_logs("info", stream=second)
            structlog.get_logger().info("inside")
        structlog.get_logger().info("outside")
        logging.getLogger("urllib3").warning("outside too")
    assert [json.loads(line)["event"] for line in first.getvalue().splitlines()] == [
        "outside",
        "outside too",
    ]
    assert [json.loads(line)["event"] for line in second.getvalue().splitlines()] == ["inside"]


def test_other_peoples_lines_look_the_same(output: io.StringIO) -> None:
    logging.getLogger("urllib3").warning("retrying %s", "/a?X-Amz-Signature=abc&x=1")
    line = json.loads(output.getvalue())
    assert line["event"] == "retrying /a?X-Amz-Signature=[hidden]&x=1"


def test_a_traceback_is_in_the_line_without_the_values_of_variables(output: io.StringIO) -> None:
    key, _ = make_key()
    try:
        raise ValueError(f"refused {key}")
    except ValueError:
        structlog.get_logger().exception("request failed")
    assert "ValueError" in json.loads(output.getvalue())["exception"]
    assert key not in output.getvalue()


def test_what_looks_like_a_secret_is_hidden() -> None:
    key, _ = make_key()
    hidden = hide_secrets(None, "", f"?X-Amz-Credential=id%2F1&X-Amz-Signature=abc {key}")
    assert hidden == "?X-Amz-Credential=[hidden]&X-Amz-Signature=[hidden] [hidden]"


@pytest.mark.parametrize(
    ("given", "kept"),
    [(b"abc-1", True), (b"a b", False), (b"", False), (b"x" * 129, False), (b"a\nb", False)],
)
def test_a_request_id_is_kept_when_it_is_harmless(given: bytes, *, kept: bool) -> None:
    scope = {"headers": [(b"x-request-id", given)]}
    found = find_request_id(scope)  # type: ignore[arg-type]  # all of the scope that it looks at
    assert (found == given.decode()) is kept
    assert found


@pytest.mark.parametrize("behind", ["", "A", " HTTP/1.1"])
def test_a_links_token_is_hidden_whatever_follows_it(behind: str) -> None:
    token = sign_token(
        ["secret"],
        Token(
            purpose=Purpose.DOWNLOAD,
            file_id=make_id(),
            key_id=make_id(),
            expires_at=datetime.now(UTC),
        ),
    )
    assert token not in hide_secrets(None, "", f"GET /l/{token}{behind}")
