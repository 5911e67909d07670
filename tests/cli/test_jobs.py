from __future__ import annotations

import typing
from typing import Annotated

import msgspec
import pytest

from transporter import events
from transporter.daemon.requests import (
    BackupRequest,
    JobOutcome,
    JobRequest,
    PointsRequest,
    RestoreRequest,
    RetentionRequest,
    StatusRequest,
    VerifyRequest,
    request_from_bytes,
    request_to_bytes,
)
from transporter.quantities import Duration
from transporter.retention import KeepPolicy

WHERE = ("--to", "offsite/main", "--encrypt", "source", "--password", "office")
FINISHED = events.JobFinished(
    job="docs",
    operation="backup",
    point="ab" * 16,
    kind="full",
    bytes_read=10**6,
    bytes_sent=10**5,
    files=3,
    seconds=2.0,
)
FAILED = events.JobFailed(job="docs", code="link-lost", exit_status=1, what="the link broke", remedy="look at it")


@pytest.fixture
def hand_over(monkeypatch):
    """Stand in for the daemon: remember requests, publish the events that a test wants."""

    class Stand:
        def __init__(self):
            self.requests = []
            self.events = []
            self.outcome = JobOutcome(exit_status=0)

        def __call__(self, home, request, bus):
            # As it reaches a daemon.
            self.requests.append(request_from_bytes(request_to_bytes(request)))
            for event in self.events:
                bus.publish(event)
            if isinstance(self.outcome, BaseException):
                raise self.outcome
            return self.outcome

    stand = Stand()
    monkeypatch.setattr("transporter.daemon.hand_over.run_job", stand)
    return stand


@pytest.fixture
def docs(paired, tmp_path):
    """A node with a job called docs."""
    paired.add_to_config(
        f'[jobs.docs]\nto = "offsite/main"\nencrypt = "source"\npassword = "office"\npaths = ["{tmp_path}"]\n'
    )
    return paired


def test_backup_defines_a_new_job_and_runs_it(paired, hand_over, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    hand_over.events = [FINISHED]
    done = paired("backup", "--job", "docs", *WHERE, "--exclude", "*.o", "data")
    assert done.status == 0
    assert "is committed" in done.out
    assert hand_over.requests == [BackupRequest(job="docs")]
    assert f'paths = ["{tmp_path}/data"]' in paired.config()
    assert 'exclude = ["*.o"]' in paired.config()
    before = paired.config()
    assert paired("backup", "--job", "docs").status == 0
    assert paired("backup", "--job", "docs", *WHERE, "data").status == 0
    assert paired.config() == before


def test_a_job_does_not_change_its_zone_by_a_slip(docs, hand_over):
    done = docs("backup", "--job", "docs", "--encrypt", "none")
    assert done.status == 2
    assert "--encrypt is source, not none" in done.err
    assert hand_over.requests == []


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("/",), 2, "--to PEER/REPOSITORY is missing"),
        (("--to", "offsite/main"), 2, "PATH is missing"),
        (("--to", "offsite/main", "/"), 2, "needs a password"),
        (("--to", "offsite", "--encrypt", "none", "/"), 2, "does not name a repository"),
        (("--to", "nobody/main", "--encrypt", "none", "/"), 3, "there is no peer 'nobody'"),
        (("--to", "offsite/other", "--encrypt", "none", "/"), 5, "it has offered: main"),
        (("--to", "offsite/main", "--password", "other", "/"), 6, "no password"),
        (("--to", "offsite/main", "--encrypt", "rot13", "/"), 2, "not one of the choices"),
        (("--to", "offsite/main", "--encrypt", "none", "--password", "office", "/"), 2, "nothing is encrypted"),
        ((*WHERE, "/does/not/exist"), 2, "does not exist"),
        ((*WHERE, "--as", "image", "/", "/tmp"), 2, "exactly one image"),
        ((*WHERE, "--compression", "gzip", "/"), 2, "not one of the choices"),
        ((*WHERE, "--network-acceleration", "/"), 2, "does not go together with encrypt = 'source'"),
    ],
)
def test_a_job_that_cannot_work_is_not_defined(paired, hand_over, arguments, status, words):
    before = paired.config()
    done = paired("backup", "--job", "docs", *arguments)
    assert done.status == status
    assert words in done.err
    assert done.err.count("\n") == 1
    assert paired.config() == before
    assert hand_over.requests == []


def test_a_backup_has_excludes_and_no_includes(docs, hand_over):
    """An include that does nothing would copy what somebody wanted to keep at home."""
    done = docs("backup", "--job", "new", *WHERE, "--include", "*.txt", "/")
    assert done.status == 2
    assert "--include" in done.err
    assert "[jobs.new]" not in docs.config()
    docs.add_to_config('include = ["*.txt"]\n')
    done = docs("run", "docs")
    assert done.status == 3
    assert "include" in done.err
    assert hand_over.requests == []


def test_compression_and_acceleration_are_settings_of_the_job(paired, hand_over):
    plain = ("--to", "offsite/main", "--encrypt", "none")
    assert paired("backup", "--job", "a", *plain, "--compression", "zstd", "--network-acceleration", "/").status == 0
    assert 'compression = "zstd"' in paired.config()
    assert "network_acceleration = true" in paired.config()
    assert paired("backup", "--job", "a", "--network-acceleration").status == 0
    assert paired("backup", "--job", "b", *plain, "/").status == 0
    done = paired("backup", "--job", "b", "--network-acceleration")
    assert done.status == 2
    assert "--network-acceleration is off, not on" in done.err
    done = paired("backup", "--job", "b", "--compression", "lz4")
    assert "--compression is adaptive, not lz4" in done.err


def test_stdin_is_a_stream(paired, hand_over):
    assert paired("backup", "--job", "dump", *WHERE, "--stdin-name", "db.sql", "-").status == 0
    assert 'as = "stream"' in paired.config()
    assert 'stdin_name = "db.sql"' in paired.config()


def test_run_needs_a_job(docs, hand_over):
    assert docs("run", "docs").status == 0
    done = docs("run", "dosc")
    assert done.status == 3
    assert "did you mean 'docs'?" in done.err
    assert hand_over.requests == [BackupRequest(job="docs")]


def test_json_is_events_alone_and_the_last_one_tells_the_end(docs, hand_over):
    hand_over.events = [
        events.JobStarted(job="docs", operation="backup"),
        *[events.Progress(job="docs", bytes_read=number) for number in range(100)],
        events.FileSkipped(job="docs", path="a\\xff", reason="permission denied"),
        FINISHED,
    ]
    hand_over.outcome = JobOutcome(exit_status=8)
    done = docs.json("run", "docs")
    assert done.status == 8
    kinds = [row["event"] for row in done.objects()]
    assert kinds == ["job_started", "progress", "file_skipped", "job_finished"]


def test_quiet_prints_the_point_alone(docs, hand_over):
    hand_over.events = [events.JobStarted(job="docs", operation="backup"), FINISHED]
    done = docs.quiet("run", "docs")
    assert (done.out, done.err) == ("ab" * 16 + "\n", "")


@pytest.mark.parametrize("options", [(), ("--json",), ("--quiet",)])
def test_a_failure_is_told_once(docs, hand_over, options):
    hand_over.events = [FAILED]
    hand_over.outcome = JobOutcome(exit_status=1)
    done = docs("run", "docs", options=options)
    assert done.status == 1
    assert done.err == "transporter: the link broke (look at it)\n"


def test_skipped_files_are_listed_even_when_quiet(docs, hand_over):
    hand_over.events = [events.FileSkipped(job="docs", path="/a", reason="permission denied"), FINISHED]
    hand_over.outcome = JobOutcome(exit_status=8)
    assert docs.quiet("run", "docs").err == "transporter: left out: /a: permission denied\n"


def test_ctrl_c_says_that_nothing_is_lost(docs, hand_over):
    hand_over.outcome = KeyboardInterrupt()
    done = docs("run", "docs")
    assert done.status == 130
    assert "run it again: what was sent already is used" in done.err
    assert docs("verify", "docs").err == "transporter: interrupted (run it again)\n"


def test_restore_asks_for_what_was_typed(docs, hand_over, tmp_path):
    done = docs("restore", "docs", "--output", str(tmp_path / "new"), "--include", "*.txt", "--include", "a/**")
    assert done.status == 0
    secret = tmp_path / "secret"
    docs("restore", "docs", "abcd", "--output", str(tmp_path / "new"), "--password-file", str(secret))
    first, second = hand_over.requests
    assert first == RestoreRequest(job="docs", point="latest", output=str(tmp_path / "new"), include=["*.txt", "a/**"])
    assert (second.point, second.password) == ("abcd", b"correct horse")


def test_what_is_for_a_restore_in_place_alone(docs, hand_over, tmp_path):
    for word in ("--delete", "--checksum", "--dry-run"):
        done = docs("restore", "docs", "--output", str(tmp_path / "new"), word)
        assert (done.status, f"{word} is for a restore in place" in done.err) == (2, True)
    assert hand_over.requests == []


def test_lists_of_paths(docs, hand_over, tmp_path):
    listed = tmp_path / "list"
    listed.write_bytes(b"a\nb c\n\xff\n")
    docs("restore", "docs", "--in-place", "--files-from", str(listed))
    listed.write_bytes(b"a\nb\0c\0")
    docs("restore", "docs", "--in-place", "--files-from", str(listed))
    assert [request.paths for request in hand_over.requests] == [[b"a", b"b c", b"\xff"], [b"a\nb", b"c"]]
    assert hand_over.requests[0].output == ""
    listed.write_bytes(b"\n")
    assert docs("restore", "docs", "--in-place", "--files-from", str(listed)).status == 2
    assert docs("restore", "docs", "--in-place", "--files-from", str(tmp_path / "none")).status == 2


def test_restore_does_not_mix_with_what_is_there(docs, hand_over, tmp_path):
    assert docs("restore", "docs", "--output", str(tmp_path)).status == 2
    assert docs("restore", "docs", "--output", str(tmp_path / "secret")).status == 2
    assert docs("restore", "docs").status == 2
    assert hand_over.requests == []
    assert docs("restore", "docs", "--output", str(tmp_path), "--overwrite").status == 0
    (tmp_path / "empty").mkdir()
    assert docs("restore", "docs", "--output", str(tmp_path / "empty")).status == 0


def test_a_job_of_another_home_needs_a_place(paired, hand_over, tmp_path):
    assert paired("restore", "docs", "--output", str(tmp_path / "x")).status == 3
    assert paired("restore", "docs", "--from", "offsite", "--output", str(tmp_path / "x")).status == 2
    assert paired("restore", "docs", "--from", "offsite/main", "--output", str(tmp_path / "x")).status == 0
    assert hand_over.requests[0].source == "offsite/main"


@pytest.mark.parametrize(("text", "share"), [("10%", 0.1), ("0.25", 0.25), ("100%", 1.0)])
def test_verify_samples(docs, hand_over, text, share):
    assert docs("verify", "docs", "--sample", text).status == 0
    assert hand_over.requests == [VerifyRequest(job="docs", sample=share)]


@pytest.mark.parametrize("text", ["0", "101%", "-1", "some", "nan"])
def test_no_samples(docs, hand_over, text):
    assert docs("verify", "docs", "--sample", text).status == 2
    assert hand_over.requests == []


@pytest.mark.parametrize("there", [[], [{"point": "ab" * 16, "job": "other"}]], ids=["nothing", "another job's"])
def test_to_verify_all_points_of_a_job_that_has_none_is_no_proof(docs, hand_over, there):
    hand_over.outcome = JobOutcome(exit_status=0, result={"points": there})
    done = docs("verify", "docs", "all")
    assert done.status == 2 and "job 'docs' has no restore points there" in done.err
    hand_over.outcome = JobOutcome(exit_status=4)
    assert docs("verify", "docs", "all").status == 4, "it was not reached: what it has is not known"


def test_retention_of_a_job_that_has_no_points_there_is_no_success(docs, hand_over):
    row = {"point": "ab" * 16, "committed": "2026-01-01T00:00:00+00:00", "keep": True, "reasons": ["last 1 of 3"]}
    report = {"policy": "last 3", "dry_run": False, "points": [], "kept": 0, "kept_by_provider": 0}
    report |= {"removed": {}, "refused": {}}
    hand_over.outcome = JobOutcome(exit_status=0, result=report)
    done = docs("retention", "nosuch", "--from", "offsite/main", "--keep-last", "3")
    assert done.status == 2 and "job 'nosuch' has no restore points there" in done.err and not done.out
    hand_over.outcome = JobOutcome(exit_status=0, result={**report, "points": [row], "kept": 1})
    assert docs("retention", "docs", "--keep-last", "3").status == 0


@pytest.mark.parametrize(
    ("job", "near"), [("dosc", "did you mean 'docs'?"), ("nojob", "`transporter job list` shows the jobs")]
)
def test_a_copy_of_a_job_that_this_home_does_not_know_names_it(docs, hand_over, job, near):
    docs.add_to_config("[repositories.here]\n")
    done = docs("copy", job, "--to", "here")
    assert done.status == 2
    assert f"there is no job {job!r} in the configuration, and --from is missing" in done.err
    assert near in done.err and "--from PLACE" in done.err
    assert docs("copy", "--all", "--to", "here").err.startswith("transporter: --from is missing")
    assert hand_over.requests == []
    assert docs("copy", job, "--from", "offsite/main", "--to", "here").status == 0


POINT = {
    "point": "ab" * 16,
    "job": "docs",
    "kind": "full",
    "created": "2024-01-02T03:04:05+00:00",
    "zone": "source",
    "encrypted": True,
    "bytes": 5_000_000,
    "parent": "",
}


def test_points(docs, hand_over):
    hand_over.outcome = JobOutcome(exit_status=0, result={"points": [POINT]})
    assert docs.json("points", "--job", "docs").objects() == [POINT]
    assert hand_over.requests == [PointsRequest(job="docs")]
    assert docs.quiet("points").out == f"{'ab' * 16}\n"
    assert "5.00 MB" in docs("points").out


def test_a_point_whose_run_could_not_read_everything_is_marked(docs, hand_over):
    hand_over.outcome = JobOutcome(exit_status=0, result={"points": [{**POINT, "skipped": 2}, POINT]})
    marked, whole = docs("points").out.splitlines()[1:]
    assert "full, without 2 files  " in marked and "without" not in whole


def test_status_with_and_without_a_daemon(docs, hand_over):
    hand_over.outcome = JobOutcome(exit_status=0, result={"daemon": False})
    assert "daemon not running" in docs("status").out
    running = [{"operation": "backup", "job": "docs", "bytes": 10**9, "seconds": 2.0}]
    hand_over.outcome = JobOutcome(exit_status=0, result={"daemon": True, "running": running, "sessions": []})
    done = docs("status")
    assert "running: backup docs 1.00 GB (500 MB/s)" in done.out
    (row,) = docs.json("status").objects()
    assert (row["node"], row["running"], row["jobs"][0]["job"]) == ("office", running, "docs")
    assert hand_over.requests[0] == StatusRequest()


def example(of):
    """Return a value of a field's type that is not its default, where there are several."""
    options = typing.get_args(of)
    if typing.get_origin(of) is Annotated:
        return example(options[0])
    if typing.get_origin(of) is typing.Literal:
        return options[-1]
    if options and typing.get_origin(of) is list:
        return [example(options[0])]
    if typing.get_origin(of) is dict:
        return {example(options[0]): example(options[1])}
    if options:
        return example(next(option for option in options if option is not type(None)))
    if isinstance(of, type) and issubclass(of, msgspec.Struct):
        return of(**{name: example(kind) for name, kind in typing.get_type_hints(of, include_extras=True).items()})
    return {str: "x", bytes: b"x", bool: True, int: 7, float: 7.5}.get(of) or of(7)


@pytest.mark.parametrize("kind", typing.get_args(JobRequest), ids=lambda kind: kind.__name__)
def test_every_request_crosses_the_socket_with_everything_that_it_can_say(kind):
    request = example(kind)
    again = request_from_bytes(request_to_bytes(request))
    assert again == request
    assert [type(value) for value in msgspec.structs.astuple(again)] == [
        type(value) for value in msgspec.structs.astuple(request)
    ]


def test_a_policy_crosses_the_socket_with_its_span():
    request = RetentionRequest(job="docs", policy=KeepPolicy(last=3, within=Duration(86_400)))
    policy = request_from_bytes(request_to_bytes(request)).policy
    assert str(policy) == "last 3, within 1d"


def test_a_request_crosses_the_socket_and_never_shows_its_password():
    request = RestoreRequest(job="docs", point="latest", output="/x", password=b"correct horse")
    assert request_from_bytes(request_to_bytes(request)) == request
    assert "correct" not in repr(request)
    for data in (b"", b"\x80", b"\x81\xa7request\xa4evil", request_to_bytes(request)[:-1]):
        with pytest.raises(ValueError, match="not a request"):
            request_from_bytes(data)


class TestTyping:
    """Who types a password has three tries, a file one: what restore, verify, ls, find, diff and cat share."""

    WRONG = events.JobFailed(job="docs", code="wrong-password", exit_status=6, what="not the one", remedy="try another")

    @pytest.fixture
    def typed(self, monkeypatch, paired, hand_over):
        """``typed("a", "b")``: somebody at a terminal, and a point that `right` opens; return what was not typed."""
        paired.add_to_config(
            '[jobs.docs]\nto = "offsite/main"\nencrypt = "source"\npassword = "office"\npaths = ["/srv"]\n'
        )
        monkeypatch.setattr("transporter.cli.asking.sys.stdin.isatty", lambda: True)

        def run(home, request, bus):
            hand_over.requests.append(request)
            if request.password == b"right":
                return JobOutcome(exit_status=0)
            bus.publish(self.WRONG if request.password else msgspec.structs.replace(self.WRONG, code="no-key"))
            return JobOutcome(exit_status=6)

        monkeypatch.setattr("transporter.daemon.hand_over.run_job", run)

        def type_(*words):
            rest = iter(words)
            monkeypatch.setattr("getpass.getpass", lambda _prompt: next(rest))
            return rest

        return type_

    @pytest.mark.parametrize("command", [("verify", "docs"), ("ls", "docs"), ("cat", "docs", "latest", "a")])
    def test_the_third_try_opens_it(self, typed, paired, hand_over, command):
        typed("no", "nor this", "right")
        assert paired(*command).status == 0
        assert [request.password for request in hand_over.requests] == [b"", b"no", b"nor this", b"right"]

    def test_after_three_it_is_over(self, typed, paired, hand_over):
        rest = typed("no", "nor this", "nor that", "right")
        done = paired("verify", "docs")
        assert done.status == 6 and next(rest) == "right" and done.err.count("not the one") == 4

    def test_another_failure_is_not_asked_about_again(self, typed, paired, hand_over, monkeypatch):
        rest = typed("right", "again")

        def run(home, request, bus):
            bus.publish(msgspec.structs.replace(self.WRONG, code="wrong-key"))
            return JobOutcome(exit_status=6)

        monkeypatch.setattr("transporter.daemon.hand_over.run_job", run)
        assert paired("verify", "docs").status == 6 and next(rest) == "again"

    def test_a_file_says_the_same_again(self, typed, paired, hand_over, tmp_path):
        rest = typed("right")
        (tmp_path / "wrong").write_bytes(b"no")
        assert paired("verify", "docs", "--password-file", str(tmp_path / "wrong")).status == 6
        assert next(rest) == "right" and len(hand_over.requests) == 1

    def test_what_opened_one_point_is_tried_for_the_next(self, typed, paired, hand_over, monkeypatch):
        """Of `verify all`: a hundred points are not a hundred questions, unless they have as many passwords."""
        rest = typed("no", "right", "later", "never asked")
        opens = {"a": b"right", "b": b"right", "c": b"later", "d": b"later"}

        def run(home, request, bus):
            if isinstance(request, PointsRequest):
                return JobOutcome(exit_status=0, result={"points": [{"point": p, "job": "docs"} for p in "dcba"]})
            closed = [point for point in request.points if request.password != opens[point]]
            for _point in closed:
                bus.publish(self.WRONG if request.password else msgspec.structs.replace(self.WRONG, code="no-key"))
            return JobOutcome(exit_status=6 if closed else 0, result={"closed": closed, "worst": 0})

        monkeypatch.setattr("transporter.daemon.hand_over.run_job", run)
        assert paired("verify", "docs", "all").status == 0 and next(rest) == "never asked"

    def test_three_in_vain_are_enough_for_all_points(self, typed, paired, hand_over, monkeypatch):
        rest = typed("no", "nor this", "nor that", "right")

        def run(home, request, bus):
            if isinstance(request, PointsRequest):
                return JobOutcome(exit_status=0, result={"points": [{"point": p, "job": "docs"} for p in "cba"]})
            closed = [point for point in request.points if point != "c"]
            return JobOutcome(exit_status=6, result={"closed": closed, "worst": 0})

        monkeypatch.setattr("transporter.daemon.hand_over.run_job", run)
        assert paired("verify", "docs", "all").status == 6 and next(rest) == "right"
