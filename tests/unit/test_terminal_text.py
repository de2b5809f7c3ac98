"""No text of unknown origin reaches a terminal as it is: every print and log line, by its source.

What is printed or logged holds constants, numbers, and texts that went through
`steer_lightning.system.printable`. `tell`, by which callbacks print, sends all of its lines there.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from steer_lightning import ConfigError, cli
from steer_lightning.callbacks import RunSummary
from steer_lightning.callbacks.run_folder import tell
from steer_lightning.system.printable import indented, one_line, printable, quoted

PACKAGE = Path(__file__).parents[2] / "steer_lightning"
MADE_SAFE = {"one_line", "indented", "quoted", "len", "sum", "reason"}
"""Not `printable`, which keeps line breaks; `reason` of `system.showing` is one line."""
OURS = {"help_text", "version", "sparkline", "rounded"}
"""Functions of ours or the standard library whose text is constant, drawn or a number."""
TABLES = {
    *("as_text", "between_as_text", "capability_as_text", "side_effects_as_text", "describe"),
    "refinements_as_text",
    "printable(report.usage)",
}
"""Texts of several lines that show each name on one line: tests of theirs, and
`tests/integration/test_hostile_metadata.py`, give them hostile ones."""
WRITES = ("print", "tqdm.write", "sys.stdout.write", "sys.stderr.write", "os.write")
BESIDE_BARS = ("set_description", "set_postfix")
"""Beginnings of the names of methods that write beside a progress bar."""
RAW = ("traceback.print_exc", "traceback.print_exception", "warnings.warn")
"""Functions that write to the terminal themselves."""
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
NUMBER = re.compile(r"[<>+ ]?\d*,?(\.\d+)?[dgfe%,]")
LOGS = {"debug", "info", "warning", "error", "exception"}
CONVERSION = re.compile(r"%[-+#0-9.]*([a-zA-Z])")


def called(node: ast.AST) -> str:
    """Name of the function that a call is of, without what it belongs to."""
    func = node.func if isinstance(node, ast.Call) else None
    return func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "")


class Scope:
    """Decides which expressions of a function are plain, following its variables."""

    def __init__(self, function: ast.AST) -> None:
        self.values: dict[str, list[ast.expr]] = {}
        for node in ast.walk(function):
            targets = node.targets if isinstance(node, ast.Assign) else []
            targets = [node.target] if isinstance(node, ast.AugAssign) else targets
            for target in targets:
                if isinstance(target, ast.Name):
                    self.values.setdefault(target.id, []).append(node.value)

    def parts(self, value: ast.expr) -> list[ast.expr]:
        """A value, or those of a tuple with a star."""
        if not isinstance(value, ast.Starred):
            return [value]
        inner = value.value
        for found in self.values.get(inner.id, []) if isinstance(inner, ast.Name) else [inner]:
            if isinstance(found, ast.Tuple):
                return list(found.elts)
        return [value]

    def constant(self, message: ast.expr) -> str | None:
        """The text of a log line, before anything is put into it."""
        values = self.values.get(message.id, []) if isinstance(message, ast.Name) else [message]
        if len(values) == 1 and isinstance(values[0], ast.Constant):
            return str(values[0].value)
        return None

    def is_plain(self, node: ast.AST, depth: int = 0) -> bool:
        """Whether an expression holds constants, numbers and texts made safe alone."""
        if depth > 9 or isinstance(node, ast.Constant):
            return depth <= 9
        if isinstance(node, ast.JoinedStr):
            return all(self.is_plain(part, depth) for part in node.values)
        if isinstance(node, ast.FormattedValue):
            spec = ast.unparse(node.format_spec)[2:-1] if node.format_spec else ""
            is_safe = node.conversion == ord("r") or NUMBER.fullmatch(spec)
            return bool(is_safe) or self.is_plain(node.value, depth)
        if isinstance(node, ast.IfExp):
            return self.is_plain(node.body, depth) and self.is_plain(node.orelse, depth)
        if isinstance(node, ast.BinOp):
            return self.is_plain(node.left, depth) and self.is_plain(node.right, depth)
        if isinstance(node, ast.Name):
            values = self.values.get(node.id)
            if node.id.isupper():  # a constant of the module
                return True
            return bool(values) and all(self.is_plain(value, depth + 1) for value in values)
        if isinstance(node, ast.Attribute):
            of = (node.attr, called(node.value))
            return of in (("__name__", "type"), ("name", "Signals"))
        return isinstance(node, ast.Call) and self.makes_plain(node, depth)

    def makes_plain(self, node: ast.Call, depth: int) -> bool:
        """Whether what a call returns is plain."""
        if called(node) in ("encode", "removeprefix") and isinstance(node.func, ast.Attribute):
            return self.is_plain(node.func.value, depth)
        if called(node) == "with_own_keys":  # constants in place of constants
            return all(self.is_plain(value, depth) for value in node.args)
        if called(node) == "join":
            (items,) = node.args
            mapped = called(items) == "map" and ast.unparse(items.args[0]) in MADE_SAFE
            return mapped or (
                isinstance(items, ast.GeneratorExp) and self.is_plain(items.elt, depth)
            )
        return called(node) in MADE_SAFE | OURS | TABLES or ast.unparse(node) in TABLES


def shown(call: ast.Call) -> list[ast.expr]:
    """What a call writes to the terminal."""
    name = ast.unparse(call.func)
    if called(call) == "tqdm":
        return [option.value for option in call.keywords if option.arg in ("desc", "unit", None)]
    if called(call).startswith(BESIDE_BARS):
        return [*call.args, *(option.value for option in call.keywords)]
    if name in RAW:
        return [call]
    return call.args if name in WRITES else []


def odd_prints(tree: ast.AST) -> Iterator[ast.Call]:
    """Calls that print something which is not plain."""
    for function in ast.walk(tree):
        if not isinstance(function, FUNCTIONS):
            continue
        scope = Scope(function)
        for node in ast.walk(function):
            if isinstance(node, ast.Call) and not all(map(scope.is_plain, shown(node))):
                yield node


def texts_of(kinds: list[str], values: list[ast.expr]) -> list[ast.expr]:
    """The values of a log line that are no numbers by their conversion."""
    return [value for kind, value in zip(kinds, values, strict=True) if kind in "sr"]


def odd_logs(tree: ast.AST) -> Iterator[ast.Call]:
    """Calls that log something which is not plain."""
    for function in ast.walk(tree):
        if not isinstance(function, FUNCTIONS):
            continue
        scope = Scope(function)
        for node in ast.walk(function):
            if not isinstance(node, ast.Call) or called(node) not in LOGS:
                continue
            if not ast.unparse(node.func).startswith(("log.", "logger.", "logging.")):
                continue
            message, *values = node.args
            found = [part for value in values for part in scope.parts(value)]
            text = scope.constant(message)
            kinds = CONVERSION.findall(text or "")
            known = text is not None and len(kinds) == len(found)
            if not known or not all(map(scope.is_plain, texts_of(kinds, found))):
                yield node


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_what_is_printed_and_logged_is_made_safe(file: Path) -> None:
    tree = ast.parse(file.read_text())
    odd = [ast.unparse(node) for node in (*odd_prints(tree), *odd_logs(tree))]
    assert not odd, "pass it through one_line, quoted or indented"


@pytest.mark.parametrize(
    ("body", "is_odd"),
    [
        ("print('x')", False),
        ("print(f'{x}')", True),
        ("print(x)", True),
        ("print(f'{one_line(x)} {len(x)} {x:.1f} {x!r}')", False),
        ("print(f'{x:>5}')", True),
        ("y = one_line(x)\n    print('a' + y)", False),
        ("y = x.name\n    print('a' + y)", True),
        ("y = 'a' if x else f'{x}'\n    print(y)", True),
        ("print(', '.join(map(quoted, x)))", False),
        ("print(', '.join(x))", True),
        ("print(''.join(f'{one_line(y)}' for y in x))", False),
        ("tqdm.write(x)", True),
        ("print(printable(x))", True),
        ("print(indented(x))", False),
        ("print(x.__name__, type(x).__name__)", True),
        ("os.write(2, x.encode())", True),
        ("os.write(2, f'{one_line(x)}'.encode(errors='replace'))", False),
        ("for y in tqdm(x, desc=f'of {x}'): pass", True),
        ("for y in tqdm(x, desc=one_line(x), total=x): pass", False),
        ("bar.set_description(f'{x}')", True),
        ("bar.set_postfix(loss=x)", True),
        ("traceback.print_exc()", True),
        ("async def g(): print(x)", True),
        ("log.warning('%s', x)", True),
        ("log.warning('%d %.1f %% %s', x, x, one_line(x))", False),
        ("log.warning(x)", True),
        ("log.warning(f'{x}')", True),
        ("y = 'of %s'\n    log.info(y, type(x).__name__)", False),
        ("log.error('%s %s', *(one_line(x), x))", True),
        ("log.error('%s', *x)", True),
    ],
)
def test_the_check_finds_what_it_should(body: str, is_odd: bool) -> None:
    tree = ast.parse(f"def f(x):\n    {body}")
    assert bool([*odd_prints(tree), *odd_logs(tree)]) == is_odd


HOSTILE = "\x1b]0;owned\x07\x1b[2J\nerror: fake\t\u202e\u2028\x85\ud800 é 漢"
SHOWN = r"\x1b]0;owned\x07\x1b[2J\nerror: fake\t\u202e\u2028\x85\ud800 é 漢"


def test_one_line_is_one_line_and_keeps_what_can_be_read() -> None:
    assert one_line(HOSTILE) == SHOWN
    assert one_line(Path("a\nb")) == r"a\nb"
    assert one_line(ValueError("a\nb")) == r"a\nb"
    assert quoted(HOSTILE) == f'"{SHOWN}"'
    assert printable("a\nb\tc") == "a\nb\tc"
    assert indented("a\n\x1b[2J\nerror: fake") == "a\n    \\x1b[2J\n    error: fake"


def test_tell_prints_lines_as_lines(capsys: pytest.CaptureFixture[str]) -> None:
    trainer: Any = SimpleNamespace(is_global_zero=True)
    tell(trainer, "", f"run {HOSTILE}", "second")
    assert capsys.readouterr().out == f"\nrun {SHOWN}\nsecond\n"
    tell(SimpleNamespace(is_global_zero=False), "x")  # type: ignore[arg-type]
    assert capsys.readouterr().out == ""


def test_an_interrupted_run_shows_its_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "a\x1b[2J\nerror: fake"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints/last.ckpt").touch()
    trainer: Any = SimpleNamespace(
        is_global_zero=True, global_step=3, default_root_dir=str(folder), callbacks=[], max_steps=9
    )
    RunSummary().on_exception(trainer, None, KeyboardInterrupt())  # type: ignore[arg-type]
    lines = capsys.readouterr().out.splitlines()
    shown = rf"{tmp_path}/a\x1b[2J\nerror: fake"
    assert lines == [
        "",
        f"stopped after step 3 of {shown}",
        f"to resume: repeat the command, or add --ckpt_path={shown}/checkpoints/last.ckpt",
    ]


@pytest.mark.parametrize("kind", [ValueError, ConfigError])
def test_a_completion_in_an_error_forges_no_message(
    kind: type[Exception], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ends(words: list[str]) -> None:
        raise ValueError(HOSTILE) if kind is ValueError else ConfigError("x", 1, rule=HOSTILE)

    monkeypatch.setattr(cli, "import_module", lambda name: SimpleNamespace(run=ends))
    status = cli.main(["lens"])
    told = capsys.readouterr().err
    assert status == (1 if kind is ValueError else 2)
    assert "\n    error: fake" in told
    assert "\x1b" not in told
    assert "\nerror" not in told
