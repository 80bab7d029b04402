"""What the campaign takes for noticed is what a seal tells, and nothing else."""

import pytest

from faults.campaign import noticed
from lmmr1.files import seal, seal_folder, write


@pytest.fixture
def files(tmp_path):
    """A sealed file, a picture sealed with its prompts, a file of a sealed folder, and one that nothing seals."""
    write(tmp_path / "own.json", "{}", sealed=True)
    picture = tmp_path / "images_mgt/0.png"
    write(picture, "picture")
    write(tmp_path / "mgt.jsonl", "{}")
    seal(tmp_path / "mgt.jsonl", [picture])
    write(tmp_path / "final/config.json", "{}")
    seal_folder(tmp_path / "final")
    write(tmp_path / "free/free.json", "{}")
    return tmp_path


@pytest.mark.parametrize("name", ["own.json", "images_mgt/0.png", "final/config.json"])
def test_damage_of_a_sealed_file_is_noticed(files, name):
    assert not noticed(files / name)
    (files / name).write_text("damaged")
    assert noticed(files / name)


def test_damage_that_no_seal_tells_is_not(files):
    (files / "free/free.json").write_text("damaged")
    assert not noticed(files / "free/free.json")
