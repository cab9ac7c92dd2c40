"""compose.yaml, .env.example, Dockerfile and requirements.lock, compared with the code."""

import re
import tomllib
import typing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from service.cli import app
from service.cli.env import fill_line
from service.settings import (
    DatabaseSettings,
    DatabaseUrl,
    Deployment,
    Secret,
    Settings,
    Token,
    WorkerSettings,
    list_variables,
    parse_duration,
    read_settings,
)
from tests.support.environments import NEW_TOKEN, OLD_TOKEN
from tests.support.servers import POSTGRES_IMAGE, SILO_IMAGE

ROOT = Path(__file__).parents[2]
KINDS: dict[str, type[msgspec.Struct]] = {
    "api": Settings,
    "worker": WorkerSettings,
    "migrate": DatabaseSettings,
    "bootstrap": Deployment,
}
"""The settings that each process of Assay reads when it starts."""
SECRET_TYPES = (
    Secret,
    DatabaseUrl,
    DatabaseUrl | None,
    tuple[Secret, ...],
    tuple[Token, ...],
)
SECRETS_OF: dict[str, set[str]] = {
    "postgres": {"POSTGRES_PASSWORD"},
    "minio": {
        "ASSAY_S3_ROOT_ACCESS_KEY",
        "ASSAY_S3_ROOT_SECRET_KEY",
        "ASSAY_WEBHOOK_TOKEN",
    },
    "bootstrap": {
        "POSTGRES_PASSWORD",
        "POSTGRES_SERVICE_PASSWORD",
        "ASSAY_S3_ROOT_ACCESS_KEY",
        "ASSAY_S3_ROOT_SECRET_KEY",
        "ASSAY_S3_ACCESS_KEY",
        "ASSAY_S3_SECRET_KEY",
        "ASSAY_S3_SIGNER_ACCESS_KEY",
        "ASSAY_S3_SIGNER_SECRET_KEY",
    },
    "migrate": {"POSTGRES_SERVICE_PASSWORD"},
    "api": {
        "POSTGRES_SERVICE_PASSWORD",
        "ASSAY_S3_ACCESS_KEY",
        "ASSAY_S3_SECRET_KEY",
        "ASSAY_S3_SIGNER_ACCESS_KEY",
        "ASSAY_S3_SIGNER_SECRET_KEY",
        "ASSAY_WEBHOOK_TOKEN",
        "ASSAY_LINK_SECRET",
    },
    "worker": {"POSTGRES_SERVICE_PASSWORD", "ASSAY_S3_ACCESS_KEY", "ASSAY_S3_SECRET_KEY"},
}
"""The secrets of `.env` that each container gets."""
VARIABLE = re.compile(r"\$\{(\w+)(?:(:-|:\?|:\+)([^${}]*))?\}")
"""A variable without another one inside."""
LOCKED = re.compile(r"^([\w.-]+)==(\S+)(?: ; .+?)? \\$", re.MULTILINE)


class Build(msgspec.Struct):
    context: str
    args: dict[str, str]
    secrets: list[str]


class Logging(msgspec.Struct):
    driver: str
    options: dict[str, str]


class Service(msgspec.Struct):
    image: str
    environment: dict[str, str | None]
    read_only: bool
    cap_drop: list[str]
    security_opt: list[str]
    mem_limit: str
    pids_limit: int
    logging: Logging
    build: Build | None = None
    deploy: dict[str, Any] = {}
    user: str | None = None
    tmpfs: list[str] = []
    command: str | list[str] = []
    ports: list[str] = []
    volumes: list[str] = []
    depends_on: dict[str, dict[str, str]] = {}


class Compose(msgspec.Struct):
    services: dict[str, Service]
    volumes: dict[str, None]
    secrets: dict[str, dict[str, str]]


COMPOSE_TEXT = (ROOT / "compose.yaml").read_text(encoding="utf-8")
EXAMPLE_TEXT = (ROOT / ".env.example").read_text(encoding="utf-8")
COMPOSE = msgspec.yaml.decode(COMPOSE_TEXT, type=Compose)
SECRETS = set(re.findall(r"^(\w+)=$", EXAMPLE_TEXT, re.MULTILINE))


def read_env(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if re.match(r"\w+=", line))


def interpolate(text: str, env: dict[str, str]) -> str:
    """Replace the variables as Compose does, where an empty variable counts as unset.

    Raises KeyError if a required variable is missing.
    """

    def replace(match: re.Match[str]) -> str:
        name, operator, other = match.groups()
        if operator == ":+":
            return other if env.get(name) else ""
        if operator == ":?":
            return env[name]
        return env.get(name) or other or ""

    while VARIABLE.search(text):
        text = VARIABLE.sub(replace, text)
    return text


def resolve_environment(service: Service, env: dict[str, str]) -> dict[str, str]:
    """Return the environment of the process.

    A name without a value is passed on if `.env` has it.
    """
    given = {
        name: interpolate(value, env)
        for name, value in service.environment.items()
        if value is not None
    }
    return given | {
        name: env[name]
        for name, value in service.environment.items()
        if value is None and name in env
    }


@pytest.fixture
def env() -> dict[str, str]:
    return read_env("\n".join(fill_line(line) for line in EXAMPLE_TEXT.splitlines()))


@pytest.mark.parametrize("name", KINDS)
def test_each_process_starts_with_the_environment_of_compose(
    name: str, env: dict[str, str]
) -> None:
    read_settings(resolve_environment(COMPOSE.services[name], env), KINDS[name])


@pytest.mark.parametrize("name", KINDS)
def test_each_process_starts_with_every_example_line_uncommented(
    name: str, env: dict[str, str]
) -> None:
    uncommented = read_env(re.sub(r"^# (\w+=.)", r"\1", EXAMPLE_TEXT, flags=re.MULTILINE))
    read_settings(resolve_environment(COMPOSE.services[name], uncommented | env), KINDS[name])


def test_compose_sets_only_variables_that_are_settings() -> None:
    names = {
        name
        for service in COMPOSE.services.values()
        for name in service.environment
        if name.startswith("ASSAY_")
    }
    assert names <= list_variables()


def test_each_process_gets_only_settings_that_it_reads() -> None:
    for name, kind in KINDS.items():
        read = {f"ASSAY_{field.upper()}" for field in kind.__struct_fields__}
        assert set(COMPOSE.services[name].environment) <= read, name


def test_every_assay_process_is_checked_and_runs_an_existing_command() -> None:
    ours = {
        name: service
        for name, service in COMPOSE.services.items()
        if "SERVICE_IMAGE" in service.image
    }
    assert set(ours) == set(KINDS)
    for service in ours.values():
        command = [interpolate(word, {}) for word in service.command]
        app.parse_args(command, exit_on_error=False, print_error=False)


def test_the_example_names_every_variable_of_compose() -> None:
    used = set(re.findall(r"\$\{(\w+)", COMPOSE_TEXT))
    passed = {
        name
        for service in COMPOSE.services.values()
        for name, value in service.environment.items()
        if value is None
    }
    assert used | passed == set(re.findall(r"^(?:# )?(\w+)=", EXAMPLE_TEXT, re.MULTILINE))


def test_the_example_shows_the_defaults_of_compose() -> None:
    shown = dict(re.findall(r"^# (\w+)=(\S+)$", EXAMPLE_TEXT, re.MULTILINE))
    defaults = {
        name: default
        for name, operator, default in VARIABLE.findall(COMPOSE_TEXT)
        if operator == ":-" and default
    }
    assert defaults.items() <= shown.items()


def test_compose_does_not_warn_of_unset_variables() -> None:
    """Check that each variable has an operator.

    Compose warns of a variable without one, also inside an unused `:+…`.
    """
    assert [name for name, operator, _ in VARIABLE.findall(COMPOSE_TEXT) if not operator] == []


def test_no_secret_has_a_default() -> None:
    required = {name for name, operator, _ in VARIABLE.findall(COMPOSE_TEXT) if operator == ":?"}
    assert required == SECRETS
    for name in SECRETS:
        assert not re.search(rf"\$\{{{name}(?!:\?)", COMPOSE_TEXT), name


def test_no_process_starts_without_its_secrets() -> None:
    for service in COMPOSE.services.values():
        with pytest.raises(KeyError):
            resolve_environment(service, {})


@pytest.mark.parametrize("name", COMPOSE.services)
def test_each_container_gets_exactly_the_secrets_that_it_needs(
    name: str, env: dict[str, str]
) -> None:
    given = "\n".join(resolve_environment(COMPOSE.services[name], env).values())
    assert {secret for secret in SECRETS if env[secret] in given} == SECRETS_OF[name]


@pytest.mark.parametrize("name", KINDS)
def test_each_process_gets_exactly_the_secret_settings_that_it_reads(name: str) -> None:
    every = {secret for kind in KINDS.values() for secret in list_secret_settings(kind)}
    given = every & set(COMPOSE.services[name].environment)
    assert given == list_secret_settings(KINDS[name]) - {"ASSAY_DATABASE_LISTEN_URL"}


def list_secret_settings(kind: type[msgspec.Struct]) -> set[str]:
    return {
        f"ASSAY_{name.upper()}"
        for name, hint in typing.get_type_hints(kind).items()
        if hint in SECRET_TYPES
    }


def test_only_bootstrap_connects_as_the_administrator_of_postgresql(env: dict[str, str]) -> None:
    administrator = resolve_environment(COMPOSE.services["postgres"], env)["POSTGRES_USER"]
    users = {
        (name, variable, urlsplit(value).username)
        for name in KINDS
        for variable, value in resolve_environment(COMPOSE.services[name], env).items()
        if value.startswith("postgresql:")
    }
    assert users == {
        ("bootstrap", "ASSAY_DATABASE_ADMIN_URL", administrator),
        *((name, "ASSAY_DATABASE_URL", "assay_service") for name in KINDS),
    }


@pytest.mark.parametrize("name", COMPOSE.services)
def test_each_container_is_limited_and_hardened(name: str, env: dict[str, str]) -> None:
    service = COMPOSE.services[name]
    assert service.read_only
    assert service.cap_drop == ["ALL"]
    assert service.security_opt == ["no-new-privileges:true"]
    assert re.fullmatch(r"\d+[mg]", interpolate(service.mem_limit, env))
    assert 0 < service.pids_limit < 10_000
    assert service.logging.driver == "json-file"
    assert set(service.logging.options) == {"max-size", "max-file"}


def test_postgresql_starts_as_its_own_user() -> None:
    """Check what the image needs on a read-only file system without capabilities."""
    postgres = COMPOSE.services["postgres"]
    assert postgres.user == "postgres"
    assert postgres.tmpfs == ["/tmp", "/run/postgresql"]  # noqa: S108  # paths in the container


def test_every_image_is_pinned_by_digest_and_set_by_a_variable(env: dict[str, str]) -> None:
    images = {service.image for service in COMPOSE.services.values()}
    images |= {build.args["PYTHON_IMAGE"] for build in builds()}
    assert all(re.fullmatch(r"\$\{\w+_IMAGE:-[^}]+\}", image) for image in images)
    names = {interpolate(image, env) for image in images} - {"assay"}
    assert len(names) == 3
    assert all(re.fullmatch(r"[\w./-]+:[\w.-]+@sha256:[0-9a-f]{64}", name) for name in names)


def test_the_images_of_the_tests_and_of_the_dockerfile_are_those_of_compose(
    env: dict[str, str],
) -> None:
    assert interpolate(COMPOSE.services["postgres"].image, env) == POSTGRES_IMAGE
    assert interpolate(COMPOSE.services["minio"].image, env) == SILO_IMAGE
    [build] = builds()
    assert (
        f"ARG PYTHON_IMAGE={interpolate(build.args['PYTHON_IMAGE'], env)}\n"
        in (ROOT / "Dockerfile").read_text()
    )


def builds() -> list[Build]:
    return [service.build for service in COMPOSE.services.values() if service.build is not None]


def test_one_service_builds_the_image_with_the_secrets_of_the_dockerfile() -> None:
    [build] = builds()
    mounted = set(re.findall(r"type=secret,id=(\w+)", (ROOT / "Dockerfile").read_text()))
    assert set(build.secrets) == mounted == set(COMPOSE.secrets)


def test_an_unset_secret_of_the_build_is_an_empty_file(env: dict[str, str]) -> None:
    for secret in COMPOSE.secrets.values():
        assert interpolate(secret["file"], env) == "/dev/null"


def test_the_number_of_workers_comes_from_the_environment(env: dict[str, str]) -> None:
    replicas = COMPOSE.services["worker"].deploy["replicas"]
    assert interpolate(replicas, env) == "1"
    assert interpolate(replicas, env | {"WORKER_REPLICAS": "3"}) == "3"


def test_the_number_of_processes_comes_from_the_environment(env: dict[str, str]) -> None:
    api = COMPOSE.services["api"]
    assert "/tmp" in api.tmpfs, "they share their metrics there"  # noqa: S108  # in the container
    command = [interpolate(word, env | {"API_PROCESSES": "4"}) for word in api.command]
    assert command[-2:] == ["--processes", "4"]
    assert interpolate(api.command[-1], env) == "1"


def test_the_store_keeps_events_on_a_volume_and_sends_the_first_token(
    env: dict[str, str],
) -> None:
    store = resolve_environment(COMPOSE.services["minio"], env)
    identity = COMPOSE.services["bootstrap"].environment["ASSAY_WEBHOOK_ID"]
    assert store[f"MINIO_NOTIFY_WEBHOOK_QUEUE_DIR_{identity}"].startswith("/data/")
    assert COMPOSE.services["minio"].volumes == ["minio_data:/data"]
    assert store[f"MINIO_NOTIFY_WEBHOOK_AUTH_TOKEN_{identity}"] == env["ASSAY_WEBHOOK_TOKEN"]
    assert store["MINIO_API_SYNC_EVENTS"] == store["MINIO_SYNC_BOOT"] == "on"


def test_a_webhook_token_is_replaced_while_both_are_accepted(env: dict[str, str]) -> None:
    changed = env | {
        "ASSAY_WEBHOOK_TOKEN": f"{NEW_TOKEN},{OLD_TOKEN}",
        "MINIO_WEBHOOK_TOKEN": NEW_TOKEN,
    }
    store = resolve_environment(COMPOSE.services["minio"], changed)
    settings = read_settings(resolve_environment(COMPOSE.services["api"], changed), Settings)
    assert store["MINIO_NOTIFY_WEBHOOK_AUTH_TOKEN_ASSAY"] == settings.webhook_token[0]


def test_the_store_keeps_parts_for_twice_as_long_as_a_file_may_be_uploaded(
    env: dict[str, str],
) -> None:
    store = resolve_environment(COMPOSE.services["minio"], env)
    settings = read_settings(resolve_environment(COMPOSE.services["api"], env), Settings)
    assert parse_duration(store["MINIO_API_STALE_UPLOADS_EXPIRY"]) == 2 * settings.upload_ttl


def test_the_database_is_published_on_loopback_only(env: dict[str, str]) -> None:
    published = {
        interpolate(port, env) for service in COMPOSE.services.values() for port in service.ports
    }
    assert published == {"127.0.0.1:5432:5432", "8000:8000", "9000:9000", "9001:9001"}
    assert set(COMPOSE.volumes) == {"postgres_data", "minio_data"}


def test_each_process_starts_after_those_that_it_needs() -> None:
    done, healthy = (
        {"condition": "service_completed_successfully"},
        {"condition": "service_healthy"},
    )
    assert COMPOSE.services["bootstrap"].depends_on == {"postgres": healthy, "minio": healthy}
    assert COMPOSE.services["migrate"].depends_on == {"bootstrap": done}
    for name in ("api", "worker"):
        assert COMPOSE.services[name].depends_on == {"migrate": done}


def test_the_lock_file_satisfies_the_requirements_of_the_project() -> None:
    locked = {
        canonicalize_name(name): version
        for name, version in LOCKED.findall((ROOT / "requirements.lock").read_text())
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        Requirement(text)
        for text in project["dependencies"] + project["optional-dependencies"]["server"]
    ]
    unmet = [
        str(one)
        for one in wanted
        if not one.specifier.contains(locked.get(canonicalize_name(one.name), "0"))
    ]
    assert unmet == []


def test_the_lock_file_pins_every_package_by_hash_and_names_no_index() -> None:
    text = (ROOT / "requirements.lock").read_text()
    blocks = re.split(r"^(?=\w)", text, flags=re.MULTILINE)[1:]
    assert len(blocks) == len(LOCKED.findall(text))
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", block) for block in blocks)
    assert not re.search(r"://|--(extra-)?index|--find-links| @ ", text)


def test_the_image_runs_as_an_unprivileged_user_and_installs_by_hash() -> None:
    text = (ROOT / "Dockerfile").read_text()
    installs = re.findall(r"pip .*install .*", text)
    assert re.search(r"^USER 10001:10001$", text, re.MULTILINE)
    assert all("--require-hashes" in line or "--no-index --no-deps" in line for line in installs)
    assert "embedded" not in re.sub(r"^#.*$", "", text, flags=re.MULTILINE)


@pytest.mark.parametrize(
    ("given", "allowed"),
    [
        ({}, {"http://localhost:8000", "http://127.0.0.1:8000"}),
        ({"API_PORT": "8080"}, {"http://localhost:8080", "http://127.0.0.1:8080"}),
        ({"ASSAY_PUBLIC_URL": "https://files.example.com"}, {"https://files.example.com"}),
        (
            {
                "ASSAY_CORS_ORIGINS": "https://a.example.com,https://b.example.com",
                "ASSAY_PUBLIC_URL": "https://files.example.com",
            },
            {"https://a.example.com", "https://b.example.com", "https://files.example.com"},
        ),
        (
            {"ASSAY_CORS_ORIGINS": "https://a.example.com"},
            {"https://a.example.com", "http://localhost:8000", "http://127.0.0.1:8000"},
        ),
    ],
)
def test_the_store_allows_the_origins_of_the_api_and_its_page(
    env: dict[str, str], given: dict[str, str], allowed: set[str]
) -> None:
    store = resolve_environment(COMPOSE.services["minio"], env | given)
    assert set(store["MINIO_API_CORS_ALLOW_ORIGIN"].split(",")) == allowed
    settings = read_settings(resolve_environment(COMPOSE.services["api"], env | given), Settings)
    assert set(settings.cors_origins) == allowed & set(
        given.get("ASSAY_CORS_ORIGINS", "").split(",")
    )
