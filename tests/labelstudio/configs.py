"""Label configs for tests."""

from __future__ import annotations

from backend.labelstudio.label_config import parse_label_config
from backend.labelstudio.tags import LabelConfig


def with_answer(tag: str, labels: tuple[str, ...] = ("Cat", "Dog")) -> LabelConfig:
    """Key points and boxes in front of one answer tag such as ``BrushLabels``, and a status."""
    inner = "".join(f'<Label value="{label}"/>' for label in labels)
    return parse_label_config(
        f"""<View>
          <Image name="img" value="$image"/>
          <{tag} name="answer" toName="img" smart="false">{inner}</{tag}>
          <KeyPointLabels name="kp" toName="img" smart="true">{inner}</KeyPointLabels>
          <RectangleLabels name="rect" toName="img" smart="true">{inner}</RectangleLabels>
          <TextArea name="status" toName="img" maxSubmissions="0"/>
        </View>"""
    )


SEPARATE_LABELS = """<View>
  <Image name="img" value="$image"/>
  <Labels name="labels" toName="img"><Label value="Cat"/><Label value="Dog"/></Labels>
  <{tag} name="answer" toName="img" smart="false"/>
  <KeyPoint name="kp" toName="img" smart="true"/>
  <Rectangle name="rect" toName="img" smart="true"/>
  <TextArea name="status" toName="img" maxSubmissions="0"/>
</View>"""


def with_separate_labels(tag: str) -> LabelConfig:
    """One answer tag without labels, such as ``Brush``, and a separate ``<Labels>``."""
    return parse_label_config(SEPARATE_LABELS.format(tag=tag))


def click(x, y, label="Cat", *, id="p1", **more):
    """A smart key point as Label Studio sends it."""
    return {
        "original_width": 80,
        "original_height": 60,
        "image_rotation": 0,
        "value": {"x": x, "y": y, "width": 0.2, "labels": [label], "keypointlabels": [label]},
        "id": id,
        "from_name": "kp",
        "to_name": "img",
        "type": "keypointlabels",
        "origin": "manual",
        "is_positive": True,
        **more,
    }


def box(x, y, width, height, label="Cat", *, id="b1", rotation=0, **more):
    """A smart rectangle as Label Studio sends it."""
    return {
        "original_width": 80,
        "original_height": 60,
        "image_rotation": 0,
        "value": {
            "x": x,
            "y": y,
            "width": width,
            "height": height,
            "rotation": rotation,
            "rectanglelabels": [label],
        },
        "id": id,
        "from_name": "rect",
        "to_name": "img",
        "type": "rectanglelabels",
        "origin": "manual",
        **more,
    }
