"""Administration of the store by its root identity: buckets, identities, policies and rules.

Bootstrap uses this module, and no request does. The SDK makes requests in this module only. They go
through AdministrationPool, which sends them over the transport of the service and maps their
responses to the same errors.
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
"""A policy document, decoded from JSON."""
Result = TypeVar("Result")


class Identity(msgspec.Struct, frozen=True):
    """A user of the store, with the names of its policies and groups.

    A disabled user cannot sign in.
    """

    policies: frozenset[str]
    enabled: bool
    groups: frozenset[str]


class EventRule(msgspec.Struct, frozen=True):
    """A rule that sends events of a bucket to a target.

    Without `prefix` and `suffix`, it applies to every key.
    """

    arn: str
    events: frozenset[str]
    prefix: str | None = None
    suffix: str | None = None


class AdministrationPool(urllib3.PoolManager):
    """The connection pool of the SDK.

    It raises StoreError for a response that is not a success, before the SDK reads it.
    """

    def __init__(self, transport: ThreadedTransport) -> None:
        super().__init__()
        self._transport = transport

    def urlopen(  # type: ignore[override] # the arguments of the SDK; redirects are never followed
        self,
        method: str,
        url: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        preload_content: bool = True,
        **_: Any,  # for options of other versions of the SDK
    ) -> urllib3.BaseHTTPResponse:
        request = Request(method, urlsplit(url).path.removeprefix("/"))
        signed = SignedRequest(request.name, method, url, headers=headers or {}, body=body)
        response = self._transport.open(signed, Deadline(ADMIN_SECONDS))
        if response.status not in SUCCESSES:
            check_answer(request, read_refusal(response, request.name))
        if preload_content:
            # read the whole body, so that the connection can be used again
            response.read(cache_content=True)
            response.release_conn()
        return response


class Administration:
    """The administration of one store.

    Each method sends one request or two in the caller's thread, and raises StoreError.
    """

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
        """Raise StoreError unless the keys are those of root and the store can serve requests."""
        self._client.send(Request("GET"), Deadline(ADMIN_SECONDS))

    def bucket_exists(self, name: str) -> bool:
        return name in [bucket.name for bucket in ask("the buckets", self._buckets.list_buckets)]

    def make_bucket(self, name: str) -> None:
        ask("the bucket", lambda: self._buckets.make_bucket(name, self._region))

    def versioning(self, bucket: str) -> str | None:
        """Return `Enabled` or `Suspended`, or None if the bucket never had versioning.

        Raises RequestRefused with the status 501 if the store does not implement versioning.
        """
        return ask("the versioning", lambda: self._buckets.get_bucket_versioning(bucket)).status

    def has_object_lock(self, bucket: str) -> bool:
        """Return whether the bucket has object lock. A store that answers 501 has none at all."""
        try:
            ask("the object lock", lambda: self._buckets.get_object_lock_config(bucket))
        except RequestRefused as error:
            if error.status not in (404, 501):
                raise
            return False
        return True

    def policy(self, name: str) -> Policy | None:
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
        """Create the identity. If it exists, enable it and set its secret."""
        ask("the identity", lambda: self._identities.user_add(access_key, secret_key))

    def set_policy(self, access_key: str, policy_name: str) -> None:
        """Give the identity this policy, in place of all others."""
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
        """Replace every rule that has the same target with `rule`. Rules with other targets stay.

        Raises RequestRefused if the store has no target with that ARN.
        """
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
        """Return the days after which the rule removes every object of the bucket.

        Return None if there is no rule of that name, or if it is disabled.
        """
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
        """Set the rule of that name.

        Other rules stay. Raises RequestRefused if the store has no lifecycle rules.
        """
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
    """Return the SDK's result. Raises StoreUnavailable if the response cannot be read."""
    try:
        return function()
    except (HTTPError, OSError) as error:  # the body ended early
        raise unavailable(what, error) from error
    except (ET.ParseError, ValueError) as error:
        raise invalid_answer(what, error) from error


def ask_if_present(what: str, function: Callable[[], Result], *, missing: str) -> Result | None:
    """Return what `ask` returns, or None if the store answers with the code `missing`."""
    try:
        return ask(what, function)
    except RequestRefused as error:
        if error.code != missing:
            raise
        return None


def without_region(arn: str) -> str:
    """Return the ARN in the form `arn:minio:sqs::ID:webhook`.

    A store that has a region puts it into every ARN that it returns, but accepts an ARN without
    one.
    """
    parts = arn.split(":")
    return ":".join([*parts[:3], "", *parts[4:]])
