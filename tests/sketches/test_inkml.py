"""InkML: what the numbers of a trace mean, by its own context."""

import time

import pytest

from anydiff.sketches.files import read_sketches
from anydiff.sketches.inkml import read_inkml
from anydiff.sketches.sketches import SketchError


def path_of(folder, text, name="a.inkml"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def ink(body, head='<ink xmlns="http://www.w3.org/2003/InkML">'):
    return f"{head}\n{body}\n</ink>\n"


TIMED = """<annotation type="truth">$x$</annotation><definitions><traceFormat>
<channel name="T" units="s"/><channel name="Y"/><channel name="F"/><channel name="X"/>
</traceFormat><trace>1 2 3 4</trace></definitions>"""


def test_inkml(tmp_path):
    plain = read_inkml(
        path_of(tmp_path, ink("<trace>\n1 2,-3.5 4e1,\n.5-6</trace><trace>7 8</trace>"))
    )
    assert [s.tolist() for s in plain[0]] == [[[1, 2], [-3.5, 40], [0.5, -6]], [[7, 8]]]
    assert plain.labels is None and plain.times is None
    air = ink('<trace type="penUp">1 1</trace><trace> </trace><trace>7 8</trace>')
    assert [s.tolist() for s in read_inkml(path_of(tmp_path, air))[0]] == [[[7, 8]]]

    prefixed = '<i:ink xmlns:i="http://www.w3.org/2003/InkML">'
    body = (
        TIMED.replace("<", "<i:").replace("<i:/", "</i:") + "<i:trace>0.5 1 9 2,1 3 9 4</i:trace>"
    )
    timed = read_inkml(path_of(tmp_path, f"{prefixed}{body}</i:ink>"))
    assert timed[0][0].tolist() == [[2, 1], [4, 3]] and timed.times.tolist() == [500, 1000]
    assert list(timed.labels) == ["$x$"]
    up = '<traceFormat><channel name="X"/><channel name="Y" orientation="-ve"/></traceFormat>'
    assert read_inkml(path_of(tmp_path, ink(f"{up}<trace>1 2</trace>")))[0][0].tolist() == [[1, -2]]


def test_a_faulty_inkml_is_refused_soon(tmp_path):
    begin = time.process_time()
    for filling in (800 * " ", 800 * "1", 300_000 * " ", 300_000 * "1 "):
        path = path_of(tmp_path, ink(f"<trace>1 2{filling}x,3 4</trace>"))
        with pytest.raises(SketchError, match=r"line 2: .* holds 'x'") as error:
            read_inkml(path)
        assert len(str(error.value)) < 500
        assert time.process_time() - begin < 1
    lines = "\n".join("1 2," for _ in range(20_000))
    with pytest.raises(SketchError, match="line 20002: '3' holds 1 numbers"):
        read_inkml(path_of(tmp_path, ink(f"<trace>{lines}\n3</trace>")))
    assert time.process_time() - begin < 2


@pytest.mark.parametrize("encoding", ["foo", "shift_jis"])
def test_an_encoding_that_cannot_be_read(tmp_path, encoding):
    text = f'<?xml version="1.0" encoding="{encoding}"?>\n' + ink("<trace>1 2</trace>")
    path = path_of(tmp_path, text, "mine.inkml")
    with pytest.raises(SketchError, match=r"mine\.inkml, line 1: its encoding .*UTF-8"):
        read_sketches(path)


def test_differences_in_inkml(tmp_path):
    # first and second differences, as in section 3.2.1 of the recommendation
    text = ink("""<trace>1125 18432,'23'43,"7"-8,3-5,7 -3,!6 !2</trace>""")
    line = read_inkml(path_of(tmp_path, text))[0][0]
    assert line.tolist() == [
        [1125, 18432],
        [1148, 18475],
        [1178, 18510],
        [1211, 18540],
        [1251, 18567],
        [6, 2],
    ]


@pytest.mark.parametrize(
    "body, message",
    [
        ("<trace>1 2,\n3 x</trace>", "line 3: '3 x' holds 'x'"),
        ("<trace>1 2,\n3 4,\n\n5</trace>", "line 5: '5' holds 1 numbers, .*X Y"),
        ("<trace>1 2,3 4,</trace>", "line 2: '' holds 0 numbers"),
        ("<trace>1 2 3</trace>", "line 2: '1 2 3' holds 3"),
        ("<trace>'1 2</trace>", "line 2: .*comes first"),
        ("<trace>1 1e999</trace>", "line 2: .*not finite"),
        (f"{TIMED}\n<trace>1e308 1 2 3</trace>", "line 5: .*not finite"),  # in milliseconds
        ('<trace continuation="begin">1 2</trace>', "line 2: .*several pieces"),
        ('<traceFormat><channel name="X"/></traceFormat>\n<trace>1</trace>', "line 3: .*X and Y"),
        ("", "there is no trace"),
        ("<trace>", "line 3: not well-formed XML"),
    ],
)
def test_a_faulty_inkml_is_named_by_line(tmp_path, body, message):
    path = path_of(tmp_path, ink(body), "mine.inkml")
    with pytest.raises(SketchError, match=message) as error:
        read_sketches(path)
    assert str(path) in str(error.value)


# contexts --------------------


def channels(*named):
    """A trace format: of each channel its name, and more attributes after a space."""
    made = [name.partition(" ") for name in named]
    return (
        "<traceFormat>"
        + "".join(f'<channel name="{n}" {more}/>' for n, _, more in made)
        + ("</traceFormat>")
    )


def context(name, form, more=""):
    return f'<context xml:id="{name}" {more}>{form}</context>'


XY, YX = channels("X", "Y"), channels("Y", "X")
SOURCE = '<inkSource xml:id="{}">{}</inkSource>'
TRACES = '<trace contextRef="#a">1 2,3 4</trace><trace contextRef="#b">2 1,4 3</trace>'


@pytest.mark.parametrize(
    "body",
    [
        # in its ink source, itself, by reference to the format or the source, by inheritance, nested
        f"{context('a', SOURCE.format('s', XY))}{context('b', SOURCE.format('t', YX))}",
        f"{context('a', XY)}{context('b', YX)}",
        f"{context('b', YX)}{context('a', XY)}",
        f"{context('b', SOURCE.format('s', XY) + YX)}{context('a', '')}",
        XY.replace("Format>", 'Format xml:id="f">', 1)
        + YX.replace("Format>", 'Format xml:id="g">', 1)
        + context("a", "", 'traceFormatRef="#f"')
        + context("b", "", 'traceFormatRef="#g"'),
        SOURCE.format("s", YX) + context("b", "", 'inkSourceRef="#s"') + context("a", XY),
        context("c", YX)
        + context("d", "<brush/>", 'contextRef="#c"')
        + context("b", "", 'contextRef="#d"')
        + context("a", "", 'traceFormatRef="#DefaultTraceFormat"'),
        context("c", YX + context("b", "")) + context("a", XY),
    ],
)
@pytest.mark.parametrize("late", [False, True])
def test_each_trace_is_read_by_its_own_context(tmp_path, body, late):
    definitions = f"<definitions>{body}</definitions>"
    text = TRACES + definitions if late else definitions + TRACES
    strokes = read_inkml(path_of(tmp_path, ink(text)))[0]
    assert [s.tolist() for s in strokes] == [[[1, 2], [3, 4]]] * 2


def test_a_trace_without_a_reference_takes_its_group_s_or_what_stands_before_it(tmp_path):
    defined = f"<definitions>{context('a', XY)}{context('b', YX)}</definitions>"
    groups = (
        '<traceGroup contextRef="#b"><trace>2 1</trace>'
        '<traceGroup><trace>4 3</trace><trace contextRef="#a">5 6</trace></traceGroup>'
        '<traceGroup contextRef="#a"><trace>7 8</trace></traceGroup></traceGroup>'
        "<trace>9 10</trace>"
    )
    strokes = read_inkml(path_of(tmp_path, ink(defined + groups)))[0]
    assert [s[0].tolist() for s in strokes] == [[1, 2], [3, 4], [5, 6], [7, 8], [9, 10]]
    streamed = (
        f"<trace>1 2</trace>{YX}<trace>4 3</trace>{context('c', XY)}<trace>5 6</trace>"
        '<context contextRef="#b"/><trace>8 7</trace>'
        "<annotationXML><context><traceFormat/></context></annotationXML><trace>10 9</trace>"
    )
    strokes = read_inkml(path_of(tmp_path, ink(defined + streamed)))[0]
    assert [s[0].tolist() for s in strokes] == [[1, 2], [3, 4], [5, 6], [7, 8], [9, 10]]


def test_other_channels_are_read_over(tmp_path):
    form = channels("X", 'S type="boolean"', "Y", "F").replace(
        "</traceFormat>",
        '<intermittentChannels><channel name="OTx"/><channel name="B" type="boolean"/>'
        "</intermittentChannels></traceFormat>",
    )
    text = "<trace>1 T 2 7, * F #1F ?, '1 T '-1 ? 3 *, 2T'*8*F</trace>"
    stroke = read_inkml(path_of(tmp_path, ink(form + text)))[0][0]
    assert stroke.tolist() == [[1, 2], [1, 31], [2, 30], [4, 30]]


def test_times_are_milliseconds_from_one_origin(tmp_path):
    def times(unit, traces):
        form = channels("X", "Y", f'T units="{unit}"')
        return read_inkml(path_of(tmp_path, ink(form + traces))).times.tolist()

    one = "<trace>1 2 1000,3 4 2000</trace>"
    assert times("us", one) == [1, 2] and times("ms", one) == [1000, 2000]
    assert times("s", one) == [1e6, 2e6] and times("ns", one) == pytest.approx([1e-3, 2e-3])
    two = one + '<trace timeOffset="2500.5">1 2 0,3 4 100</trace>'
    assert times("ms", two) == [1000, 2000, 2500.5, 2600.5]


def test_coordinates_have_the_unit_of_the_first(tmp_path):
    body = context("a", channels("X", 'Y units="cm"')) + context(
        "b", channels('X units="mm"', 'Y units="in"')
    )
    body += '<trace contextRef="#a">1 2</trace><trace contextRef="#b">10 1</trace>'
    strokes = read_inkml(path_of(tmp_path, ink(f"{body}")))[0]
    assert strokes[0].tolist() == [[1, 2]] and strokes[1][0] == pytest.approx([1, 2.54])


def test_times_of_some_traces_only_are_dropped_with_a_word(tmp_path):
    body = context("a", channels("X", "Y", "T")) + context("b", XY)
    body += '<trace contextRef="#a">1 2 3,1 2 ?</trace><trace contextRef="#a">1 2 3</trace>'
    body += '<trace contextRef="#b">1 2</trace>'
    with pytest.warns(UserWarning, match=r"a\.inkml: 2 of its 3 traces lack times"):
        assert read_inkml(path_of(tmp_path, ink(body))).times is None


@pytest.mark.parametrize(
    "kinds, label",
    [
        (["truth"], "truth"),
        (["label"], "label"),
        (["normalizedLabel"], "normalizedLabel"),
        (["normalizedLabel", "label"], "label"),
        (["label", "truth", "writer"], "truth"),
    ],
)
def test_the_label_is_an_annotation_of_the_whole(tmp_path, kinds, label):
    body = "".join(f'<annotation type="{kind}"> {kind} </annotation>' for kind in kinds)
    part = '<traceGroup><annotation type="truth">part</annotation><trace>1 2</trace></traceGroup>'
    path_of(tmp_path, ink(body + part))
    assert list(read_sketches(tmp_path).labels) == [label]


@pytest.mark.parametrize(
    "body, message",
    [
        ('<trace contextRef="#no">1 2</trace>', "line 2: contextRef='#no': there is no such"),
        ('<trace contextRef="more.inkml#a">1 2</trace>', "line 2: contextRef='more"),
        (
            '<context xml:id="a" traceFormatRef="#a"/><trace>1 2</trace>',
            "line 2: traceFormatRef='#a': there is no such <traceFormat>",
        ),
        (
            '<context xml:id="a" contextRef="#b"/><context xml:id="b" contextRef="#a"/>\n'
            "<trace>1 2</trace>",
            "line 2: contexts refer to each other in a circle",
        ),
        ("<trace>* 2</trace>", "line 2: .*comes first"),
        ("<trace>1 2,3 ?</trace>", "line 2: '3 \\?' has no Y"),
        ("<trace>1 2,3 T</trace>", "line 2: .* holds 'T'"),
        (f"<trace>1 #{'F' * 300}</trace>", "line 2: .* not finite"),
        ('<trace type="indeterminate">1 2</trace>', "line 2: .*type 'indeterminate'"),
        ('<trace timeOffset="soon">1 2</trace>', None),
        (
            channels("X", "Y", "T") + '<trace timeOffset="soon">1 2 3</trace>',
            "line 2: timeOffset='soon' should be milliseconds",
        ),
        (
            channels("X", "Y", 'T units="weeks"') + "\n<trace>1 2 3</trace>",
            "line 3: the channel T has units='weeks', but 'ms' is needed; known are ms, s",
        ),
        (
            channels('X units="cm"', 'Y units="dev"') + "<trace>1 2</trace>",
            "line 2: the channel Y has units='dev', but 'cm'",
        ),
        (
            context("a", "<timestamp/>" + channels("X", "Y", "T"))
            + context("b", "<timestamp/>", 'contextRef="#a"')
            + '<trace contextRef="#a">1 2 3</trace><trace contextRef="#b">1 2 3</trace>',
            "several timestamps",
        ),
    ],
)
def test_a_context_that_cannot_be_right_is_named_by_line(tmp_path, body, message):
    path = path_of(tmp_path, ink(body))
    if message is None:  # of no use without times
        assert len(read_inkml(path)) == 1
        return
    with pytest.raises(SketchError, match=message) as error:
        read_inkml(path)
    assert str(path) in str(error.value)
