"""Two sets of releases → changes; their text, markdown and JSON; secrets stay out of all."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ogen.release import markdown as md
from ogen.release.change import Change, Diff, Hidden, Kind, Origin, Side, fold
from ogen.release.diff import MAX_LINES, NO_NEWLINE, Comparer, diff, unified
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
@@ -1 +0,0 @@
-old
changed /etc/systemd/system/ogen-ollama-gpu0.service
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
    shown = md.markdown(compared([release("a")], [release("a", file("x\n", path))]))
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
def test_an_edited_file_is_told_from_a_pending_one() -> None:
    compare = Comparer(3, Redactor())
    old, new = Side.of(file("mine\n")), Side.of(file("ogen's\n"))
    change = compare(UNIT, old, new, Origin.EDITED)
    assert change is not None
    assert change.origin is Origin.EDITED
    assert compare(UNIT, new, new) is None
    assert compare(UNIT, replace(old, content=None), new).hidden is Hidden.UNREAD  # type: ignore[type-var, union-attr]


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
