"""The contents of log lines, and the secrets that are hidden from them."""

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


def test_the_logging_configuration_is_restored() -> None:
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


def test_lines_of_other_libraries_have_the_same_form(output: io.StringIO) -> None:
    logging.getLogger("urllib3").warning("retrying %s", "/a?X-Amz-Signature=abc&x=1")
    line = json.loads(output.getvalue())
    assert line["event"] == "retrying /a?X-Amz-Signature=[hidden]&x=1"


def test_a_line_has_the_traceback_without_the_values_of_variables(output: io.StringIO) -> None:
    key, _ = make_key()
    try:
        raise ValueError(f"refused {key}")
    except ValueError:
        structlog.get_logger().exception("request failed")
    assert "ValueError" in json.loads(output.getvalue())["exception"]
    assert key not in output.getvalue()


def test_secrets_are_hidden() -> None:
    key, _ = make_key()
    hidden = hide_secrets(None, "", f"?X-Amz-Credential=id%2F1&X-Amz-Signature=abc {key}")
    assert hidden == "?X-Amz-Credential=[hidden]&X-Amz-Signature=[hidden] [hidden]"


@pytest.mark.parametrize(
    ("given", "kept"),
    [(b"abc-1", True), (b"a b", False), (b"", False), (b"x" * 129, False), (b"a\nb", False)],
)
def test_a_valid_request_id_is_kept(given: bytes, *, kept: bool) -> None:
    scope = {"headers": [(b"x-request-id", given)]}
    found = find_request_id(scope)  # type: ignore[arg-type]  # it reads only the headers
    assert (found == given.decode()) is kept
    assert found


@pytest.mark.parametrize("behind", ["", "A", " HTTP/1.1"])
def test_the_token_of_a_link_is_hidden_regardless_of_what_follows(behind: str) -> None:
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
