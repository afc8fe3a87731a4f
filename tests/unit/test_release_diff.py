"""Two sets of releases → changes; their text, markdown and JSON; secrets stay out of all."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ogen.release import markdown as md
from ogen.release.change import Change, Diff, Hidden, HostDiff, Item, Kind, Side, State, fold
from ogen.release.diff import MAX_LINES, NO_NEWLINE, Comparer, Sides, diff, unified
from ogen.release.document import document
from ogen.release.model import File, ModelBuild, Release, Unit
from ogen.release.plaintext import clean, one_line, visible
from ogen.release.redaction import Redactor
from ogen.release.text import stat
from ogen.release.text import unified as text

UNIT = "/etc/systemd/system/ogen-ollama-gpu0.service"
KEYS = "/etc/ogen/current/balancers/api/keys.conf"
CANARY = "s3cret-canary-51f0"


def release(host: str, *files: File, **extra: object) -> Release:
    return Release(host, tuple(sorted(files, key=lambda f: f.path)), **extra)  # type: ignore[arg-type]


def file(content: str | bytes, path: str = UNIT, **extra: object) -> File:
    data = content.encode() if isinstance(content, str) else content
    return File(path, data, **extra)  # type: ignore[arg-type]


def compared(old: list[Release], new: list[Release], **extra: object) -> Diff:
    return diff(old, new, redactor=Redactor([CANARY], key=b"k"), **extra)  # type: ignore[arg-type]


def one(old: File | None, new: File | None) -> Change:
    found = compared([release("a", *([old] if old else []))], [release("a", *([new] if new else []))])
    (change,) = found.hosts[0].changes
    return change


# ------------------------------------------------------------------------------- what differs
def test_equal_releases_differ_in_nothing() -> None:
    same = [release("a", file("x\n")), release("b", file("y\n"))]
    found = compared(same, same)
    assert not found.changed
    assert text(found) == ""
    assert stat(found) == ""
    assert document(found)["changed"] is False
    assert md.markdown(found) == "### ogen: no changes\n"


def test_a_changed_line_is_shown_with_context() -> None:
    old = "".join(f"{n}\n" for n in range(20))
    change = one(file(old), file(old.replace("10\n", "ten\n")))
    assert change.kind is Kind.CHANGED
    assert change.lines == ("@@ -8,7 +8,7 @@", " 7", " 8", " 9", "-10", "+ten", " 11", " 12", " 13")
    found = compared([release("a", file(old))], [release("a", file(old.replace("10\n", "ten\n")))], context=0)
    assert found.hosts[0].changes[0].lines == ("@@ -11 +11 @@", "-10", "+ten")


def test_added_and_removed() -> None:
    assert one(None, file("x\n")).kind is Kind.ADDED
    assert one(file("x\n"), None).kind is Kind.REMOVED
    assert one(file("x\n"), None).lines == ("@@ -1 +0,0 @@", "-x")


@pytest.mark.parametrize("change", [{"mode": 0o755}, {"owner": "ollama"}, {"group": "ollama"}])
def test_a_change_of_access_alone_is_a_change(change: dict[str, object]) -> None:
    found = one(file("x\n"), file("x\n", **change))
    assert found.lines == ()
    assert found.old != found.new
    assert "→" in text(compared([release("a", file("x\n"))], [release("a", file("x\n", **change))]))


def test_a_missing_newline_at_the_end_is_told() -> None:
    assert one(file("x\n"), file("x")).lines == ("@@ -1 +1 @@", "-x", "+x", NO_NEWLINE)


def test_carriage_returns_and_controls_are_visible() -> None:
    lines = one(file("a\n"), file("a\r\n\x1b[2Jb\u202e\u2028c\n")).lines
    assert lines == ("@@ -1 +1,2 @@", "-a", "+a\\x0d", "+\\x1b[2Jb\\u202e\\u2028c")


@given(st.text("ab\n\r\u2028\x0b`", max_size=40), st.text("ab\n\r\u2028\x0b`", max_size=40))
def test_a_unified_diff_holds_both_texts(old: str, new: str) -> None:
    lines = unified(old, new, context=1000)
    for sign, side in (("-", old), ("+", new)):
        kept = [n for n, line in enumerate(lines) if line[:1] in (" ", sign)]
        rebuilt = "".join(lines[n][1:] + ("" if lines[n + 1 : n + 2] == [NO_NEWLINE] else "\n") for n in kept)
        assert old == new or rebuilt == side


def test_binary_and_large_files_are_summarised() -> None:
    assert one(file(b"\0\1"), file(b"\0\2")).hidden is Hidden.BINARY
    assert one(file(b"\xff\xfe"), file("x")).hidden is Hidden.BINARY
    large = one(file("x\n" * (MAX_LINES + 1)), file("y\n"))
    assert large.hidden is Hidden.LARGE
    assert large.lines == ()


def test_models_are_listed_and_a_change_no_file_tells_of_is_told() -> None:
    old = release("a", models=(ModelBuild("ogen/chat:1", "llama3.1:8b", {}),))
    new = release("a", models=(ModelBuild("ogen/chat:2", "llama3.1:8b", {}),))
    shown = text(compared([old], [new]))
    assert "added model ogen/chat:2 from llama3.1:8b" in shown
    assert "removed model ogen/chat:1 from llama3.1:8b" in shown
    unit = Unit("ogen-monitor.timer", "timer", "1")
    quiet = compared([release("a", units=(unit,))], [release("a", units=(replace(unit, enable=False),))])
    assert "changed unit ogen-monitor.timer" in text(quiet)


def test_new_and_leaving_hosts_are_named() -> None:
    found = compared([release("a", file("x\n"))], [release("b", file("x\n"))])
    assert found.changed
    assert found.notes() == (
        ("no longer in the inventory; nothing is changed there", "a"),
        ("new in the inventory", "b"),
    )
    assert "removed" not in text(found)


# ------------------------------------------------------------------------------------ folding
def test_identical_changes_are_folded() -> None:
    names = [f"gpu{n:02}" for n in range(1, 5)] + ["edge"]
    old = [release(n, file("8192\n")) for n in names]
    new = [release(n, file("4096\n" if n != "gpu03" else "2048\n")) for n in names]
    groups = compared(old, new).groups()
    assert [g.on for g in groups] == ["edge, gpu01, gpu02, gpu04", "gpu03"]
    assert text(compared(old, new)).count("-8192") == 2


@pytest.mark.parametrize(
    ("names", "folded"),
    [
        ("gpu01 gpu02 gpu03", "gpu01..gpu03"),
        ("gpu9 gpu10 gpu11", "gpu9..gpu11"),
        ("gpu09 gpu10 gpu11", "gpu09..gpu11"),
        ("gpu1 gpu2", "gpu1, gpu2"),
        ("gpu1 gpu3 gpu4 gpu5 x", "gpu1, gpu3..gpu5, x"),
        ("gpu099 gpu0100 gpu101", "gpu099, gpu0100, gpu101"),
        ("a", "a"),
    ],
)
def test_fold(names: str, folded: str) -> None:
    assert fold(names.split()) == folded


# -------------------------------------------------------------------------------- golden texts
def sample() -> Diff:
    shared = "[Service]\nEnvironment=OLLAMA_CONTEXT_LENGTH={}\nExecStart=/usr/local/bin/ollama serve\n"
    old = [
        release(h, file(shared.format(8192)), file("old\n", "/etc/ogen/current/old.txt"))
        for h in ("gpu1", "gpu2")
    ]
    new = [release(h, file(shared.format(4096))) for h in ("gpu1", "gpu2")]
    secret = [file(f"key {k};\n", KEYS, secret=True, mode=0o640) for k in ("one", "two")]
    return compared([*old, release("edge", secret[0])], [*new, release("edge", secret[1])])


TEXT = """\
=== edge
changed /etc/ogen/current/balancers/api/keys.conf (secret, not shown: <secret:MARK> → <secret:MARK>)

=== gpu1, gpu2
removed /etc/ogen/current/old.txt
--- a/gpu1/etc/ogen/current/old.txt\tbase
+++ /dev/null
@@ -1 +0,0 @@
-old
changed /etc/systemd/system/ogen-ollama-gpu0.service
--- a/gpu1/etc/systemd/system/ogen-ollama-gpu0.service\tbase
+++ b/gpu1/etc/systemd/system/ogen-ollama-gpu0.service\tinventory
@@ -1,3 +1,3 @@
 [Service]
-Environment=OLLAMA_CONTEXT_LENGTH=8192
+Environment=OLLAMA_CONTEXT_LENGTH=4096
 ExecStart=/usr/local/bin/ollama serve

5 files on 3 hosts: 3 changed, 2 removed
"""

STAT = """\
 ~ /etc/ogen/current/balancers/api/keys.conf  secret  (edge)
 - /etc/ogen/current/old.txt  +0 -1  (gpu1, gpu2)
 ~ /etc/systemd/system/ogen-ollama-gpu0.service  +1 -1  (gpu1, gpu2)
5 files on 3 hosts: 3 changed, 2 removed
"""


def test_the_text_as_people_see_it() -> None:
    assert re.sub(r"secret:\w{8}", "secret:MARK", text(sample())) == TEXT
    assert stat(sample()) == STAT


def test_the_same_input_gives_the_same_bytes() -> None:
    assert text(sample()) == text(sample())
    assert json.dumps(document(sample())) == json.dumps(document(sample()))
    assert md.markdown(sample()) == md.markdown(sample())


def test_colours_come_from_the_caller() -> None:
    painted = text(sample(), lambda word, colour: f"<{colour}>{word}")
    assert "<green>+Environment=OLLAMA_CONTEXT_LENGTH=4096" in painted
    assert "<red>-old" in painted
    assert "<cyan>@@" in painted


def test_json_names_hosts_kind_and_lines() -> None:
    shown = document(sample())
    assert [(c["kind"], c["path"], c["hosts"]) for c in shown["changes"]] == [
        ("changed", KEYS, ["edge"]),
        ("removed", "/etc/ogen/current/old.txt", ["gpu1", "gpu2"]),
        ("changed", UNIT, ["gpu1", "gpu2"]),
    ]
    assert shown["changes"][0]["lines"] is None
    assert shown["changes"][0]["hidden"] == "secret"
    assert "-Environment=OLLAMA_CONTEXT_LENGTH=8192" in shown["changes"][2]["lines"]


# ------------------------------------------------------------------------------------ markdown
HOSTILE = "```\n````` </details> @everyone <img src=x onerror=alert(1)>\n</summary>\n[x](javascript:y)\n"


def test_no_content_can_leave_its_fence() -> None:
    shown = md.markdown(compared([release("a")], [release("a", file(HOSTILE))]))
    fence = re.search(r"^(`{3,})diff$", shown, re.MULTILINE)
    assert fence is not None
    inside = shown[fence.end() :].split("\n" + fence[1] + "\n")
    assert len(inside) == 2
    assert "</details> @everyone" in inside[0]
    assert inside[1] == "\n</details>\n"
    assert not any(run in inside[0] for run in [fence[1]])


def test_no_path_can_leave_its_heading() -> None:
    path = "/etc/ogen/current/</summary><script>@you|`x\n# y"
    whole = md.markdown(compared([release("a")], [release("a", file("x\n", path))]))
    shown = re.sub(r"(?s)^(`{3,})diff\n.*?^\1$", "", whole, flags=re.MULTILINE)
    assert shown != whole
    assert "<script>" not in shown
    assert "@you" not in shown
    assert "\n# y" not in shown


def test_a_comment_is_never_too_long_and_says_what_it_leaves_out() -> None:
    old = [release(f"h{n}x") for n in range(900)]
    new = [
        release(f"h{n}x", file(f"{n}-{i}\n" * 40, f"/etc/ogen/current/{i}"))
        for n in range(900)
        for i in [n % 7]
    ]
    shown = md.markdown(compared(old, new))
    assert len(shown) <= md.LIMIT
    assert re.search(r"\d+ more changes do not fit", shown)
    assert shown.count("<details>") == shown.count("</details>") > 5


def test_a_change_too_long_for_a_comment_is_still_named() -> None:
    shown = md.markdown(
        compared([release("a")], [release("a", file("x" * 90 + "\n" + "y\n" * 3000))]), limit=2000
    )
    assert len(shown) <= 2000
    assert f"{UNIT}</code> on <code>a</code> (+3001 −0, too long to show here)" in shown


# ------------------------------------------------------------------------------------- secrets
def everything(found: Diff) -> str:
    return "\n".join([text(found), stat(found), json.dumps(document(found)), md.markdown(found)])


def test_a_secret_file_shows_that_it_changed_and_never_its_text() -> None:
    old = file(f"key {CANARY};\n", KEYS, secret=True)
    new = file(f"key {CANARY}2;\n", KEYS, secret=True)
    shown = everything(compared([release("a", old)], [release("a", new)]))
    assert CANARY not in shown
    assert old.sha256[:12] not in shown  # a guess could be tried against a plain hash
    assert len(set(re.findall(r"<secret:\w{8}>", shown))) == 2


def test_a_file_that_stops_being_secret_is_still_hidden() -> None:
    old = file(f"key {CANARY};\n", KEYS, secret=True)
    shown = everything(compared([release("a", old)], [release("a", file("open\n", KEYS))]))
    assert CANARY not in shown
    assert "open" not in shown.replace("openly", "")


def test_a_known_secret_is_hidden_in_any_file() -> None:
    shown = everything(compared([release("a")], [release("a", file(f"Authorization: {CANARY}\n"))]))
    assert CANARY not in shown
    assert "Authorization: <secret:" in shown


def test_the_check_for_secrets_can_fail() -> None:
    leaky = diff([release("a")], [release("a", file(f"key {CANARY};\n", KEYS))], redactor=Redactor())
    assert CANARY in everything(leaky)


ESCAPED = r"s3cret\-canary\-51f0"


@pytest.mark.parametrize(
    "form",
    ["{}", "czNjcmV0LWNhbmFyeS01MWYw", "x={}&y", '"{}"', "a{}b", ESCAPED, ESCAPED.replace("\\", "\\\\")],
)
def test_encoded_secrets_are_found(form: str) -> None:
    told = Redactor([CANARY], key=b"k")(form.format(CANARY))
    assert CANARY not in told
    assert "czNjcmV0" not in told
    assert "51f0" not in told
    assert "<secret:" in told


def test_the_key_in_a_file_of_keys_is_found() -> None:
    assert CANARY not in Redactor([f"alice: {CANARY}"], key=b"k")(f'map "~^{CANARY}$" alice;')


def test_parts_of_a_secret_of_several_lines_are_found() -> None:
    redact = Redactor([f"alice: {CANARY}\nbob: hunter2hunter2\n"], key=b"k")
    assert "hunter2" not in redact("bad key hunter2hunter2 of bob")
    assert CANARY not in redact(f"key={CANARY}")


def test_a_short_secret_hides_words_and_not_letters() -> None:
    redact = Redactor(["ab"], key=b"k")
    assert redact("cable ab") == f"cable {redact.mark('ab')}"
    assert Redactor(["", " \n"])("text") == "text"


def test_marks_are_the_same_within_a_run_only() -> None:
    first, second = Redactor(), Redactor()
    assert first.mark("x") == first.mark(b"x") != second.mark("x")


# --------------------------------------------------------------------------- edited on the host
def three(state: State, base: str | None, mine: str | None, theirs: str | None, **extra: object) -> Change:
    sides = [Side.of(None if text is None else file(text, **extra)) for text in (base, mine, theirs)]
    return Comparer(3, Redactor(key=b"k")).three_way(UNIT, state, Sides(*sides))


def shown(change: Change) -> str:
    return text(Diff((HostDiff("gpu1", (change,)),)))


def test_an_edit_is_what_apply_puts_back() -> None:
    change = three(State.EDITED, "ogen's\n", "ogen's\n", "theirs\n")
    assert (change.kind, change.lines, change.edit) == (
        Kind.CHANGED,
        ("@@ -1 +1 @@", "-theirs", "+ogen's"),
        (),
    )
    assert f"--- a/gpu1{UNIT}\ton the host\n+++ b/gpu1{UNIT}\tinventory\n" in shown(change)


def test_a_conflict_shows_both_diffs_from_what_was_there_before() -> None:
    change = three(State.CONFLICT, "1\n", "2\n", "3\n")
    assert (change.edit, change.lines) == (("@@ -1 +1 @@", "-1", "+3"), ("@@ -1 +1 @@", "-1", "+2"))
    assert shown(change).splitlines()[1:10] == [
        f"changed {UNIT} (edited on the host, and not yet applied; apply overwrites the edit, "
        "kept under /etc/ogen/edited)",
        f"--- a/gpu1{UNIT}\tin force",
        f"+++ b/gpu1{UNIT}\ton the host",
        "@@ -1 +1 @@",
        "-1",
        "+3",
        f"--- a/gpu1{UNIT}\tin force",
        f"+++ b/gpu1{UNIT}\tinventory",
        "@@ -1 +1 @@",
    ]


def test_a_conflict_whose_first_text_is_lost_shows_what_apply_does() -> None:
    sides = [Side.of(file(text)) for text in ("1\n", "2\n", "3\n")]
    lost = replace(sides[0], content=None)  # type: ignore[type-var]
    change = Comparer(3, Redactor()).three_way(UNIT, State.CONFLICT, Sides(lost, *sides[1:]))
    assert (change.edit, change.lines) == ((), ("@@ -1 +1 @@", "-3", "+2"))


def test_removed_and_edited_shows_the_edit_and_what_goes() -> None:
    change = three(State.REMOVED_EDITED, "1\n", None, "2\n")
    assert change.kind is Kind.REMOVED
    assert (change.edit, change.lines) == (("@@ -1 +1 @@", "-1", "+2"), ("@@ -1 +0,0 @@", "-2"))
    assert "+++ /dev/null" in shown(change)


def test_the_same_edit_as_wanted_has_nothing_to_show_but_its_name() -> None:
    assert three(State.CONVERGED, "1\n", "2\n", "2\n").lines == ()
    gone = three(State.CONVERGED, "1\n", None, None)
    assert (gone.kind, gone.lines) == (Kind.REMOVED, ())
    assert "edited on the host to what the inventory wants" in shown(gone)


def test_a_foreign_drop_in_is_shown_as_what_stays() -> None:
    change = three(State.FOREIGN, None, None, "[Service]\nNice=5\n")
    assert change.kind is Kind.ADDED
    assert f"--- /dev/null\n+++ b/gpu1{UNIT}\ton the host\n@@ -0,0 +1,2 @@" in shown(change)
    assert "apply leaves it" in shown(change)


def test_a_secret_that_was_edited_is_changed_and_no_more() -> None:
    change = three(State.CONFLICT, "a " + CANARY, "b " + CANARY, "c " + CANARY, secret=True)
    assert (change.hidden, change.lines, change.edit) == (Hidden.SECRET, (), ())
    told = shown(change) + json.dumps(document(Diff((HostDiff("gpu1", (change,)),))))
    assert CANARY not in told
    assert len(set(re.findall(r"<secret:\w{8}>", told))) == 2


@pytest.mark.parametrize(
    "line",
    [
        f"Environment=HF_TOKEN={CANARY}",
        f'Environment="OPENAI_API_KEY={CANARY}"',
        f'{{"password": "{CANARY}"}}',
        f'proxy_set_header Authorization "Bearer {CANARY}";',
    ],
)
def test_what_looks_like_a_secret_in_an_edit_is_not_shown(line: str) -> None:
    """Nobody declared it: it was typed on the host."""
    edits = [
        three(State.EDITED, "x\n", "x\n", f"x\n{line}\n"),
        three(State.CONFLICT, "x\n", "y\n", f"x\n{line}\n"),
        three(State.FOREIGN, None, None, f"{line}\n"),
        three(State.REMOVED_EDITED, "x\n", None, f"{line}\n"),
    ]
    for change in edits:
        assert "<secret:" in shown(change)
        assert CANARY not in shown(change)
    ours = three(State.PENDING, f"{line}\n", "x\n", f"{line}\n")
    assert CANARY in shown(ours)  # ogen's own text; its secrets are known by value


def test_only_what_happened_on_hosts() -> None:
    changes = tuple(replace(three(state, "1", "2", "3"), path=f"/{state.value}") for state in State)
    items = (Item("restart", "a", Kind.CHANGED), Item("restart", "b", Kind.CHANGED, "masked", drift=True))
    found = Diff((HostDiff("a", changes, items, "new"), HostDiff("b", changes[:1]))).drift()
    (host,) = found.hosts
    assert host.host == "a"
    assert [c.path for c in host.changes] == [f"/{s.value}" for s in State if s.is_drift]
    assert [i.name for i in host.items] == ["b"]


# ------------------------------------------------------------------------------ tools read it
TEXTS = st.lists(st.sampled_from(["a", "b", "-- x", "++ y", "@@ z", ""]), max_size=8).map("\n".join)


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=3), st.sampled_from([0, 3]))
@settings(max_examples=25, deadline=None)
def test_git_apply_takes_it_for_what_render_writes(files: list[tuple[str, str]], context: int) -> None:
    """With its headings: `ogen diff --base X | git apply` in a rendered folder; `patch -p1` does too."""

    def release_of(side: int) -> Release:
        found = [file(pair[side], f"/etc/ogen/current/{n}") for n, pair in enumerate(files) if pair[side]]
        return release("gpu1", *found)

    found = text(compared([release_of(0)], [release_of(1)], context=context))
    with tempfile.TemporaryDirectory() as folder:
        for one in release_of(0).files:
            place = Path(folder, "gpu1" + one.path)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(one.content)
        apply = ["git", "-C", folder, "apply", "-p1", "--unidiff-zero", "--whitespace=nowarn", "-"]
        done = subprocess.run(apply, input=found.encode(), capture_output=True, check=False)
        there = {
            f"/{p.relative_to(folder)}".removeprefix("/gpu1"): p
            for p in Path(folder).rglob("*")
            if p.is_file()
        }
        assert done.returncode == 0 or not found, done.stdout + done.stderr
        assert {k: p.read_bytes() for k, p in there.items()} == {
            f.path: f.content for f in release_of(1).files
        }


# ------------------------------------------------------------------------------------ plaintext
@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07x", "x"),
        ("a\x00b\x9bc\x7f", "a\\x00b\\x9bc\\x7f"),
        ("\u202eabc\u2066", "\\u202eabc\\u2066"),
        ("tab\tand\nline\r\n", "tab\tand\nline\n"),
        ("over\rwritten", "over\\x0dwritten"),
        ("naïve – 漢字 ✓", "naïve – 漢字 ✓"),
    ],
)
def test_clean(given: str, shown: str) -> None:
    assert clean(given) == shown


@given(st.text())
def test_cleaned_text_steers_nothing(text: str) -> None:
    for told in (clean(text), visible(text)):
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]", told)
        told.encode("utf-8")
    assert "\n" not in one_line(text)
