"""Where a picture is."""

from __future__ import annotations

import pytest

from backend.labelstudio.media_refs import MissingMedia, media_uri
from backend.labelstudio.tags import ImageTag

S3 = "s3://media/img/we ird &#+%ü.jpg"


@pytest.mark.parametrize(
    ("value", "data", "expected"),
    [
        ("$image", {"image": "/data/upload/5/a.png"}, "/data/upload/5/a.png"),
        ("$image", {"image": S3, "text": "/other.png"}, S3),
        ("$a.b", {"a": {"b": "x"}}, "x"),
        ("$a.b[1].url", {"a": {"b": [{}, {"url": "x"}]}}, "x"),
        ("$a.b", {"a.b": "whole key", "a": {"b": "nested"}}, "whole key"),
        ("$two words", {"two words": "x"}, "x"),
        ("$base/$file", {"base": "s3://b", "file": "x.jpg"}, "s3://b/x.jpg"),
        ("$base/x.jpg", {"base": "s3://b"}, "s3://b/x.jpg"),
        ("https://host/fixed.jpg", {}, "https://host/fixed.jpg"),
        (
            "https://host/$id/$file.name.jpg",
            {"id": 7, "file": {"name": {"jpg": "p.jpg"}}},
            "https://host/7/p.jpg",
        ),
        ("$image", {"$undefined$": "imported.jpg"}, "imported.jpg"),
        ("$image", {"image": " padded.jpg\n"}, "padded.jpg"),
        ("$images", {"images": ["first", "second"]}, "first"),
    ],
)
def test_single_picture(value, data, expected):
    assert media_uri(data, ImageTag("i", value), None) == expected


def test_pages():
    tag = ImageTag("i", value_list="$frames")
    data = {"frames": ["f0", "f1", "f2"]}
    assert [media_uri(data, tag, page) for page in range(3)] == ["f0", "f1", "f2"]
    assert media_uri(data, tag, None) == "f0"
    assert media_uri({"frames": "only"}, tag, 0) == "only"
    assert media_uri({"$undefined$": ["f0", "f1"]}, tag, 1) == "f1"


@pytest.mark.parametrize(
    ("tag", "data", "page", "message"),
    [
        (
            ImageTag("i", "$image"),
            {},
            None,
            r"=i> wants \$image, but the task's data has n",
        ),
        (ImageTag("i", "$image"), {"b": 1, "a": 2}, None, "has a, b"),
        (ImageTag("i", "$image"), {"image": None}, None, "is empty, not an address"),
        (ImageTag("i", "$image"), {"image": ""}, None, "is empty"),
        (ImageTag("i", "$image"), {"image": 5}, None, "is int"),
        (ImageTag("i", "$image"), {"image": {"url": "x"}}, None, "is dict"),
        (ImageTag("i", "$image"), {"image": []}, None, "has 0 pages"),
        (ImageTag("i", "$image"), {"image": [["x"]]}, None, "is list"),
        (ImageTag("i", "$a[9]"), {"a": ["x"]}, None, r"wants \$a\[9\]"),
        (ImageTag("i", "$a.b"), {"a": "text"}, None, r"wants \$a.b"),
        (ImageTag("i", "http://h/$x"), {"x": []}, None, "is not text"),
        (ImageTag("i", None), {"image": "x"}, None, "has no value"),
        (ImageTag("i", "$image"), None, None, "no data"),
        (ImageTag("i", None, "$f"), {"f": ["a", "b"]}, 2, "has 2 pages, there is no page 3"),
        (ImageTag("i", None, "$f"), {"f": ["a"]}, 10**30, "has 1 page"),
        (ImageTag("i", None, "$f"), {"f": ["a", None]}, 1, "is empty"),
        (ImageTag("i", None, "$f"), {"f": "one"}, 1, "is one picture"),
    ],
)
def test_missing_media_says_what_is_missing(tag, data, page, message):
    with pytest.raises(MissingMedia, match=message) as raised:
        media_uri(data, tag, page)
    assert "\n" not in str(raised.value)


def test_the_first_text_of_the_data_is_never_taken_instead():
    with pytest.raises(MissingMedia):
        media_uri({"caption": "https://host/x.jpg"}, ImageTag("i", "$image"), None)
