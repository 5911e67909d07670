from __future__ import annotations

import errno
import subprocess
import sys

import pytest

from transporter import errors
from transporter.cli import main
from transporter.cli.main import run_command


def failing(monkeypatch, error):
    """Make `job list` fail with an error."""

    def fail(*_):
        raise error

    monkeypatch.setattr("transporter.catalog.Catalog.__init__", fail)


@pytest.mark.parametrize(
    "arguments", [[], ["nonsense"], ["init", "--colour"], ["restore"], ["--log-format", "xml", "job", "list"]]
)
def test_wrong_usage_ends_with_2(arguments, capsys):
    assert run_command(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err


def test_help_and_version_end_with_0(capsys):
    assert run_command(["--help"]) == 0
    assert "restore" in capsys.readouterr().out
    assert run_command(["--version"]) == 0
    assert capsys.readouterr().out.startswith("transporter ")


def test_no_home_is_a_configuration_error(bare):
    done = bare("job", "list")
    assert done.status == 3
    assert done.err.startswith("transporter: there is no home at ")
    assert done.err.count("\n") == 1


def every_error(base=errors.TransporterError):
    yield base
    for kind in base.__subclasses__():
        yield from every_error(kind)


@pytest.mark.parametrize("kind", sorted(set(every_error()), key=lambda kind: kind.__name__))
def test_every_error_ends_with_its_status_and_one_line(kind, node, monkeypatch):
    failing(monkeypatch, kind("it happened", "do this"))
    done = node("job", "list")
    assert done.status == kind.exit_status
    assert done.err == "transporter: it happened (do this)\n"
    done = node.json("job", "list")
    assert done.objects() == [
        {
            "event": "failed",
            "code": kind.code,
            "exit_status": kind.exit_status,
            "what": "it happened",
            "remedy": "do this",
        }
    ]


def test_the_documented_exit_statuses():
    documented = {
        errors.JobFailed: 1,
        errors.UsageError: 2,
        errors.ConfigError: 3,
        errors.CannotConnect: 4,
        errors.RefusedByPeer: 5,
        errors.NoKey: 6,
        errors.DamagedData: 7,
        errors.FinishedWithGaps: 8,
        errors.Interrupted: 130,
    }
    assert {kind: kind.exit_status for kind in documented} == documented


def test_the_error_inside_a_group_is_shown(node, monkeypatch):
    inner = ExceptionGroup("tasks", [ValueError("noise"), errors.LinkLost("the link broke", "look at the network")])
    failing(monkeypatch, ExceptionGroup("more", [inner]))
    done = node("job", "list")
    assert (done.status, done.err) == (1, "transporter: the link broke (look at the network)\n")


def test_a_full_disk_has_a_name(node, monkeypatch):
    failing(monkeypatch, OSError(errno.ENOSPC, "No space left on device"))
    done = node("job", "list")
    assert done.status == 1
    assert "make room" in done.err


def test_a_bug_is_one_line_and_says_how_to_report_it(node, monkeypatch):
    failing(monkeypatch, ZeroDivisionError("oh"))
    done = node("job", "list")
    assert done.status == 1
    assert done.err.count("\n") == 1
    assert "TRANSPORTER_DEBUG=1" in done.err
    monkeypatch.setenv("TRANSPORTER_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        node("job", "list")


def test_ctrl_c_ends_with_130(node, monkeypatch):
    failing(monkeypatch, KeyboardInterrupt())
    done = node("job", "list")
    assert done.status == 130
    assert done.err == "transporter: interrupted (run it again to go on)\n"


def test_the_reader_of_a_pipe_may_leave(node):
    command = [sys.executable, "-m", "transporter", "--home", str(node.path), "check-config"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        program.stdout.close()
        err = program.stderr.read()
    assert program.returncode == 1
    assert b"Traceback" not in err


@pytest.mark.parametrize("module", ["trio", "cryptography", "rich", "OpenSSL", "structlog", "sqlite3.dump"])
def test_what_is_heavy_is_not_loaded_for_a_word_of_help(module):
    code = f"import sys, transporter.cli.main as main; main.make_app([]); sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def names_of(arguments):
    app = main.make_app(arguments)
    names = {command.name or command.callback.__name__ for command in app.registered_commands}
    return names | {group.typer_instance.info.name for group in app.registered_groups}


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help", "run"], ["bakcup"], ["--home", "x"]])
def test_without_a_command_all_are_there(arguments):
    assert names_of(arguments) == {*main.COMMANDS, *main.GROUPS}


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["run", "docs"], {"run"}),
        (["--home", "status", "run", "docs"], {"status", "run"}),
        (["peer", "list", "-h"], {"peer"}),
        (["check-config"], {"check-config"}),
    ],
)
def test_a_command_loads_only_what_it_may_mean(arguments, names):
    assert names_of(arguments) == names


def test_all_commands_are_there():
    names = {command.name or command.callback.__name__ for command in main.make_app([]).registered_commands}
    groups = {group.typer_instance.info.name for group in main.make_app([]).registered_groups}
    assert names == {
        *(
            "init",
            "serve",
            "invite",
            "join",
            "backup",
            "copy",
            "run",
            "restore",
            "verify",
            "points",
            "scrub",
            "prune",
            "drill",
            "retention",
            "transform",
            "search",
            "ls",
            "find",
            "diff",
            "cat",
            "mount",
            "status",
        ),
        "check-config",
    }
    assert groups == {
        *("repository", "point", "password", "keys", "keyset", "kms", "identity", "escrow", "recover"),
        *("operator", "four-eyes", "approval"),
        *("audit", "config", "peer", "job", "throttle"),
    }
