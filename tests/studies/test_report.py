"""The report: one file, nothing from outside, all that was found in it, and nothing broken where pieces are missing."""

import dataclasses
import html.parser
import math
import re
import warnings

import keras
import lively
import made_up
import numpy as np
import pytest

import kwarmup
from kwarmup import PlanWarning
from kwarmup.studies import rows
from kwarmup.studies.effects import EFFECTS
from kwarmup.studies.effects.speed import draw_speed
from kwarmup.studies.report import html as page
from kwarmup.studies.report.code import code
from kwarmup.studies.report.picture import look, svg

VOID = {"meta", "link", "br", "img", "hr", "input", "path", "use", "rect"}
MISSING = "Batch size 512, seed 2: the budget of 180 s was spent."


class Page(html.parser.HTMLParser):
    """What a browser would find: elements with their attributes, the words, and whether all is closed."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.open, self.words, self.faults = [], [], [], []
        self.feed(text)
        self.faults += [f"<{tag}> stays open" for tag in self.open]

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> closes nothing")

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def outside(text):
    """Return whatever would make a browser ask the network."""
    found = re.findall(
        r"https?:[^\s\"'<]*|\bsrc=\S*|@import[^;]*|url\((?!#)[^)]*\)|<(?:script|link|iframe)\b", text
    )
    return found + re.findall(r'href="(?!#)[^"]*', text)


@pytest.fixture(scope="module")
def full():
    return page(lively.study(gain=lively.gain(), missing=(MISSING,)))


def test_nothing_comes_from_outside(full):
    assert outside(full) == []
    assert Page(full).faults == []


@pytest.mark.parametrize(
    "planted",
    [
        '<script>1</script>', '<img src="a.png">', '<link rel="stylesheet">', '<a href="page.html">',
        "<style>@import 'a.css';</style>", "<svg xmlns='http://www.w3.org/2000/svg'>", "fill: url(a.svg#b)",
    ],
)  # fmt: skip
def test_what_comes_from_outside_would_be_found(full, planted):
    assert outside(full + planted)


def test_every_finding_and_every_note_stands_in_it(full):
    words, study = Page(full).text, lively.study(gain=lively.gain())
    for effect in EFFECTS:
        for sentence in (effect.title, effect.finding(study), *effect.notes(study)):
            assert re.sub(r"\s+", " ", sentence) in words, sentence
    assert MISSING in words


def test_every_effect_has_its_picture_with_a_title(full):
    found = Page(full)
    pictures = [one for one in found.all("svg") if one.get("role") == "img"]
    names = [effect.name for effect in EFFECTS if effect.picture]
    assert [one["aria-labelledby"] for one in pictures] == [f"{name}-title" for name in names]
    assert len(names) == 7
    for effect in EFFECTS:
        assert not effect.picture or effect.picture in found.text


def test_no_identifier_comes_twice_and_every_reference_leads_somewhere(full):
    identifiers = [one["id"] for _, one in Page(full).elements if "id" in one]
    assert len(set(identifiers)) == len(identifiers) > 20
    used = re.findall(r'(?:url\(|href=")#([^)"]+)', full)
    assert used and set(used) <= set(identifiers)


def test_pictures_take_letters_and_colours_of_the_page(full):
    drawn = "".join(re.findall(r"<svg.*?</svg>", full, re.DOTALL))
    assert "currentColor" in drawn and "var(--blue, " in drawn and "var(--orange, " in drawn
    assert "DejaVu" not in drawn and "#202124" not in drawn and "#000000" not in drawn
    # Letters stay letters, and are no smaller than the page can show on a telephone.
    sizes = [float(size) for size in re.findall(r"font-size: ([\d.]+)px", drawn)]
    width = max(float(box.split()[2]) for box in re.findall(r'viewBox="([^"]+)"', drawn))
    assert len(sizes) > 60 and min(sizes) * 328 / width > 9.5


def test_light_and_dark_and_a_narrow_page(full):
    assert "prefers-color-scheme: dark" in full and 'name="viewport"' in full
    tables = full.count("<table")
    assert tables == full.count('<div class="wide"') == 4


def test_the_recommendation_stands_on_top_with_its_reasons(full):
    found, study = Page(full), lively.study()
    advice = study.advise()
    for reason in advice.reasons:
        assert reason.choice in found.text and reason.why in found.text
    assert found.text.index(advice.reasons[0].why) < found.text.index("Batch sizes side by side")
    for goal in ("examples", "memory", "quality"):
        assert re.search(rf"{goal}\s+{study.advise(goal).reasons[0].choice}", found.text)


def test_the_code_to_paste_trains_by_the_plan():
    study = lively.study()
    plan = study.recommend(epochs=1)
    text = code(study, plan)
    assert text.startswith("import keras\nfrom kwarmup import Plan, ")
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    x = np.zeros((plan.clock.examples, 2), "float32")
    names = {
        "model": model,
        "x": x,
        "y": x[:, :1],
        "loss": "mse",
        "metrics": [],
        "validation_data": (x[:8], x[:8, :1]),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PlanWarning)
        exec(
            text.replace("validation_data=validation_data", "validation_data=validation_data, verbose=0"),
            names,
        )
    assert names["plan"] == plan
    assert int(model.optimizer.iterations) == plan.clock.steps and isinstance(
        model.optimizer, keras.optimizers.SGD
    )


def test_how_it_was_measured_and_every_training_stand_in_it(full):
    study, words = lively.study(), Page(full).text
    for name in (
        "2026-11-25",
        "x86_64, 2 cores, Linux",
        "keras 3.15.1",
        "small_cnn",
        "12,810",
        "3 at each batch size",
    ):
        assert name in words
    table = rows.trainings(study)
    assert len(table) == 1 + len(study.runs) == 19
    for row in table[1:]:
        assert re.search(r"\s+".join(map(re.escape, filter(None, row))), words), row
    assert sum(row[-1] == "diverged" for row in table) == 1


def test_names_are_escaped():
    bad = "<script>alert('x')</script>&"
    study = lively.study(
        facts={**lively.FACTS, "model": bad, "machine": bad},
        settings=lively.settings(monitor="<b>acc</b>"), missing=(bad,),
    )  # fmt: skip
    text = page(study)
    assert "<script" not in text and "<b>" not in text and outside(text) == []
    assert bad in Page(text).text and Page(text).faults == []


WITHOUT = {
    "throughput": None, "sweep": None, "stable": None, "noise": (), "runs": (), "gain": None, "pilots": (), "facts": {},
}  # fmt: skip


@pytest.mark.parametrize("piece", [*WITHOUT, "everything"])
def test_each_piece_may_be_missing(piece):
    gone = WITHOUT if piece == "everything" else {piece: WITHOUT[piece]}
    study = lively.study(**{"gain": lively.gain(), **gone})
    found = Page(page(study))
    assert found.faults == []
    for effect in EFFECTS:
        assert effect.finding(study) in found.text
    advised = piece not in ("throughput", "sweep", "runs", "everything")
    assert ("No plan can be recommended: expected" in found.text) is not advised


@pytest.mark.parametrize(
    "study",
    [
        made_up.study([made_up.run(s, k, reaches=False) for s in made_up.SIZES for k in range(3)]),
        lively.study(sizes=(32,)),
        lively.study(seeds=1),
        lively.study(runs=[lively.run(s, k, diverged=True) for s in lively.SIZES for k in range(3)]),
        lively.study(
            noise=[n._replace(scale=lively.scale(math.inf, converged=False)) for n in lively.noise()]
        ),
        lively.study(settings=lively.settings(target=0.01)),
        lively.study(settings=lively.settings(target=None)),
        lively.study(throughput=lively.throughput((64, 128), scatter=2.0)),
    ],
    ids=["nowhere", "one size", "one seed", "diverged", "endless", "at the begin", "no target", "wild"],
)
def test_awkward_studies_have_a_page_too(study):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = Page(page(study))
    assert (
        found.faults == []
        and " nan" not in found.text
        and " None" not in found.text
        and " inf " not in found.text
    )


def test_the_file_is_written_whole_or_not_at_all(full, tmp_path, monkeypatch):
    path = tmp_path / "new" / "report.html"
    study = lively.study(gain=lively.gain(), missing=(MISSING,))
    assert study.report(path) == path and path.read_text(encoding="utf-8") == full
    assert [one.name for one in path.parent.iterdir()] == ["report.html"]

    def half(path, *arguments, **named):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    def nothing(path, *arguments):
        raise OSError(28, "No space left on device")

    path.write_text("the report before")
    monkeypatch.setattr("kwarmup.studies.report.html", lambda study: "page")
    # Whether the disk is full while it is written, or what was written cannot take its place.
    for name, fails in (("write_text", half), ("replace", nothing)):
        with monkeypatch.context() as patch:
            patch.setattr(f"pathlib.Path.{name}", fails)
            with pytest.raises(ValueError, match=r"a file that can be written \(No space left on device\)"):
                study.report(path)
        assert path.read_text() == "the report before"
        assert [one.name for one in path.parent.iterdir()] == ["report.html"]


def test_a_path_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("kwarmup.studies.report.html", lambda study: "page")
    (tmp_path / "file").write_text("")
    for path, reason in (
        (tmp_path / "file" / "report.html", "File exists|Not a directory"),
        (tmp_path, "Is a directory"),
    ):
        with pytest.raises(ValueError) as caught:
            made_up.study().report(path)
        first, received, write = str(caught.value).splitlines()
        assert re.fullmatch(rf"`path`: expected a file that can be written \(({reason})\)\.", first)
        assert received == f"Received: {str(path)!r}" and write == 'Write: study.report("report.html")'


def test_the_study_that_was_kept_makes_the_same_page(full, tmp_path):
    study = lively.study(gain=lively.gain(), missing=(MISSING,))
    study.save(tmp_path / "study.json")
    assert page(kwarmup.Study.load(tmp_path / "study.json")) == full


def test_a_picture_keeps_its_own_look_to_itself():
    from matplotlib import rcParams

    before = dict(rcParams)
    with look():
        text = svg(draw_speed(made_up.study()), "some-name", 'A "title" & <more>')
    assert dict(rcParams) == before
    assert text.startswith('<svg viewBox="0 0 ') and "A &quot;title&quot; &amp; &lt;more&gt;</title>" in text


def test_a_target_that_the_untrained_model_meets_does_not_stop_the_advice():
    met = dataclasses.replace(made_up.study().settings, target=0.05)
    assert made_up.study(settings=met).recommend().clock.examples == made_up.EXAMPLES
