"""
From a target's answer to series and values: everything about a page that needs no store.

Pure but for its memory, so that a large page can be read in a worker thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from ...config.prometheus import ScrapeConfig
from ...storage.frame import BoolArray
from ...storage.model import Kind, Labels
from ..ingest.exposition import SAMPLES_MAX, ExpositionError, NewSeries, Page, Parser, Syntax
from .relabel import Step, relabel
from .scrape_http import Answer, ScrapeError, unpacked

# Spellings that come and go are remembered until there are this many more than the parser held
# after its first page, or twice as many.
_SPARE_SPELLINGS: Final = 1_000
_OPENMETRICS: Final = "application/openmetrics-text"
_PROTOBUF: Final = "application/vnd.google.protobuf"


@dataclass(frozen=True, slots=True)
class Named:
    """A series by the labels it is stored under; ``None`` if relabelling dropped it."""

    slot: int
    labels: Labels | None
    kind: Kind


@dataclass(frozen=True, slots=True)
class Reading:
    """
    What became of one answer.

    Attributes:
        page: Empty if the answer was no page.
        named: What to store the page's new series as.
        starts_anew: Slots known from earlier pages mean nothing any more.
        scraped, kept: Samples on the page, and after relabelling; up to the error if there is one.
        body_bytes: Length of the page, unpacked.
        error: Why nothing of it may be stored.
    """

    page: Page | None
    named: list[Named]
    starts_anew: bool
    scraped: int = 0
    kept: int = 0
    body_bytes: int = 0
    error: ScrapeError | None = None


@dataclass(frozen=True, slots=True)
class PageRules:
    """
    What a job wants done with its targets' samples.

    Attributes:
        steps: Of ``metric_relabel_configs``.
        sample_limit: Holds after relabelling, as Prometheus' does.
        samples_max: Holds before it, to bound what a page costs.
    """

    steps: tuple[Step, ...] = ()
    honor_labels: bool = False
    sample_limit: int = 0
    label_limit: int = 0
    label_name_bytes: int = 0
    label_value_bytes: int = 0
    samples_max: int = SAMPLES_MAX

    @classmethod
    def of(
        cls, config: ScrapeConfig, steps: tuple[Step, ...], samples_max: int = SAMPLES_MAX
    ) -> PageRules:
        return cls(
            steps=steps,
            honor_labels=config.honor_labels,
            sample_limit=config.sample_limit,
            label_limit=config.label_limit,
            label_name_bytes=config.label_name_length_limit,
            label_value_bytes=config.label_value_length_limit,
            samples_max=samples_max,
        )


class PageReader:
    """
    Reads the pages of one target; not for two threads at a time.

    A page either counts as a whole or not at all, and after one that does not, everything known of
    the target's series is forgotten.
    """

    def __init__(self, target: Labels, rules: PageRules, limit_bytes: int) -> None:
        self._target, self._rules, self._limit_bytes = target, rules, limit_bytes
        self._parser = Parser(rules.samples_max)
        self._kept: BoolArray = np.empty(0, np.bool_)  # by slot
        self._first_size = 0

    @property
    def is_warm(self) -> bool:
        """Whether there was a page before, so that the next one is likely to cost little."""
        return len(self._kept) > 0

    def read(self, answer: Answer) -> Reading:
        """Unpack and read an answer. What is wrong with it is told in the result."""
        starts_anew = self._parser.size > 2 * self._first_size + _SPARE_SPELLINGS
        if starts_anew:
            self._forget()
        try:
            body = unpacked(answer, self._limit_bytes)
            syntax = _syntax(answer.content_type)
        except ScrapeError as error:
            # -1 tells a page that was too long from one that was empty, as in Prometheus.
            size = -1 if error.reason == "body_size" else 0
            return Reading(None, [], starts_anew, body_bytes=size, error=error)
        starts_anew |= syntax is not self._parser.syntax
        if starts_anew:
            self._forget()
        parse_error = None
        try:
            page = self._parser.parse(body, syntax)
        except ExpositionError as error:
            page = error.page
            parse_error = ScrapeError("parse", f"{error}{_hint(answer.content_type)}")
        named, label_error = self._name(page.new)
        if named:
            fresh = np.array([one.labels is not None for one in named], np.bool_)
            self._kept = np.concatenate([self._kept, fresh])
        kept = int(np.count_nonzero(self._kept[page.slots[page.slots < len(self._kept)]]))
        wrong = label_error or parse_error or self._too_many(kept)
        if wrong is not None:
            scraped = len(page)
            if label_error is not None:
                # Up to and with the sample that broke the rule.
                scraped = int(np.argmax(page.slots >= len(self._kept))) + 1
            self._forget()
            return Reading(None, [], True, scraped, kept, len(body), wrong)
        if not self._first_size:
            self._first_size = self._parser.size
        return Reading(page, named, starts_anew, len(page), kept, len(body))

    def _forget(self) -> None:
        self._parser.forget()
        self._kept = self._kept[:0]
        self._first_size = 0

    def _name(self, new: Sequence[NewSeries]) -> tuple[list[Named], ScrapeError | None]:
        """Label series as they are to be stored, up to the first one that breaks a limit."""
        named: list[Named] = []
        for series in new:
            labels = self._stored_labels(series.labels)
            if labels is not None:
                error = self._broken_rule(labels)
                if error is not None:
                    return named, error
            named.append(Named(series.slot, labels, series.kind))
        return named, None

    def _stored_labels(self, exposed: Mapping[str, str]) -> Labels | None:
        if self._rules.honor_labels:
            # An empty label of the target's own takes ours away, so it has to be seen here.
            labels = {**dict(self._target), **exposed}
        else:
            labels = with_target_labels(exposed, self._target)
        kept = relabel(labels, self._rules.steps)
        # No labels left is how a step says "drop", too.
        return Labels.of(kept) if kept else None

    def _broken_rule(self, labels: Labels) -> ScrapeError | None:
        rules = self._rules
        if not labels.name:
            return ScrapeError("labels", f"missing metric name (__name__ label) in {labels}")
        if rules.label_limit and len(labels) > rules.label_limit:
            return ScrapeError(
                "label_limit",
                f"label_limit exceeded (metric: {labels.name}, number of labels: {len(labels)},"
                f" limit: {rules.label_limit})",
            )
        if not rules.label_name_bytes and not rules.label_value_bytes:
            return None
        for name, value in labels:
            for what, text, limit in (
                ("label_name_length_limit", name, rules.label_name_bytes),
                ("label_value_length_limit", value, rules.label_value_bytes),
            ):
                if limit and len(text.encode()) > limit:
                    return ScrapeError(
                        "label_limit",
                        f"{what} exceeded (metric: {labels.name}, label: {name[:100]},"
                        f" length: {len(text.encode())}, limit: {limit})",
                    )
        return None

    def _too_many(self, kept: int) -> ScrapeError | None:
        limit = self._rules.sample_limit
        if not limit or kept <= limit:
            return None
        return ScrapeError("sample_limit", f"sample limit exceeded: {kept} samples, limit {limit}")


def with_target_labels(exposed: Mapping[str, str], target: Labels) -> dict[str, str]:
    """
    Add a target's labels to those of a sample. Where both have one, the sample's is renamed
    ``exported_…``, as often as it takes to be nobody else's.
    """
    labels = {**exposed, **dict(target)}
    clashes = [name for name, _ in target if exposed.get(name)]
    for name in sorted(clashes, key=len):
        free = f"exported_{name}"
        while labels.get(free):
            free = f"exported_{free}"
        labels[free] = exposed[name]
    return labels


def _syntax(content_type: str) -> Syntax:
    """
    Return how a page is written. What isn't OpenMetrics is tried as text, whatever it says it is:
    many a small exporter sends no type at all, or its web framework's default.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type == _PROTOBUF:
        raise ScrapeError("encoding", f"unsupported Content-Type {content_type[:200]!r}")
    return Syntax.OPENMETRICS if media_type == _OPENMETRICS else Syntax.TEXT


def _hint(content_type: str) -> str:
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type in ("text/plain", _OPENMETRICS):
        return ""
    return f" (Content-Type is {content_type[:200]!r}; is this a metrics page?)"
