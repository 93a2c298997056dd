"""What is scraped: from ``static_configs`` and discovered files to labels and a URL."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from yarl import URL

from ...config.errors import TachographError
from ...config.prometheus import ScrapeConfig
from ...config.units import format_duration, parse_duration
from ...storage.model import Labels
from .relabel import Step, relabel

ADDRESS: Final = "__address__"
SCHEME: Final = "__scheme__"
METRICS_PATH: Final = "__metrics_path__"
INTERVAL: Final = "__scrape_interval__"
TIMEOUT: Final = "__scrape_timeout__"
PARAM_PREFIX: Final = "__param_"
# Of a name or an address with or without port: what would make it more than the host of a URL.
_NO_HOST: Final = re.compile(r"[/?#@\\\s\x00-\x1f]")


class TargetError(TachographError):
    """A target that cannot be scraped as it is written."""


@dataclass(frozen=True, slots=True)
class TargetGroup:
    """Addresses that share labels; ``source`` names where they were found."""

    source: str
    addresses: tuple[str, ...]
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Target:
    """
    One thing to scrape.

    Attributes:
        job: ``job_name`` of its settings; the label ``job`` may be another.
        discovered: Labels before relabelling, ``__address__`` and the like among them.
        labels: What every sample of it carries.
    """

    job: str
    discovered: Labels
    labels: Labels
    url: URL
    interval_ms: int
    timeout_ms: int

    @property
    def identity(self) -> tuple[Labels, str]:
        """Two targets of a job with the same labels and URL are one."""
        return self.labels, str(self.url)

    @property
    def group(self) -> str:
        """The usual name of its group of series."""
        return f"scrape/{self.labels.get('job')}/{self.labels.get('instance')}"

    @property
    def digest(self) -> str:
        """Tells it from another target with the same ``job`` and ``instance``."""
        text = f"{self.labels}\0{self.url}"
        return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()[:8]


@dataclass(frozen=True, slots=True)
class Discovery:
    """
    What became of all addresses of a job.

    Attributes:
        targets: Without duplicates, in order of discovery.
        dropped: Discovered labels of those that relabelling dropped.
        problems: Why some addresses are no targets.
    """

    targets: list[Target]
    dropped: list[Labels]
    problems: list[str]


def static_groups(config: ScrapeConfig) -> list[TargetGroup]:
    """Return the targets written in the settings themselves."""
    return [
        TargetGroup(str(number), static.targets, static.labels)
        for number, static in enumerate(config.static_configs)
    ]


def discover(
    config: ScrapeConfig, steps: Sequence[Step], groups: Iterable[TargetGroup]
) -> Discovery:
    """
    Relabel everything that was found for a job.

    Args:
        config: With interval and timeout filled in.
        steps: Of ``relabel_configs``.
    """
    targets: dict[tuple[Labels, str], Target] = {}
    dropped: list[Labels] = []
    problems: list[str] = []
    for group in groups:
        for address in group.addresses:
            found = _discovered(config, {**group.labels, ADDRESS: address})
            try:
                target = _target(config, found, steps)
            except TargetError as error:
                problems.append(f"{config.job_name}: {address}: {error}")
                continue
            if target is None:
                dropped.append(found)
            else:
                targets.setdefault(target.identity, target)
    return Discovery(list(targets.values()), dropped, problems)


def _discovered(config: ScrapeConfig, labels: Mapping[str, str]) -> Labels:
    """Add what the settings say where the labels leave it open."""
    defaults = {
        "job": config.job_name,
        INTERVAL: format_duration(config.scrape_interval_ms),
        TIMEOUT: format_duration(config.scrape_timeout_ms),
        METRICS_PATH: config.metrics_path,
        SCHEME: config.scheme,
    }
    params = {PARAM_PREFIX + name: values[0] for name, values in config.params.items() if values}
    given = {name: value for name, value in labels.items() if value}
    return Labels.of({**defaults, **given, **params})


def _target(config: ScrapeConfig, found: Labels, steps: Sequence[Step]) -> Target | None:
    labels = relabel(dict(found), steps)
    if labels is None:
        return None
    address = labels.get(ADDRESS, "")
    if not address:
        raise TargetError("no address")
    interval_ms = _duration(labels, INTERVAL)
    timeout_ms = _duration(labels, TIMEOUT)
    if timeout_ms > interval_ms:
        raise TargetError(
            "scrape timeout cannot be greater than scrape interval"
            f" ({labels[TIMEOUT]} > {labels[INTERVAL]})"
        )
    url = _url(config, labels)
    labels.setdefault("instance", address)
    return Target(
        job=config.job_name,
        discovered=found,
        labels=Labels.of((k, v) for k, v in labels.items() if not k.startswith("__")),
        url=url,
        interval_ms=interval_ms,
        timeout_ms=timeout_ms,
    )


def _duration(labels: Mapping[str, str], name: str) -> int:
    try:
        value_ms = parse_duration(labels.get(name, ""))
    except ValueError as error:
        raise TargetError(f"{name}: {error}") from None
    if value_ms == 0:
        raise TargetError(f"{name} cannot be 0")
    return value_ms


def _url(config: ScrapeConfig, labels: Mapping[str, str]) -> URL:
    scheme, address = labels.get(SCHEME, ""), labels[ADDRESS]
    if scheme not in ("http", "https"):
        raise TargetError(f"invalid scheme: {scheme!r}; write http or https")
    if _NO_HOST.search(address):
        raise TargetError(f"{address!r} is not a valid hostname")
    params = {name: list(values) for name, values in config.params.items() if values}
    for name, value in labels.items():
        if name.startswith(PARAM_PREFIX):
            params.setdefault(name.removeprefix(PARAM_PREFIX), [value])[0] = value
    query = [(name, value) for name in sorted(params) for value in params[name]]
    path = labels.get(METRICS_PATH, "/")
    try:
        url = URL.build(
            scheme=scheme,
            authority=address,
            path=path if path.startswith("/") else f"/{path}",
        )
        return url.with_query(query) if query else url
    except ValueError as error:
        raise TargetError(f"{address!r} makes no URL: {error}") from None
