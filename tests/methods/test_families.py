"""Every method takes the smallest models of timm's families, as teacher and as student, or refuses them in one line."""

import pytest
import timm
import torch

from crossdistill.errors import UserError
from crossdistill.methods import build_distiller
from crossdistill.options import MethodOptions
from crossdistill.staged import StagedModel

# Families whose smallest model has up to 16 million parameters and gives stage features (docs/models.md).
FAMILIES = [
    "halonet_h1",
    "test_byobnet",
    "cait_xxs24_224",
    "convit_tiny",
    "test_convnext",
    "cpubone_nano",
    "csatv2",
    "cs3darknet_focus_s",
    "cspnext_tiny",
    "deit_tiny_patch16_224",
    "densenet121",
    "dla46x_c",
    "dpn48b",
    "edgenext_xx_small",
    "efficientformer_l1",
    "efficientformerv2_s0",
    "test_efficientnet",
    "efficientvim_m1",
    "efficientvit_b0",
    "efficientvit_m0",
    "vit_tiny_patch16_dinov3_qkvb",
    "fasternet_t0",
    "fastvit_t8",
    "gcvit_xxtiny",
    "ghostnet_050",
    "hardcorenas_b",
    "hgnetv2_b0",
    "iformer_t",
    "inception_next_atto",
    "lcnetv2_small",
    "levit_128s",
    "lowformer_b0",
    "test_mambaout",
    "test_coatnet",
    "poolformerv2_s12",
    "gmlp_ti16_224",
    "mobilenetv3_small_050",
    "mobilevit_xxs",
    "test_nfnet",
    "pit_ti_224",
    "pvt_v2_b0",
    "regnetx_002",
    "repghostnet_050",
    "repvit_m1",
    "resnest14d",
    "test_resnet",
    "resnetv2_18",
    "rexnet_100",
    "legacy_seresnet18",
    "shvit_s1",
    "skresnet18",
    "starnet_s050",
    "swiftformer_xs",
    "tiny_vit_5m_224",
    "visformer_tiny",
    "test_vit",
    "vit_tiny_r_s16_p8_224",
    "test_vit_relpos",
    "ese_vovnet19b_slim_dw",
    "xcit_nano_12_p8_224",
]

# Is the model the teacher, the method, its hyper-parameters, the other model.
ROLES = [
    (True, "cakd", {}, "test_resnet"),
    (True, "fbt", {}, "test_resnet"),
    (True, "pat", {"width": 32, "heads": 2}, "test_resnet"),
    (True, "cskd", {}, "test_vit"),
    (False, "ofa", {}, "test_resnet"),
    (False, "fbt", {}, "test_resnet"),
    (False, "cskd", {}, "test_resnet"),
    # They read all that methods of features read: every stage, the last map, the pooled vector.
    (True, "reviewkd", {}, "test_resnet"),
    (True, "foundation", {}, "test_resnet"),
    (True, "scalekd", {}, "test_resnet"),
    (False, "reviewkd", {}, "test_resnet"),
    (False, "foundation", {"label_weight": 1.0}, "test_vit"),
    (False, "scalekd", {}, "test_vit"),
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FAMILIES)
def test_every_method_takes_or_refuses_every_family(name: str) -> None:
    model = timm.create_model(name, num_classes=4)
    size = model.pretrained_cfg["input_size"][1]
    stranger = StagedModel(model, name=name, image_size=size)
    for is_teacher, method, hyperparameters, other_name in ROLES:
        fixed = {"img_size": size} if other_name == "test_vit" else {}
        other = StagedModel(timm.create_model(other_name, num_classes=4, **fixed), image_size=size)
        student, teacher = (other, stranger) if is_teacher else (stranger, other)
        student.requires_grad_(True)
        try:
            distiller = build_distiller(MethodOptions(method, hyperparameters), student, teacher).train()
        except UserError as refusal:
            assert "\n" not in str(refusal)
            continue
        terms = distiller(torch.rand(2, 3, size, size), torch.tensor([0, 1]))
        total = torch.stack(list(terms.values())).sum()
        total.backward()
        assert total.isfinite(), (method, terms)
        assert next(student.parameters()).grad is not None, method
