"""The site: its pictures are what its code draws, it builds strictly, and reading it fetches nothing."""

import importlib.util
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pytest
from svg import curve

from kwarmup import recipes

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def hook(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, DOCS / "hooks" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pictures():
    return hook("pictures")


@pytest.mark.parametrize("page", ["gallery", "index", "what_batch_size_does"])
def test_each_picture_has_words_and_a_line(pictures, page):
    markdown = (DOCS / f"{page}.md").read_text()
    found = pictures.pictures(markdown, page)
    assert len(found) == markdown.count("<!-- picture:") > 0
    for _, words, svg in found:
        assert len(words.split()) > 4
        (line,) = re.findall(r'<path d="[^"]+"[^>]*stroke: #1f6fb4[^>]*>', svg)
        height = curve(line)[:, 1]
        assert height.max() - height.min() > 20


def test_the_gallery_has_every_recipe():
    code = "\n".join(re.findall(r"^```python\n(.*?)^```$", (DOCS / "gallery.md").read_text(), re.M | re.S))
    assert [name for name in recipes.__all__ if f"kw.{name}(" not in code] == []


@pytest.mark.parametrize(
    ("markdown", "said"),
    [
        ("# A\n\n```python\nvalue = 3\n```\n\n<!-- picture: three -->\n", "a.md:4: .* not 3"),
        ("# A\n\nwords\n\n<!-- picture: of nothing -->\n", "a.md: a comment"),
    ],
)
def test_a_picture_of_nothing_ends_the_build(pictures, markdown, said):
    with pytest.raises(ValueError, match=said):
        pictures.pictures(markdown, "a")


def test_a_name_that_is_a_module_too_is_looked_up_where_it_is_defined(pictures):
    assert pictures.home("curve") == "kwarmup.verbs.curve"
    assert pictures.home("shapes") == "kwarmup.shapes"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site as CI builds it: any warning ends the build."""
    if importlib.util.find_spec("mkdocs") is None:
        if os.environ.get("KWARMUP_REQUIRE_DOCS"):
            pytest.fail("KWARMUP_REQUIRE_DOCS is set, but mkdocs is not installed")
        pytest.skip("mkdocs is not installed: pip install -e '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    ended = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    return folder


class Fetched(HTMLParser):
    """Collects what a browser loads for a page by itself; links are for the reader to follow."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name in ("src", "srcset", "data", "poster") or (name == "href" and tag == "link"):
                self.found.append(value or "")


def elsewhere(text: str) -> list[str]:
    """Return the addresses on other machines that a page or a style sheet loads from."""
    page = Fetched()
    page.feed(text)
    loaded = [*page.found, *re.findall(r"(?:url\(|@import )[\s\"']*([^\s\"')]+)", text)]
    return [address for address in loaded if re.match(r"(https?:)?//", address)]


def test_reading_it_fetches_nothing(site):
    files = [path for path in site.rglob("*") if path.suffix in (".html", ".css")]
    assert len(files) > 5
    assert {path.name: elsewhere(path.read_text()) for path in files if elsewhere(path.read_text())} == {}


@pytest.mark.parametrize(
    "text",
    [
        '<script src="https://cdn.example/x.js"></script>',
        '<link rel="stylesheet" href="//fonts.example/css">',
        "<style>@font-face { src: url('https://fonts.example/a.woff') }</style>",
    ],
)
def test_what_would_be_fetched_is_found(text):
    assert len(elsewhere(text)) == 1


def test_the_site_has_all_names_and_pictures(site):
    text = (site / "api.html").read_text()
    names = re.findall(r"^::: (kwarmup\.\w+)$", (DOCS / "api.md").read_text(), re.M)
    headings = set(re.findall(r'<h3 id="(kwarmup\.[\w.]+)"', text))
    assert len(headings) >= len(names) > 50
    # Examples of docstrings are code, not quotations.
    assert "<blockquote>" not in text and "&gt;&gt;&gt; " in text
    pictures = re.findall(r'src="(pictures/[^"]+)"', (site / "gallery.html").read_text())
    assert len(pictures) > 10 and all((site / picture).exists() for picture in pictures)


def test_the_site_has_all_examples(site):
    text = (site / "examples.html").read_text()
    programs = sorted((ROOT / "examples").glob("*.py"))
    assert programs and [path.stem for path in programs if f'<h2 id="{path.stem}"' not in text] == []
