import json
from pathlib import Path

import pytest

from tests.training.discs import write_discs
from tests.training.experiments.small_loop import write_config
from training.datasets.labelled import read_labelled_folder
from training.experiments.loop_config import BadLoop, read_config
from training.experiments.loop_data import find_data
from training.particles.matching import count_particles


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("image,session\n0.png\n1.png,s1\n", "has no session in the row of 0.png"),
        ("image,session\n0.png,caf\udce9\n", "must be a CSV file"),
        ("image,day\n0.png,s1\n", "a column 'session'"),
    ],
)
def test_groups_that_cannot_be_read_are_refused_with_a_sentence(tmp_path, text, sentence):
    folder = write_discs(tmp_path / "discs", 9)
    (folder / "info.csv").write_bytes(text.encode(errors="surrogateescape"))
    config = write_config(tmp_path, groups={"file": "info.csv", "column": "session"}, rounds=1)
    with pytest.raises(BadLoop, match=sentence):
        find_data(read_config(config))


def test_whole_groups_are_held_back(tmp_path):
    folder = write_discs(tmp_path / "discs", 9)
    rows = ["image,session"] + [f"{n}.png,s{n // 3}" for n in range(9)]
    (folder / "info.csv").write_text("\n".join(rows))
    config = write_config(tmp_path, groups={"file": "info.csv", "column": "session"}, rounds=1)
    data = find_data(read_config(config))
    assert len(data.test) == 3
    assert len({int(name.removesuffix(".png")) // 3 for name in data.test}) == 1
    groups = {"file": "info.csv", "column": "session", "test": ["s1"]}
    data = find_data(read_config(write_config(tmp_path, groups=groups, rounds=1)))
    assert sorted(data.test) == ["3.png", "4.png", "5.png"]
    with pytest.raises(BadLoop, match="has no group s7"):
        find_data(read_config(write_config(tmp_path, groups={**groups, "test": ["s7"]})))


def test_a_shift_to_the_same_folder_is_refused(done):
    config = read_config(done[1])
    with pytest.raises(BadLoop, match="a shift starts elsewhere"):
        find_data(config.model_copy(update={"start": config.data}))


def test_the_folder_s_own_masks_are_counted(done):
    run, config = done
    data = find_data(read_config(config))
    folder = read_labelled_folder(Path(config).parent / "discs")
    item = next(i for i in folder.items if i.name == data.pool[0])
    kept = json.loads((run / "particles.json").read_text())
    assert kept[data.pool[0]] == count_particles(folder.read_mask(item))
