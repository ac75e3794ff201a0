"""The names of timm's models without timm."""

import subprocess
import sys

import pytest
import timm

from crossdistill.errors import UserError
from crossdistill.names import check_model_name, registered_names


def test_timms_source_says_what_timm_registers() -> None:
    assert set(timm.list_models()) <= registered_names()


@pytest.mark.parametrize(
    "name", ["", "resnet18", "resnet18.a1_in1k", "tv_resnet34", "hf-hub:me/mine", "my_lab.models.net", "local-dir:x"]
)
def test_what_may_be_a_model_passes(name: str) -> None:
    check_model_name(name)


def test_a_misspelt_name_is_refused_before_torch_is_imported() -> None:
    with pytest.raises(UserError, match="unknown model 'resnet8'; did you mean 'resnet18'?"):
        check_model_name("resnet8")
    script = (
        "import sys; from crossdistill.cli import main; code = main(['inspect', 'vit_tiny_patch16_224', 'resnet8']); "
        "sys.exit('torch' in sys.modules or code != 2)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr.startswith("crossdistill: unknown model 'resnet8'; did you mean '")
