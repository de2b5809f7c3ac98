"""Completions that mean harm, and rewards that do."""

from __future__ import annotations

import os
import random
import re
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from steer_lightning.rewards import MathReward, Verdict
from steer_lightning.types import Completion

GOLDS = (r"\frac{1}{2}", "42", r"\sqrt{2}", "x^2+1")


def boxed(content: str) -> str:
    return rf"\boxed{{{content}}}"


def towers() -> list[str]:
    """Powers of powers, in every notation."""
    found = ["9" + "^{9" * n + "}" * n for n in range(1, 30)]
    found += ["^".join(["9"] * n) for n in (2, 3, 4, 5, 10, 50)]
    found += ["**".join(["9"] * n) for n in (2, 3, 4, 5, 10)]
    found += [rf"{base}^{{{exponent}}}" for base, exponent in product((2, 10, 99), (10**4, 10**9))]
    return found


def huge_numbers() -> list[str]:
    """Factorials, binomials, digits, exponents."""
    found = [f"{n}!" for n in (10, 1000, 10**5, 10**7, 10**9, 10**30)]
    found += ["5" + "!" * n for n in (2, 3, 4, 10, 100)]
    found += [rf"\binom{{{10**n}}}{{{10**n // 2}}}" for n in (2, 4, 6, 8)]
    found += ["9" * n for n in (10, 41, 4000, 4301, 10**5, 10**6)]
    found += ["0." + "3" * n for n in (10, 5000, 10**6)]
    found += [f"1e{10**n}" for n in (1, 2, 3, 6, 9, 15)] + [f"-1e-{10**n}" for n in (3, 9)]
    found += [rf"\frac{{1}}{{{'7' * n}}}" for n in (10, 1000, 4000)] + [r"\frac{1}{0}", r"0^{-1}"]
    return found


def nests() -> list[str]:
    """Brackets, fractions and roots within each other, some never closed."""
    pairs = (("(", ")"), (r"\frac{1}{", "}"), (r"\sqrt{", "}"), (r"\left(", r"\right)"), ("{", "}"))
    depths = (10, 50, 200, 1000, 20000)
    found = [start * n + "1" + end * n for (start, end), n in product(pairs, depths)]
    found += [start * n + "1" for (start, _), n in product(pairs, depths)]
    found += ["1" + end * n for (_, end), n in product(pairs, depths)]
    return found


def unicode() -> list[str]:
    """NUL, controls, directions, surrogates, digits of other scripts, a terminal's commands."""
    odd = ("\x00", "\x1b[2J", "\x07", "\u202e", "\ud800", "\U0001f600", "\u0664\u0662", "\uff14")
    odd += ("\u200b", "\u0301" * 500, "\x1b]0;owned\x07", "\r", "\x85", "\ufeff", "\U0010ffff")
    return [form.replace("?", text) for text in odd for form in ("?", "4?2", r"\frac{?}{2}")]


def sympy_bombs() -> list[str]:
    """Expressions that are short to write and long to simplify, expand, solve or evaluate."""
    found = [rf"(x+1)^{{{n}}}" for n in (10, 100, 1000, 10**5, 10**9)]
    found += [rf"(a+b+c+d+e)^{{{n}}}" for n in (5, 30, 200)]
    found += [rf"\sum_{{k=1}}^{{{10**n}}} \frac{{1}}{{k^k}}" for n in (2, 5, 9)]
    found += [rf"\prod_{{k=1}}^{{{10**n}}} (x+k)" for n in (2, 4, 6)]
    found += [r"\int_0^1 e^{e^{e^x}} dx", r"\int \frac{1}{x^5+x+1} dx", r"\lim_{x\to0} x^{x^{x}}"]
    found += [r"\sin" * n + " x" for n in (5, 100, 3000)] + ["x" + "'" * 500, "x_" * 500]
    found += [r"\begin{pmatrix}" + r"\\".join(["1&" * 60 + "1"] * 60) + r"\end{pmatrix}"]
    found += ["+".join(f"x_{{{k}}}" for k in range(n)) for n in (50, 500)]
    found += ["*".join(f"(x+{k})" for k in range(n)) for n in (20, 200)]
    found += [r"\{" + ",".join(map(str, range(n))) + r"\}" for n in (100, 1000)]
    found += ["=".join(["x"] * n) for n in (3, 100, 1000)] + ["x<" * 200 + "x", r"\pi^{\pi^{\pi}}"]
    found += [rf"\log_{{{n}}}({n}^{{{n}}})" for n in (2, 99, 10**6)] + [r"e^{i\pi" * 30 + "}" * 30]
    found += ["__import__('os')._exit(1)", "exec('1')", "lambda: 0", "{{7*7}}", "${jndi:x}"]
    found += [r"\input{/etc/passwd}", "1 . 9**9**9 + 2", "2 . 3 + (4)(5)"]
    return found


def long_boxes() -> list[str]:
    """Whole completions: boxes without end, and without number."""
    found = [boxed("1 " * n) for n in (10**3, 10**5, 5 * 10**5)]
    found += [r"\boxed{" * n for n in (1, 1000, 10**5)]
    found += [r"\boxed{" * n + "1" + "}" * n for n in (5, 10**4)]
    found += ["\\boxed" * 1000, r"\boxed" + "{" * 10**5, "\\" * 10**5, "}" * 10**5]
    found += ["", " " * 10**6, "%" * 10**4]
    found += [boxed("a" * n) for n in (100, 4999, 10**6)]
    found += [boxed(r"\text{" + "b" * n + "}") for n in (9, 4000)]
    found += [boxed(text) for text in ("%", "$", "$" * 999, "&", "#", "~")]
    return found


def hostile_completions() -> list[Completion]:
    """All of them, each against two of several gold answers."""
    contents = [*towers(), *huge_numbers(), *nests(), *unicode(), *sympy_bombs()]
    texts = [boxed(content) for content in contents] + long_boxes()
    return [make(text, GOLDS[(n + k) % 4]) for n, text in enumerate(texts) for k in (0, 1)]


def make(text: str, answer: str = "42") -> Completion:
    return Completion(text=text, question="q", answer=answer, num_tokens=len(text), finished=True)


LEFT_BEHIND = ["sleep", "98765"]


def misbehave(completions: Sequence[Completion]) -> list[float]:
    """A user's reward that does what the text says."""
    text = completions[0].text
    DEEDS.get(text, lambda: None)()
    return [1.0]


def _sleep() -> None:
    time.sleep(1000)


def _loop() -> None:
    while True:
        pass


def _regex() -> None:
    import re

    re.match(r"(a+)+$", "a" * 50 + "b")


def _grow() -> None:
    found = []
    while True:
        found.append(bytearray(1 << 24))


def _recurse() -> None:
    _recurse()


def _fault() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def _children() -> None:
    subprocess.Popen(LEFT_BEHIND)


def _daemons() -> None:
    subprocess.Popen(LEFT_BEHIND, start_new_session=True)


def _daemon_then_sleep() -> None:
    _daemons()
    _sleep()


def _fork() -> None:
    if os.fork() == 0:
        time.sleep(1000)


def _fork_that_returns() -> None:
    os.fork()


def _block_signals() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
    _loop()


def _raise() -> None:
    raise ValueError("no \x1b[2J")


def _close_all() -> None:
    os.closerange(0, 1000)


def _answer_itself() -> None:
    for descriptor in range(3, 60):
        try:
            os.write(descriptor, struct.pack(">Q", 3) + b"abc")  # a whole frame, of nonsense
        except OSError:
            continue


def _thread() -> None:
    import threading

    threading.Thread(target=_sleep).start()


DEEDS = {
    "sleep": _sleep,
    "loop": _loop,
    "regex": _regex,
    "grow": _grow,
    "recurse": _recurse,
    "fault": _fault,
    "exit": lambda: sys.exit(3),
    "hard exit": lambda: os._exit(3),
    "abort": os.abort,
    "children": _children,
    "daemons": _daemons,
    "daemon, then sleep": _daemon_then_sleep,
    "fork": _fork,
    "fork that returns": _fork_that_returns,
    "block signals": _block_signals,
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "raise": _raise,
    "close": _close_all,
    "answer itself": _answer_itself,
    "thread": _thread,
}
"""By the completion's text; `no score` and `score` are those expected of each."""

WITH_SCORE = {"children", "daemons", "fork", "fork that returns", "thread"}
TOO_LONG = {"sleep", "daemon, then sleep", "loop", "regex", "block signals", "stop"}


def flood(completions: Sequence[Completion]) -> list[float]:
    """Writes a frame without end into every connection."""
    for descriptor in range(3, 60):
        try:
            os.write(descriptor, struct.pack(">Q", 2**40))
            while True:
                os.write(descriptor, bytes(2**16))
        except OSError:
            continue
    return [1.0]


def draws(completions: Sequence[Completion]) -> list[float]:
    """A reward that draws random numbers."""
    return [random.random() for _ in completions]


def order_of_a_set(completions: Sequence[Completion]) -> list[float]:
    """A reward whose number hangs on the order of a set of strings."""
    return [float("".join({str(n) for n in range(10)}))]


HARMLESS = re.compile(
    rb"\s*def (__create_fn__|monomial_).*|\s*from sympy import \*\s*"
    rb"|(Integer|Float|Rational) \(('?[\d.]+'? ?)*\)",
    re.DOTALL,
)
"""What libraries compile: functions of their own, and numbers."""

OWN_TEXTS = {"nsimplify_real": "simplify.py", "_create_lookup_table": "meijerint.py"}
"""Functions of sympy that parse formulas of their own, and of numbers alone: never a model's."""

REACHES_OUT = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect")
FOUND_OUT = 77


def watch(event: str, arguments: tuple[object, ...]) -> None:
    """An audit hook that ends the process where text is run as code, or reaches the system."""
    code = arguments[0] if event == "compile" and arguments[1] in ("<string>", b"<string>") else b""
    code = code.encode("utf-8", "replace") if isinstance(code, str) else code
    runs = isinstance(code, bytes) and code and not HARMLESS.fullmatch(code)
    writes = event == "open" and set(str(arguments[1])) & set("wax+")
    if (runs and not of_sympys_own()) or writes or event in REACHES_OUT:
        os._exit(FOUND_OUT)


def of_sympys_own() -> bool:
    """Whether what is compiled is a text of sympy itself."""
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        code = frame.f_code
        if Path(code.co_filename).name == OWN_TEXTS.get(code.co_name):
            return True
    return False


class WatchedMath(MathReward):
    """Nothing that it compares may be run."""

    def warm_up(self) -> None:
        super().warm_up()
        import sympy.integrals.manualintegrate  # noqa: F401  # else it is imported under watch

        sys.addaudithook(watch)

    def __call__(self, completions: Sequence[Completion]) -> list[Verdict | None]:
        if completions[0].text.startswith("eval: "):  # shows that the watch would notice
            eval(completions[0].text.removeprefix("eval: "))
        return super().__call__(completions)


class SlowToLoad:
    """Warms up longer than a deadline."""

    def warm_up(self) -> None:
        time.sleep(1.5)

    def __call__(self, completions: Sequence[Completion]) -> list[float]:
        return [1.0] * len(completions)


class DrawsHere:
    """Draws from every generator of the training process."""

    in_process = True

    def __call__(self, completions: Sequence[Completion]) -> list[float]:
        import numpy as np  # not in the pool's workers, which read this file, too
        import torch

        return [random.random() + np.random.random() + float(torch.rand(())) for _ in completions]


def explode_on_load() -> None:
    raise RuntimeError("can't be loaded here")


class Unloadable:
    """Pickles well, but can't be loaded."""

    def __call__(self, completions: Sequence[Completion]) -> list[float]:
        return [0.0] * len(completions)

    def __reduce__(self) -> tuple[object, tuple[()]]:
        return explode_on_load, ()


def returns_two(completions: Sequence[Completion]) -> list[float]:
    return [1.0, 2.0]


def returns_nan(completions: Sequence[Completion]) -> list[float]:
    return [float("nan")]


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.mark}",)
