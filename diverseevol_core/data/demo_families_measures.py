"""Task families about measures: units, dates, weekdays, clock times, time zones and small change.

Every date is drawn, none is today's, and month and day names come from tables here, never from the locale.
"""

from __future__ import annotations

from datetime import date, timedelta

from diverseevol_core.data.demo_families_draws import Draws, Task
from diverseevol_core.data.demo_families_words import NAMES, counted, hundredths, listed, money, split_words

_MONTHS = split_words("January February March April May June July August September October November December")
_WEEKDAYS = split_words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
# Larger unit, smaller unit, how many of the smaller make one of the larger; plural, as no amount here is one.
_UNITS = (
    ("kilometers", "meters", 1000),
    ("meters", "centimeters", 100),
    ("centimeters", "millimeters", 10),
    ("kilograms", "grams", 1000),
    ("liters", "milliliters", 1000),
    ("hours", "minutes", 60),
    ("minutes", "seconds", 60),
    ("days", "hours", 24),
    ("weeks", "days", 7),
    ("miles", "feet", 5280),
    ("feet", "inches", 12),
    ("yards", "feet", 3),
    ("pounds", "ounces", 16),
    ("gallons", "quarts", 4),
    ("gallons", "pints", 8),
    ("pints", "cups", 2),
)
# Places without daylight saving time, so the offsets in minutes hold all year.
_ZONES = (
    ("Tokyo", 540),
    ("Lima", -300),
    ("Nairobi", 180),
    ("Dubai", 240),
    ("Singapore", 480),
    ("Lagos", 60),
    ("Honolulu", -600),
    ("Dhaka", 360),
    ("Brisbane", 600),
    ("Buenos Aires", -180),
    ("Mumbai", 330),
    ("Reykjavik", 0),
)
_COINS = ((25, "quarter", "quarters"), (10, "dime", "dimes"), (5, "nickel", "nickels"), (1, "penny", "pennies"))


def unit_conversion(draws: Draws) -> Task:
    """Convert an amount between two units, or a temperature between Celsius and Fahrenheit."""
    if draws.integer(1, 8) == 1:
        return _temperature(draws)
    large, small, factor = draws.pick(_UNITS)
    # Halves of an even factor stay whole in the smaller unit.
    tenfold = draws.integer(2, 60) * 10 + (5 if factor % 2 == 0 and draws.integer(1, 4) == 1 else 0)
    n_large, n_small = hundredths(tenfold * 10), hundredths(tenfold * factor * 10)
    return draws.pick(
        (
            Task(f"Convert {n_large} {large} to {small}.", "", f"{n_small} {small}"),
            Task(f"How many {small} are there in {n_large} {large}?", "", f"There are {n_small} {small}."),
            Task(f"Express this amount in {small}.", f"{n_large} {large}", f"{n_large} {large} = {n_small} {small}"),
            Task(f"How many {large} do {n_small} {small} make?", "", f"{n_small} {small} make {n_large} {large}."),
            Task(f"Convert the amount to {large}.", f"{n_small} {small}", f"{n_large} {large}"),
        )
    )


def _temperature(draws: Draws) -> Task:
    celsius = draws.integer(-6, 20) * 5
    fahrenheit = celsius * 9 // 5 + 32
    return draws.pick(
        (
            Task(f"Convert {celsius} degrees Celsius to Fahrenheit.", "", f"{celsius} °C is {fahrenheit} °F."),
            Task("What is this temperature in degrees Celsius?", f"{fahrenheit} °F", f"{celsius} °C"),
        )
    )


def date_shift(draws: Draws) -> Task:
    """Move a date by some days or weeks, or count the days between two dates."""
    start, n_days, n_weeks = _drawn_date(draws), draws.integer(3, 120), draws.integer(2, 12)
    later, earlier = start + timedelta(days=n_days), start - timedelta(days=n_days)
    weeks_later = start + timedelta(weeks=n_weeks)
    return draws.pick(
        (
            Task(f"What date is {n_days} days after {_long(start)}?", "", _long(later)),
            Task(f"Which date comes {n_days} days before {_long(start)}?", "", f"It is {_long(earlier)}."),
            Task(f"Add {n_weeks} weeks to this date and keep its format.", start.isoformat(), weeks_later.isoformat()),
            Task(
                f"How many days after {_long(start)} is {_long(later)}?",
                "",
                f"{_long(later)} is {n_days} days after {_long(start)}.",
            ),
            Task("Count the days from the first date to the second.", f"{start} to {later}", counted(n_days, "day")),
            Task("Write the date in the form YYYY-MM-DD.", _long(start), start.isoformat()),
        )
    )


def weekday(draws: Draws) -> Task:
    """Name the day of the week of a date or after some days."""
    day, n_days = _drawn_date(draws), draws.integer(8, 60)
    name = _WEEKDAYS[day.weekday()]
    later_name = _WEEKDAYS[(day.weekday() + n_days) % 7]
    return draws.pick(
        (
            Task(f"On which day of the week does {_long(day)} fall?", "", f"{_long(day)} falls on a {name}."),
            Task("Give the day of the week for this date.", day.isoformat(), name),
            Task(f"If today is {name}, what day of the week will it be in {n_days} days?", "", later_name),
            Task(
                f"A parcel sent on a {name} arrives {n_days} days later. On which day of the week is that?",
                "",
                f"That is a {later_name}.",
            ),
        )
    )


def leap_year(draws: Draws) -> Task:
    """Decide whether a year has 366 days."""
    year = draws.pick((draws.integer(1600, 2400), draws.integer(16, 24) * 100, draws.integer(400, 600) * 4))
    n_days = (date(year + 1, 1, 1) - date(year, 1, 1)).days
    verdict = f"Yes, {year} is a leap year." if n_days == 366 else f"No, {year} is not a leap year."
    return draws.pick(
        (
            Task(f"Is {year} a leap year?", "", verdict),
            Task("Is this year a leap year in the Gregorian calendar?", str(year), verdict),
            Task(f"How many days does February have in the year {year}?", "", str(n_days - 337)),
            Task(f"How many days are there in {year}?", "", f"There are {n_days} days in {year}."),
        )
    )


def duration(draws: Draws) -> Task:
    """Work with clock times: elapsed time, end time, sums of durations."""
    start, n_minutes, extra = draws.integer(6 * 60, 20 * 60), draws.integer(25, 235), draws.integer(65, 170)
    event = draws.pick(("A concert", "A lesson", "A meeting", "The film", "The bus ride"))
    begin, end = _clock(start), _clock(start + n_minutes)
    elapsed = _hours_minutes(n_minutes)
    return draws.pick(
        (
            Task(f"How much time passes between {begin} and {end} on the same day?", "", elapsed),
            Task(
                f"{event} starts at {begin} and lasts {n_minutes} minutes. When does it end?", "", f"It ends at {end}."
            ),
            Task("How long does this take?", f"start {begin}, end {end}", f"It takes {elapsed}."),
            Task(f"Write {n_minutes + 60} minutes in hours and minutes.", "", _hours_minutes(n_minutes + 60)),
            Task(
                f"Add these two durations: {elapsed}; {_hours_minutes(extra)}.", "", _hours_minutes(n_minutes + extra)
            ),
        )
    )


def time_zone(draws: Draws) -> Task:
    """Carry a clock time from one fixed offset to another, with the change of day."""
    (here, offset), (there, other_offset) = draws.some(_ZONES, 2)
    minute = draws.integer(0, 95) * 15
    day, local = divmod(minute + other_offset - offset, 24 * 60)
    suffix = {-1: " on the previous day", 0: "", 1: " on the next day"}[day]
    here_zone, there_zone = f"{here} ({_utc(offset)})", f"{there} ({_utc(other_offset)})"
    return draws.pick(
        (
            Task(
                f"It is {_clock(minute)} in {here_zone}. What time is it in {there_zone}?",
                "",
                f"It is {_clock(local)}{suffix} in {there}.",
            ),
            Task(
                f"Convert this time to the local time of {there_zone}.",
                f"{_clock(minute)} in {here_zone}",
                f"{_clock(local)}{suffix}",
            ),
            Task(
                f"A call is planned for {_clock(minute)} {_utc(offset)}. When is that in {_utc(other_offset)}?",
                "",
                f"{_clock(local)}{suffix}",
            ),
        )
    )


def change_making(draws: Draws) -> Task:
    """Give change in as few United States coins as possible."""
    bill, cents, name = draws.pick((1, 5, 10, 20)), draws.integer(2, 99), draws.pick(NAMES)
    price = money(bill * 100 - cents)
    coins, left = [], cents
    for value, singular, plural in _COINS:
        count, left = divmod(left, value)
        if count:
            coins.append(counted(count, singular, plural))
    fewest = "Use as few quarters, dimes, nickels and pennies as possible."
    return draws.pick(
        (
            Task(f"Make {cents} cents. {fewest}", "", listed(coins)),
            Task(f"Which coins make up this amount? {fewest}", f"{cents} cents", "\n".join(coins)),
            Task(
                f"{name} spends {price} and pays with ${bill}. Which coins are the change? {fewest}",
                "",
                f"The change is {cents} cents: {listed(coins)}.",
            ),
        )
    )


def _drawn_date(draws: Draws) -> date:
    return date(1950, 1, 1) + timedelta(days=draws.integer(0, 100 * 365))


def _long(day: date) -> str:
    return f"{_MONTHS[day.month - 1]} {day.day}, {day.year}"


def _clock(minute: int) -> str:
    return f"{minute // 60:02d}:{minute % 60:02d}"


def _hours_minutes(n_minutes: int) -> str:
    hours, minutes = divmod(n_minutes, 60)
    parts = [counted(hours, "hour")] if hours else []
    return listed([*parts, counted(minutes, "minute")] if minutes else parts)


def _utc(offset_minutes: int) -> str:
    hours, minutes = divmod(abs(offset_minutes), 60)
    return f"UTC{'-' if offset_minutes < 0 else '+'}{hours}" + (f":{minutes:02d}" if minutes else "")
