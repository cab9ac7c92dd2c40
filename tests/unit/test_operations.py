"""The runbook, docs/operations.md, compared with the metrics, commands, settings and logs."""

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Final

import msgspec
import pytest
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest

from service.cli import app
from service.problems import Problem
from service.queries.health import Backlog
from service.queries.scrubbing import ScrubState
from service.settings import list_variables
from service.telemetry import metrics
from service.telemetry.gauges import BacklogGauges, ScrubGauges

ROOT: Final = Path(__file__).parents[2]
RUNBOOK: Final = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
METRIC: Final = re.compile(r"\bassay_[a-z_]+\b")
NO_METRICS: Final = {"assay_service"}
"""The role in PostgreSQL."""
CLIENTS_VARIABLES: Final = {"ASSAY_URL", "ASSAY_KEY"}
COMMAND: Final = re.compile(r"(?:^|(?<=`)|(?<=&& )|(?<=\ds ))assay\s([a-z][^`\n#]*)", re.MULTILINE)
EVENT: Final = re.compile(r'log\.(?:warning|error|exception|critical)\(\s*(?:#.*\s*)?"([^"]+)"')
FINDING: Final = re.compile(r'\b(?:ok|warning|failed|skipped)\(\s*"([^"]+)"')
LINK: Final = re.compile(r"\]\(#([^)]+)\)")
ANCHOR: Final = re.compile(r"operations\.md#([\w-]+)")


class Alert(msgspec.Struct):
    alert: str
    expr: str
    annotations: dict[str, str]


class Group(msgspec.Struct):
    rules: list[Alert]


class Rules(msgspec.Struct):
    groups: list[Group]


def read_rules() -> list[Alert]:
    [text] = re.findall(r"```yaml\n(groups:.*?)```", RUNBOOK, flags=re.DOTALL)
    return [
        alert for group in msgspec.yaml.decode(text, type=Rules).groups for alert in group.rules
    ]


def list_metrics() -> set[str]:
    """Return the names of the metrics that `/metrics` can have."""
    assert metrics.STOPPED is not None  # the import registers the metrics
    measured = CollectorRegistry()
    backlog = Backlog(
        overdue=0,
        overdue_seconds=0,
        verifying=0,
        verifying_seconds=0,
        reservations=0,
        doomed_reservations=0,
    )
    measured.register(BacklogGauges(backlog, last_event=0.0))
    state = ScrubState(
        damaged=0, oldest_check_seconds=0, stopped_seconds=None, stopped_why=None, vault_bytes=0
    )
    measured.register(ScrubGauges(state, every=timedelta(days=1), rate=1))
    text = (generate_latest(REGISTRY) + generate_latest(measured)).decode()
    return set(re.findall(r"^# TYPE (assay_\w+) ", text, flags=re.MULTILINE))


def list_headings() -> set[str]:
    """Return the anchors of the headings, as GitHub makes them."""
    headings = re.findall(r"^##+ (.*)$", RUNBOOK, flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def list_sections() -> Iterator[tuple[str, str]]:
    """Yield the heading and the text of each section of the runbook."""
    for part in re.findall(r"^## Runbook: .*?(?=^## )", RUNBOOK, flags=re.MULTILINE | re.DOTALL):
        for section in part.split("\n### ")[1:]:
            heading, _, text = section.partition("\n")
            yield heading, text


def list_options(command: str) -> set[str]:
    """Return the options of `scrub`, or of `keys create`. Raises KeyError if there is none."""
    found = app
    for name in command.split():
        found = found[name]
    return {name for argument in found.assemble_argument_collection() for name in argument.names}


def list_uses() -> Iterator[tuple[str, str]]:
    """Yield the commands of the runbook, and each of their options."""
    for text in COMMAND.findall(RUNBOOK):
        words = re.split(r"[&|;>]", text)[0].split()
        command = " ".join(words[:2]) if words[0] == "keys" else words[0]
        yield command, ""
        for option in words:
            if option.startswith("--"):
                yield command, option.strip(".,:)")


def find_strings(pattern: re.Pattern[str], folder: str) -> set[str]:
    return {
        found
        for path in (ROOT / "service" / folder).rglob("*.py")
        for found in pattern.findall(path.read_text(encoding="utf-8"))
    }


def read_first_column(heading: str) -> set[str]:
    """Return what the first column of the tables under this heading has in backticks."""
    section = RUNBOOK.split(f"# {heading}\n")[1].split("\n##")[0]
    rows = re.findall(r"^\| (`.*?) \|", section, flags=re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def walk(kind: type[Problem]) -> Iterator[type[Problem]]:
    for child in kind.__subclasses__():
        yield child
        yield from walk(child)


def test_every_metric_that_the_runbook_names_is_exported() -> None:
    named = set(METRIC.findall(RUNBOOK)) - NO_METRICS
    assert len(named) > 15
    assert named - list_metrics() == set()


def test_every_command_and_option_of_the_runbook_exists() -> None:
    uses = set(list_uses())
    assert {("scrub", "--trust-store"), ("reconcile", "--adopt-as-recorded")} <= uses
    assert {command for command, _ in uses} >= {"doctor", "keys create", "migrate"}
    missing = {
        f"{command} {option}"
        for command, option in uses
        if option and option not in list_options(command)
    }
    assert missing == set()
    for command in {command for command, _ in uses}:
        list_options(command)  # raises KeyError if there is no such command


def test_every_variable_of_the_runbook_is_a_setting() -> None:
    named = set(re.findall(r"\bASSAY_[A-Z0-9_]+\b", RUNBOOK))
    assert named - list_variables() - CLIENTS_VARIABLES == set()


def test_every_warning_and_error_in_the_log_has_a_section() -> None:
    events = find_strings(EVENT, "")
    assert len(events) > 30
    assert read_first_column("Log lines") == events


def test_every_line_of_the_doctor_has_a_section() -> None:
    names = find_strings(FINDING, "operations/doctor")
    assert len(names) > 5
    assert names - read_first_column("Lines of the doctor") == set()


def test_every_problem_with_a_5xx_has_a_section() -> None:
    kinds = {kind.type for kind in walk(Problem) if kind.status >= 500}
    assert kinds - read_first_column("Requests fail") == set()


def test_every_alert_names_its_section_and_metrics_that_exist() -> None:
    alerts = read_rules()
    assert len(alerts) > 10
    assert len({alert.alert for alert in alerts}) == len(alerts)
    for alert in alerts:
        [anchor] = ANCHOR.findall(alert.annotations["runbook"])
        assert anchor in list_headings(), alert.alert
        assert set(METRIC.findall(alert.expr)) <= list_metrics(), alert.alert


def test_every_link_within_the_runbook_has_a_target() -> None:
    links = set(LINK.findall(RUNBOOK))
    assert len(links) > 20
    assert links - list_headings() == set()


@pytest.mark.parametrize(("heading", "text"), [*list_sections()])
def test_each_section_has_a_symptom_a_meaning_and_a_command(heading: str, text: str) -> None:
    found = re.findall(r"^\*\*(\w+)\.\*\*", text, flags=re.MULTILINE)
    assert found == ["Symptom", "Meaning", "Command"], heading
