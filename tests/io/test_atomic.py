import errno
import json
import os
import stat
from pathlib import Path

import pytest

from bpjax.errors import BpjaxError
from bpjax.io import atomic
from bpjax.io.atomic import atomic_path, write_bytes, write_json, write_text


def only(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_writes_and_replaces(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": [1, 0.1, None, "Å"]})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": [1, 0.1, None, "Å"]}
    write_text(path, "new\n")
    assert path.read_bytes() == b"new\n" and only(tmp_path) == ["a.json"]


def test_suffix_is_kept_for_writers_that_look_at_it(tmp_path):
    with atomic_path(tmp_path / "figure.png") as temporary:
        assert temporary.suffix == ".png" and temporary.parent == tmp_path
        temporary.write_bytes(b"x")
    assert only(tmp_path) == ["figure.png"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_failure_leaves_the_old_file_and_no_debris(tmp_path, error):
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(error), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old" and only(tmp_path) == ["a"]


@pytest.mark.parametrize("step", ["write", "sync", "replace"])
def test_full_disk_names_the_file_and_keeps_the_old_one(tmp_path, monkeypatch, step):
    path = tmp_path / "a"
    path.write_text("old")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if step == "sync":
        monkeypatch.setattr(atomic.os, "fsync", full)
    if step == "replace":
        monkeypatch.setattr(atomic.os, "replace", full)
    with pytest.raises(BpjaxError, match=r"cannot write .*/a: the disk is full") as caught, atomic_path(path) as temp:
        temp.write_text("half")
        if step == "write":
            full()
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    assert path.read_text() == "old" and only(tmp_path) == ["a"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_devices_are_written_and_never_replaced():
    with pytest.raises(BpjaxError, match="cannot write /dev/full: the disk is full"):
        write_bytes("/dev/full", b"x" * 100_000)
    write_bytes("/dev/null", b"x")
    assert all(stat.S_ISCHR(os.stat(device).st_mode) for device in ("/dev/full", "/dev/null"))


def test_folders_are_explained(tmp_path):
    with pytest.raises(BpjaxError, match="the folder does not exist"):
        write_text(tmp_path / "no" / "a", "")
    with pytest.raises(BpjaxError, match="it is a folder"):
        write_text(tmp_path, "")
    (tmp_path / "file").touch()
    with pytest.raises(BpjaxError, match="cannot write"):
        write_text(tmp_path / "file" / "a", "")


def test_errors_about_other_files_stay_what_they_are(tmp_path):
    with pytest.raises(FileNotFoundError, match="input"), atomic_path(tmp_path / "a"):
        (tmp_path / "input").read_text()
    assert only(tmp_path) == []


def test_links_and_permissions_are_kept(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.touch(0o640)
    target.chmod(0o640)
    link.symlink_to(target)
    write_text(link, "x")
    assert link.is_symlink() and target.read_text() == "x" and stat.S_IMODE(target.stat().st_mode) == 0o640


def test_new_files_have_the_usual_permissions(tmp_path):
    old = os.umask(0o027)
    try:
        write_text(tmp_path / "a", "")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_json_is_strict(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a", {"x": float("nan")})
    assert only(tmp_path) == []
