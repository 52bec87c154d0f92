"""What a job costs, and amounts as text."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelnet.pipelines import Work
from reelnet.pricing import NANO, Rates, format_money, parse_money, price

amounts = st.integers(0, 10**9 * NANO - 1)
rate = st.one_of(st.integers(0, 10_000), st.integers(0, 1000 * NANO))
rates = st.builds(Rates, rate, rate, rate, rate)
units = st.one_of(st.integers(0, 1000), st.integers(0, 2048 * 2048 * 200 * 25))
works = st.builds(Work, units, units)


def exact(work: Work, r: Rates, cold: bool) -> Fraction:
    """The price in nano-dollars before it is rounded."""
    per_pixel = Fraction(work.pixel_steps, 10**6) * r.mpix_step + Fraction(work.output_pixels, 10**6) * r.output_mpix
    return per_pixel + r.job + (r.cold_load if cold else 0)


@given(amounts)
def test_an_amount_survives_its_text(nano: int) -> None:
    """Parsing what was formatted gives the same nano-dollars, and the text is the exact decimal."""
    text = format_money(nano)
    assert parse_money(text) == nano
    assert Fraction(text) == Fraction(nano, NANO)
    assert not (("." in text) and text.endswith(("0", ".")))


@given(st.integers(0, 999_999_999), st.text("0123456789", max_size=9))
def test_a_plain_decimal_is_read_exactly(whole: int, decimals: str) -> None:
    """Up to nine decimals are read without any loss, trailing zeros or not."""
    text = f"{whole}.{decimals}" if decimals else str(whole)
    assert parse_money(text) == Fraction(text) * NANO


@pytest.mark.parametrize(
    ("text", "nano"),
    [("0", 0), ("0.0000045", 4500), ("1", NANO), ("1.5", 1_500_000_000), ("0.000000001", 1), (" 2 ", 2 * NANO)],
)
def test_amounts_as_operators_write_them(text: str, nano: int) -> None:
    """A plain decimal number of dollars."""
    assert parse_money(text) == nano


@pytest.mark.parametrize(
    "text",
    ["", ".", "1.", ".5", "-1", "+1", "1e-6", "4.5E-6", "0x10", "1_000", "1,5", "1 000", "$1", "nan", "inf",
     "0.0000000001", "1.0000000000", "1.2.3", "1234567890"],
)  # fmt: skip
def test_other_forms_are_refused(text: str) -> None:
    """Exponents, signs, separators and more than nine decimals are no amounts, and the error shows the form."""
    with pytest.raises(ValueError, match=r"0\.0000045"):
        parse_money(text)


def test_only_ascii_digits_are_digits() -> None:
    """Both sides read the same amount from the same bytes: no other alphabet's digits."""
    with pytest.raises(ValueError):
        parse_money("١.٥")


def test_amounts_are_not_negative() -> None:
    """There is no text for less than nothing."""
    with pytest.raises(ValueError):
        format_money(-1)


@given(works, rates, st.booleans())
def test_a_price_is_exact_and_rounded_up_once(work: Work, r: Rates, cold: bool) -> None:
    """The price is the ceiling of the exact rational price: never under it, never a whole nano-dollar over it."""
    assert price(work, r, cold=cold) == math.ceil(exact(work, r, cold))


@given(works, works, rates)
def test_more_work_never_costs_less(work: Work, extra: Work, r: Rates) -> None:
    """The price grows with each work unit."""
    more = Work(work.pixel_steps + extra.pixel_steps, work.output_pixels + extra.output_pixels)
    assert price(more, r) >= price(work, r)


@given(works, rates, rates)
def test_higher_rates_never_cost_less(work: Work, r: Rates, extra: Rates) -> None:
    """The price grows with each rate."""
    names = ("mpix_step", "output_mpix", "job", "cold_load")
    higher = Rates(*(getattr(r, name) + getattr(extra, name) for name in names))
    assert price(work, higher) >= price(work, r)


@given(works, works, st.builds(Rates, rate, rate))
def test_splitting_a_job_saves_nothing(first: Work, second: Work, r: Rates) -> None:
    """Two jobs cost at least what both cost as one, and at most one nano-dollar more: each is rounded up once."""
    together = Work(first.pixel_steps + second.pixel_steps, first.output_pixels + second.output_pixels)
    apart = price(first, r) + price(second, r)
    assert price(together, r) <= apart <= price(together, r) + 1


def test_the_designs_example() -> None:
    """25 steps of 14 frames at 576×1024 for 0.0000045 dollars per megapixel·step."""
    pixels = 576 * 1024 * 14
    work = Work(pixels * 25, pixels)
    assert format_money(price(work, Rates.parse({"mpix_step": "0.0000045"}))) == "0.000928973"


@given(st.builds(Rates, amounts, amounts, amounts, amounts))
def test_rates_survive_their_texts(r: Rates) -> None:
    """Rates by name and back; a rate of nothing needs no text."""
    texts = r.texts()
    assert Rates.parse(texts) == r
    assert set(texts) == {name for name in ("mpix_step", "output_mpix", "job", "cold_load") if getattr(r, name)}


def test_an_unknown_rate_is_refused() -> None:
    """A misspelt rate would be free: it is an error that names the known ones."""
    with pytest.raises(ValueError, match=r"'mpixstep'.*mpix_step"):
        Rates.parse({"mpixstep": "1"})


def test_a_cold_load_is_paid_only_when_cold() -> None:
    """The rate for a load is part of a price only when the model had to be loaded."""
    r = Rates(cold_load=7, job=5)
    assert (price(Work(0, 0), r), price(Work(0, 0), r, cold=True)) == (5, 12)
