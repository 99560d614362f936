"""Files and folders are complete or absent."""

from pathlib import Path

import pytest

from soscope_scverse._files import completed, new_folder


def fill(part: Path, text: str, *, folder: bool) -> None:
    if folder:
        part.mkdir()
    (part / "data" if folder else part).write_text(text)


def content(path: Path) -> str:
    return (path / "data" if path.is_dir() else path).read_text()


@pytest.mark.parametrize("folder", [True, False])
@pytest.mark.parametrize(("replace", "expected"), [(True, "new"), (False, "old")])
def test_what_exists_is_replaced_or_kept(folder, replace, expected, tmp_path):
    path = tmp_path / "a.zarr"
    fill(path, "old", folder=folder)
    with completed(path, replace=replace) as part:
        fill(part, "new", folder=folder)
    assert content(path) == expected
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("replace", [True, False])
@pytest.mark.parametrize("folder", [True, False])
def test_a_new_one_takes_its_name(folder, replace, tmp_path):
    path = tmp_path / "a.zarr"
    with completed(path, replace=replace) as part:
        fill(part, "new", folder=folder)
        assert not path.exists()
    assert content(path) == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_replaced_stays(tmp_path, monkeypatch):
    path = tmp_path / "a.zarr"
    fill(path, "old", folder=True)
    rename, done = Path.rename, []

    def second_fails(self, target):
        done.append(target)
        if len(done) == 2:
            raise OSError("disk full")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", second_fails)
    with pytest.raises(OSError, match="disk full"), completed(path) as part:
        fill(part, "new", folder=True)
    assert content(path) == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_is_replaced_and_not_its_target(tmp_path):
    target, path = tmp_path / "target", tmp_path / "a.zarr"
    fill(target, "old", folder=True)
    path.symlink_to(target)
    with completed(path) as part:
        fill(part, "new", folder=True)
    assert content(path) == "new"
    assert content(target) == "old"


@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_goes_with_the_failure_if_it_is_new(exists, tmp_path):
    path = tmp_path / "model"
    if exists:
        path.mkdir()

    def fails():
        with new_folder(path):
            (path / "half").write_text("")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fails()
    assert path.exists() is exists
