"""The store as its root sees it: buckets, identities, policies and rules. Used by bootstrap and by no request."""

import json
from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec
from minio import MinioAdmin
from minio.commonconfig import ENABLED, Filter
from minio.credentials.providers import StaticProvider
from minio.error import MinioAdminException
from minio.lifecycleconfig import Expiration, LifecycleConfig, Rule
from minio.notificationconfig import NotificationConfig, QueueConfig
from urllib3.exceptions import HTTPError

from service.object_store.connection import Client, calling, unavailable
from service.object_store.errors import RequestRefused, StoreError, error_for_answer
from service.object_store.presign import parse_endpoint

ADMIN_SECONDS: Final = 15.0

Policy = dict[str, Any]
"""A policy document as JSON has it."""
Result = TypeVar("Result")


class Identity(msgspec.Struct, frozen=True):
    """A user of the store: the names of its policies, and whether it may sign in at all."""

    policies: frozenset[str]
    enabled: bool
    groups: frozenset[str]


class EventRule(msgspec.Struct, frozen=True):
    """Which events of a bucket go to which target; prefix and suffix None: of every key."""

    arn: str
    events: frozenset[str]
    prefix: str | None = None
    suffix: str | None = None


class Administration:
    """Each method is one request or two, in the caller's thread. Raises StoreError."""

    def __init__(self, endpoint: str, *, access_key: str, secret_key: str, region: str) -> None:
        scheme, host = parse_endpoint(endpoint)
        self._client = Client(endpoint, access_key=access_key, secret_key=secret_key, region=region)
        self._admin = MinioAdmin(
            endpoint=host,
            credentials=StaticProvider(access_key, secret_key),
            region=region,
            secure=scheme == "https",
            http_client=self._client.pool,
        )
        self._region = region

    def close(self) -> None:
        self._client.pool.clear()

    def check(self) -> None:
        """Raises unless these are root's keys and the store can serve."""
        with calling(timeout_seconds=ADMIN_SECONDS):
            self._client._execute("GET")

    def bucket_exists(self, name: str) -> bool:
        with calling(timeout_seconds=ADMIN_SECONDS):
            return name in [bucket.name for bucket in self._client.list_buckets()]

    def make_bucket(self, name: str) -> None:
        with calling(timeout_seconds=ADMIN_SECONDS):
            self._client.make_bucket(name, self._region)

    def policy(self, name: str) -> Policy | None:
        """None when there is none of that name."""
        answer = self._ask("the policy", lambda: self._admin.policy_info(name), missing="XMinioAdminNoSuchPolicy")
        if answer is None:
            return None
        found: Policy = json.loads(answer)
        document: Policy = found.get("Policy", found)  # some stores wrap it
        return document

    def put_policy(self, name: str, policy: Policy) -> None:
        self._ask("the policy", lambda: self._admin.policy_add(name, policy=policy))

    def identity(self, access_key: str) -> Identity | None:
        answer = self._ask("the identity", lambda: self._admin.user_info(access_key), missing="XMinioAdminNoSuchUser")
        if answer is None:
            return None
        found = json.loads(answer)
        names = frozenset(name for name in found.get("policyName", "").split(",") if name)
        return Identity(policies=names, enabled=found.get("status") == "enabled", groups=frozenset(found.get("memberOf") or ()))

    def put_identity(self, access_key: str, secret_key: str) -> None:
        """Make the identity, or enable it and give it this secret."""
        self._ask("the identity", lambda: self._admin.user_add(access_key, secret_key))

    def set_policy(self, access_key: str, policy_name: str) -> None:
        """This policy and no other."""
        self._ask("the identity's policy", lambda: self._admin.policy_set(policy_name, user=access_key))

    def event_rules(self, bucket: str) -> list[EventRule]:
        with calling(timeout_seconds=ADMIN_SECONDS):
            rules = self._client.get_bucket_notification(bucket).queue_config_list or []
        return [
            EventRule(
                arn=without_region(rule.queue or ""),
                events=frozenset(rule.events),
                prefix=rule.prefix_filter_rule.value if rule.prefix_filter_rule else None,
                suffix=rule.suffix_filter_rule.value if rule.suffix_filter_rule else None,
            )
            for rule in rules
        ]

    def replace_event_rule(self, bucket: str, rule: EventRule) -> None:
        """Put `rule` in the place of every rule with its target; rules with other targets stay. Raises RequestRefused for a foreign ARN."""
        with calling(timeout_seconds=ADMIN_SECONDS):
            config = self._client.get_bucket_notification(bucket)
            others = [other for other in config.queue_config_list or [] if without_region(other.queue or "") != rule.arn]
            queues = [*others, QueueConfig(sorted(rule.events), queue=rule.arn)]
            self._client.set_bucket_notification(
                bucket, NotificationConfig(config.cloud_func_config_list, queues, config.topic_config_list)
            )

    def expiry_days(self, bucket: str, rule_id: str) -> int | None:
        """After how many days the rule of that name removes every object; None when there is no such rule or it is off."""
        for rule in self._lifecycle_rules(bucket):
            whole_bucket = rule.rule_filter is None or not (
                rule.rule_filter.prefix or rule.rule_filter.tag or rule.rule_filter.and_operator
            )
            if rule.rule_id == rule_id and rule.status == ENABLED and rule.expiration and whole_bucket:
                return rule.expiration.days
        return None

    def put_expiry(self, bucket: str, rule_id: str, *, days: int) -> None:
        """Set that rule; others stay. Raises RequestRefused where the store has no lifecycle rules."""
        others = [rule for rule in self._lifecycle_rules(bucket) if rule.rule_id != rule_id]
        own = Rule(ENABLED, rule_filter=Filter(prefix=""), rule_id=rule_id, expiration=Expiration(days=days))
        with calling(timeout_seconds=ADMIN_SECONDS):
            self._client.set_bucket_lifecycle(bucket, LifecycleConfig([*others, own]))

    def _lifecycle_rules(self, bucket: str) -> list[Rule]:
        try:
            with calling(timeout_seconds=ADMIN_SECONDS):
                config = self._client.get_bucket_lifecycle(bucket)
        except RequestRefused as error:
            if error.code != "NoSuchLifecycleConfiguration":
                raise
            return []
        return list(config.rules) if config else []

    def _ask(self, what: str, function: Callable[[], str], *, missing: str | None = None) -> str | None:
        """An admin call's answer; None for the error code that means that there is no such thing."""
        try:
            with calling(timeout_seconds=ADMIN_SECONDS):
                return function()
        except MinioAdminException as error:
            refusal = admin_error(what, error)
            if missing is not None and refusal.code == missing:
                return None
            raise refusal from None  # the SDK's text holds the whole answer
        except (HTTPError, OSError) as error:
            raise unavailable(what, error) from error


def admin_error(what: str, error: MinioAdminException) -> StoreError:
    """The SDK keeps status and body to itself."""
    try:
        code = json.loads(error._body).get("Code")
    except (ValueError, AttributeError):
        code = None
    return error_for_answer(what, int(error._code), code=code, reads_object=False)


def without_region(arn: str) -> str:
    """`arn:minio:sqs::ID:webhook`: a store with a region of its own puts it into every ARN, and takes one without."""
    parts = arn.split(":")
    return ":".join([*parts[:3], "", *parts[4:]])
