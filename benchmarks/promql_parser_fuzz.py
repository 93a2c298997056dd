"""
Mutate real expressions a million times: the parser must answer or refuse each, and fast.

Run: ``python benchmarks/promql_parser_fuzz.py [COUNT [SEED]]``. Exits 1 on a crash, on a tree whose
text parses to another tree, or if one text takes longer than 50 ms of this process' time.
"""

from __future__ import annotations

import random
import re
import sys
import time
from collections import Counter
from pathlib import Path

from tachograph.aggregation.promql.errors import ParseError
from tachograph.aggregation.promql.parser import parse
from tachograph.aggregation.promql.printer import to_text

SHARED = Path(__file__).resolve().parents[2] / "shared" / "conformance"
SLOWEST_ALLOWED_MS = 50.0
TOKEN = re.compile(r"\s+|[A-Za-z_:][\w:]*|[\d.]+\w*|\"[^\"\n]*\"|'[^'\n]*'|.", re.S)
FRAGMENT_TEXT = (
    "( ) { } [ ] , : = != =~ !~ == >= < + - * / % ^ @ and or unless atan2 on ignoring group_left "
    "group_right bool by without offset sum rate topk count_values 5m 1h30m 0x1F 1e3 .5 NaN Inf "
    '"x" \'y\' `z` "\\xff" "\\u00e9" # start() end() step() range() min_of( max_of( fill( anchored '
    'smoothed é \x00 ((((((((( -------- [5m:1m] {a=~"("} 99999999999999999999y'
)
FRAGMENTS = FRAGMENT_TEXT.split()


def corpus() -> list[str]:
    """Return every expression of the shared rules and scripts, or a handful without them."""
    texts: set[str] = set()
    for path in sorted(SHARED.glob("rules/*.yml")):
        pattern = r"^\s*-?\s*expr: ('?)(?![|>])(.+?)\1$"
        texts.update(m[2] for m in re.finditer(pattern, path.read_text(), re.M))
    for path in sorted(SHARED.glob("promql/*.test")):
        pattern = r"^eval(?:_\w+)? (?:instant at|range from) \S+(?: to \S+ step \S+)? (.+)$"
        texts.update(m[1] for m in re.finditer(pattern, path.read_text(), re.M))
    return sorted(texts) or ["sum by (a) (rate(x[5m] offset 1m)) / on(b) group_left(c) y"]


def mutate(rng: random.Random, texts: list[str]) -> str:
    """Take an expression apart and put it together wrongly."""
    parts = TOKEN.findall(rng.choice(texts)[:400])
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        at = rng.randrange(len(parts) + 1)
        match rng.randrange(6):
            case 0:
                del parts[at : at + rng.randrange(1, 4)]
            case 1:
                parts.insert(at, rng.choice(FRAGMENTS))
            case 2:
                parts[at : at + 1] = [rng.choice(FRAGMENTS)]
            case 3:
                other = TOKEN.findall(rng.choice(texts)[:200])
                start = rng.randrange(len(other) + 1)
                parts[at:at] = other[start : start + rng.randrange(8)]
            case 4:
                parts[at:at] = parts[at : at + 6] * rng.randrange(1, 20)
            case _:
                parts.insert(
                    at, chr(rng.choice((0, 9, 10, 92, 127, 0xE9, 0x4E2D, 0x1F600, 0xDC80)))
                )
    return "".join(parts)


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    rng = random.Random(int(sys.argv[2]) if len(sys.argv) > 2 else 1)
    texts = corpus()
    outcomes: Counter[str] = Counter()
    slowest: tuple[float, str] = (0.0, "")
    bad: list[str] = []
    began = time.process_time()
    for _ in range(count):
        text = mutate(rng, texts)
        start = time.process_time()
        try:
            expr = parse(text, experimental=True)
            outcomes["parsed"] += 1
        except ParseError:
            expr = None
            outcomes["refused"] += 1
        except Exception as error:  # anything else is what this program looks for
            expr = None
            bad.append(f"{error!r} from {text!r}")
        took = (time.process_time() - start) * 1000
        slowest = max(slowest, (took, text))
        # Matchers print in the order of their text, so compare what printing settles.
        if expr is not None and to_text(parse(to_text(expr), experimental=True)) != to_text(expr):
            bad.append(f"{text!r} prints as {to_text(expr)!r}, which means something else")
    print(f"{count} mutations of {len(texts)} expressions, {time.process_time() - began:.0f} s CPU")
    print(dict(outcomes), f"{len(bad)} bad; slowest {slowest[0]:.1f} ms, {len(slowest[1])} chars")
    for line in bad[:20]:
        print(line)
    return 1 if bad or slowest[0] > SLOWEST_ALLOWED_MS else 0


if __name__ == "__main__":
    sys.exit(main())
