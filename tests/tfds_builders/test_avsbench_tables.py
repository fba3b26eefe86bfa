"""Published names, colours and tables (avsbench 1, 2, 7) against the builders' reading of them."""

import collections
import csv
import gzip
import pathlib

import numpy as np
import pytest

from tfds_builders import classes
from tfds_builders.avs_ms3 import AvsMs3
from tfds_builders.avs_s4 import AvsS4
from tfds_builders.avss import Avss

META = pathlib.Path(__file__).parents[1] / "data" / "avsbench_meta"


def unpack(name, folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(gzip.decompress((META / f"{name}.gz").read_bytes()))


def kinds(builder):
    problems, warnings = builder.table_findings()
    assert not problems
    return collections.Counter(warning.kind for warning in warnings)


def sizes(builder):
    return {split: len(clips) for split, clips in builder.clips().items()}


def test_class_table_has_the_published_names_and_colours():
    with (META / "avss_colours.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == list(classes.AVSS_CLASSES)
    published = [[int(row[c]) for c in ("red", "green", "blue")] for row in rows]
    np.testing.assert_array_equal(classes.palette(71), published)


def test_colour_table_inverts_the_palette_and_marks_all_other_colours():
    table = classes.colour_table(71)
    red, green, blue = classes.palette(71).astype(int).T
    np.testing.assert_array_equal(table[red * 65536 + green * 256 + blue], np.arange(71))
    assert np.count_nonzero(table != 255) == 71


def test_every_s4_category_has_a_class_of_its_own():
    assert len(set(classes.S4_TO_AVSS.values())) == len(classes.S4_TO_AVSS) == 23
    assert set(classes.S4_TO_AVSS.values()) < set(classes.AVSS_CLASSES)


@pytest.mark.parametrize(
    "mapping",
    [
        [],
        {"background": 1},
        {"a": 0, "b": 1},
        {"a": 1, "b": 3},
        {"a": 1, "b": "2"},
        {"a": 1, "b": 1},
    ],
)
def test_class_table_of_another_form_is_refused(mapping):
    with pytest.raises(ValueError, match=r"expected|classes"):
        classes.class_names_from_json(mapping)


def test_real_s4_table(tmp_path):
    root = tmp_path / "Single-source"
    unpack("s4_meta_data.csv", root)
    (root / "s4_data" / "visual_frames").mkdir(parents=True)
    builder = AvsS4(source=tmp_path, data_dir=tmp_path / "prepared")
    assert sizes(builder) == {"train": 3452, "val": 740, "test": 740}
    assert not kinds(builder)  # counts and checksum are the published ones
    clips = [clip for split in builder.clips().values() for clip in split]
    assert {c.uid for c in clips if c.starts_at_6} == classes.START_6_VIDEOS
    assert builder.names()[1] == sorted(classes.S4_TO_AVSS)
    assert sum(len(clip.labels) for clip in clips) == 10_852
    assert sum(clip.uid.startswith("-") for clip in clips) > 100


def test_real_ms3_table(tmp_path):
    root = tmp_path / "Multi-sources"
    unpack("ms3_meta_data.csv", root)
    (root / "ms3_data" / "visual_frames").mkdir(parents=True)
    builder = AvsMs3(source=tmp_path, data_dir=tmp_path / "prepared")
    assert sizes(builder) == {"train": 296, "val": 64, "test": 64}
    assert not kinds(builder)
    assert sum(len(c.labels) for split in builder.clips().values() for c in split) == 2_120
    assert builder.names() == (("background", "sounding object"), [])


def test_real_avss_table(tmp_path):
    root = tmp_path / "avs_released"
    unpack("metadata.csv", root)
    unpack("label2idx.json", root)
    builder = Avss(source=root, data_dir=tmp_path / "prepared")
    published = {f"{split}_{subset}": n for (subset, split), n in classes.PUBLISHED_COUNTS.items()}
    assert sizes(builder) == published
    assert not kinds(builder)
    clips = [clip for split in builder.clips().values() for clip in split]
    assert sum(len(clip.labels) for clip in clips) == 72_972
    assert sum(len(clip.frames) for clip in clips) == 86_780
    assert len({clip.vid for clip in clips if clip.starts_at_6}) == 14
    assert sum(clip.uid.startswith("-") for clip in clips) == 459
    categories = collections.Counter(t for clip in clips for t in clip.category.split("_"))
    assert categories["h orse"] == 1
    assert categories["off-the-screen"] == 27
    assert categories["background"] == 5
    assert builder.names() == (classes.AVSS_CLASSES, classes.AVSS_CLASSES[1:])
