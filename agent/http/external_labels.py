"""External labels on what other Prometheus servers fetch from us."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...config.selector import Matcher
from ...storage.model import Labels


def without_external(
    matchers: Sequence[Matcher], external: Mapping[str, str]
) -> tuple[Matcher, ...] | None:
    """
    Take out matchers on external labels, which no stored series has.

    Returns:
        ``None`` if one of them does not match: then nothing does.
    """
    kept = []
    for matcher in matchers:
        if matcher.name not in external:
            kept.append(matcher)
        elif not matcher.matches(external[matcher.name]):
            return None
    return tuple(kept)


def with_external(labels: Labels, external: Mapping[str, str]) -> Labels:
    """Add external labels; what a series has of its own stays."""
    return Labels.of({**external, **dict(labels)}) if external else labels
