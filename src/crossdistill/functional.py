"""The methods' equations as pure functions of tensors; each stands in its method's file."""

from crossdistill.methods.ab import ab_loss
from crossdistill.methods.afd import afd_loss
from crossdistill.methods.at import at_loss
from crossdistill.methods.cakd.cakd import cakd_loss
from crossdistill.methods.cc import cc_loss
from crossdistill.methods.crd import crd_loss
from crossdistill.methods.cskd import cskd_loss
from crossdistill.methods.deit import deit_loss
from crossdistill.methods.dist import dist_loss
from crossdistill.methods.dkd import dkd_loss
from crossdistill.methods.fbt.fbt import info_nce_loss
from crossdistill.methods.fitnet import fitnet_loss
from crossdistill.methods.foundation import foundation_loss
from crossdistill.methods.kd import kd_loss
from crossdistill.methods.minilm import minilm_loss
from crossdistill.methods.nst import nst_loss
from crossdistill.methods.ofa import ofa_loss
from crossdistill.methods.ofd import ofd_loss
from crossdistill.methods.pkt import pkt_loss
from crossdistill.methods.reviewkd import hcl_loss
from crossdistill.methods.rkd import rkd_loss
from crossdistill.methods.rsd import rsd_loss
from crossdistill.methods.scalekd import scalekd_loss
from crossdistill.methods.sp import sp_loss
from crossdistill.methods.vid import vid_loss
from crossdistill.methods.vkd import vkd_loss

__all__ = [
    "ab_loss",
    "afd_loss",
    "at_loss",
    "cakd_loss",
    "cc_loss",
    "crd_loss",
    "cskd_loss",
    "deit_loss",
    "dist_loss",
    "dkd_loss",
    "fitnet_loss",
    "foundation_loss",
    "hcl_loss",
    "info_nce_loss",
    "kd_loss",
    "minilm_loss",
    "nst_loss",
    "ofa_loss",
    "ofd_loss",
    "pkt_loss",
    "rkd_loss",
    "rsd_loss",
    "scalekd_loss",
    "sp_loss",
    "vid_loss",
    "vkd_loss",
]
