"""Task families about calculating: arithmetic, story problems, percentages, averages, geometry, fractions, sequences.

All numbers are chosen so that the answer is exact in at most two decimals; nothing is rounded and no float is printed.
"""

from __future__ import annotations

from fractions import Fraction

from diverseevol_core.data.demo_families_draws import Draws, Task, ask_about
from diverseevol_core.data.demo_families_words import GOODS, NAMES, hundredths, money


def arithmetic(draws: Draws) -> Task:
    """Evaluate a short expression of whole numbers."""
    a, b, c = draws.integer(11, 299), draws.integer(2, 99), draws.integer(2, 19)
    expression, value = draws.pick(
        (
            (f"{a} + {b}", a + b),
            (f"{a + b} - {b}", a),
            (f"{b} * {c}", b * c),
            (f"{b * c} / {c}", b),
            (f"{a} + {b} * {c}", a + b * c),
            (f"({a} + {b}) * {c}", (a + b) * c),
            (f"{a} + {b} - {c}", a + b - c),
        )
    )
    return draws.pick(
        (
            Task(f"What is {expression}?", "", str(value)),
            Task(f"Calculate {expression} and write the full equation.", "", f"{expression} = {value}"),
            Task("Evaluate the expression. Give only the number.", expression, str(value)),
            Task("Work out the value and answer in a sentence.", expression, f"The value of {expression} is {value}."),
            Task(f"Please solve {expression} for me.", "", f"{expression} equals {value}."),
        )
    )


def word_problem(draws: Draws) -> Task:
    """Solve a small story with numbers."""
    story = draws.pick((_shopping, _sharing, _travel, _stock, _reading, _ages))
    text, answer = story(draws)
    lead = draws.pick(("", "", "Solve this word problem.", "Read the story and answer its question in a sentence."))
    return Task(lead, text, answer) if lead else Task(text, "", answer)


def _shopping(draws: Draws) -> tuple[str, str]:
    name, (first, second) = draws.pick(NAMES), draws.some(GOODS, 2)
    n_first, n_second, price, other_price = (draws.integer(2, 9) for _ in range(4))
    total = n_first * price + n_second * other_price
    story = f"{name} buys {n_first} {first} at ${price} each and {n_second} {second} at ${other_price} each."
    working = f"{n_first} * {price} + {n_second} * {other_price} = {total}"
    return f"{story} How much does {name} pay in total?", f"{working}, so {name} pays ${total}."


def _sharing(draws: Draws) -> tuple[str, str]:
    n_goods, goods, n_children = draws.integer(20, 99), draws.pick(GOODS), draws.integer(3, 9)
    each, left = divmod(n_goods, n_children)
    rest = "nothing is" if left == 0 else "1 is" if left == 1 else f"{left} are"
    story = f"{draws.pick(NAMES)} shares {n_goods} {goods} equally among {n_children} children."
    return (
        f"{story} How many does each child get, and how many are left over?",
        f"Each child gets {each}, and {rest} left over.",
    )


def _travel(draws: Draws) -> tuple[str, str]:
    vehicle = draws.pick(("train", "bus", "truck", "car"))
    speed, hours = draws.integer(8, 24) * 5, draws.integer(2, 9)
    story = f"A {vehicle} travels at {speed} km per hour for {hours} hours. How far does it go?"
    return story, f"{speed} * {hours} = {speed * hours}, so the {vehicle} goes {speed * hours} km."


def _stock(draws: Draws) -> tuple[str, str]:
    goods, sold, left, received = (
        draws.pick(GOODS),
        draws.integer(11, 80),
        draws.integer(5, 90),
        draws.integer(12, 60),
    )
    story = f"A shop had {sold + left} {goods}. It sold {sold} of them and then received {received} more."
    return f"{story} How many {goods} does the shop have now?", f"The shop now has {left + received} {goods}."


def _reading(draws: Draws) -> tuple[str, str]:
    name, per_day, n_pages = draws.pick(NAMES), draws.integer(8, 30), draws.integer(120, 400)
    n_days = -(-n_pages // per_day)
    story = f"{name} reads {per_day} pages every day. How many days does {name} need for a book of {n_pages} pages?"
    return story, f"{name} needs {n_days} days."


def _ages(draws: Draws) -> tuple[str, str]:
    (older, younger), age, gap = draws.some(NAMES, 2), draws.integer(4, 40), draws.integer(2, 15)
    story = f"{older} is {gap} years older than {younger}. Together they are {2 * age + gap} years old."
    return f"{story} How old is {younger}?", f"{younger} is {age} years old."


def percentage(draws: Draws) -> Task:
    """Take a percentage, apply a discount or a rise, or express a share in percent."""
    percent, base, name = draws.integer(1, 19) * 5, draws.integer(2, 60) * 10, draws.pick(NAMES)
    part = hundredths(percent * base)
    goods = draws.pick(("jacket", "bicycle", "table", "phone", "guitar", "tent"))
    discounted, raised = money((100 - percent) * base), money((100 + percent) * base)
    return draws.pick(
        (
            Task(f"What is {percent}% of {base}?", "", part),
            Task(f"Calculate {percent} percent of {base}.", "", f"{percent}% of {base} is {part}."),
            Task(
                f"The price of a {goods} is ${base}. What does it cost after a discount of {percent}%?",
                "",
                f"The {goods} costs {discounted} after the discount.",
            ),
            Task("Raise the price by the given percentage.", f"price: ${base}, rise: {percent}%", raised),
            Task(
                f"On a test worth {base} points, {name} scores {part}. What percentage is that?",
                "",
                f"{name} scored {percent}%.",
            ),
        )
    )


def averages(draws: Draws) -> Task:
    """Find the mean, median or range of a few numbers."""
    numbers = [draws.integer(2, 60) for _ in range(draws.pick((4, 5)))]
    ordered, middle, written = sorted(numbers), len(numbers) // 2, ", ".join(map(str, numbers))
    mean = hundredths(100 * sum(numbers) // len(numbers))
    doubled_median = ordered[middle] + ordered[-1 - middle]
    median, spread = hundredths(50 * doubled_median), ordered[-1] - ordered[0]
    instruction, answer = draws.pick(
        (
            ("Find the mean of these numbers.", f"The mean is {mean}."),
            ("What is the average of these numbers?", mean),
            ("What is the median of the list?", f"The median is {median}."),
            ("Give the range of the numbers, that is, the largest minus the smallest.", str(spread)),
        )
    )
    return ask_about(draws, instruction, written, answer)


def geometry(draws: Draws) -> Task:
    """Compute an area, a perimeter, a volume, a side or an angle."""
    width, height, depth = draws.integer(3, 25), draws.integer(3, 25), draws.integer(2, 12)
    volume = width * height * depth
    radius, angle, other_angle = draws.integer(2, 20), draws.integer(20, 80), draws.integer(25, 85)
    (leg, other_leg, longest), scale = draws.pick(((3, 4, 5), (5, 12, 13), (8, 15, 17))), draws.integer(1, 6)
    question, answer = draws.pick(
        (
            (f"A rectangle is {width} cm wide and {height} cm high. What is its area?", f"{width * height} cm²"),
            (
                f"Find the perimeter of a rectangle with sides of {width} m and {height} m.",
                f"The perimeter is {2 * (width + height)} m.",
            ),
            (
                f"A triangle has a base of {2 * width} cm and a height of {height} cm. What is its area?",
                f"The area is {width * height} cm².",
            ),
            (
                f"What is the volume of a box that measures {width} by {height} by {depth} cm?",
                f"{width} * {height} * {depth} = {volume}, so the volume is {volume} cm³.",
            ),
            (
                f"Find the area of a circle with a radius of {radius} cm. Use 3.14 for pi.",
                f"3.14 * {radius} * {radius} = {hundredths(314 * radius * radius)} cm²",
            ),
            (
                f"A right triangle has legs of {leg * scale} and {other_leg * scale} cm. How long is the hypotenuse?",
                f"The hypotenuse is {longest * scale} cm long.",
            ),
            (
                f"Two angles of a triangle are {angle} and {other_angle} degrees. How large is the third?",
                f"The third angle is {180 - angle - other_angle} degrees.",
            ),
        )
    )
    return Task(question, "", answer)


def fractions(draws: Draws) -> Task:
    """Simplify, add, multiply or compare two fractions."""
    bottom, other_bottom = draws.some(range(3, 13), 2)
    left, right = (
        Fraction(draws.integer(1, bottom - 1), bottom),
        Fraction(draws.integer(1, other_bottom - 1), other_bottom),
    )
    factor = draws.integer(2, 9)
    unreduced = f"{left.numerator * factor}/{left.denominator * factor}"
    larger = "They are equal." if left == right else f"{max(left, right)} is larger."
    return draws.pick(
        (
            Task("Write the fraction in its simplest form.", unreduced, str(left)),
            Task(f"Simplify {unreduced}.", "", f"{unreduced} = {left}"),
            Task(f"What is {left} + {right}? Give a simplified fraction.", "", str(left + right)),
            Task(f"Multiply {left} by {right} and simplify the result.", "", str(left * right)),
            Task(f"Which fraction is larger, {left} or {right}?", "", larger),
        )
    )


def sequence(draws: Draws) -> Task:
    """Continue a number sequence by its next one or three terms."""
    first, step, back = draws.integer(1, 30), draws.integer(2, 12), draws.integer(1, 9)
    rule = draws.integer(1, 4)
    terms = [first]
    for position in range(1, 9):
        terms.append(_next_term(rule, terms, position, step, back))
    shown = terms[: draws.pick((5, 6))]
    following = terms[len(shown) :]
    written, next_three = ", ".join(map(str, shown)), ", ".join(map(str, following[:3]))
    return draws.pick(
        (
            Task(f"What comes next in the sequence {written}?", "", str(following[0])),
            Task("Which number continues this sequence?", written, f"The next number is {following[0]}."),
            Task("Continue the sequence with three more numbers.", written, next_three),
            Task(f"Find the pattern and give the next three numbers: {written}.", "", next_three),
        )
    )


def _next_term(rule: int, terms: list[int], position: int, step: int, back: int) -> int:
    """Extend a sequence: equal steps, doubling, growing steps, or two alternating steps."""
    if rule == 1:
        return terms[-1] + step
    if rule == 2:
        return terms[-1] * 2
    if rule == 3:
        return terms[-1] + step + position - 1
    return terms[-1] + (step + back if position % 2 else -back)
