"""README: its first screen, its links, its two commands, and every block of code in it."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import kwarmup

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "README.zh-CN.md", "CONTRIBUTING.md", "CHANGELOG.md")]


def blocks(page: str, language: str) -> list[tuple[int, str]]:
    """Return the code blocks of a language, each with the number of its first line."""
    found = re.finditer(rf"^```{language}\n(.*?)^```$", page, flags=re.M | re.S)
    return [(page[: match.start(1)].count("\n") + 1, match[1]) for match in found]


def first_screen_faults(page: str) -> list[str]:
    """Return what the first 30 lines lack: a sentence, six lines of Python, a picture, the two commands."""
    screen = "\n".join(page.splitlines()[:30]) + "\n"
    code = blocks(screen, "python")
    lines = [line for line in code[0][1].splitlines() if line.strip()] if code else []
    prose = [line for line in screen.splitlines()[1:] if line[:1].isalpha()]
    wanted = {
        "a title": screen.startswith("# "),
        "a sentence": bool(prose) and prose[0].endswith((".", "。")),
        "six lines of Python": len(lines) == 6,
        "a picture": bool(re.search(r"^!\[.+\]\(.+\)$", screen, re.M)),
        "two commands": len(re.findall(r"^python3 -m venv ", screen, re.M)) == 2,
    }
    return [what for what, is_there in wanted.items() if not is_there]


README, CHINESE = ((ROOT / name).read_text() for name in ("README.md", "README.zh-CN.md"))


@pytest.mark.parametrize("page", [README, CHINESE], ids=["English", "Chinese"])
def test_the_first_screen(page):
    assert first_screen_faults(page) == []


@pytest.mark.parametrize(
    ("pattern", "put", "said"),
    [
        (r"^# .*\n", "", "a title"),
        (r"^[A-Za-z][^\n]*\.$", "", "a sentence"),
        (r"^```python\n", "```python\nmore = 1\n", "six lines of Python"),
        (r"^!\[.*\n", "", "a picture"),
        (r"^python3 -m venv [^\n]*pytest -n 3\n", "", "two commands"),
    ],
)
def test_a_fault_of_the_first_screen_is_found(pattern, put, said):
    broken, count = re.subn(pattern, put, README, count=1, flags=re.M)
    assert count == 1
    assert said in first_screen_faults(broken)


def test_a_first_screen_that_is_too_long_is_found():
    assert "two commands" in first_screen_faults("# kwarmup\n" + "\n" * 30 + README)


def dead_links(page: str, folder: Path) -> list[str]:
    targets = [target.split("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", page)]
    return [target for target in targets if target and "://" not in target and not (folder / target).exists()]


@pytest.mark.parametrize("page", [*PAGES, *sorted((ROOT / "docs").glob("*.md"))], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    assert dead_links(page.read_text(), page.parent) == []


def test_a_dead_link_is_found():
    assert dead_links("[a](tests/test_docs.py) ![b](nowhere.png)", ROOT) == ["nowhere.png"]


def differences(page: str, translation: str) -> list[str]:
    """Return where a translation does not say what the page says, as far as a machine can tell."""
    found = []
    for language in ("python", "bash"):
        ours, theirs = ([code for _, code in blocks(text, language)] for text in (page, translation))
        for i, code in enumerate(ours):
            if code not in theirs:
                found.append(f"{language} block {i + 1} is not in the translation:\n{code}")
        if len(theirs) != len(ours):
            found.append(f"{len(ours)} {language} blocks, {len(theirs)} in the translation")
    sections = [re.split(r"^## .*\n", text, flags=re.M) for text in (page, translation)]
    if len(sections[0]) != len(sections[1]):
        found.append(f"{len(sections[0])} sections, {len(sections[1])} in the translation")
    for i, (ours, theirs) in enumerate(zip(*sections, strict=False)):
        words, translated = set(re.findall(r"`([^`\n]+)`", ours)), set(re.findall(r"`([^`\n]+)`", theirs))
        found += [
            f"section {i}: `{word}` stands in one of the two only" for word in sorted(words ^ translated)
        ]
        lengths = [len(re.findall(r"^(?:\||- )", text, re.M)) for text in (ours, theirs)]
        if lengths[0] != lengths[1]:
            found.append(f"section {i}: {lengths[0]} rows and points, {lengths[1]} in the translation")
    return found


def test_the_chinese_readme_says_the_same():
    """Whoever changes one README changes the other: the same blocks, the same names section by section."""
    assert differences(README, CHINESE) == []


@pytest.mark.parametrize(
    ("pattern", "put", "said"),
    [
        (r"epochs=20", "epochs=21", "python block 1 is not"),
        (r"^```bash\n(.*?)^```\n", "", "2 bash blocks, 1 in"),
        (r"^## ", "### ", "sections"),
        (r"`plan\.fit`", "`plan.train`", "`plan.fit` stands in one of the two only"),
        (r"^\| `wsd`[^\n]*\n", "", "section 4: 9 rows and points, 8 in the translation"),
    ],
)
def test_a_translation_that_lags_behind_is_found(pattern, put, said):
    broken, count = re.subn(pattern, put, CHINESE, count=1, flags=re.M | re.S)
    assert count == 1
    assert said in "\n".join(differences(README, broken))


def test_the_two_readmes_lead_to_each_other():
    assert "(README.zh-CN.md)" in README[:200] and "(README.md)" in CHINESE[:200]


def commands(readme: Path) -> subprocess.CompletedProcess[str]:
    """Ask .ci/run which commands it finds in a README."""
    run = ["bash", str(ROOT / ".ci" / "run"), "commands", str(readme)]
    return subprocess.run(run, capture_output=True, text=True, timeout=60)


def test_ci_runs_the_commands_of_the_readme():
    found = commands(ROOT / "README.md")
    assert found.returncode == 0, found.stderr
    assert commands(ROOT / "README.zh-CN.md").stdout == found.stdout
    train, tests = found.stdout.splitlines()
    assert train in README.splitlines() and train.endswith(".venv/bin/kwarmup train")
    assert tests in README.splitlines() and "[test]" in tests and tests.endswith("pytest -n 3")


@pytest.mark.parametrize("lost", ["kwarmup train", "pytest", "python3 -m venv"])
def test_ci_fails_where_the_readme_lacks_a_command(tmp_path, lost):
    kept = [line for line in README.splitlines() if not (line.startswith("python3 -m venv") and lost in line)]
    (tmp_path / "README.md").write_text("\n".join(kept))
    found = commands(tmp_path / "README.md")
    assert found.returncode != 0 and found.stdout == ""
    assert "expected two lines that begin with 'python3 -m venv'" in found.stderr


def test_the_changelog_knows_the_version():
    assert f"## {kwarmup.__version__} " in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.examples
def test_every_python_block_of_the_readme_runs(tmp_path, monkeypatch):
    """In order and in one namespace. What it takes for granted: some data, and a model."""
    import keras

    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)

    def build() -> keras.Model:
        layers = [
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(10, activation="softmax"),
        ]
        return keras.Sequential(layers)

    # Something to learn, for what is measured by training: each class has a pattern of its own.
    y = draw.integers(0, 10, 640)
    x = draw.random((640, 8, 8, 1), dtype="float32") + draw.random((10, 8, 8, 1), dtype="float32")[y]
    space = {"x": x, "y": y, "model": build(), "build": build}
    found = blocks(README, "python")
    assert found
    for line, code in found:
        # Blank lines in front: a traceback then shows README's own line numbers.
        exec(compile("\n" * (line - 1) + code, str(ROOT / "README.md"), "exec"), space)


@pytest.mark.examples
@pytest.mark.parametrize("page", ["index.md", "house.md", "what_batch_size_does.md"])
def test_every_python_block_of_the_site_runs(tmp_path, monkeypatch, page):
    """In order and in one namespace, which begins empty."""
    monkeypatch.chdir(tmp_path)
    # What a page registers would be among the shapes that the errors in other tests name.
    monkeypatch.setattr(kwarmup.shapes, "_NAMED", dict(kwarmup.shapes._NAMED))
    space: dict[str, object] = {}
    found = blocks((ROOT / "docs" / page).read_text(), "python")
    assert found
    for line, code in found:
        exec(compile("\n" * (line - 1) + code, page, "exec"), space)


@pytest.mark.examples
def test_every_kwarmup_command_of_the_readme_runs(tmp_path):
    lines = [line for _, code in blocks(README, "bash") for line in code.splitlines()]
    found = [shlex.split(line, comments=True) for line in lines if line.startswith("kwarmup ")]
    assert found
    for words in found:
        run = subprocess.run(
            [sys.executable, "-m", *words], cwd=tmp_path, capture_output=True, text=True, timeout=300
        )
        assert run.returncode == 0, f"{shlex.join(words)}\n{run.stdout}\n{run.stderr}"
        assert run.stdout


def test_the_floors_of_the_site_are_those_of_the_house():
    from test_floors import FLOORS

    page = (ROOT / "docs" / "house.md").read_text()
    rows = re.findall(r"^\| (\d) \| ([^|]+) \|", page, re.M)
    assert [int(number) for number, _ in rows] == list(range(len(FLOORS)))
    for (_, cell), floor in zip(rows, FLOORS, strict=True):
        named = re.findall(r"`(\w+)`", cell)
        assert named and set(named) <= {entry.rstrip("/") for entry in floor}


def unmeasured(page: str, tables: str) -> list[str]:
    """Return the figures of a page, those with a point or a comma in them, that stand in no table of the other."""
    number = r"(?<![\w.,])(?:\d{1,3}(?:,\d{3})+|\d+\.\d+)(?![\w]|[.,]\d)"
    prose = re.sub(r"```.*?```|`[^`]*`", "", page, flags=re.S)
    measured = set(re.findall(number, tables))
    return [figure for figure in re.findall(number, prose) if figure not in measured]


def test_every_figure_about_the_batch_size_is_one_that_was_measured():
    page, tables = (
        (ROOT / "docs" / f"{name}.md").read_text() for name in ("what_batch_size_does", "benchmarks")
    )
    assert unmeasured(page, tables) == []
    assert unmeasured(page.replace("90.0 %", "91.0 %"), tables) == ["91.0"]


def test_a_figure_that_nobody_measured_is_found():
    assert unmeasured("It was 90.1 % in 3,128 updates, `0.5` apart.", "| 90.0 | 3,128 |") == ["90.1"]
