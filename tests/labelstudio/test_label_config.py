"""Label configs: what is read, and what is said about those that cannot work."""

from __future__ import annotations

import sys
from functools import partial

import pytest
from label_studio_sdk._extensions.label_studio_tools.core.label_config import parse_config

from backend.labelstudio import label_config
from backend.labelstudio.label_config import (
    LabelConfigError,
    RecentConfigs,
    parse_label_config,
)
from backend.labelstudio.tags import Shape, tags_on
from tests.labelstudio import captured
from tests.labelstudio.configs import with_answer, with_separate_labels


def parse(body: str):
    return parse_label_config(f"<View>{body}</View>")


IMAGE = '<Image name="i" value="$i"/>'
STATUS = '<TextArea name="status" toName="{}"/>'


def brush_and_click(image: str = '<Image name="img" value="$image"/>', **labels: str):
    answer = labels.get("answer", '<Label value="Cat"/>')
    prompt = labels.get("prompt", '<Label value="Cat"/>')
    return parse(
        f'{image}<BrushLabels name="brush" toName="img">{answer}</BrushLabels>'
        f'<KeyPointLabels name="kp" toName="img" smart="true">{prompt}</KeyPointLabels>'
        + STATUS.format("img")
    )


def test_preference_of_answers_is_not_document_order():
    tags = ["RectangleLabels", "VectorLabels", "PolygonLabels", "BitmaskLabels", "BrushLabels"]
    config = parse(
        '<Image name="i" value="$i"/>'
        + "".join(f'<{tag} name="{tag}" toName="i" smart="false"/>' for tag in tags)
    )
    assert [control.name for control in config.answers_for("i")] == tags[::-1]


@pytest.mark.parametrize(
    "tag", ["BrushLabels", "BitmaskLabels", "PolygonLabels", "VectorLabels", "RectangleLabels"]
)
def test_each_answer_tag_is_found(tag):
    config = with_answer(tag)
    assert config.problems == ()
    answer = config.find_answer("img", ("Dog",), "kp")
    assert answer.control.result_type == tag.lower()
    assert answer.labels == ("Dog",)


def test_any_names_and_several_images():
    config = parse("""
      <Image name="left eye" value="$a"/><Image name="right" value="$b"/>
      <BrushLabels name="m1" toName="left eye"><Label value="x"/></BrushLabels>
      <PolygonLabels name="m2" toName="right"><Label value="y"/></PolygonLabels>
      <KeyPointLabels name="k1" toName="left eye"><Label value="x"/></KeyPointLabels>
      <KeyPointLabels name="k2" toName="right"><Label value="y"/></KeyPointLabels>
      <TextArea name="t1" toName="left eye"/><TextArea name="t2" toName="right"/>""")
    assert config.problems == ()
    assert config.find_answer("left eye", ("x",), "k1").control.name == "m1"
    assert config.find_answer("right", ("y",), "k2").control.name == "m2"
    assert config.find_answer("right", ("x",), "k1") is None


def test_the_label_chooses_between_answer_tags():
    config = parse("""
      <Image name="i" value="$i"/>
      <BrushLabels name="soft" toName="i"><Label value="Cloud"/></BrushLabels>
      <PolygonLabels name="hard" toName="i"><Label value="House"/></PolygonLabels>
      <KeyPointLabels name="k" toName="i">
        <Label value="Cloud"/><Label value="House"/>
      </KeyPointLabels>
    """)
    assert config.find_answer("i", ("House",), "k").control.name == "hard"
    assert config.find_answer("i", ("Cloud",), "k").control.name == "soft"


def test_a_smart_box_is_an_answer_only_where_nothing_else_is():
    config = with_answer("BrushLabels", ("Cat",))
    assert config.find_answer("img", ("Bird",), "rect") is None
    alone = parse(
        '<Image name="i" value="$i"/><RectangleLabels name="r" toName="i"><Label value="A"/>'
        '</RectangleLabels><KeyPointLabels name="k" toName="i"><Label value="A"/></KeyPointLabels>'
        + STATUS.format("i")
    )
    assert alone.find_answer("i", ("A",), "k").control.name == "r"
    assert alone.problems == ()


def test_separate_labels():
    config = with_separate_labels("Brush")
    assert config.problems == ()
    answer = config.find_answer("img", ("Cat",), "kp")
    assert (answer.control.name, answer.labels_tag.name, answer.labels) == (
        "answer",
        "labels",
        ("Cat",),
    )
    assert config.find_answer("img", ("Bird",), "kp") is None


def test_alias_is_the_name_in_results_and_translates_between_tags():
    config = brush_and_click(
        answer='<Label value="Cat" alias="c"/>', prompt='<Label value="Cat" alias="katze"/>'
    )
    assert config.problems == ()
    assert config.find_answer("img", ("katze",), "kp").labels == ("c",)
    assert config.find_answer("img", ("c",), None).labels == ("c",)
    assert config.find_answer("img", ("katze",), None) is None


def test_labels_from_the_task_are_accepted_as_they_come():
    config = parse(
        '<Image name="i" value="$i"/><BrushLabels name="b" toName="i" value="$labels"/>'
        '<KeyPointLabels name="k" toName="i" value="$labels"/>' + STATUS.format("i")
    )
    assert config.problems == ()
    assert config.find_answer("i", ("anything",), "k").labels == ("anything",)


def test_labels_agree_with_label_studios_own_parser():
    for name in captured.names():
        for body in captured.bodies(captured.load(name)):
            xml = body["label_config"]
            config = parse_label_config(xml)
            for tag, info in parse_config(xml).items():
                holder = config.control(tag) or next(
                    (labels for labels in config.labels_tags if labels.name == tag), None
                )
                if holder is None:
                    assert info["type"] in (
                        "TextArea",
                        "VideoRectangle",
                        "TimelineLabels",
                        "Choices",
                    )
                    continue
                assert [label.name for label in holder.labels] == info["labels"]
                assert [holder.to_name] == info["to_name"]


def test_labels_inside_views_count():
    config = brush_and_click(answer='<View><View><Label value="Cat"/></View></View>')
    assert config.problems == ()


def test_tags_and_attributes_in_any_case():
    config = parse(
        '<image NAME="i" Value="$i"/><brushlabels name="b" toname="i"><label VALUE="A"/>'
        '</brushlabels><KEYPOINTLABELS name="k" TONAME="i" SMART="true"><Label value="A"/>'
        '</KEYPOINTLABELS><textarea NAME="t" TONAME="i"/>'
    )
    assert config.problems == ()


def test_missing_to_name_means_the_only_object():
    config = parse(
        '<Image name="i" value="$i"/><BrushLabels name="b"><Label value="A"/></BrushLabels>'
        '<KeyPointLabels name="k"><Label value="A"/></KeyPointLabels><TextArea name="t"/>'
    )
    assert config.problems == ()
    assert config.status_area("i").name == "t"


def test_smart_is_the_default_and_can_be_switched_off():
    config = with_answer("BrushLabels")
    assert [control.name for control in tags_on(config.prompts, "img")] == ["kp", "rect"]
    plain = parse('<Image name="i" value="$i"/><KeyPointLabels name="k" toName="i"/>')
    assert [control.name for control in tags_on(plain.prompts, "i")] == ["k"]
    off = parse('<Image name="i" value="$i"/><KeyPointLabels name="k" toName="i" smart="false"/>')
    assert tags_on(off.prompts, "i") == ()
    assert off.control("k").shape is Shape.KEYPOINT


def test_sequence():
    [image] = brush_and_click('<Image name="img" valueList="$frames"/>').images
    assert image.is_sequence
    assert image.source == "$frames"


def test_text_areas():
    config = parse(
        '<Image name="i" value="$i"/><TextArea name="region" toName="i" perRegion="true"/>'
        '<TextArea name="note" toName="i"/><TextArea name="page" toName="i" perItem="true"/>'
        '<TextArea name="shown" toName="i" maxSubmissions="0"/>'
    )
    assert [area.name for area in tags_on(config.text_areas, "i")] == ["note", "page", "shown"]
    assert config.status_area("i").name == "shown"
    assert config.text_areas[1].per_item
    assert config.status_area("other") is None


def test_a_text_area_on_a_text_is_about_the_picture_or_video():
    config = parse(
        '<Video name="v" value="$v"/><VideoRectangle name="b" toName="v"/>'
        '<Text name="line" value="-"/><TextArea name="t" toName="line"/>'
        '<TextArea name="u" toName="nothing"/>'
        '<Labels name="l" toName="v"><Label value="A"/></Labels>'
    )
    area = config.status_area("v")
    assert (area.name, area.to_name, area.tied_to) == ("t", "v", "line")
    assert [problem.partition(",")[0] for problem in config.problems] == [
        '<TextArea name=u> has toName="nothing"'
    ]


def test_the_status_stands_where_nobody_types_else_where_somebody_did():
    areas = '<Image name="i" value="$i"/><TextArea name="note" toName="i"/>' + (
        '<TextArea name="command" toName="i"/>'
    )
    assert parse(areas).status_area("i").name == "note"
    assert parse(areas).status_area("i", "command").name == "command"
    shown = parse(areas + '<TextArea name="shown" toName="i" maxSubmissions="0"/>')
    assert shown.status_area("i", "command").name == "shown"


PROBLEMS = {
    "no answer tag": (
        '<Image name="img" value="$i"/><KeyPointLabels name="k" toName="img"><Label value="A"/>'
        "</KeyPointLabels>",
        "no BrushLabels, BitmaskLabels, PolygonLabels, VectorLabels or RectangleLabels for "
        '<Image name=img>: add <BrushLabels name="brush" toName="img"> with your labels',
    ),
    "no smart tool": (
        '<Image name="img" value="$i"/><BrushLabels name="b" toName="img"><Label value="A"/>'
        '</BrushLabels><KeyPointLabels name="k" toName="img" smart="false"><Label value="A"/>'
        "</KeyPointLabels>",
        'no smart tool for <Image name=img>: add <KeyPointLabels name="point" toName="img" '
        'smart="true"> with the labels of <BrushLabels name=b>',
    ),
    "no media": (
        '<Text name="t" value="$t"/>',
        'the config has no <Image>: add <Image name="image" value="$image"/>',
    ),
    "label only in the prompt": (
        '<Image name="i" value="$i"/><BrushLabels name="b" toName="i"><Label value="A"/>'
        '</BrushLabels><KeyPointLabels name="k" toName="i"><Label value="A"/><Label value="B"/>'
        '<Label value="C"/></KeyPointLabels>',
        "label B, C of <KeyPointLabels name=k> is in no answer tag: add it to <BrushLabels name=b>",
    ),
    "label only in the answer": (
        '<Image name="i" value="$i"/><BrushLabels name="b" toName="i"><Label value="A"/>'
        '<Label value="B"/></BrushLabels><KeyPointLabels name="k" toName="i"><Label value="A"/>'
        "</KeyPointLabels>",
        "label B of <BrushLabels name=b> cannot be chosen for a click: add it to "
        "<KeyPointLabels name=k>",
    ),
    "labels without a place": (
        '<Image name="i" value="$i"/><Brush name="b" toName="i"/>'
        '<KeyPointLabels name="k" toName="i"><Label value="A"/></KeyPointLabels>',
        "label A of <KeyPointLabels name=k> has no place in <Brush name=b>: use <BrushLabels> "
        "with that label",
    ),
    "label not in the separate labels": (
        '<Image name="i" value="$i"/><Brush name="b" toName="i"/><Labels name="l" toName="i">'
        '<Label value="B"/></Labels><KeyPointLabels name="k" toName="i"><Label value="A"/>'
        "</KeyPointLabels>",
        "label A of <KeyPointLabels name=k> is not in <Labels name=l>: add it there",
    ),
    "clicks without label": (
        '<Image name="i" value="$i"/><BrushLabels name="b" toName="i"><Label value="A"/>'
        '</BrushLabels><KeyPoint name="k" toName="i"/>',
        "clicks with <KeyPoint name=k> carry no label, so masks come without one: use "
        "<KeyPointLabels> with the labels of <BrushLabels name=b>",
    ),
    "no text area": (
        '<Image name="img" value="$i"/><BrushLabels name="b" toName="img"><Label value="A"/>'
        '</BrushLabels><KeyPointLabels name="k" toName="img"><Label value="A"/></KeyPointLabels>',
        "no <TextArea> for <Image name=img>: annotators are not told why there is no mask, and "
        'cannot type commands; add <TextArea name="status" toName="img"/>',
    ),
    "a text area for each region only": (
        '<Image name="i" value="$i"/><BrushLabels name="b" toName="i"><Label value="A"/>'
        '</BrushLabels><KeyPointLabels name="k" toName="i"><Label value="A"/></KeyPointLabels>'
        '<TextArea name="t" toName="i" perRegion="true"/>',
        "no <TextArea> for <Image name=i>: annotators are not told why there is no mask, and "
        'cannot type commands; add <TextArea name="status" toName="i"/>',
    ),
    "toName of nothing": (
        '<Image name="i" value="$i"/><BrushLabels name="b" toName="image"><Label value="A"/>'
        '</BrushLabels><KeyPointLabels name="k" toName="i"><Label value="A"/></KeyPointLabels>',
        '<BrushLabels name=b> has toName="image", but no <Image> or <Video> has that name: '
        "correct it",
    ),
    "toName of several": (
        '<Image name="i" value="$i"/><Image name="j" value="$j"/>'
        '<BrushLabels name="b" toName="i,j"><Label value="A"/></BrushLabels>',
        '<BrushLabels name=b> has toName="i,j", but the editor ties a tag to one name: write '
        "one tag for each",
    ),
    "image without value": (
        '<Image name="i"/>',
        '<Image name=i> has no value: add value="$image"',
    ),
    "repeater": (
        '<Repeater on="$pages"><Image name="i_{{idx}}" value="$pages[{{idx}}]"/></Repeater>',
        "<Repeater> is not supported: use one <Image> with valueList for several pages",
    ),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_problem_is_named_with_its_fix(name):
    body, expected = PROBLEMS[name]
    problems = parse(body).problems
    assert expected in problems
    assert all("\n" not in problem for problem in problems)


def test_a_picture_to_look_at_is_no_problem():
    config = brush_and_click('<Image name="img" value="$a"/><Image name="reference" value="$b"/>')
    assert config.problems == ()


def test_usable_is_about_answers():
    assert with_answer("BrushLabels").usable
    assert parse(PROBLEMS["no smart tool"][0]).usable  # boxes can still be turned into masks
    assert not parse(PROBLEMS["no answer tag"][0]).usable


BOMB = """<!DOCTYPE lolz [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>
<View><Header value="&b;"/></View>"""


@pytest.mark.parametrize(
    ("xml", "reason"),
    [
        ("", "is empty"),
        ("  \n", "is empty"),
        (None, "is empty"),
        (5, "is empty"),
        ("<View>", "not valid XML"),
        ("not xml", "not valid XML"),
        ("<View>\ud800</View>", "not valid text"),
        ("<View><A x='1' x='2'/></View>", "not valid XML"),
        (BOMB, "<!DOCTYPE>"),
        ('<!DOCTYPE View SYSTEM "file:///etc/passwd"><View/>', "<!DOCTYPE>"),
        ("<View>&undefined;</View>", "not valid XML"),
    ],
)
def test_unreadable_configs_say_why(xml, reason):
    with pytest.raises(LabelConfigError, match=reason) as raised:
        parse_label_config(xml)
    assert "\n" not in str(raised.value)


def test_an_encoding_declaration_does_no_harm():
    xml = '<?xml version="1.0" encoding="latin-1"?><View><Image name="ä" value="$i"/></View>'
    assert parse_label_config(xml).images[0].name == "ä"


class TestBombs:
    """What a config costs grows with its size, and its size has a bound."""

    @staticmethod
    def nested(count):
        inside = [f'<BrushLabels name="n{n}" toName="i"><Label value="{n}"/>' for n in range(count)]
        return IMAGE + "".join(inside) + "</BrushLabels>" * count

    @staticmethod
    def side_by_side(count):
        pairs = [
            f'<BrushLabels name="b{n}" toName="i"><Label value="{n}"/></BrushLabels>'
            f'<KeyPointLabels name="k{n}" toName="i"><Label value="{-n}"/></KeyPointLabels>'
            for n in range(count // 2)
        ]
        return IMAGE + "".join(pairs)

    @staticmethod
    def with_separate_labels(count):
        tags = [
            f'<Brush name="b{n}" toName="i"/><KeyPoint name="k{n}" toName="i"/>'
            f'<Labels name="l{n}" toName="i"><Label value="{n}"/></Labels>'
            for n in range(count // 3)
        ]
        return IMAGE + "".join(tags)

    @staticmethod
    def namesakes(count):
        labels = "".join(f'<Label value="a" alias="{n}"/>' for n in range(count))
        return IMAGE + "".join(
            f'<{tag} name="{tag}" toName="i">{labels}</{tag}>'
            for tag in ("BrushLabels", "KeyPointLabels")
        )

    KINDS = ("nested", "side_by_side", "with_separate_labels", "namesakes")

    @pytest.mark.parametrize("kind", KINDS)
    def test_twice_the_size_takes_twice_the_work(self, kind):
        def both(body):
            config = parse(body)
            config.find_answer("i", ("nothing", "a", "1"), "k1")

        small, large = (steps(partial(both, getattr(self, kind)(count))) for count in (150, 300))
        assert large / small < 2.5

    @pytest.mark.parametrize("kind", KINDS)
    def test_the_largest_are_read(self, kind):
        count = label_config.MAX_TAGS - 3 if kind != "namesakes" else 15_000
        config = parse(getattr(self, kind)(count))
        assert len(config.problems) <= label_config.MAX_PROBLEMS

    @pytest.mark.parametrize("kind", KINDS)
    def test_beyond_there_is_a_sentence(self, kind):
        with pytest.raises(LabelConfigError, match=r"at most \d+ are read"):
            parse(getattr(self, kind)(40_000 if kind == "namesakes" else 2010))

    def test_one_text_is_read_once_and_kept_for_what_it_takes(self, monkeypatch):
        configs = RecentConfigs()
        small = [f"<View><Image name='i{n}' value='$i'/></View>" for n in range(100)]
        kept = [configs.parse(xml) for xml in small]
        assert all(configs.parse(xml) is config for xml, config in zip(small, kept, strict=True))
        large = label_config.MAX_CHARACTERS - 100
        for n in range(4):
            configs.parse(f"<View><Image name='x{n}' value='$i'/>{' ' * large}</View>")
        assert configs.parse(small[0]) is not kept[0]


def steps(call):
    """How many steps of Python ``call`` takes, whatever the machine."""
    taken = 0

    def trace(frame, event, argument):
        nonlocal taken
        frame.f_trace_opcodes = True
        taken += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return taken
