"""Task families about small structured data: building and querying JSON, reading CSV, writing Markdown tables."""

from __future__ import annotations

import json

from diverseevol_core.data.demo_families_draws import Draws, Task
from diverseevol_core.data.demo_families_words import CITIES, GOODS, ITEMS, NAMES, split_words

JsonRecord = dict[str, str | int | bool]

_JOBS = split_words("baker nurse teacher driver painter farmer pilot lawyer")


def json_build(draws: Draws) -> Task:
    """Turn named values or a sentence into JSON."""
    person, stock = _person(draws), _stock(draws)
    record = draws.pick((person, stock))
    pairs = "; ".join(f"{key}: {json.dumps(value).strip(chr(34))}" for key, value in record.items())
    words = draws.some(ITEMS, draws.integer(3, 4))
    story = f"{person['name']} is {person['age']} years old, lives in {person['city']} and works as a {person['job']}."
    return draws.pick(
        (
            Task("Write these values as a JSON object.", pairs, json.dumps(record)),
            Task("Convert the record to JSON on one line.", pairs, json.dumps(record)),
            Task("Format the record as JSON with an indent of two spaces.", pairs, json.dumps(record, indent=2)),
            Task("Make a JSON array of strings from this list.", ", ".join(words), json.dumps(words)),
            Task(
                'Describe the person as JSON with the keys "name", "age", "city" and "job".', story, json.dumps(person)
            ),
        )
    )


def json_query(draws: Draws) -> Task:
    """Read a value from a JSON document."""
    person, items = _person(draws), draws.some(ITEMS, draws.integer(2, 4))
    document = json.dumps({"user": person, "items": items, "paid": draws.pick((True, False))})
    paid = json.loads(document)["paid"]
    position = draws.integer(0, len(items) - 1)
    ordinal = ("first", "second", "third", "fourth")[position]
    return draws.pick(
        (
            Task("Which city does the user live in?", document, str(person["city"])),
            Task("What is the value of user.age?", document, str(person["age"])),
            Task("How many items are in the order?", document, f"There are {len(items)} items."),
            Task(f"Give the {ordinal} item of the array.", document, items[position]),
            Task(
                "Is the order marked as paid?",
                document,
                "Yes, it is marked as paid." if paid else "No, it is not marked as paid.",
            ),
            Task("List the keys at the top level of the JSON.", document, "user, items, paid"),
        )
    )


def _person(draws: Draws) -> JsonRecord:
    return {
        "name": draws.pick(NAMES),
        "age": draws.integer(18, 79),
        "city": draws.pick(CITIES),
        "job": draws.pick(_JOBS),
    }


def _stock(draws: Draws) -> JsonRecord:
    return {"product": draws.pick(GOODS), "price": draws.integer(2, 60), "in_stock": draws.pick((True, False))}


def csv_query(draws: Draws) -> Task:
    """Answer a question about a CSV table of three or four products."""
    n_products = draws.integer(3, 4)
    goods, prices = draws.some(GOODS, n_products), draws.some(range(2, 60), n_products)
    stocks = draws.some(range(1, 90), n_products)
    products = list(zip(goods, prices, stocks, strict=True))
    table = "\n".join(["product,price,stock", *(f"{name},{price},{stock}" for name, price, stock in products)])
    asked, limit = draws.integer(0, n_products - 1), draws.integer(20, 60)
    n_above = sum(stock > limit for stock in stocks)
    dearest, scarcest = goods[prices.index(max(prices))], goods[stocks.index(min(stocks))]
    return draws.pick(
        (
            Task("Which product has the highest price?", table, dearest),
            Task(f"What is the price of {goods[asked]}?", table, f"The price of {goods[asked]} is {prices[asked]}."),
            Task("What is the total stock of all products?", table, str(sum(stocks))),
            Task("Which product has the lowest stock?", table, scarcest),
            Task(f"How many products have a stock above {limit}?", table, str(n_above)),
            Task(
                "Sort the products by price, cheapest first.",
                table,
                ", ".join(name for _, name in sorted(zip(prices, goods, strict=True))),
            ),
        )
    )


def markdown_table(draws: Draws) -> Task:
    """Write a few records as a Markdown table or list."""
    n_records = draws.integer(2, 3)
    names, cities = draws.some(NAMES, n_records), draws.some(CITIES, n_records)
    goods, prices = draws.some(GOODS, n_records), [draws.integer(2, 60) for _ in range(n_records)]
    places = list(zip(names, cities, strict=True))
    offers = [(name, f"${price}") for name, price in zip(goods, prices, strict=True)]
    return draws.pick(
        (
            Task(
                'Make a Markdown table with the columns "Name" and "City".',
                _lines(places),
                _table("Name", "City", places),
            ),
            Task("Show the prices as a Markdown table.", _lines(offers), _table("Product", "Price", offers)),
            Task(
                "Turn this CSV into a Markdown table.",
                "\n".join(["Name,City", *(",".join(row) for row in places)]),
                _table("Name", "City", places),
            ),
            Task(
                "Write the items as a Markdown bullet list.", ", ".join(goods), "\n".join(f"- {name}" for name in goods)
            ),
        )
    )


def _lines(rows: list[tuple[str, str]]) -> str:
    return "\n".join(f"{left}: {right}" for left, right in rows)


def _table(left: str, right: str, rows: list[tuple[str, str]]) -> str:
    return "\n".join(f"| {first} | {second} |" for first, second in [(left, right), ("---", "---"), *rows])
