"""What a job costs: work units × rates, in integers, rounded up once; one formula for both sides.

Money is decimal text on the wire and in configuration ("0.0000045" dollars), integer nano-dollars inside.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from functools import lru_cache

from reelnet.pipelines import Work

NANO = 10**9
KNOWN_AMOUNTS = 1024
"""Amounts that are kept: the same few rates and prices come with each job."""
PIXELS_PER_UNIT = 10**6
"""A rate is for a million pixels (a megapixel), so a price is pixels × rate / this, rounded up."""
_DECIMAL = re.compile(r"^([0-9]{1,9})(?:\.([0-9]{1,9}))?$")


@lru_cache(maxsize=KNOWN_AMOUNTS)
def parse_money(text: str) -> int:
    """Nano-dollars of a plain decimal such as "0.0000045". Raises ValueError for any other form or finer than 1e-9."""
    match = _DECIMAL.match(text.strip())
    if not match:
        raise ValueError(f'{text!r} is no amount: write plain dollars with at most 9 decimals, such as "0.0000045"')
    whole, fraction = match.groups()
    return int(whole) * NANO + int((fraction or "").ljust(9, "0"))


def money_text(value: object) -> object:
    """An amount as it stands in a configuration file: text, or a whole number. Raises ValueError for a float."""
    if isinstance(value, float):
        raise ValueError('write amounts as text, such as "0.0000045": a YAML number is a binary fraction')
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def format_money(nano: int) -> str:
    """Plain decimal dollars of an amount in nano-dollars, without trailing zeros."""
    if nano < 0:
        raise ValueError("an amount is never negative")
    whole, fraction = divmod(nano, NANO)
    return f"{whole}.{fraction:09d}".rstrip("0").rstrip(".")


@dataclass(frozen=True, slots=True)
class Rates:
    """Prices of one capability, nano-dollars: per megapixel·step, per output megapixel, per job, per cold load."""

    mpix_step: int = 0
    output_mpix: int = 0
    job: int = 0
    cold_load: int = 0

    @classmethod
    def parse(cls, texts: dict[str, str]) -> Rates:
        """Rates from decimal dollars by name. Raises ValueError for an unknown name or amount."""
        known = _RATE_NAMES
        if unknown := texts.keys() - set(known):
            raise ValueError(f"unknown rate {sorted(unknown)[0]!r} (known: {', '.join(sorted(known))})")
        return cls(**{name: parse_money(text) for name, text in texts.items()})

    def texts(self) -> dict[str, str]:
        """Decimal dollars by name, zero rates left out."""
        return {name: format_money(value) for name in _RATE_NAMES if (value := getattr(self, name))}


_RATE_NAMES = tuple(f.name for f in fields(Rates))


def price(work: Work, rates: Rates, *, cold: bool = False) -> int:
    """Nano-dollars for `work` at `rates`: exact in integers, rounded up once at the end."""
    per_pixel = work.pixel_steps * rates.mpix_step + work.output_pixels * rates.output_mpix
    flat = rates.job + (rates.cold_load if cold else 0)
    return flat - (-per_pixel // PIXELS_PER_UNIT)
