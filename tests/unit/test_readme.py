"""The tables of settings and commands, and the test command, compared with the code."""

import re
from pathlib import Path

import msgspec

from service.cli import FILE_COMMANDS, OPERATION_COMMANDS
from service.settings import BOUNDS, SHORTEST_SECRET, Settings, list_variables, read_settings
from tests.support.environments import COMPLETE

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SETTINGS = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
COMMANDS = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
WORKFLOW = (ROOT / ".github" / "workflows" / "check.yml").read_text(encoding="utf-8")


def test_the_settings_table_names_every_variable_and_no_other() -> None:
    rows = re.findall(r"^\| (`ASSAY_.*?) \|", SETTINGS, flags=re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(ASSAY_\w+)`", row)} == list_variables()


def test_the_settings_table_gives_the_real_defaults() -> None:
    defaults = read_settings(COMPLETE, Settings)
    given = dict(re.findall(r"^\| `(ASSAY_\w+)` \| `([^`]+)` \|", SETTINGS, flags=re.MULTILINE))
    assert len(given) > 15
    assert read_settings({**COMPLETE, **given}, Settings) == defaults


def test_the_settings_table_gives_the_real_bounds() -> None:
    rows = re.findall(r"^\| `ASSAY_(\w+)` \| .*? \| `(\S+)` to `(\S+)` \|", SETTINGS, re.MULTILINE)
    assert {name.lower(): (least, most) for name, least, most in rows} == dict(BOUNDS)
    lengths = re.findall(
        r"^\| `ASSAY_(\w+)` \|.*\| at least (\d+) characters each \|", SETTINGS, re.MULTILINE
    )
    assert dict(lengths) == {
        name: str(SHORTEST_SECRET) for name in ("WEBHOOK_TOKEN", "LINK_SECRET")
    }


def test_the_commands_table_names_every_command_and_no_other() -> None:
    named = re.findall(r"^\| `assay (\w+)", COMMANDS, flags=re.MULTILINE)
    assert sorted(named) == sorted([*FILE_COMMANDS, *OPERATION_COMMANDS])


def test_the_workflow_runs_exactly_the_test_command_of_the_readme() -> None:
    [command] = [line for line in README.splitlines() if line.endswith("python -m tests")]
    steps = msgspec.yaml.decode(WORKFLOW)["jobs"]["check"]["steps"]
    assert steps[-1]["run"] == command


def test_ci_runs_exactly_the_test_command_of_the_readme() -> None:
    [command] = [line for line in README.splitlines() if line.endswith("python -m tests")]
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert [line for line in script if line and not line.startswith("#")] == [
        "set -euo pipefail",
        'cd "$(dirname "$0")/.."',
        command,
    ]


def test_every_setting_with_a_default_is_optional() -> None:
    required = {field.name for field in msgspec.structs.fields(Settings) if field.required}
    assert {f"ASSAY_{name.upper()}" for name in required} == set(COMPLETE)
