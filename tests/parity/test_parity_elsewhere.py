"""docs/coming_from.md, row by row: against what each library gave once (always), and gives now (where installed)."""

import json
import re

import numpy as np
import pytest
from elsewhere import NEEDS, PAGE, PROBES, RECORD, STEPS, VALUES, Row, rows, values

import kwarmup as kw

TEXT = PAGE.read_text()
ROWS = rows(TEXT)
RECORDED = json.loads(RECORD.read_text())
CLOCK = kw.Clock(examples=10_000, epochs=10, batch_size=100)
each_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.library} {row.theirs}")


def ours(row: Row) -> kw.Curve:
    return kw.Curve(eval(row.ours, {"kw": kw, "np": np, "clock": CLOCK}), CLOCK)


def check(row: Row, updates: list[int], theirs: list) -> None:
    """Fail unless both are within 1e-6 of the peak of 0.1 at these updates."""
    found = ours(row)(np.array(updates))
    difference = np.abs(found - np.array(theirs, float)) / 0.1
    worst = int(difference.argmax())
    assert difference[worst] < 1e-6, (
        f"`{row.ours}` is {found[worst]:.9g} at update {updates[worst]}; `{row.theirs}` {theirs[worst]:.9g}"
    )


def check_edges(row: Row, theirs: list) -> None:
    for (update, said, here), value in zip(row.edges, theirs, strict=True):
        assert said == (value if isinstance(value, str) else f"{value:.4g}"), (
            f"{row.theirs} at update {update}"
        )
        assert here == f"{float(ours(row)(update)):.4g}", f"{row.ours} at update {update}"


def test_every_row_of_the_page_is_read():
    tables = TEXT[: TEXT.index("## What is not a schedule")]
    lines = [line for line in tables.splitlines() if line.startswith("| `") and "`kwarmup`" not in line]
    headers = [line for line in lines if line.endswith("| kwarmup | where they differ |")]
    assert len(ROWS) == len(lines) - len(headers) > 40
    assert {row.library for row in ROWS} == set(VALUES) == set(NEEDS)
    assert sum(len(row.edges) for row in ROWS) == len(re.findall(r"at update \d", TEXT)) > 10
    assert {library: list(table) for library, table in RECORDED.items()} == {
        library: [row.theirs for row in ROWS if row.library == library] for library in VALUES
    }


@each_row
def test_as_recorded(row):
    theirs = RECORDED[row.library][row.theirs]
    check(row, PROBES, theirs[: len(PROBES)])
    check_edges(row, theirs[len(PROBES) :])


@each_row
def test_one_update_off_would_be_seen(row):
    theirs = RECORDED[row.library][row.theirs][: len(PROBES)]
    with pytest.raises(AssertionError, match="at update"):
        check(row, [update + 1 for update in PROBES], theirs)


def test_another_edge_would_be_seen():
    (row,) = [row for row in ROWS if row.theirs == "StepLR(optimizer, 300)"]
    with pytest.raises(AssertionError, match="at update 1200"):
        check_edges(row._replace(edges=((1200, "0.0001", "0.0001"),)), RECORDED["PyTorch"][row.theirs][-1:])


@pytest.mark.peers
@each_row
def test_live(row, peer):
    for library in NEEDS[row.library]:
        peer(library)
    check(row, list(range(STEPS)), values(row, list(range(STEPS))))
    check_edges(row, values(row, [update for update, _, _ in row.edges]) if row.edges else [])
