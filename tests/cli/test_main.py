"""The table of verbs, exit codes and what becomes of errors."""

import errno
import os
import subprocess
import sys
import warnings

import pytest

import crossdistill
from crossdistill import cli
from crossdistill.cli import VERBS, main
from crossdistill.errors import UserCaution, UserError


def raise_from_verb(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def run(arguments: list[str]) -> None:
        raise error

    monkeypatch.setattr("crossdistill.cli.methods.run", run)


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"]])
def test_overview_names_every_verb(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 0
    out = capsys.readouterr().out
    for verb, (_, line) in VERBS.items():
        assert f"  {verb} " in out
        assert line in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"{crossdistill.__version__}\n"


def test_unknown_verb_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["distil", "--epochs", "3"]) == 2
    assert capsys.readouterr().err == (
        "crossdistill: unknown verb 'distil'; did you mean 'distill'? (see: crossdistill --help)\n"
    )


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_leaves_torch_alone(verb: str) -> None:
    """In a process of its own, since this one has torch already."""
    script = (
        "import sys; from crossdistill.cli import main; code = main(sys.argv[1:]); "
        "heavy = {'torch', 'torchvision', 'timm', 'lightning'} & set(sys.modules); "
        "sys.exit(f'{heavy} imported' if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", script, verb, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: crossdistill {verb} ")


def test_the_list_of_methods_leaves_torch_alone() -> None:
    script = "import sys; from crossdistill.cli import main; main(['methods']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=False).returncode == 0


def test_misspelt_option_from_a_shell() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "crossdistill", "train", "--epoch=3"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "crossdistill: unknown option '--epoch'; did you mean '--epochs'? (see: crossdistill train --help)\n"
    )


def test_user_error_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    raise_from_verb(monkeypatch, UserError("this is wrong:\n   do that"))
    assert main(["methods"]) == 2
    assert capsys.readouterr().err == "crossdistill: this is wrong: do that\n"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_disk_and_permission_errors_are_one_line(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raise_from_verb(monkeypatch, OSError(number, os.strerror(number), "runs/a/checkpoint"))
    assert main(["methods"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert os.strerror(number) in err and "runs/a/checkpoint" in err


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ENOTDIR, errno.EINVAL, errno.EIO])
def test_a_path_that_the_system_refuses_is_one_line(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raise_from_verb(monkeypatch, OSError(number, os.strerror(number), "/proc/nope"))
    assert main(["methods"]) == 2
    line = f"crossdistill: {os.strerror(number)} (/proc/nope): check the path, or choose another place\n"
    assert capsys.readouterr().err == line


@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken disk"), ValueError("defect"), KeyError("defect")])
def test_a_defect_keeps_its_traceback(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    raise_from_verb(monkeypatch, error)
    with pytest.raises(type(error)):
        main(["methods"])


@pytest.mark.parametrize(("code", "exit_code", "told"), [(None, 0, ""), (3, 3, ""), ("no licence", 1, "no licence\n")])
def test_code_that_ends_the_program(
    code: object, exit_code: int, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raise_from_verb(monkeypatch, SystemExit(code))
    assert main(["methods"]) == exit_code
    assert capsys.readouterr().err == told


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    raise_from_verb(monkeypatch, KeyboardInterrupt())
    assert main(["methods"]) == 130
    assert capsys.readouterr().err == ""


def test_a_reader_that_stops_early_is_no_error() -> None:
    """As in `crossdistill methods | head`, with a pipe that is closed before anything is written."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "crossdistill", "--help"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    # The same where the verb ends with an exit code of its own.
    script = (
        "import sys; from crossdistill import cli; from crossdistill.cli import methods\n"
        "def run(arguments): print('some'); raise SystemExit(3)\n"
        "methods.run = run; sys.exit(cli.main(['methods']))"
    )
    ended = subprocess.run([sys.executable, "-c", script], stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (ended.returncode, ended.stderr) == (0, "")


def test_arguments_default_to_those_of_the_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli.sys, "argv", ["crossdistill", "--version"])
    assert main() == 0
    assert capsys.readouterr().out.strip() == crossdistill.__version__


def test_a_caution_is_one_line_and_other_warnings_keep_their_place(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(arguments: list[str]) -> None:
        warnings.warn("few positions", UserCaution, stacklevel=1)
        warnings.warn("something else", RuntimeWarning, stacklevel=1)

    monkeypatch.setattr("crossdistill.cli.methods.run", run)
    # pytest collects warnings itself; this is what the interpreter would do with them.
    monkeypatch.setattr(warnings, "showwarning", lambda message, category, *_: print(category.__name__, message))
    assert main(["methods"]) == 0
    captured = capsys.readouterr()
    assert captured.err == "warning: few positions\n"
    assert captured.out == "RuntimeWarning something else\n"
