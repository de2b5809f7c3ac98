"""Generates sums and differences, the problems of the quickstart."""

from __future__ import annotations

import random
import zlib
from typing import Literal

from steer_lightning.errors import ConfigError
from steer_lightning.system.seeds import check_seed
from steer_lightning.types import Problem

HELD_OUT_SHARE = 10  # one problem in ten belongs to the test split


def is_held_out(question: str) -> bool:
    """Tells whether a problem belongs to the test split.

    A hash of the question decides, so that the splits never overlap.
    """
    return zlib.crc32(question.encode()) % HELD_OUT_SHARE == 0


def draw(rng: random.Random, largest: int, operations: str) -> tuple[int, str, int]:
    """Draws `a`, the operation and `b`; both numbers are from 10 to `largest`.

    A difference is never negative.
    """
    a, b = rng.randint(10, largest), rng.randint(10, largest)
    operation = rng.choice(operations)
    if operation == "-" and a < b:
        a, b = b, a
    return a, operation, b


def solve(a: int, operation: str, b: int) -> int:
    """Computes the answer."""
    return a + b if operation == "+" else a - b


def written_out(a: int, operation: str, b: int) -> str:
    r"""Writes a calculation out as the quickstart's model does when it is careful.

    An example is `Ones: 7+8=15. Tens: 4+3+1=8. So \boxed{85}`. Digits from the tens on are one
    number.
    """
    (tens, ones), (more, few) = divmod(a, 10), divmod(b, 10)
    carry = 1 if (ones + few > 9 if operation == "+" else ones < few) else 0
    borrowed = f"1{ones}" if operation == "-" and carry else f"{ones}"
    first = solve(int(borrowed), operation, few)
    second = solve(tens, operation, more) + (carry if operation == "+" else -carry)
    taken = f"{operation}1" if carry else ""
    return (
        f"Ones: {borrowed}{operation}{few}={first}. "
        f"Tens: {tens}{operation}{more}{taken}={second}. "
        rf"So \boxed{{{solve(a, operation, b)}}}"
    )


class Arithmetic:
    """Problems such as `47+38` with their answers, and with solutions in the column `solution`.

    Args:
        num_problems: Number of problems to generate; all are different.
        split: `train` or `test`. No problem is in both, whatever the seeds.
        largest: Largest operand, at least 19.
        operations: `+`, `-` or both, as one string.
        seed: Seed of the problems and of their order.

    Raises:
        ConfigError: If a value is out of range, or not enough different problems exist.
    """

    def __init__(
        self,
        num_problems: int = 2048,
        split: Literal["train", "test"] = "train",
        largest: int = 99,
        operations: str = "+-",
        seed: int = 0,
    ) -> None:
        if num_problems < 1:
            raise ConfigError("Arithmetic.num_problems", num_problems, rule="must be at least 1")
        if largest < 19:
            raise ConfigError("Arithmetic.largest", largest, rule="must be at least 19")
        if not operations or set(operations) - set("+-"):
            raise ConfigError("Arithmetic.operations", operations, rule='must be "+", "-" or "+-"')
        check_seed("Arithmetic.seed", seed)
        self.num_problems, self.split, self.largest = num_problems, split, largest
        self.operations, self.seed = operations, seed

    def load(self) -> list[Problem]:
        """Generates the problems, in an order that depends only on the seed."""
        rng = random.Random(self.seed)
        found: dict[str, Problem] = {}
        for _ in range(200 * self.num_problems):
            a, operation, b = draw(rng, self.largest, self.operations)
            question = f"{a}{operation}{b}"
            if is_held_out(question) == (self.split == "test"):
                found[question] = Problem(
                    question=question,
                    answer=str(solve(a, operation, b)),
                    columns={"solution": written_out(a, operation, b)},
                )
            if len(found) == self.num_problems:
                return list(found.values())
        raise ConfigError(
            "source.num_problems",
            self.num_problems,
            rule=f"more than the number of different problems: only {len(found)} exist with "
            f"operands up to {self.largest}",
            fix="Set a larger `largest` or fewer problems",
        )
