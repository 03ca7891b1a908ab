"""Prometheus text of the edges' own counters (kept as plain integers: a labelled counter costs a microsecond a call)."""

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from kilonova.core.routing import Route, Stats


class EdgeCollector:
    def __init__(self, service: str, routes: Iterable[Route], extra: "dict[str, tuple[str, float]] | None" = None) -> None:
        self.service = service
        self.stats: dict[Route, Stats] = {route: Stats() for route in routes}
        self.gauges: dict[str, tuple[str, float]] = extra or {}

    def collect(self) -> Iterator[Metric]:
        requests = CounterMetricFamily("kilonova_requests", "Requests answered", labels=["service", "method", "path", "action", "status"])
        seconds = HistogramMetricFamily(
            "kilonova_request_seconds", "Seconds from request line to reply", labels=["service", "method", "path", "action"]
        )
        for route, stats in self.stats.items():
            if not stats.statuses:
                continue
            labels = [self.service, route.method, route.path, route.action]
            for status, count in sorted(stats.statuses.items()):
                requests.add_metric([*labels, str(status)], count)
            total, buckets = 0, []
            for bound, count in zip([*map(str, Stats.BOUNDS), "+Inf"], stats.buckets, strict=True):
                total += count
                buckets.append((bound, float(total)))
            seconds.add_metric(labels, buckets, stats.seconds)
        yield requests
        yield seconds
        for name, (about, value) in self.gauges.items():
            gauge = GaugeMetricFamily(f"kilonova_{name}", about, labels=["service"])
            gauge.add_metric([self.service], value)
            yield gauge


def render(collector: EdgeCollector) -> bytes:
    registry = CollectorRegistry()
    registry.register(collector)
    return generate_latest(registry)
