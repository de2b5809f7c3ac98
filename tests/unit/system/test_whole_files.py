"""A file is whole or absent, whatever happens while it is written."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from steer_lightning.system.whole_files import folder_written_aside, write_bytes, written_aside


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_earlier_file_is_there_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new/folder/a.bin"
    write_bytes(path, b"one")
    assert path.read_bytes() == b"one"
    with written_aside(path) as aside:
        aside.write_bytes(b"tw")
        assert path.read_bytes() == b"one"
        assert (aside.parent, aside.suffix) == (path.parent, ".bin"), "the same disk, and format"
    assert path.read_bytes() == b"tw"
    assert path.stat().st_mode & 0o777 == 0o644
    assert names(path.parent) == ["a.bin"]


def test_an_error_leaves_what_was_there_and_nothing_else(tmp_path: Path) -> None:
    for path in (tmp_path / "a", tmp_path / "b"):
        if path.name == "a":
            write_bytes(path, b"one")
        with suppress(KeyError), written_aside(path) as aside:
            aside.write_bytes(b"half of tw")
            raise KeyError
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"one"


def test_the_file_before_is_kept_by_another_name(tmp_path: Path) -> None:
    path, earlier = tmp_path / "last", tmp_path / "earlier"
    for data in (b"1", b"2", b"3"):
        write_bytes(path, data, keep=earlier)
    assert (path.read_bytes(), earlier.read_bytes()) == (b"3", b"2")
    with suppress(KeyError), written_aside(path, keep=earlier):
        raise KeyError
    assert (path.read_bytes(), earlier.read_bytes()) == (b"3", b"2")


def test_a_folder_replaces_another_one_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "export"
    for text in ("one", "two"):
        with folder_written_aside(path) as aside:
            (aside / "inner").mkdir(mode=0o700)
            (aside / f"inner/{text}").write_text(text)
            assert not (path / f"inner/{text}").exists()
    assert names(path / "inner") == ["two"]
    modes = [x.stat().st_mode & 0o777 for x in (path, path / "inner", path / "inner/two")]
    assert modes == [0o755, 0o755, 0o644]
    assert names(tmp_path) == ["export"]


def test_an_error_leaves_the_folder_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "export"
    with folder_written_aside(path) as aside:
        (aside / "one").touch()
    with suppress(KeyError), folder_written_aside(path) as aside:
        (aside / "two").touch()
        raise KeyError
    plain = Path.rename

    def refused(self: Path, target: Path) -> Path:
        if (self / "two").exists():
            raise PermissionError(self)
        return plain(self, target)

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(PermissionError), folder_written_aside(path) as aside:
        (aside / "two").touch()
    assert names(path) == ["one"]
    assert names(tmp_path) == ["export"]
