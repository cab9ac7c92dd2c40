"""Gauges that each scrape reads from the database."""

import time
from collections.abc import Iterable

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from service.queries import health


class BacklogGauges(Collector):
    """The gauges of one scrape. `measured` is None while the database is unavailable."""

    def __init__(self, measured: health.Backlog | None, *, last_event: float | None) -> None:
        self.measured = measured
        self.last_event = last_event

    def collect(self) -> Iterable[GaugeMetricFamily]:
        yield GaugeMetricFamily(
            "assay_database_up",
            "Whether the database answered this scrape.",
            value=float(self.measured is not None),
        )
        if self.last_event is not None:
            yield GaugeMetricFamily(
                "assay_last_event_age_seconds",
                "Since the store's last event.",
                value=time.time() - self.last_event,
            )
        if self.measured is None:
            return
        yield GaugeMetricFamily(
            "assay_overdue_files",
            "Due, and nobody holds a live lease.",
            value=self.measured.overdue,
        )
        yield GaugeMetricFamily(
            "assay_overdue_oldest_seconds",
            "How long the oldest is overdue.",
            value=self.measured.overdue_seconds,
        )
        yield GaugeMetricFamily(
            "assay_verifying_files", "Announced, not proved yet.", value=self.measured.verifying
        )
        yield GaugeMetricFamily(
            "assay_verifying_oldest_seconds",
            "Since the first arrival of the one that waits longest.",
            value=self.measured.verifying_seconds,
        )
        yield GaugeMetricFamily(
            "assay_reservations",
            "Vault keys that are being written.",
            value=self.measured.reservations,
        )
        yield GaugeMetricFamily(
            "assay_doomed_reservations",
            "Vault keys whose objects are to go.",
            value=self.measured.doomed_reservations,
        )
