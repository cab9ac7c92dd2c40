"""The store as its root sees it: buckets, identities, policies and rules. Used by bootstrap and by no request.

The SDK makes these requests, and nothing else. They go through AdministrationPool, which sends them by
the transport of the service and maps their answers as those of every other request.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit
from xml.etree import ElementTree as ET

import msgspec
import urllib3
from minio import Minio, MinioAdmin
from minio.commonconfig import ENABLED, Filter
from minio.credentials.providers import StaticProvider
from minio.lifecycleconfig import Expiration, LifecycleConfig, Rule
from minio.notificationconfig import NotificationConfig, QueueConfig
from urllib3.exceptions import HTTPError

from service.object_store.client import Client, read_refusal
from service.object_store.errors import RequestRefused, check_answer, invalid_answer, unavailable
from service.object_store.messages import SUCCESSES, Deadline, Request, SignedRequest
from service.object_store.signing import parse_endpoint
from service.object_store.transport import ThreadedTransport

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


class AdministrationPool(urllib3.PoolManager):
    """The SDK's way to the store. Raises StoreError for an answer that is no success, before the SDK sees it."""

    def __init__(self, transport: ThreadedTransport) -> None:
        super().__init__()
        self._transport = transport

    def urlopen(  # type: ignore[override] # what the SDK gives; redirects are never followed
        self,
        method: str,
        url: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        preload_content: bool = True,
        **_: Any,  # of other versions of the SDK
    ) -> urllib3.BaseHTTPResponse:
        request = Request(method, urlsplit(url).path.removeprefix("/"))
        signed = SignedRequest(request.name, method, url, headers=headers or {}, body=body)
        response = self._transport.open(signed, Deadline(ADMIN_SECONDS))
        if response.status not in SUCCESSES:
            check_answer(request, read_refusal(response, request.name))
        if preload_content:
            response.read(cache_content=True)  # whole, so that the connection can be used again
            response.release_conn()
        return response


class Administration:
    """Each method is one request or two, in the caller's thread. Raises StoreError."""

    def __init__(self, endpoint: str, *, access_key: str, secret_key: str, region: str) -> None:
        scheme, host = parse_endpoint(endpoint)
        self._client = Client(endpoint, access_key=access_key, secret_key=secret_key, region=region)
        self._region = region
        pool, secure = AdministrationPool(self._client.transport), scheme == "https"
        self._buckets = Minio(
            host, access_key, secret_key, region=region, secure=secure, http_client=pool
        )
        credentials = StaticProvider(access_key, secret_key)
        self._identities = MinioAdmin(
            endpoint=host, credentials=credentials, region=region, secure=secure, http_client=pool
        )

    def close(self) -> None:
        self._client.transport.close()

    def check(self) -> None:
        """Raise StoreError unless these are root's keys and the store can serve."""
        self._client.send(Request("GET"), Deadline(ADMIN_SECONDS))

    def bucket_exists(self, name: str) -> bool:
        return name in [bucket.name for bucket in ask("the buckets", self._buckets.list_buckets)]

    def make_bucket(self, name: str) -> None:
        ask("the bucket", lambda: self._buckets.make_bucket(name, self._region))

    def policy(self, name: str) -> Policy | None:
        """Return the policy, or None if there is none of that name."""
        answer = ask_if_present(
            "the policy",
            lambda: self._identities.policy_info(name),
            missing="XMinioAdminNoSuchPolicy",
        )
        if answer is None:
            return None
        found: Policy = json.loads(answer)
        document: Policy = found.get("Policy", found)  # some stores wrap it
        return document

    def put_policy(self, name: str, policy: Policy) -> None:
        ask("the policy", lambda: self._identities.policy_add(name, policy=policy))

    def identity(self, access_key: str) -> Identity | None:
        answer = ask_if_present(
            "the identity",
            lambda: self._identities.user_info(access_key),
            missing="XMinioAdminNoSuchUser",
        )
        if answer is None:
            return None
        found = json.loads(answer)
        names = frozenset(name for name in found.get("policyName", "").split(",") if name)
        return Identity(
            policies=names,
            enabled=found.get("status") == "enabled",
            groups=frozenset(found.get("memberOf") or ()),
        )

    def put_identity(self, access_key: str, secret_key: str) -> None:
        """Make the identity, or enable it and give it this secret."""
        ask("the identity", lambda: self._identities.user_add(access_key, secret_key))

    def set_policy(self, access_key: str, policy_name: str) -> None:
        """This policy and no other."""
        ask(
            "the identity's policy",
            lambda: self._identities.policy_set(policy_name, user=access_key),
        )

    def event_rules(self, bucket: str) -> list[EventRule]:
        return [
            EventRule(
                arn=without_region(rule.queue or ""),
                events=frozenset(rule.events),
                prefix=rule.prefix_filter_rule.value if rule.prefix_filter_rule else None,
                suffix=rule.suffix_filter_rule.value if rule.suffix_filter_rule else None,
            )
            for rule in self._notifications(bucket).queue_config_list or []
        ]

    def replace_event_rule(self, bucket: str, rule: EventRule) -> None:
        """Put `rule` in the place of every rule with its target; rules with other targets stay. Raises RequestRefused for a foreign ARN."""
        config = self._notifications(bucket)
        others = [
            other
            for other in config.queue_config_list or []
            if without_region(other.queue or "") != rule.arn
        ]
        queues = [*others, QueueConfig(sorted(rule.events), queue=rule.arn)]
        changed = NotificationConfig(
            config.cloud_func_config_list, queues, config.topic_config_list
        )
        ask("the event rules", lambda: self._buckets.set_bucket_notification(bucket, changed))

    def _notifications(self, bucket: str) -> NotificationConfig:
        return ask("the event rules", lambda: self._buckets.get_bucket_notification(bucket))

    def expiry_days(self, bucket: str, rule_id: str) -> int | None:
        """After how many days the rule of that name removes every object; None when there is no such rule or it is off."""
        for rule in self._lifecycle_rules(bucket):
            whole_bucket = rule.rule_filter is None or not (
                rule.rule_filter.prefix or rule.rule_filter.tag or rule.rule_filter.and_operator
            )
            if (
                rule.rule_id == rule_id
                and rule.status == ENABLED
                and rule.expiration
                and whole_bucket
            ):
                return rule.expiration.days
        return None

    def put_expiry(self, bucket: str, rule_id: str, *, days: int) -> None:
        """Set that rule; others stay. Raises RequestRefused where the store has no lifecycle rules."""
        others = [rule for rule in self._lifecycle_rules(bucket) if rule.rule_id != rule_id]
        own = Rule(
            ENABLED,
            rule_filter=Filter(prefix=""),
            rule_id=rule_id,
            expiration=Expiration(days=days),
        )
        ask(
            "the lifecycle rules",
            lambda: self._buckets.set_bucket_lifecycle(bucket, LifecycleConfig([*others, own])),
        )

    def _lifecycle_rules(self, bucket: str) -> list[Rule]:
        config = ask_if_present(
            "the lifecycle rules",
            lambda: self._buckets.get_bucket_lifecycle(bucket),
            missing="NoSuchLifecycleConfiguration",
        )
        return list(config.rules) if config else []


def ask(what: str, function: Callable[[], Result]) -> Result:
    """Return what the SDK makes of an answer. Raises StoreUnavailable if it cannot be read."""
    try:
        return function()
    except (HTTPError, OSError) as error:  # the body ended early
        raise unavailable(what, error) from error
    except (ET.ParseError, ValueError) as error:
        raise invalid_answer(what, error) from error


def ask_if_present(what: str, function: Callable[[], Result], *, missing: str) -> Result | None:
    """Return what `ask` returns, or None for the store's code that says that there is no such thing."""
    try:
        return ask(what, function)
    except RequestRefused as error:
        if error.code != missing:
            raise
        return None


def without_region(arn: str) -> str:
    """`arn:minio:sqs::ID:webhook`: a store with a region of its own puts it into every ARN, and takes one without."""
    parts = arn.split(":")
    return ":".join([*parts[:3], "", *parts[4:]])
