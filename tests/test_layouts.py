"""Which images, kinds, products and masks are found in which layout."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffad_ray.errors import UserError
from diffad_ray.labels.reading import read_dataset
from diffad_ray.labels.tables import read_labels
from diffad_ray.labels.words import is_good_folder, kind_of


def lay_out(root: Path, *files: str) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


def found(location: Path, root: Path | None = None) -> tuple[str, list[tuple[str, str, str | None, str]]]:
    dataset = read_dataset(location)
    start = f"{root or location}/"
    return dataset.layout, [
        (i.uri.removeprefix(start), i.kind, i.mask_uri and i.mask_uri.removeprefix(start), i.product)
        for i in dataset.images
    ]


MVTEC = ("test/good/0.png", "test/hole/0.png", "test/hole/1.png", "ground_truth/hole/0_mask.png", "train/good/0.png")


def test_mvtec_of_a_product_and_of_several(tmp_path: Path) -> None:
    lay_out(tmp_path / "nut", *MVTEC)
    lay_out(tmp_path / "bolt", *MVTEC[:2], "readme.txt")
    layout, images = found(tmp_path / "nut")
    assert layout == "MVTec AD, MPDD"
    assert images == [
        ("test/good/0.png", "good", None, "nut"),
        ("test/hole/0.png", "hole", "ground_truth/hole/0_mask.png", "nut"),
        ("test/hole/1.png", "hole", None, "nut"),
    ]
    _, both = found(tmp_path)
    assert [(uri, product) for uri, _, _, product in both] == [
        ("bolt/test/good/0.png", "bolt"),
        ("bolt/test/hole/0.png", "bolt"),
        *((f"nut/{uri}", "nut") for uri, *_ in images),
    ]


def test_linked_folders_are_looked_into_and_what_is_left_out_is_noted(tmp_path: Path) -> None:
    lay_out(tmp_path / "nut", *MVTEC, "test/.cache/1.png")
    (tmp_path / "nut" / "test" / "hole").rename(tmp_path / "elsewhere")
    for name in ("hole", "stain"):
        (tmp_path / "nut" / "test" / name).symlink_to(tmp_path / "elsewhere")
    _, images = found(tmp_path / "nut")
    assert [uri for uri, *_ in images] == ["test/good/0.png", "test/hole/0.png", "test/hole/1.png"]
    repeated, hidden = read_dataset(tmp_path / "nut").notes
    assert "linked a second time" in repeated
    assert f"{tmp_path}/nut/test/stain" in repeated
    assert f"{tmp_path}/nut/test/.cache" in hidden


def test_btad(tmp_path: Path) -> None:
    lay_out(tmp_path, "01/test/ok/0.bmp", "01/test/ko/0.bmp", "01/ground_truth/ko/0.png", "01/train/ok/1.bmp")
    assert found(tmp_path) == (
        "BTAD",
        [("01/test/ko/0.bmp", "defect", "01/ground_truth/ko/0.png", "01"), ("01/test/ok/0.bmp", "good", None, "01")],
    )


def test_dagm(tmp_path: Path) -> None:
    files = ("Train/1.PNG", "Train/Label/1_label.PNG", "Test/2.PNG", "Test/3.PNG", "Test/Label/3_label.PNG")
    lay_out(tmp_path / "Class1", *files, "Test/Label/Labels.txt")
    layout, images = found(tmp_path / "Class1")
    assert layout == "DAGM 2007"
    assert images == [
        ("Test/2.PNG", "good", None, "Class1"),
        ("Test/3.PNG", "defect", "Test/Label/3_label.PNG", "Class1"),
    ]


def test_names_of_folders_are_words_whatever_their_case(tmp_path: Path) -> None:
    lay_out(tmp_path / "a", "Test/OK/0.png", "Test/NG/0.png", "Ground_Truth/ng/0_mask.png", "Test/label/0.png")
    assert found(tmp_path / "a") == (
        "MVTec AD, MPDD",
        [("Test/NG/0.png", "defect", "Ground_Truth/ng/0_mask.png", "a"), ("Test/OK/0.png", "good", None, "a")],
    )
    lay_out(tmp_path / "b", "test/Good/0.png", "test/scratch/0.png", "test/n.i.O/0.png")
    assert [kind for _, kind, _, _ in found(tmp_path / "b")[1]] == ["good", "defect", "scratch"]
    lay_out(tmp_path / "c", "test/OK/0.png", "test/KO/0.png")
    layout, images = found(tmp_path / "c")
    assert (layout, [kind for _, kind, _, _ in images]) == ("BTAD", ["defect", "good"])
    lay_out(tmp_path / "d", "test/ok/0.png", "test/ng/0.png", "test/ko/0.png")
    layout, images = found(tmp_path / "d")
    assert (layout, [kind for _, kind, _, _ in images]) == ("MVTec AD, MPDD", ["defect", "defect", "good"])


def test_where_nothing_is_good_a_question_is_asked(tmp_path: Path) -> None:
    lay_out(tmp_path / "set", "test/fine/0.png", "test/fine/1.png", "test/NG/0.png")
    asked = r"no good images, only images labelled fine \(2\), defect \(1\): does one of these mean good\?"
    with pytest.raises(UserError, match=asked):
        read_dataset(tmp_path / "set")
    (tmp_path / "labels.csv").write_text("uri,label\n0.png,1\n1.png,2\n")
    with pytest.raises(UserError, match=r"only images labelled defect \(1\), 2 \(1\)"):
        read_dataset(tmp_path / "labels.csv")
    lay_out(tmp_path / "defects", "test/NG/0.png", "test/bad/0.png")
    assert {image.kind for image in read_dataset(tmp_path / "defects").images} == {"defect"}


def test_words() -> None:
    for word in (
        "good",
        "OK",
        "Normal",
        "PASS",
        "passed",
        "i.O.",
        "IO",
        "in Ordnung",
        "0",
        "0.0",
        "False",
        "No_Defect",
    ):
        assert kind_of(word) == "good"
    for word in ("NG", "nok", "n.i.O.", "FAIL", "Failed", "ko", "Bad", "anomaly", "1", "1.0", "TRUE", "rejected"):
        assert kind_of(word) == "defect"
    for word in ("scratch", "Scratch 2", "2", "2.0", "nan", "inf", "goodness"):
        assert kind_of(word) == word
    assert is_good_folder("OK")
    assert not is_good_folder("0")


def test_visa_takes_its_split(tmp_path: Path) -> None:
    normals = [f"candle/Data/Images/Normal/{k}.JPG" for k in range(3)]
    lay_out(tmp_path, *normals, "candle/Data/Images/Anomaly/0.JPG", "candle/Data/Masks/Anomaly/0.png")
    dataset = read_dataset(tmp_path / "candle")
    assert (dataset.layout, len(dataset.images)) == ("VisA", 4)
    assert "trainings" in dataset.notes[0]
    (tmp_path / "split_csv").mkdir()
    rows = [f"candle,{'train' if k else 'test'},normal,{path}," for k, path in enumerate(normals)]
    rows.append("candle,test,anomaly,candle/Data/Images/Anomaly/0.JPG,candle/Data/Masks/Anomaly/0.png")
    (tmp_path / "split_csv" / "1cls.csv").write_text("\n".join(["object,split,label,image,mask", *rows]))
    for location in (tmp_path, tmp_path / "candle"):
        assert found(location, tmp_path) == (
            "VisA",
            [
                ("candle/Data/Images/Anomaly/0.JPG", "defect", "candle/Data/Masks/Anomaly/0.png", "candle"),
                (normals[0], "good", None, "candle"),
            ],
        )
        assert read_dataset(location).notes == []


def test_what_is_no_dataset_is_told_what_is(tmp_path: Path) -> None:
    for place in (tmp_path / "nowhere", lay_out(tmp_path / "photos", "a/0.png"), lay_out(tmp_path / "x", "Test/0.png")):
        with pytest.raises(UserError, match=r"MVTec AD(.|\n)*BTAD(.|\n)*VisA(.|\n)*DAGM 2007(.|\n)*uri and label"):
            read_dataset(place)
    lay_out(tmp_path / "both", "nut/test/good/0.png", "01/test/ok/0.png")
    with pytest.raises(UserError, match="layouts MVTec AD, MPDD and BTAD: evaluate their folders one by one"):
        read_dataset(tmp_path / "both")
    lay_out(tmp_path / "twins", *MVTEC, "test/hole/0.jpg")
    with pytest.raises(UserError, match=r"two images have the mask .*0_mask.png: test/hole/0"):
        read_dataset(tmp_path / "twins")


def test_tables_of_labels(tmp_path: Path) -> None:
    rows = {
        "uri": ["line/007.png", "s3://plant/1.png", "/abs/2.png"],
        "label": ["0", "Scratch", "OK"],
        "mask_uri": [None, "masks/1.png", None],
        "extra": ["1", "2", "3"],
    }
    pq.write_table(pa.table(rows), tmp_path / "labels.parquet")
    text = "uri,label,mask_uri\nline/007.png,0,\ns3://plant/1.png,Scratch,masks/1.png\n/abs/2.png,OK,\n"
    (tmp_path / "labels.csv").write_text(text)
    (tmp_path / "labels.tsv").write_text(text.replace(",", "\t"))
    expected = [
        ("/abs/2.png", "good", None, "labels"),
        ("line/007.png", "good", None, "labels"),
        ("s3://plant/1.png", "Scratch", "masks/1.png", "labels"),
    ]
    for suffix in ("parquet", "csv", "tsv"):
        assert found(tmp_path / f"labels.{suffix}", tmp_path) == ("table of labels", expected)
    (tmp_path / "labels.csv").write_text("uri,label,product\n007.png,true,nut\n")
    (label,) = read_labels(str(tmp_path / "labels.csv"))
    assert (label.uri, label.kind, label.product) == ("007.png", "defect", "nut")
    (tmp_path / "labels.csv").write_bytes('\ufeffuri, label\r\n"a, b.png",ok\r\n  \r\n'.encode())
    (label,) = read_labels(str(tmp_path / "labels.csv"))
    assert (label.uri, label.kind) == ("a, b.png", "good"), "as a spreadsheet writes it"
    (tmp_path / "labels.csv").write_bytes("URI;Label\r\na\\b.png;n.i.O.\r\n;\r\n".encode("utf-16"))
    (label,) = read_labels(str(tmp_path / "labels.csv"))
    assert (label.uri, label.kind) == ("a/b.png", "defect")
    for labels in ([0.0, 1.0], [False, True], [0, 1]):
        pq.write_table(pa.table({"uri": ["0.png", "1.png"], "label": labels}), tmp_path / "labels.parquet")
        assert [label.kind for label in read_labels(str(tmp_path / "labels.parquet"))] == ["good", "defect"]


@pytest.mark.parametrize(
    ("text", "because"),
    [
        ("image,label\na.png,good\n", "has no column uri, only image, label"),
        ("uri,label\na.png,\n", "row 1 of .* has no label"),
        ("uri,label\na.png,good\na.png,bad\n", "lists a.png twice"),
        ("uri,label\n", "has no rows"),
        ('uri,label\n"a.png,good\nb.png', "no table of labels"),
        ("uri,label\na.png,good\n\nb.png,good,mask.png\n", "line 4 has 3 fields, the header 2"),
        ("uri, label,uri\na.png,good,b.png\n", "has the column uri twice"),
        ("\n  \n", "it has no header"),
        ('"uri;label"\n"a.png;good"\n', "has no column uri and no column label, only uri;label"),
        ("", "no table of labels"),
        ("uri,label\nC:\\a.png,good\n", "Windows paths, such as C:"),
    ],
)
def test_tables_that_are_none(tmp_path: Path, text: str, because: str) -> None:
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(UserError, match=because):
        read_labels(str(tmp_path / "labels.csv"))
    with pytest.raises(UserError, match=r"no table of labels: its name must end with one of \.csv, \.tsv, \.parquet"):
        read_labels(str(tmp_path))
    with pytest.raises(UserError, match="there is no table of labels"):
        read_labels(str(tmp_path / "other.csv"))
