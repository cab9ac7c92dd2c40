"""Gauges that each scrape reads from the database."""

import time
from collections.abc import Iterable
from datetime import timedelta

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from service.queries import health
from service.queries.scrubbing import ScrubState


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
                "Seconds since the store's last event.",
                value=time.time() - self.last_event,
            )
        if self.measured is None:
            return
        yield GaugeMetricFamily(
            "assay_overdue_files",
            "Files that are due and have no live lease.",
            value=self.measured.overdue,
        )
        yield GaugeMetricFamily(
            "assay_overdue_oldest_seconds",
            "Seconds for which the oldest file is overdue.",
            value=self.measured.overdue_seconds,
        )
        yield GaugeMetricFamily(
            "assay_verifying_files",
            "Files that have arrived and are not final.",
            value=self.measured.verifying,
        )
        yield GaugeMetricFamily(
            "assay_verifying_oldest_seconds",
            "Seconds since the first arrival of the file that has waited longest.",
            value=self.measured.verifying_seconds,
        )
        yield GaugeMetricFamily(
            "assay_reservations",
            "Reservations whose vault keys may be written to, including those made in advance.",
            value=self.measured.reservations,
        )
        yield GaugeMetricFamily(
            "assay_doomed_reservations",
            "Reservations whose vault objects will be deleted.",
            value=self.measured.doomed_reservations,
        )


class ScrubGauges(Collector):
    """The gauges of the scrub. `rate` is in bytes per second."""

    def __init__(self, found: ScrubState, *, every: timedelta, rate: int) -> None:
        self.found = found
        self.every = every
        self.rate = rate

    def collect(self) -> Iterable[GaugeMetricFamily]:
        yield GaugeMetricFamily(
            "assay_damaged_files",
            "Files whose vault object is missing or altered.",
            value=self.found.damaged,
        )
        yield GaugeMetricFamily(
            "assay_scrub_stopped",
            "1 if the last scrub stopped before its end.",
            value=float(self.found.stopped_why is not None),
        )
        yield GaugeMetricFamily(
            "assay_scrub_oldest_check_seconds",
            "Seconds since the `ready` file that was read longest ago was read.",
            value=self.found.oldest_check_seconds,
        )
        yield GaugeMetricFamily(
            "assay_scrub_every_seconds",
            "The interval in which each file is to be read again.",
            value=self.every.total_seconds(),
        )
        yield GaugeMetricFamily(
            "assay_scrub_needed_seconds",
            "Seconds that it takes to read the whole vault once at the configured rate.",
            value=(self.found.vault_bytes or 0) / self.rate,
        )
