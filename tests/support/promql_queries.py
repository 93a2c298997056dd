"""
Random valid PromQL over the series of :mod:`support.promql_worlds`, in Prometheus 2.42's language.

Two engines may add up in different orders, and their results differ in the last digits. Where that
would decide between two answers (a comparison, a rounding, a rank, the poles of a function), the
generator only uses operands that any engine computes to the same bits. How exact an expression is:

- ``SUMMABLE``: small multiples of 1/64; sums of them are exact in any order;
- ``EXACT``: the same bits in every engine, each operation being IEEE's own;
- ``ROUNDED``: the last digits are anyone's guess.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from support.promql_worlds import SPAN_MS, START_MS

ROUNDED, EXACT, SUMMABLE = range(3)

_DURATIONS_S: Final = (1, 5, 10, 15, 20, 30, 45, 60, 90, 120, 300, 420, 600, 1800)
_STEPS_S: Final = (5, 10, 15, 30, 60, 77, 120, 300)
_NUMBERS: Final = ("0", "1", "2", "3", "-1", "0.5", "10", "100", "1000", "-0.25", "64")
_ODD_NUMBERS: Final = ("NaN", "Inf", "-Inf", "1e300", "0x1F", "1e-3", "-7.3")
_SMOOTH: Final = ("exp", "atan", "tanh", "asinh", "deg", "rad")
_STEEP: Final = ("ln", "log2", "log10", "sqrt", "acos", "asin", "acosh", "atanh")
_WAVES: Final = ("cos", "sin", "tan")
_OF_MANY: Final = ("topk", "bottomk", "quantile", "count_values")
_JUMPY: Final = ("ceil", "floor", "sgn")
_DATES: Final = (
    "day_of_month",
    "day_of_week",
    "day_of_year",
    "days_in_month",
    "hour",
    "minute",
    "month",
    "year",
)
_LABELS: Final = ("job", "instance", "zone", "code", "le", "version")


@dataclass(frozen=True, slots=True)
class Text:
    """
    An expression and how exact its values are.

    Attributes:
        zeros: Where one engine has a 0, every engine has one, though other digits may differ.
    """

    text: str
    exact: int = SUMMABLE
    zeros: bool = False

    @property
    def has_sure_zeros(self) -> bool:
        return self.zeros or self.exact >= EXACT

    @property
    def safe(self) -> str:
        """As an operand: in brackets unless it stands by itself anyway."""
        return self.text if _is_atom(self.text) else f"({self.text})"


@dataclass(frozen=True, slots=True)
class Question:
    """A query to ask; ``step_ms`` is 0 for an instant query, at ``start_ms``."""

    text: str
    start_ms: int
    end_ms: int
    step_ms: int


class Questions:
    """
    Makes questions.

    Args:
        label_values: What the world's series have.
        off_grid: Windows begin and end where neither samples nor steps of subqueries are: 1 ms
            beside whole seconds where there are such steps.
    """

    def __init__(
        self, seed: int, label_values: Mapping[str, Sequence[str]], *, off_grid: bool
    ) -> None:
        self._rng = random.Random(f"questions {seed}")
        self._values = label_values
        self._names = list(label_values["__name__"])
        self._off_ms = int(off_grid)
        # Residues of evaluation times within a second: 0 inside a subquery.
        self._at_off: list[int] = [self._off_ms]

    def question(self) -> Question:
        rng = self._rng
        depth = rng.choice((1, 2, 2, 3, 3, 4))
        # Now and then on the borders of minutes and hours, where rollups may answer.
        even_s = rng.choice((5, 5, 60, 300))
        steps_s = [step for step in _STEPS_S if even_s == 5 or not step % 60]
        if rng.random() < 0.5:
            text = self._instant_text(depth)
            time_ms = self._time_ms(text, SPAN_MS // 1000 + 400, even_s)
            return Question(text, time_ms, time_ms, 0)
        text = (self._scalar if rng.random() < 0.03 else self._vector)(depth).text
        step_ms = 1000 * rng.choice(steps_s)
        start_ms = self._time_ms(text, SPAN_MS // 1000, even_s)
        return Question(text, start_ms, start_ms + step_ms * rng.randrange(1, 40), step_ms)

    def _instant_text(self, depth: int) -> str:
        roll = self._rng.random()
        if roll < 0.12:
            return self._range(depth).text
        if roll < 0.2:
            return self._scalar(depth).text
        if roll < 0.32:
            word = self._rng.choice(("sort", "sort_desc"))
            return f"{word}({self._vector(depth, EXACT).text})"
        return self._vector(depth).text

    def _time_ms(self, text: str, seconds: int, even_s: int) -> int:
        """A time to ask at. A subquery's steps are whole seconds, and no sample's time is."""
        has_steps = re.search(r"\[\w+:", text) is not None
        off_ms = self._off_ms if has_steps or self._rng.random() < 0.5 else 0
        return START_MS + 1000 * self._rng.randrange(0, seconds, even_s) + off_ms

    # -- vectors -------------------------------------------------------------------------------

    def _vector(self, depth: int, least: int = ROUNDED) -> Text:
        """An instant vector at least that exact."""
        for _ in range(50):
            made = self._any_vector(depth)
            if made.exact >= least:
                return made
        return self._selector()

    def _any_vector(self, depth: int) -> Text:
        if depth <= 0:
            return self._selector()
        makers: tuple[tuple[int, Callable[[int], Text]], ...] = (
            (3, lambda _: self._selector()),
            (10, self._over_range),
            (8, self._aggregation),
            (7, self._with_scalar),
            (7, self._of_two),
            (3, self._set_operation),
            (3, self._math),
            (2, self._clamp),
            (2, self._label_function),
            (1, self._date),
            (1, self._absent),
            (1, self._histogram),
            (1, self._timestamp),
            (1, lambda d: Text(f"vector({(s := self._scalar(d - 1)).text})", s.exact)),
            (1, lambda d: Text(f"-{(v := self._vector(d - 1)).safe}", v.exact)),
        )
        total = sum(weight for weight, _ in makers)
        place = self._rng.randrange(total)
        for weight, maker in makers:
            place -= weight
            if place < 0:
                return maker(depth)
        raise AssertionError

    def _selector(self) -> Text:
        return Text(self._bare_selector() + self._modifiers())

    def _bare_selector(self) -> str:
        rng = self._rng
        name = rng.choice((*self._names, *self._names, "requests_total", "level", "nothing"))
        matchers = []
        for _ in range(rng.choice((0, 0, 0, 0, 1, 2))):
            label = rng.choice(_LABELS)
            values = [*self._values.get(label, ()), "absent", ""]
            value = rng.choice(values)
            op = rng.choice(("=", "=", "!=", "=~", "!~"))
            if op in ("=~", "!~"):
                value = rng.choice((value, f"{value}|{rng.choice(values)}", ".+", ".*", "[ab].*"))
            matchers.append(f'{label}{op}"{value}"')
        if rng.random() < 0.05:
            wild = rng.choice(('__name__=~"level|odd"', '__name__=~".*_total"', '__name__="level"'))
            return "{" + ",".join([wild, *matchers]) + "}"
        return name + ("{" + ",".join(matchers) + "}" if matchers else "")

    def _modifiers(self) -> str:
        """``offset`` and ``@``, now and then."""
        rng, parts = self._rng, []
        if rng.random() < 0.12:
            parts.append(f" offset {rng.choice(('', '', '-'))}{self._duration()}")
        if rng.random() < 0.08:
            parts.append(" @ " + self._moment())
        rng.shuffle(parts)
        return "".join(parts)

    def _moment(self) -> str:
        rng = self._rng
        if rng.random() < 0.4:
            return rng.choice(("start()", "end()"))
        seconds = START_MS // 1000 + rng.randrange(0, SPAN_MS // 1000, 15)
        return f"{seconds}.001" if self._off_ms else str(seconds)

    def _duration(self) -> str:
        seconds = self._rng.choice(_DURATIONS_S)
        minutes, rest = divmod(seconds, 60)
        return (f"{minutes}m" if minutes else "") + (f"{rest}s" if rest or not minutes else "")

    # -- ranges --------------------------------------------------------------------------------

    def _range(self, depth: int) -> Text:
        rng = self._rng
        if depth > 1 and rng.random() < 0.25:
            return self._subquery(depth)
        return Text(f"{self._bare_selector()}[{self._duration()}]{self._modifiers()}")

    def _subquery(self, depth: int) -> Text:
        rng = self._rng
        self._at_off.append(0)
        inner = self._vector(depth - 1)
        self._at_off.pop()
        step = f"{rng.choice((5, 15, 30, 60))}s" if rng.random() < 0.9 else ""
        modifiers = self._modifiers()
        width = self._duration()
        # Inner steps are whole seconds. A window that ends at one as well would begin at one, and
        # take it or not.
        if self._off_ms and not self._at_off[-1] and "@" not in modifiers:
            width += "1ms"
        return Text(f"{inner.safe}[{width}:{step}]{modifiers}", min(inner.exact, EXACT))

    def _over_range(self, depth: int) -> Text:
        rng = self._rng
        taken = self._range(depth)
        kept = ("last_over_time", "min_over_time", "max_over_time")
        counted = ("count_over_time", "present_over_time")
        jumpy = ("changes", "resets")
        rounded = ["avg_over_time"]
        if taken.exact >= EXACT:
            # A reset is a matter of the last digit, and so is the difference of near values.
            rounded += ["rate", "increase"] * 2 + ["irate", "delta"]
        if taken.exact >= EXACT and not re.search(r"\b(timestamp|time)\(", taken.text):
            # Prometheus squares times since the epoch, and has few digits left.
            rounded += ["deriv", "stddev_over_time", "stdvar_over_time"]
        roll = rng.random()
        if roll < 0.2:
            return self._call(rng.choice(kept), taken, taken.exact)
        if roll < 0.3:
            return self._call(rng.choice(counted), taken, SUMMABLE)
        if roll < 0.4 and taken.exact >= EXACT:
            return self._call(rng.choice(jumpy), taken, SUMMABLE)
        if roll < 0.45 and taken.exact >= EXACT:
            return self._call("idelta", taken, taken.exact)
        if roll < 0.55:
            return self._call("sum_over_time", taken, EXACT if taken.exact == SUMMABLE else ROUNDED)
        if roll < 0.62:
            phi = rng.choice(("0", "0.5", "0.9", "1", "-1", "2", "0.333", "NaN"))
            return Text(f"quantile_over_time({phi}, {taken.text})", ROUNDED)
        if roll < 0.66 and "deriv" in rounded:
            # With @ Prometheus 2.42 moves the window along nevertheless.
            while "@" in taken.text:
                taken = self._range(depth)
            return Text(f"predict_linear({taken.text}, {rng.choice((0, 60, 3600, -60))})", ROUNDED)
        if roll < 0.69:
            factors = f"{rng.choice((0.1, 0.5, 0.9))}, {rng.choice((0.1, 0.5, 0.9))}"
            return Text(f"holt_winters({taken.text}, {factors})", ROUNDED)
        name = rng.choice(rounded)
        zeros = taken.exact == SUMMABLE and name in ("rate", "increase", "irate")
        return Text(f"{name}({taken.text})", ROUNDED, zeros)

    # -- what changes single values ------------------------------------------------------------

    def _call(self, name: str, argument: Text, exact: int) -> Text:
        return Text(f"{name}({argument.text})", exact)

    def _math(self, depth: int) -> Text:
        roll = self._rng.random()
        if roll < 0.25:
            inner = self._vector(depth - 1)
            return self._call("abs", inner, inner.exact)
        if roll < 0.5:
            inner = self._vector(depth - 1, EXACT)
            if self._rng.random() < 0.3:
                nearest = self._rng.choice(("10", "0.5", "3", "0.1"))
                return Text(f"round({inner.text}, {nearest})", EXACT)
            name = self._rng.choice((*_JUMPY, "round"))
            return self._call(name, inner, SUMMABLE if inner.exact == SUMMABLE else EXACT)
        if roll < 0.55:
            # Prometheus' reach infinity a little too early.
            inner = Text(f"clamp({self._vector(depth - 1).text}, -700, 700)")
            return self._call(self._rng.choice(("sinh", "cosh")), inner, ROUNDED)
        if roll < 0.75:
            return self._call(self._rng.choice(_SMOOTH), self._vector(depth - 1), ROUNDED)
        name = self._rng.choice((*_STEEP, *_WAVES))
        return self._call(name, self._vector(depth - 1, EXACT), ROUNDED)

    def _timestamp(self, depth: int) -> Text:
        inner = self._vector(depth - 1)
        while "@" in inner.text and "offset" in inner.text:
            inner = self._vector(depth - 1)  # Prometheus forgets the offset then
        return self._call("timestamp", inner, EXACT)

    def _clamp(self, depth: int) -> Text:
        inner = self._vector(depth - 1)
        roll = self._rng.random()
        low, high = self._number(), self._number()
        if roll < 0.4:
            return Text(f"clamp({inner.text}, {low}, {high})", min(inner.exact, EXACT))
        name = "clamp_min" if roll < 0.7 else "clamp_max"
        return Text(f"{name}({inner.text}, {low})", min(inner.exact, EXACT))

    def _date(self, depth: int) -> Text:
        name = self._rng.choice(_DATES)
        if self._rng.random() < 0.3:
            return Text(f"{name}()")
        inner = self._vector(depth - 1, EXACT)
        spread = self._rng.choice((1, 1000, 1000))
        # What is no number has no date: each platform makes another one of it.
        return Text(f"{name}(({inner.safe} > -1e6 < 1e9) * {spread})")

    def _absent(self, depth: int) -> Text:
        if self._rng.random() < 0.5:
            return self._call("absent", self._vector(depth - 1), SUMMABLE)
        return self._call("absent_over_time", self._range(depth), SUMMABLE)

    def _label_function(self, depth: int) -> Text:
        rng = self._rng
        inner = self._vector(depth - 1)
        source, other = rng.choice(_LABELS), rng.choice(_LABELS)
        target = rng.choice((*_LABELS, "copy"))
        if rng.random() < 0.5:
            text = f'label_join({inner.text}, "{target}", "-", "{source}", "{other}")'
            return Text(text, inner.exact)
        pattern, replacement = rng.choice(
            (("(.*)", "$1"), ("(.).*", "$1"), (".*", ""), ("a.*", "x"), ("(.+):(.+)", "$2-$1"))
        )
        args = f'"{target}", "{replacement}", "{source}", "{pattern}"'
        return Text(f"label_replace({inner.text}, {args})", inner.exact)

    def _histogram(self, depth: int) -> Text:
        rng = self._rng
        phi = rng.choice(("0.5", "0.9", "0.99", "0", "1", "-1", "2", "NaN"))
        buckets = "latency_bucket" + self._modifiers()
        roll = rng.random()
        if roll < 0.4:
            buckets = f"rate(latency_bucket[{self._duration()}])"
        elif roll < 0.7:
            buckets = f"sum by (le{rng.choice(('', ', job'))}) (latency_bucket)"
        elif roll < 0.8:
            # What becomes of buckets after one that is NaN has changed since.
            buckets = f"{self._vector(depth - 1).safe} > -Inf < Inf"
        return Text(f"histogram_quantile({phi}, {buckets})", ROUNDED)

    # -- aggregations --------------------------------------------------------------------------

    def _grouping(self) -> str:
        rng = self._rng
        if rng.random() < 0.25:
            return ""
        labels = rng.sample(_LABELS, rng.choice((0, 1, 1, 2, 2, 3)))
        return f" {rng.choice(('by', 'by', 'without'))} ({', '.join(labels)}) "

    def _aggregation(self, depth: int) -> Text:
        rng = self._rng
        name = rng.choice(
            ("sum", "sum", "avg", "count", "min", "max", "group", "stddev", "stdvar", *_OF_MANY)
        )
        parameter, exact, zeros = "", SUMMABLE, False
        if name in ("topk", "bottomk", "count_values"):
            inner = self._vector(depth - 1, EXACT)
            while name != "count_values" and "count_values" in inner.text:
                inner = self._vector(depth - 1, EXACT)  # its series come in any order
            parameter, exact = f"{rng.choice((0, 1, 2, 3, 9))}, ", inner.exact
            if name == "count_values":
                # Prometheus 2.42 gets groups wrong if this name is not the last in the alphabet.
                parameter, exact = '"zz", ', SUMMABLE
                # Which zero comes of sums, minima and the like is up to their order.
                inner = Text(f"{inner.safe} + 0", EXACT) if "(" in inner.text else inner
        elif name in ("stddev", "stdvar"):
            # Of one infinite value Prometheus 2.42 says 0, and Prometheus 3 NaN.
            # And its way of adding up squares loses most digits of large numbers.
            inner = Text(f"{self._vector(depth - 1, EXACT).safe} > -1e5 < 1e5", EXACT)
            exact = ROUNDED
        else:
            inner = self._vector(depth - 1)
            if name == "quantile":
                parameter = rng.choice(("0.5", "0.9", "0", "1", "-1", "2", "0.1")) + ", "
            zeros = inner.has_sure_zeros and name in ("sum", "avg", "min", "max")
            if name == "sum":
                exact = EXACT if inner.exact == SUMMABLE else ROUNDED
            elif name in ("avg", "quantile"):
                exact = ROUNDED
            elif name in ("min", "max"):
                exact = inner.exact
        grouping = self._grouping()
        if rng.random() < 0.3:
            return Text(f"{name}({parameter}{inner.text}){grouping}".rstrip(), exact, zeros)
        return Text(f"{name}{grouping}({parameter}{inner.text})", exact, zeros)

    # -- operators -----------------------------------------------------------------------------

    def _operator(self) -> str:
        arithmetic = ("+", "-", "*", "/", "+", "-", "*", "/", "%", "^", "atan2")
        comparisons = ("==", "!=", ">", "<", ">=", "<=")
        return self._rng.choice(arithmetic + comparisons)

    def _operands(
        self, op: str, left: Callable[[int], Text], right: Callable[[int], Text]
    ) -> tuple[Text, Text, int]:
        """Operands that are exact enough for an operator, and how exact the result is."""
        if op in ("==", "!=", ">", "<", ">=", "<="):
            a, b = left(EXACT), right(EXACT)
            return a, b, a.exact
        if op in ("%", "^", "atan2"):
            return left(EXACT), right(EXACT), EXACT if op == "%" else ROUNDED
        if op == "/":
            a, b = left(ROUNDED), right(ROUNDED)
            if not (a.has_sure_zeros and b.has_sure_zeros):
                a, b = left(EXACT), right(EXACT)
            return a, b, min(a.exact, b.exact, EXACT)
        a, b = left(ROUNDED), right(ROUNDED)
        # Values that nearly cancel out leave nothing but what was rounded; rates never do.
        if op in "+-" and not (op == "+" and a.zeros and b.zeros):
            a, b = left(EXACT), right(EXACT)
        exact = min(a.exact, b.exact)
        return a, b, min(exact, EXACT) if op == "*" else exact

    def _with_scalar(self, depth: int) -> Text:
        rng, op = self._rng, self._operator()
        a, b, exact = self._operands(
            op, lambda e: self._vector(depth - 1, e), lambda e: self._scalar(depth - 2, e)
        )
        if op == "atan2":
            a = _nameless(a)
        if rng.random() < 0.3 and op not in ("/", "%", "^"):
            a, b = b, a
        bool_ = ""
        if op in ("==", "!=", ">", "<", ">=", "<=") and rng.random() < 0.4:
            bool_, exact = " bool", SUMMABLE
        return Text(f"{a.safe} {op}{bool_} {b.safe}", exact)

    def _matching(self, *, grouped: bool) -> str:
        rng = self._rng
        if rng.random() < 0.35:
            return ""
        labels = rng.sample(_LABELS, rng.choice((0, 1, 1, 2, 2, 3)))
        text = f" {rng.choice(('on', 'on', 'ignoring'))} ({', '.join(labels)})"
        if grouped and rng.random() < 0.5:
            text += f" group_{rng.choice(('left', 'right'))}"
            if rng.random() < 0.4:
                others = [label for label in _LABELS if label not in labels]
                text += f" ({', '.join(rng.sample(others, rng.choice((0, 1, 1, 2))))})"
        return text

    def _of_two(self, depth: int) -> Text:
        rng, op = self._rng, self._operator()
        a, b, exact = self._operands(
            op, lambda e: self._vector(depth - 1, e), lambda e: self._vector(depth - 2, e)
        )
        if rng.random() < 0.3:
            b = a  # or hardly anything would ever match
        if op == "atan2":
            # Prometheus 2.42 forgets to drop the name: ask about series that have none any more.
            a, b = _nameless(a), _nameless(b)
        bool_ = ""
        if op in ("==", "!=", ">", "<", ">=", "<=") and rng.random() < 0.3:
            bool_, exact = " bool", SUMMABLE
        return Text(f"{a.safe} {op}{bool_}{self._matching(grouped=True)} {b.safe}", exact)

    def _set_operation(self, depth: int) -> Text:
        a, b = self._vector(depth - 1), self._vector(depth - 1)
        op = self._rng.choice(("and", "or", "unless"))
        exact = min(a.exact, b.exact) if op == "or" else a.exact
        return Text(f"{a.safe} {op}{self._matching(grouped=False)} {b.safe}", exact)

    # -- scalars -------------------------------------------------------------------------------

    def _number(self) -> str:
        return self._rng.choice(_ODD_NUMBERS if self._rng.random() < 0.1 else _NUMBERS)

    def _scalar(self, depth: int, least: int = ROUNDED) -> Text:
        rng = self._rng
        for _ in range(20):
            roll = rng.random()
            if depth <= 0 or roll < 0.6:
                return Text(self._number(), EXACT)
            if roll < 0.7:
                return Text(rng.choice(("time()", "pi()")), EXACT)
            if roll < 0.85:
                inner = self._vector(depth - 1, least)
                return Text(f"scalar({inner.text})", min(inner.exact, EXACT))
            op = self._operator()
            if op in ("^", "atan2"):
                continue
            a, b, exact = self._operands(
                op, lambda e: self._scalar(depth - 1, e), lambda e: self._scalar(depth - 1, e)
            )
            bool_ = " bool" if op in ("==", "!=", ">", "<", ">=", "<=") else ""
            made = Text(f"{a.safe} {op}{bool_} {b.safe}", min(exact, EXACT))
            if made.exact >= least:
                return made
        return Text("1", EXACT)


def _nameless(vector: Text) -> Text:
    return Text(f"abs({vector.text})", vector.exact)


def _is_atom(text: str) -> bool:
    """Tell whether a text is one name, call or selector with nothing beside it."""
    depth = 0
    quoted = False
    for place, char in enumerate(text):
        if char == '"':
            quoted = not quoted
        elif quoted:
            continue
        elif char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
            if depth == 0 and place + 1 < len(text):
                return False
        elif depth == 0 and not (char.isalnum() or char in "_:."):
            return False
    return True
