"""What a shell is given to complete the command."""

import shutil
import subprocess
from pathlib import Path

import pytest

from crossdistill.cli import VERBS, main
from crossdistill.cli.completion import completion


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes_verbs_options_and_choices(tmp_path: Path) -> None:
    script = tmp_path / "completion.sh"
    script.write_text(completion("bash", VERBS))

    def complete(*words: str) -> set[str]:
        ask = f"""
        source {script}
        COMP_WORDS=(crossdistill "$@"); COMP_CWORD=$#
        _shtab_crossdistill
        printf '%s\\n' "${{COMPREPLY[@]}}"
        """
        told = subprocess.run(["bash", "-c", ask, "bash", *words], check=True, capture_output=True, text=True)
        return set(told.stdout.split())

    assert complete("co") == {"compare"}
    assert {"--method", "--method.kwargs"} <= complete("distill", "--meth")
    assert "--method" not in complete("train", "--meth")
    assert complete("distill", "--method", "csk") == {"cskd"}
    assert complete("train", "--channels_last", "") == {"auto", "true", "false"}


def test_every_verb_gives_its_parser() -> None:
    script = completion("zsh", VERBS)
    assert all(f"_shtab_crossdistill_{verb}_options" in script for verb in VERBS)


def test_another_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--print_completion", "bsh"]) == 2
    assert "'bsh' is none of bash" in capsys.readouterr().err
