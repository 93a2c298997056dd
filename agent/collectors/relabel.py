"""
Relabelling: the steps of ``relabel_configs``, as Prometheus 3 takes them.

Labels are plain dicts here, in which a label with an empty value and one that isn't there are the
same thing. Regular expressions are RE2's, matched as a whole.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from ...config.errors import ConfigError
from ...config.prometheus import RelabelConfig
from ...config.regex import compile_regex
from ...config.regex_subset import translate

#: Rewrites labels in place; False drops whatever they belong to.
Step = Callable[[dict[str, str]], bool]

_WITH_TARGET: Final = frozenset(
    {"replace", "hashmod", "lowercase", "uppercase", "keepequal", "dropequal"}
)
_REFERENCE: Final = re.compile(r"\$(?:(\$)|(\w+)|\{(\w+)\})")


def compile_steps(configs: Sequence[RelabelConfig]) -> tuple[Step, ...]:
    """
    Make ready what :func:`relabel` applies.

    Raises:
        ConfigError: A step lacks what its action needs, or its expression is wrong.
    """
    problems = []
    steps = []
    for number, config in enumerate(configs, 1):
        try:
            _check(config)
            steps.append(_ACTIONS[config.action](config))
        except ValueError as error:
            problems.append(f"relabel step {number}, action {config.action}: {error}")
    if problems:
        raise ConfigError(problems)
    return tuple(steps)


def relabel(labels: Mapping[str, str], steps: Sequence[Step]) -> dict[str, str] | None:
    """Return the labels after all steps, without empty ones; ``None`` if a step dropped them."""
    result = {name: value for name, value in labels.items() if value}
    for step in steps:
        if not step(result):
            return None
    return result


def _check(config: RelabelConfig) -> None:
    if config.action in _WITH_TARGET and not config.target_label:
        raise ValueError("target_label is missing")
    if config.action == "hashmod" and config.modulus <= 0:
        raise ValueError("modulus is missing; it must be above 0")
    compile_regex(config.regex)


def _source(config: RelabelConfig) -> Callable[[dict[str, str]], str]:
    names, separator = config.source_labels, config.separator
    if len(names) == 1:
        name = names[0]
        return lambda labels: labels.get(name, "")
    return lambda labels: separator.join([labels.get(name, "") for name in names])


def _replace(config: RelabelConfig) -> Step:
    source = _source(config)
    match = _capturing(config.regex)
    target, result = _template(config.target_label), _template(config.replacement)

    def step(labels: dict[str, str]) -> bool:
        found = match(source(labels))
        if found is not None:
            name = target(found)
            if name:
                _set(labels, name, result(found))
        return True

    return step


def _keep(config: RelabelConfig) -> Step:
    source, matches = _source(config), compile_regex(config.regex)
    return lambda labels: matches(source(labels))


def _drop(config: RelabelConfig) -> Step:
    source, matches = _source(config), compile_regex(config.regex)
    return lambda labels: not matches(source(labels))


def _keep_equal(config: RelabelConfig) -> Step:
    source, target = _source(config), config.target_label
    return lambda labels: source(labels) == labels.get(target, "")


def _drop_equal(config: RelabelConfig) -> Step:
    source, target = _source(config), config.target_label
    return lambda labels: source(labels) != labels.get(target, "")


def _hash_mod(config: RelabelConfig) -> Step:
    source, target, modulus = _source(config), config.target_label, config.modulus

    def step(labels: dict[str, str]) -> bool:
        digest = hashlib.md5(source(labels).encode(), usedforsecurity=False).digest()
        labels[target] = str(int.from_bytes(digest[8:], "big") % modulus)
        return True

    return step


def _lowercase(config: RelabelConfig) -> Step:
    return _mapped(config, str.lower)


def _uppercase(config: RelabelConfig) -> Step:
    return _mapped(config, str.upper)


def _mapped(config: RelabelConfig, change: Callable[[str], str]) -> Step:
    source, target = _source(config), config.target_label

    def step(labels: dict[str, str]) -> bool:
        # Letter by letter, as Go does it: what would become two letters (ß, İ) stays.
        letters = ((letter, change(letter)) for letter in source(labels))
        _set(labels, target, "".join(new if len(new) == 1 else old for old, new in letters))
        return True

    return step


def _label_map(config: RelabelConfig) -> Step:
    match, result = _capturing(config.regex), _template(config.replacement)

    def step(labels: dict[str, str]) -> bool:
        for name, value in tuple(labels.items()):
            found = match(name)
            if found is not None and (new := result(found)):
                _set(labels, new, value)
        return True

    return step


def _label_drop(config: RelabelConfig) -> Step:
    return _filtered(config, dropped=True)


def _label_keep(config: RelabelConfig) -> Step:
    return _filtered(config, dropped=False)


def _filtered(config: RelabelConfig, dropped: bool) -> Step:
    matches = compile_regex(config.regex)

    def step(labels: dict[str, str]) -> bool:
        for name in [name for name in labels if matches(name) is dropped]:
            del labels[name]
        return True

    return step


_ACTIONS: Final[Mapping[str, Callable[[RelabelConfig], Step]]] = {
    "replace": _replace,
    "keep": _keep,
    "drop": _drop,
    "keepequal": _keep_equal,
    "dropequal": _drop_equal,
    "hashmod": _hash_mod,
    "lowercase": _lowercase,
    "uppercase": _uppercase,
    "labelmap": _label_map,
    "labeldrop": _label_drop,
    "labelkeep": _label_keep,
}


def _set(labels: dict[str, str], name: str, value: str) -> None:
    if value:
        labels[name] = value
    else:
        labels.pop(name, None)


def _capturing(pattern: str) -> Callable[[str], Any]:
    """
    Return a function from a value to its match, or ``None``. Matches are of google-re2 or of
    :mod:`re`, which share what we need and no type: hence ``Any``.
    """
    try:
        import re2
    except ImportError:
        return re.compile(translate(pattern), re.ASCII | re.DOTALL).fullmatch
    options = re2.Options()
    options.dot_nl = True
    options.log_errors = False
    compiled: Callable[[str], Any] = re2.compile(pattern, options).fullmatch
    return compiled


def _template(text: str) -> Callable[[Any], str]:
    """
    Return a function that fills a match into ``text``: ``$1``, ``${1}``, ``$name``, ``$$`` for a
    dollar. As in Go a group that isn't there is empty, ``$1x`` is a group called ``1x``, and a
    dollar before anything else is a dollar.
    """
    if "$" not in text:
        return lambda _: text
    parts: list[Callable[[Any], str]] = []
    at = 0
    for reference in _REFERENCE.finditer(text):
        parts.append(_constant(text[at : reference.start()]))
        at = reference.end()
        name = reference[2] or reference[3]
        parts.append(_constant("$") if reference[1] else _group(name))
    parts.append(_constant(text[at:]))
    return lambda match: "".join([part(match) for part in parts])


def _constant(text: str) -> Callable[[Any], str]:
    return lambda _: text


def _group(name: str) -> Callable[[Any], str]:
    is_number = name.isascii() and name.isdigit() and (name == "0" or name[0] != "0")
    key: int | str = int(name) if is_number and len(name) < 9 else name

    def value(match: Any) -> str:
        try:
            return match.group(key) or ""
        except IndexError:
            return ""

    return value
