"""The pure parts of the page's drawings, in the browser that will run them: lineage, waterfall."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.slow

CHAIN = """
const v = (version, parent, session, stages = []) => ({version, parent, session, stages});
const a = Array.from({length: 10}, (_, i) => v(`a-${i + 1}`, i ? `a-${i}` : "init", "a"));
const chain = [v("init", "", "imported"), ...a];
const branched = [...chain, v("b-1", "a-4", "b"), v("b-2", "b-1", "b", ["production"]), v("c-1", "a-4", "c")];
const shape = (nodes) => nodes.map((n) => [n.id, n.versions.length, n.parent]);
"""

SPAN = """
const span = (span_id, parent_id, name, start_at, end_at, client = "", error = "") => ({span_id, parent_id, name,
  start_at, end_at, error, role: client ? "client" : "coordinator", instance: client || "c1", attributes: {}});
const round = [span("r", "", "round", 0, 10), span("m", "r", "merge", 9, 9.8), span("t1", "r", "train", 1, 4, "quick"),
  span("u1", "r", "upload", 4, 5, "quick"), span("t2", "r", "train", 1, 8, "slow"),
  span("u2", "r", "upload", 8, 9, "slow", "lost"),
  {...span("f2", "u2", "fold update", 8.1, 8.9), role: "combiner", attributes: {"fedbus.client": "slow"}}];
"""


@pytest.fixture
def run(open_page):
    """Run a body of JavaScript beside the page's pure modules."""
    page = open_page("#/events")

    def run_it(body: str) -> object:
        modules = (
            "const [lineage, spans] = await Promise.all([import('/page/js/lineage.js'), import('/page/js/spans.js')]);"
        )
        return page.evaluate(f"async () => {{ {modules} {CHAIN} {SPAN} {body} }}")

    return run_it


def test_a_long_chain_is_one_node_between_its_ends(run):
    """Versions that nobody asks about fold; a stage, a branch, the version looked at, and what was opened do not."""
    assert run("return shape(lineage.collapse(chain))") == [
        ["init", 1, ""],
        ["a-1", 1, "init"],
        ["a-2", 8, "a-1"],
        ["a-10", 1, "a-2"],
    ]
    assert len(run("return lineage.collapse(chain, {open: new Set(['a-2'])})")) == 11
    ids = [node[0] for node in run("return shape(lineage.collapse(branched, {keep: new Set(['a-7'])}))")]
    assert {"a-4", "a-7", "b-2", "c-1"} <= set(ids)
    assert all(parent in {"", *ids} for _, _, parent in run("return shape(lineage.collapse(branched))"))


def test_every_version_has_a_place_of_its_own_and_children_stand_right_of_their_parents(run):
    """No two nodes share a column and lane, a line keeps its lane, branches take others, rings end."""
    drawn = run("return lineage.layout(lineage.collapse(branched, {open: new Set(['a-6'])}))")
    at = {node["id"]: (node["column"], node["lane"]) for node in drawn["nodes"]}
    assert len(set(at.values())) == len(at) == 14
    assert all(at[edge["from"]][0] < at[edge["to"]][0] for edge in drawn["edges"]) and len(drawn["edges"]) == 13
    assert {at[name][1] for name in ("init", "a-1", "a-4", "a-10")} == {0}
    assert {at["b-1"][1], at["c-1"][1]} == {1, 2} and at["b-2"][1] == at["b-1"][1]
    ring = run("return lineage.layout([{id: 'x', parent: 'y', versions: []}, {id: 'y', parent: 'x', versions: []}])")
    assert len(ring["nodes"]) == 2


def test_arrow_keys_lead_along_the_line_and_to_other_lanes(run):
    """Right goes to a child, left to the parent, down to the nearest branch; at the edge they lead nowhere."""
    to = "const {nodes} = lineage.layout(lineage.collapse(branched));"
    to += "const to = (id, key) => lineage.neighbour(nodes, id, key) ?? null;"
    led = run(f"{to} return [to('init', 'ArrowRight'), to('b-1', 'ArrowLeft'), to('a-4', 'ArrowLeft')]")
    assert led == ["a-1", "a-4", "a-3"]
    assert run(f"{to} return to('b-1', 'ArrowUp')").startswith("a-")
    assert run(f"{to} return [to('init', 'ArrowLeft'), to('init', 'ArrowUp'), to('nobody', 'ArrowUp')]") == [None] * 3


def test_the_critical_path_is_what_the_end_of_the_round_waited_for(run):
    """The slow client's training, upload and fold, then the merge; the quick client's work is not on it."""
    assert sorted(run("return [...spans.critical(round)]")) == ["f2", "m", "r", "t2", "u2"]


def test_a_waterfall_gathers_spans_by_client_and_opens_them(run):
    """The server's side first, then clients, the last to end on top; an open group shows its spans, nested."""
    rows = run("return spans.rows(round)")
    assert [row["id"] for row in rows] == ["r", "m", "client slow", "client quick"]
    assert [row["critical"] for row in rows] == [True, True, True, False] and rows[2]["error"] == "lost"
    rows = run("return spans.rows(round, {open: new Set(['client slow']), only: 'slo'})")
    assert [(row["id"], row["depth"]) for row in rows] == [
        ("r", 0),
        ("m", 1),
        ("client slow", 1),
        ("t2", 2),
        ("u2", 2),
        ("f2", 3),
    ]
    assert run("return [spans.extent(round), spans.marks(10, 5), spans.extent([])]") == [
        [0, 10],
        [0, 2, 4, 6, 8, 10],
        [0, 1],
    ]


def test_spans_without_a_parent_or_in_a_ring_are_shown_all_the_same(run):
    """What the broker has dropped or a stranger has mixed up loses no span and hangs nothing."""
    ring = "[...round.slice(1), span('x', 'y', 'odd', 1, 2, 'slow'), span('y', 'x', 'odd', 1, 2, 'slow')]"
    rows = run(f"return spans.rows({ring}, {{open: new Set(['client slow', 'client quick'])}})")
    assert {row["id"] for row in rows if row.get("span")} == {"m", "t1", "u1", "t2", "u2", "f2", "x", "y"}
    assert run(f"return [...spans.critical({ring})].length") > 0
